"""Parts of the daemon from the sections of its settings. Each kind imports what it needs, when it
is needed.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

from edgeadapt.bundle.schema import Manifest
from edgeadapt.daemon.config.certificate import Certificate
from edgeadapt.daemon.config.schema import FolderSource, Settings
from edgeadapt.daemon.config.secrecy import exposure_of
from edgeadapt.daemon.config.users import Users
from edgeadapt.daemon.io.folder_ledger import FolderMemory
from edgeadapt.daemon.messages import Source

if TYPE_CHECKING:
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


__all__ = ["certificate_of", "metrics_of", "source_of", "users_of"]
