"""Where answers and events go: one file per kind of sink, opened by its settings."""

from __future__ import annotations

from edgeadapt.daemon.config import stream_sections as sections
from edgeadapt.daemon.config.stream_sections import kind_of
from edgeadapt.daemon.io.sinks.jsonl import JsonLines
from edgeadapt.daemon.io.sinks.mqtt import MqttEvents
from edgeadapt.daemon.messages import Sink
from edgeadapt.errors import InputError


def open_sink(settings: sections.AnySink) -> Sink:
    """The sink that a section of the settings describes, with its thread running.

    Raises:
        InputError: this kind is not offered here.
    """
    if isinstance(settings, sections.JsonlSink):
        return JsonLines(settings.name, settings.path, max_mib=settings.max_mib, keep=settings.keep)
    if isinstance(settings, sections.MqttSink):
        return MqttEvents(settings)
    raise InputError(
        f"sink {settings.name!r}: no sink of kind {kind_of(settings)!r} is offered here"
    )


__all__ = ["open_sink"]
