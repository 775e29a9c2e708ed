"""``serve``: run the daemon, or see whether its settings hold here."""

from __future__ import annotations

import argparse
import logging
import os
from collections.abc import Callable, Iterator
from fnmatch import fnmatch
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from edgeadapt.errors import EdgeadaptError, InputError, RecipeError, StateError

if TYPE_CHECKING:
    from edgeadapt.bundle import Manifest
    from edgeadapt.daemon.config.schema import AnySink, AnySource, Settings


def serve_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("config", type=Path, metavar="CONFIG.toml")
    parser.add_argument(
        "--precision",
        choices=("float32", "float16", "int8"),
        help="of the encoder, instead of what the settings say",
    )
    parser.add_argument(
        "--check",
        action="store_true",
        help=(
            "only say whether it could run here: settings, bundle, state folder and its lock, port,"
            " sources and sinks"
        ),
    )
    parser.add_argument(
        "--reload",
        action="store_true",
        help=(
            "with --check: a daemon runs on them already, so its port and state folder are its own"
        ),
    )


def serve(args: argparse.Namespace) -> int:
    """Run the daemon until it is told to stop; with ``--check`` only say whether it could."""
    from edgeadapt.daemon.config.loader import load_settings

    def load() -> Settings:
        found = load_settings(args.config)
        return (
            found
            if args.precision is None
            else msgspec.structs.replace(found, precision=args.precision)
        )

    settings = load()
    if args.check:
        return _check(args.config, settings, args.reload)
    if args.reload:
        raise InputError(
            "--reload belongs to --check; a running daemon reads its settings again on SIGHUP"
        )
    from edgeadapt.daemon.service import Service

    logging.basicConfig(
        level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s"
    )
    return Service(settings, reread=load).run()


def _check(config: Path, settings: Settings, is_running: bool) -> int:
    """One line a check. All are made; the first that fails gives the exit code."""
    failed: list[EdgeadaptError] = []
    print(
        f"ok       settings: {config}: sources {len(settings.source)}, sinks {len(settings.sink)}"
    )
    for name, check in _checks(settings, is_running):
        try:
            print(f"ok       {name}: {check()}")
        except EdgeadaptError as error:
            failed.append(error)
            print(f"REFUSED  {name}: {' '.join(str(error).split())}")
    if failed:
        raise failed[0]
    return 0


def _checks(settings: Settings, is_running: bool) -> Iterator[tuple[str, Callable[[], str]]]:
    """``is_running``: a daemon runs on them already, so its port and state folder are taken."""
    found: list[Manifest] = []
    yield "packages", lambda: _packages(settings)
    yield "bundle", lambda: _bundle(settings, found)
    yield "runtime", lambda: _runtime(settings.runtime)
    yield "state", lambda: _state(settings.state, is_running)
    yield "control", lambda: _control(settings, is_running)
    for source in settings.source:
        yield f"source {source.name}", partial(_source, source, found)
    for sink in settings.sink:
        yield f"sink {sink.name}", partial(_sink, sink)


def _packages(settings: Settings) -> str:
    """Those of the control interface; what a source or a sink needs is looked for on its own
    line.
    """
    from edgeadapt.daemon.config import dependencies as needs

    modules = needs.of_control(settings)
    needs.require(modules)
    return ", ".join(modules) or "none is needed"


def _bundle(settings: Settings, found: list[Manifest]) -> str:
    """Its manifest is left in ``found``, for the checks that depend on what it takes."""
    from edgeadapt.bundle import read_bundle

    bundle = read_bundle(settings.bundle, trust=settings.trust)
    found.append(bundle.manifest.at(settings.precision))
    signer = f"signed by {bundle.signed_by}" if bundle.signed_by else "unsigned"
    encoder = "" if settings.precision == "float32" else f", encoder in {settings.precision}"
    return (
        f"{settings.bundle}: {bundle.manifest.name} version {bundle.manifest.version},"
        f" {signer}{encoder}"
    )


def _runtime(name: str) -> str:
    from edgeadapt.runtime import open_runtime

    runtime = open_runtime(name)
    serves, *tried = runtime.report()["runtimes"]
    runtime.close()  # what places graphs has a thread
    return f"{serves}; while it serves, tried: {', '.join(tried)}" if tried else runtime.name


def _state(folder: Path, is_running: bool) -> str:
    """Writable, ours or empty, and free. Nothing is made, and no lock is kept."""
    from edgeadapt.device.storage.folder import FILE_NAME, holder

    place = folder if os.path.exists(folder) else folder.parent
    if not os.path.isdir(place):
        raise StateError(f"{folder} is a file; a state folder is a directory")
    if not os.access(place, os.R_OK | os.W_OK | os.X_OK):
        raise StateError(f"{place} is not writable by this user")
    strangers = (
        sorted(p.name for p in folder.iterdir() if not p.name.startswith("learner."))
        if place == folder
        else []
    )
    if strangers and not os.path.exists(folder / FILE_NAME):
        raise StateError(
            f"{folder} is not a state folder: it has no {FILE_NAME} but holds {strangers[0]!r}; use"
            " an empty folder"
        )
    pid = holder(folder)
    if pid and not is_running:
        raise StateError(
            f"state folder {folder} is in use by the process with pid {pid}; "
            "--reload if it runs on these settings already"
        )
    if pid:
        return f"{folder}: in use by the process with pid {pid}, as --reload expects"
    return f"{folder}: {'can be written' if place == folder else 'can be made'}"


