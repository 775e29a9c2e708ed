"""A state folder: who may use it, and the one database file in it.

The folder belongs to one process at a time; a lock file names its pid. What a disk says when it is full or broken becomes
a :class:`StorageError`.
"""

from __future__ import annotations

import fcntl
import os
import sqlite3
import weakref
from functools import partial
from pathlib import Path

from edgeadapt.errors import StateError, StorageError

FILE_NAME = "learner.db"
LOCK_NAME = "learner.lock"
_OF_THE_DISK = ("disk is full", "disk I/O error", "readonly database", "unable to open database file", "malformed")  # malformed: SQLite's word for a page that cannot be read


class FolderLock:
    """Exclusive use of a state folder, released by the kernel when the process dies."""

    def __init__(self, folder: Path) -> None:
        self._path = folder / LOCK_NAME
        try:
            self._fd = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise StateError(f"cannot lock the state folder {folder}: {error.strerror}") from error
        try:
            fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            holder = os.read(self._fd, 32).decode(errors="replace").strip() or "unknown"
            os.close(self._fd)
            raise StateError(f"state folder {folder} is in use by the process with pid {holder}") from error
        os.register_at_fork(after_in_child=partial(_let_go, weakref.ref(self)))
        try:
            os.ftruncate(self._fd, 0)
            os.pwrite(self._fd, f"{os.getpid()}\n".encode(), 0)
        except OSError as error:
            self.release()
            raise StorageError(f"cannot write into the state folder {folder}: {error.strerror}") from error

    def release(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


def _let_go(held: weakref.ref[FolderLock]) -> None:
    """A forked child shares its parent's lock, and would hold it after the parent has died."""
    lock = held()
    if lock is not None:
        lock.release()


def holder(folder: Path) -> str:
    """The pid of the process that uses a state folder; empty if it is free.

    Raises:
        StateError: the lock file cannot be read.
    """
    try:
        fd = os.open(folder / LOCK_NAME, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return ""
    except OSError as error:
        raise StateError(
            f"cannot read the lock of the state folder {folder}: {error.strerror}"
        ) from error
    try:
        fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except OSError:
        return os.read(fd, 32).decode(errors="replace").strip() or "unknown"
    finally:
        os.close(fd)
    return ""


def claim(folder: Path) -> tuple[FolderLock, Path]:
    """Lock a folder, made if it is missing, and say where its database is or will be.

    Raises:
        StateError: not a folder, not writable, a folder of something else, or in use. StorageError: the disk is full or fails.
    """
    if folder.exists() and not folder.is_dir():
        raise StateError(f"{folder} is a file; a state folder is a directory")
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise StateError(f"cannot create the state folder {folder}: {error.strerror}") from error
    if not os.access(folder, os.W_OK | os.X_OK):
        raise StateError(f"state folder {folder} is not writable by this user")
    path = folder / FILE_NAME
    strangers = sorted(p.name for p in folder.iterdir() if not p.name.startswith("learner."))
    if not path.exists() and strangers:
        raise StateError(f"{folder} is not a state folder: it has no {FILE_NAME} but holds {strangers[0]!r}; use an empty folder")
    return FolderLock(folder), path


def refusal(folder: Path | None, error: sqlite3.Error) -> StateError:
    """The named error for what SQLite said about a change; the change was rolled back."""
    if any(words in str(error) for words in _OF_THE_DISK):
        return StorageError(f"the state folder {folder} cannot take the change: {error}; nothing was changed: make room, and do it again")
    return StateError(f"the state folder {folder} cannot take the change: {error}; nothing was changed")


def unreadable(folder: Path | None, error: sqlite3.Error) -> StateError:
    """The named error for what SQLite said when it read. It calls a page that the disk does not give damaged."""
    return StorageError(f"the journal in {folder} is damaged, or its disk cannot be read: {error}; if it stays so, restore the folder from a copy")
