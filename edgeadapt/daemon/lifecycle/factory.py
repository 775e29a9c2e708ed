"""Parts of the daemon from the sections of its settings. Each kind imports what it needs, when it
is needed.
"""

from __future__ import annotations

import logging
import threading
from typing import TYPE_CHECKING, Any

from edgeadapt.bundle.schema import Manifest
from edgeadapt.daemon.config.schema import FolderSource, Settings, read_secret
from edgeadapt.daemon.config.secrecy import exposure_of
from edgeadapt.daemon.config.users import Users
from edgeadapt.daemon.http.certificate import Certificate
from edgeadapt.daemon.io.folder_ledger import FolderMemory
from edgeadapt.daemon.io.source_thread import SourceThread
from edgeadapt.daemon.messages import Deliver, Sink, Source

if TYPE_CHECKING:
    from edgeadapt.daemon.http.routes import Served
    from edgeadapt.daemon.http.server import Control
    from edgeadapt.daemon.monitoring.metrics import Metrics

log = logging.getLogger("edgeadapt.daemon")


def source_of(section: Any, manifest: Manifest, folders: FolderMemory) -> Source:
    """Raises: InputError: this bundle takes nothing that it brings, or a package is missing."""
    from edgeadapt.daemon.io.sources import open_source

    taken = (
        folders.of(section.name)
        if isinstance(section, FolderSource) and section.existing == "new"
        else None
    )
    return open_source(section, manifest.input, manifest.classes, taken=taken)


def feeder_of(source: Source, deliver: Deliver) -> SourceThread:
    return SourceThread(source, deliver, threading.Event())


def sink_of(section: Any) -> Sink:
    from edgeadapt.daemon.io.sinks import open_sink

    return open_sink(section)


def metrics_of(settings: Settings) -> Metrics | None:
    """None where they are switched off, or there is no control interface to ask for them."""
    if not (settings.metrics.enabled and settings.control.is_on):
        return None
    from edgeadapt.daemon.monitoring.metrics import Metrics

    return Metrics()


def certificate_of(settings: Settings) -> Certificate | None:
    """None without https. Raises: RecipeError: its files are not in order."""
    control = settings.control
    if not control.is_on or control.certificate is None or control.key is None:
        return None
    if exposed := exposure_of(control.key):
        log.warning("%s", exposed)
    certificate = Certificate(control.certificate, control.key)
    certificate.watch()
    return certificate


def users_of(settings: Settings) -> Users | None:
    """None where the settings name no file. Raises: RecipeError: it is not in order."""
    path = settings.control.users_file
    if not settings.control.is_on or path is None:
        return None
    users = Users(path, settings.source_names)
    if exposed := exposure_of(path):
        log.warning("%s", exposed)
    if not len(users) and settings.control.token_file is None:
        log.warning(
            "%s: no user yet, so nobody is answered; 'edgeadapt users %s --add NAME' adds one",
            path,
            path,
        )
    return users


def control_of(
    service: Served, settings: Settings, certificate: Certificate | None, users: Users | None = None
) -> Control | None:
    """None where it is switched off."""
    control = settings.control
    if not control.is_on:
        return None
    from edgeadapt.daemon.http.server import Control

    if certificate is None and not control.is_local:
        log.warning(
            "control.listen = %r without TLS: token and pictures can be read on the way",
            control.listen,
        )
    token = None if control.token_file is None else read_secret(control.token_file)
    if control.token_file is not None and (exposed := exposure_of(control.token_file)):
        log.warning("%s", exposed)
    return Control(
        service, control.listen, token, control.max_body_mib, control.timeout_s, certificate, users
    )


__all__ = [
    "certificate_of",
    "control_of",
    "feeder_of",
    "metrics_of",
    "sink_of",
    "source_of",
    "users_of",
]
