"""From a TOML file to settings that go together: what is wrong is named with its key, its value and
what is allowed.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from msgspec.structs import replace

from edgeadapt._toml import read_table, to_struct
from edgeadapt.daemon.config.schema import (
    AnySink,
    AnySource,
    JsonlSink,
    MqttSink,
    MqttSource,
    SensorSource,
    Settings,
    VideoSource,
)
from edgeadapt.daemon.config.stream_sections import kind_of
from edgeadapt.errors import RecipeError

_LONGEST_SOCKET = 107  # bytes: sun_path of Linux, less its end


def load_settings(path: str | Path) -> Settings:
    """Read and check a settings file. Paths come back absolute, from the folder of the file, and
    every source and sink has its name.

    Raises:
        RecipeError: the file is missing or not TOML, a key is unknown or missing, or a value, alone
            or beside others, is not allowed.
    """
    path = Path(path)
    here = path.resolve().parent
    settings = _named(
        _resolved(
            to_struct(
                path,
                read_table(path, "a settings file"),
                Settings,
                lambda _, value: _path(here, value),
            ),
            here,
        )
    )
    refusal = _refusal(settings)
    if refusal:
        raise RecipeError(f"{path}: {refusal}")
    return settings


def _path(here: Path, value: Any) -> Path:
    if not isinstance(value, str) or not value or not value.isprintable():
        raise ValueError("a path is expected")
    return here / value


def _resolved(settings: Settings, here: Path) -> Settings:
    """The paths that are part of a text: keys in files, and the socket."""
    trust = tuple(key if key.startswith("ed25519:") else str(here / key) for key in settings.trust)
    socket = settings.control.socket
    control = (
        settings.control
        if socket is None
        else replace(settings.control, listen=f"unix:{here / socket}")
    )
    return replace(settings, trust=trust, control=control)


def _named(settings: Settings) -> Settings:
    def named(source: AnySource) -> AnySource:
        kind = kind_of(source)
        return replace(
            source,
            name=source.name or source.stream or kind,
            stream=source.stream or source.name or kind,
        )

    sinks = tuple(replace(sink, name=sink.name or kind_of(sink)) for sink in settings.sink)
    return replace(settings, source=tuple(map(named, settings.source)), sink=sinks)


def _refusal(settings: Settings) -> str:
    """Why values do not go together; empty if they do."""
    control, loop = settings.control, settings.loop
    if settings.unsigned == "accept" and settings.trust:
        return (
            "unsigned = 'accept' is allowed only without trust; with trust the bundle must be"
            " signed"
        )
    if settings.unsigned == "refuse" and not settings.trust:
        return (
            "trust is missing; allowed: the public keys of those who may sign the bundle (edgeadapt"
            " keygen makes one), or unsigned = 'accept' to take it as it is"
        )
    # pathlib's raises where a folder may not be entered, or a name is too long
    if not os.path.isdir(settings.state.parent):
        return (
            f"state = '{settings.state}'; allowed: a folder whose parent exists, and"
            f" {settings.state.parent} is no folder"
        )
    if control.address is not None and control.address[1] >= 2**16:
        return f"control.listen = {control.listen!r}; allowed: a port < 65536"
    if control.socket is not None and len(bytes(control.socket)) > _LONGEST_SOCKET:
        return (
            f"control.listen = {control.listen!r}; allowed: a socket whose whole path has at most"
            f" {_LONGEST_SOCKET} bytes"
        )
    if not control.is_local and control.token_file is None and control.users_file is None:
        return (
            "control.token_file is missing; allowed: a file with a token, or control.users_file,"
            f" as control.listen = {control.listen!r} can be reached from other machines"
        )
    if (control.certificate is None) != (control.key is None):
        missing = "certificate" if control.certificate is None else "key"
        return (
            f"control.{missing} is missing; allowed: control.certificate and control.key, both or"
            " neither"
        )
    if control.certificate is not None and control.address is None:
        return (
            f"control.certificate = '{control.certificate}'; allowed: only where control.listen is"
            " HOST:PORT"
        )
    if loop.batch > loop.queue:
        return f"loop.batch = {loop.batch}; allowed: at most loop.queue = {loop.queue}"
    return _refused_source(settings.source) or _refused_sink(settings.sink)


def _refused_source(sources: tuple[AnySource, ...]) -> str:
    for index, source in enumerate(sources):
        where = f"source[{index}]"
        for key in ("name", "stream"):
            taken = [getattr(other, key) for other in sources[:index]]
            if getattr(source, key) in taken:
                return (
                    f"{where}.{key} = {getattr(source, key)!r} is that of"
                    f" source[{taken.index(getattr(source, key))}] too; allowed: every name and"
                    " every stream once"
                )
        if (
            isinstance(source, VideoSource)
            and sum(map(bool, (source.file, source.url, source.pipeline))) != 1
        ):
            return (
                f"{where} has {_given_of(source) or 'no input'}; allowed: exactly one of"
                f" {where}.file, {where}.url and {where}.pipeline"
            )
        if isinstance(source, SensorSource) and source.path.suffix not in (".csv", ".npz"):
            return f"{where}.path = '{source.path}'; allowed: a .csv or .npz file"
        if isinstance(source, MqttSource) and (
            refusal := _refused_broker(where, source) or _refused_filter(where, source.topic)
        ):
            return refusal
    return ""


def _refused_sink(sinks: tuple[AnySink, ...]) -> str:
    for index, sink in enumerate(sinks):
        where, names = f"sink[{index}]", [other.name for other in sinks[:index]]
        if sink.name in names:
            return (
                f"{where}.name = {sink.name!r} is that of sink[{names.index(sink.name)}] too;"
                " allowed: every name once"
            )
        if isinstance(sink, JsonlSink):
            paths = [
                other.path if isinstance(other, JsonlSink) else None for other in sinks[:index]
            ]
            if sink.path in paths:
                return (
                    f"{where}.path = '{sink.path}' is that of sink[{paths.index(sink.path)}] too;"
                    " allowed: a file of its own"
                )
        if isinstance(sink, MqttSink):
            if refusal := _refused_broker(where, sink):
                return refusal
            if set(sink.topic) & set("+#"):
                return f"{where}.topic = {sink.topic!r}; allowed: a topic without + and #"
    return ""


def _given_of(video: VideoSource) -> str:
    return " and ".join(f"a {key}" for key in ("file", "url", "pipeline") if getattr(video, key))


def _refused_broker(where: str, broker: MqttSource | MqttSink) -> str:
    if broker.password_file is not None and not broker.username:
        return (
            f"{where}.username is missing; allowed: the name that {where}.password_file belongs to"
        )
    return ""


def _refused_filter(where: str, topic: str) -> str:
    levels = topic.split("/")
    is_whole = all(level in ("+", "#") or not set(level) & set("+#") for level in levels)
    if is_whole and "#" not in levels[:-1]:
        return ""
    return (
        f"{where}.topic = {topic!r}; allowed: + for one whole level, and # for all that follow, at"
        " the end"
    )


__all__ = ["load_settings"]