def _control(settings: Settings, is_running: bool) -> str:
    """The port is taken for a moment; a unix socket is asked: to take it would make a file."""
    from edgeadapt.daemon.config.addresses import bound, is_answered
    from edgeadapt.daemon.config.certificate import Certificate
    from edgeadapt.daemon.config.secrecy import exposure_of, read_secret, weakness_of
    from edgeadapt.daemon.config.users import Users

    control = settings.control
    if not control.is_on:
        return "switched off: no HTTP, no edgeadapt ctl, no page, no metrics"
    doubts = []
    if control.token_file is not None:
        weak = weakness_of(read_secret(control.token_file))
        if weak and not control.is_local:
            raise RecipeError(f"{control.token_file}: the token can be guessed: it {weak}")
        doubts = [f"the token {weak}"] if weak else []
        doubts += [exposed] if (exposed := exposure_of(control.token_file)) else []
    if control.users_file is not None:
        users = Users(control.users_file, settings.source_names)
        doubts += [exposed] if (exposed := exposure_of(control.users_file)) else []
        if not len(users):
            doubts.append(f"{control.users_file} has no user yet")
    if control.certificate is not None and control.key is not None:
        certificate = Certificate(control.certificate, control.key)
        doubts += [certificate.warning] if certificate.warning else []
        doubts += [exposed] if (exposed := exposure_of(control.key)) else []
    place = control.socket
    if place is not None and not (
        os.path.isdir(place.parent) and os.access(place.parent, os.W_OK | os.X_OK)
    ):
        raise InputError(
            f"{place.parent}: no folder that this user can write, for the socket {place.name}"
        )
    if not is_running and place is None:
        bound(control.listen).close()
    if not is_running and place is not None and is_answered(place):
        raise InputError(
            f"{place}: a daemon answers there already; --reload if it runs on these settings"
        )
    tokens = [
        f"with {counted}"
        for counted, is_so in (("a token", control.token_file), ("users", control.users_file))
        if is_so
    ]
    said = (
        f"{control.listen},"
        f" {'https, ' if control.certificate else ''}{' and '.join(tokens) or 'without a token'}"
    )
    return "; but ".join([said, *doubts])


def _source(source: AnySource, found: list[Manifest]) -> str:
    """What it reads is there, and fits the bundle. Nothing is read or connected: that is for the
    daemon, which tries again.
    """
    from edgeadapt.daemon.config import dependencies as needs
    from edgeadapt.daemon.io.sources import open_source

    needs.require(needs.of_source(source))
    place = _place(source)
    for manifest in found:
        open_source(source, manifest.input, manifest.classes)
    return place


def _place(source: AnySource) -> str:
    from edgeadapt.daemon.config.schema import FolderSource, MqttSource, SequenceSource, VideoSource

    if isinstance(source, MqttSource):
        return _broker(source)
    if isinstance(source, VideoSource):
        from edgeadapt.daemon.io.sources.video_readers import camera_of

        if source.file is None:
            return "a network stream" if source.url else "a GStreamer pipeline"
        camera = camera_of(source.file)
        return _readable(source.file) if camera is None else f"camera {_device(Path(camera))}"
    if isinstance(source, (FolderSource, SequenceSource)):
        if not os.path.isdir(source.path) or not os.access(source.path, os.R_OK | os.X_OK):
            raise InputError(f"{source.path}: no folder that this user can read")
        if isinstance(source, SequenceSource) and not any(
            fnmatch(name, source.pattern) for name in os.listdir(source.path)
        ):
            raise InputError(f"{source.path}: no file is called {source.pattern!r}")
        return str(source.path)
    if os.path.exists(source.path) and not os.path.isfile(source.path):
        raise InputError(f"{source.path}: not a regular file")
    return _readable(source.path)


def _sink(sink: AnySink) -> str:
    from edgeadapt.daemon.config import dependencies as needs
    from edgeadapt.daemon.config.schema import MqttSink
    from edgeadapt.daemon.io.sinks import open_sink

    needs.require(needs.of_sink(sink))
    if isinstance(sink, MqttSink):
        open_sink(sink).close()
        return _broker(sink)
    folder = sink.path.parent
    if not os.path.isdir(folder) or not os.access(folder, os.W_OK | os.X_OK):
        raise InputError(f"{folder}: no folder that this user can write, for {sink.path.name}")
    if os.path.exists(sink.path) and not (
        os.path.isfile(sink.path) and os.access(sink.path, os.W_OK)
    ):
        raise InputError(f"{sink.path}: no regular file that this user can write")
    return str(sink.path)


def _broker(section: Any) -> str:
    from edgeadapt.daemon.config.secrecy import read_secret

    if section.password_file is not None:
        read_secret(section.password_file)
    return f"topic {section.topic} at {section.host}:{section.port}; it is met when the daemon runs"


def _device(path: Path) -> str:
    """It is there now; a daemon that runs waits for it to come."""
    if os.path.exists(path) and not path.is_char_device():
        raise InputError(f"{path}: not a device")
    return _readable(path)


def _readable(path: Path) -> str:
    if not os.access(path, os.R_OK):
        raise InputError(
            f"{path}: {'cannot be read by this user' if os.path.exists(path) else 'is not there'}"
        )
    return str(path)


__all__ = ["serve"]
