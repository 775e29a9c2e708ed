"""Where samples come from: one file per kind of source, opened by its settings."""

from __future__ import annotations

from collections.abc import Sequence

from edgeadapt.bundle.schema import InputSpec
from edgeadapt.daemon.config import stream_sections as sections
from edgeadapt.daemon.config.stream_sections import kind_of
from edgeadapt.daemon.io.folder_ledger import Taken
from edgeadapt.daemon.io.sources.folder import FolderWatch
from edgeadapt.daemon.io.sources.image_sequence import ImageSequence
from edgeadapt.daemon.io.sources.mqtt import MqttMessages
from edgeadapt.daemon.io.sources.npz import ArrayReplay
from edgeadapt.daemon.io.sources.sensor import SensorWindows
from edgeadapt.daemon.io.sources.video import VideoFrames
from edgeadapt.daemon.messages import Source
from edgeadapt.errors import InputError


def open_source(
    settings: sections.AnySource,
    spec: InputSpec,
    classes: Sequence[str] = (),
    *,
    taken: Taken | None = None,
) -> Source:
    """The source that a section of the settings describes. It reads nothing before it runs.

    Args:
        settings: as ``load_settings`` gives it, with name and stream.
        spec: what the bundle takes.
        classes: its class names in the order of their ids, for labels that are ids.
        taken: what a folder source of this name has taken already, and is to remember; None:
            nothing.

    Raises:
        InputError: this kind brings nothing that the bundle takes, or is not offered here.
    """
    if isinstance(settings, sections.FolderSource):
        return FolderWatch(settings, spec, taken=taken)
    if isinstance(settings, sections.SequenceSource):
        return ImageSequence(settings, spec)
    if isinstance(settings, sections.NpzSource):
        return ArrayReplay(settings, spec, classes)
    if isinstance(settings, sections.SensorSource):
        return SensorWindows(settings, spec)
    if isinstance(settings, sections.VideoSource):
        return VideoFrames(settings, spec)
    if isinstance(settings, sections.MqttSource):
        return MqttMessages(settings, spec)
    raise InputError(
        f"source {settings.name!r}: no source of kind {kind_of(settings)!r} is offered here"
    )


__all__ = ["open_source"]
