"""A state folder as it is at this moment, to look into: a copy of its database in a temporary
folder. The folder itself is only read.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import sqlite3
import tempfile
from collections.abc import Iterator
from pathlib import Path

from edgeadapt.device.storage.folder import FILE_NAME, LOCK_NAME
from edgeadapt.errors import StateError


@contextlib.contextmanager
def copied(folder: str | os.PathLike[str]) -> Iterator[Path]:
    """A temporary state folder with the same database, also while a learner uses the original; gone
    afterwards.

    Raises:
        StateError: no state folder, or it cannot be read.
    """
    original = Path(folder)
    database = original / FILE_NAME
    if not database.is_file():
        raise StateError(f"{original} is not a state folder: it has no {FILE_NAME}")
    with tempfile.TemporaryDirectory(prefix="edgeadapt-") as name:
        try:
            with _unused(original) as is_unused:
                (_copy_files if is_unused else _copy_live)(database, Path(name) / FILE_NAME)
        except (OSError, sqlite3.Error) as error:
            raise StateError(f"cannot read {database}: {error}") from error
        yield Path(name)


@contextlib.contextmanager
def _unused(folder: Path) -> Iterator[bool]:
    """True while no learner has the folder, and none can take it: the lock is shared, and nothing
    is written into it.
    """
    try:
        lock = os.open(folder / LOCK_NAME, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:  # a folder that was copied from a device: nobody has opened it here
        yield True
        return
    try:
        fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(lock)
        yield False
        return
    try:
        yield True
    finally:
        os.close(lock)


def _copy_files(database: Path, copy: Path) -> None:
    """With the write-ahead log that a killed process left; SQLite reads it in the copy, where it
    may write.
    """
    shutil.copyfile(database, copy)
    log = Path(f"{database}-wal")
    if log.is_file():
        shutil.copyfile(log, f"{copy}-wal")


def _copy_live(database: Path, copy: Path) -> None:
    """From one consistent moment between two changes of the learner that has it."""
    source = sqlite3.connect(f"{database.resolve().as_uri()}?mode=ro", uri=True, timeout=5.0)
    with contextlib.closing(source), contextlib.closing(sqlite3.connect(copy)) as target:
        source.backup(target)
