"""Packages beside the core that settings need, and what to install for them."""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence

from edgeadapt.daemon.config.schema import (
    AnySink,
    AnySource,
    FolderSource,
    MqttSink,
    MqttSource,
    SequenceSource,
    Settings,
    VideoSource,
)
from edgeadapt.errors import RuntimeUnavailable

_EXTRAS = {
    "starlette": "daemon",
    "uvicorn": "daemon",
    "prometheus_client": "daemon",
    "paho": "daemon",
    "PIL": "images",
    "cv2": "video",
}


def of_control(settings: Settings) -> tuple[str, ...]:
    """Modules of the control interface and of its metrics; none where ``control.listen`` is
    empty.
    """
    if not settings.control.is_on:
        return ()
    return ("starlette", "uvicorn", *(["prometheus_client"] if settings.metrics.enabled else []))


def of_source(source: AnySource) -> tuple[str, ...]:
    if isinstance(source, MqttSource):
        return ("paho", "PIL") if source.format == "image" else ("paho",)
    if isinstance(source, VideoSource):
        return () if source.pipeline else ("cv2",)  # a pipeline runs outside this process
    return ("PIL",) if isinstance(source, (FolderSource, SequenceSource)) else ()


def of_sink(sink: AnySink) -> tuple[str, ...]:
    return ("paho",) if isinstance(sink, MqttSink) else ()


def require(modules: Sequence[str]) -> None:
    """Refuse where one of these is not installed.

    Raises:
        RuntimeUnavailable: with all that are missing, and what to install.
    """
    missing = [
        module for module in dict.fromkeys(modules) if importlib.util.find_spec(module) is None
    ]
    if missing:
        extras = ",".join(dict.fromkeys(_EXTRAS[module] for module in missing))
        are = "is" if len(missing) == 1 else "are"
        raise RuntimeUnavailable(
            f"{' and '.join(missing)} {are} not installed; this needs: pip install"
            f" 'edgeadapt[{extras}]'"
        )


def require_packages(settings: Settings) -> None:
    """Refuse settings that need what is not installed.

    Raises:
        RuntimeUnavailable: as ``require``.
    """
    of_sources = [module for source in settings.source for module in of_source(source)]
    require(
        [
            *of_control(settings),
            *of_sources,
            *(module for sink in settings.sink for module in of_sink(sink)),
        ]
    )


__all__ = ["of_control", "of_sink", "of_source", "require", "require_packages"]
