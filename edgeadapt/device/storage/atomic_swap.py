"""A new database replaces the old one in a state folder; a kill at any moment leaves one of them.

The new one is built in ``learner.migrating/``. When it is whole and durable, the old one gets a
second name, then one rename puts the new one in its place.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

from edgeadapt.device.storage.folder import FILE_NAME
from edgeadapt.errors import StateError, StorageError

BUILDING = "learner.migrating"
_KEEPING = "learner.keeping.db"


def kept_name(space: str) -> str:
    """The name of the database of a feature space once another has replaced it."""
    return f"learner.{space[:12]}.db"


def clear(folder: Path) -> Path:
    """Remove what an interrupted migration left; returns where the new database is to be built."""
    building = folder / BUILDING
    try:
        (folder / _KEEPING).unlink(missing_ok=True)
        if building.exists():
            shutil.rmtree(building)
    except OSError as error:
        raise StorageError(f"cannot remove {error.filename}: {error.strerror}") from error
    return building


def put_in_place(folder: Path, space: str, at: Callable[[str], None]) -> Path:
    """The database in ``learner.migrating/`` becomes the folder's. The caller has the lock, and has
    closed both.

    Args:
        space: of the old database. at: called after each step.

    Returns:
        The path under which the old database is kept.

    Raises:
        StateError: a write-ahead log could not be emptied.
        StorageError: the disk is full or fails. The old database is still in place.
    """
    new, old = folder / BUILDING / FILE_NAME, folder / FILE_NAME
    kept = folder / kept_name(space)
    try:
        _require_whole(new)
        _require_whole(old)
        make_durable(new)
        at("whole")
        _keep(old, kept)
        sync(folder)
        at("kept")
        os.replace(new, old)
        sync(folder)
        at("renamed")
    except OSError as error:
        raise StorageError(
            f"cannot put the new database into {folder}: {error.strerror}; run it again, it leaves"
            " the old one or the new one"
        ) from error
    clear(folder)
    at("cleared")
    return kept


def _require_whole(database: Path) -> None:
    """Require an empty log: that of one database would be read as the other's."""
    log = Path(f"{database}-wal")
    if log.exists() and log.stat().st_size:
        raise StateError(
            f"{log} could not be written back into {database.name}: another program has the"
            " database open; close it and try again"
        )
    for left in (log, Path(f"{database}-shm")):
        left.unlink(missing_ok=True)


def _keep(old: Path, kept: Path) -> None:
    """A second name for the same file, or a copy where the file system has no hard links; ``old``
    is there all the time.
    """
    between = old.with_name(_KEEPING)
    between.unlink(missing_ok=True)
    try:
        os.link(old, between)
    except OSError:
        shutil.copyfile(old, between)
        os.chmod(between, 0o600)
        sync(between)
    os.replace(between, kept)
    between.unlink(missing_ok=True)  # a rename between two names of one file does nothing


def make_durable(database: Path) -> None:
    """The file and its entry in the folder."""
    sync(database)
    sync(database.parent)


def sync(path: Path) -> None:
    """fsync of a file or folder."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
