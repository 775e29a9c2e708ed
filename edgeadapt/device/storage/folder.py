"""A state folder: who may use it, and the one database file in it.

The folder belongs to one process at a time; a lock file names its pid. What a disk says when it is
full or broken becomes a :class:`StorageError`.
"""

from __future__ import annotations

import errno
import fcntl
import os
import sqlite3
import stat
import weakref
from functools import partial
from pathlib import Path

from edgeadapt.errors import StateError, StorageError

FILE_NAME = "learner.db"
LOCK_NAME = "learner.lock"
# malformed: SQLite's word for a page that cannot be read
_OF_THE_DISK = (
    "disk is full",
    "disk I/O error",
    "readonly database",
    "unable to open database file",
    "malformed",
)


class FolderLock:
    """Exclusive use of a state folder, released by the kernel when the process dies."""

    def __init__(self, folder: Path) -> None:
        self._path = folder / LOCK_NAME
        try:
            flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
            self._fd = os.open(self._path, flags, 0o600)
        except OSError as error:
            if error.errno == errno.ELOOP:
                what = f"{self._path} is a link: remove it, no process makes one"
                raise StateError(what) from None
            raise StateError(f"cannot lock the state folder {folder}: {error.strerror}") from error
        if why := _foreign(os.fstat(self._fd)):
            os.close(self._fd)
            raise StateError(f"{self._path} {why}: remove it, no process of ours makes such a file")
        try:
            fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            holder = os.read(self._fd, 32).decode(errors="replace").strip() or "unknown"
            os.close(self._fd)
            raise StateError(
                f"state folder {folder} is in use by the process with pid {holder}"
            ) from error
        os.register_at_fork(after_in_child=partial(_release_in_child, weakref.ref(self)))
        try:
            os.ftruncate(self._fd, 0)
            os.pwrite(self._fd, f"{os.getpid()}\n".encode(), 0)
        except OSError as error:
            self.release()
            raise StorageError(
                f"cannot write into the state folder {folder}: {error.strerror}"
            ) from error

    def release(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


def _foreign(about: os.stat_result) -> str:
    """Why a file is not one of ours, so that what is written there might land elsewhere."""
    if not stat.S_ISREG(about.st_mode):
        return "is no regular file"
    return "is a file with another name too" if about.st_nlink > 1 else ""


def _release_in_child(held: weakref.ref[FolderLock]) -> None:
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
        fd = os.open(folder / LOCK_NAME, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
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
        StateError: not a folder, not writable, a folder of something else, or in use.
        StorageError: the disk is full or fails.
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
        raise StateError(
            f"{folder} is not a state folder: it has no {FILE_NAME} but holds {strangers[0]!r}; use"
            " an empty folder"
        )
    lock = FolderLock(folder)
    for beside in ("-wal", "-shm"):
        try:
            why = _foreign(os.lstat(f"{path}{beside}"))
        except FileNotFoundError:
            continue
        if why:
            lock.release()
            raise StateError(f"{path}{beside} {why}: remove it, SQLite would write into it")
    return lock, path


def refusal(folder: Path | None, error: sqlite3.Error) -> StateError:
    """The named error for what SQLite said about a change; the change was rolled back."""
    refused = f"the state folder {folder} cannot take the change"
    if not any(words in str(error) for words in _OF_THE_DISK):
        return StateError(f"{refused}: {error}; nothing was changed")
    if folder is not None and _is_read_only(folder):
        return StorageError(
            f"{refused}: its file system is read-only; nothing was changed: check the disk, mount"
            " it for writing, and start anew"
        )
    return StorageError(f"{refused}: {error}; nothing was changed: make room, and do it again")


def _is_read_only(folder: Path) -> bool:
    """By a file without a name: a disk that failed does not always say so in the flags of its
    mount.
    """
    try:
        os.close(os.open(folder, os.O_TMPFILE | os.O_WRONLY | os.O_CLOEXEC, 0o600))
    except OSError as error:
        return error.errno == errno.EROFS
    return False


def unreadable(folder: Path | None, error: sqlite3.Error) -> StateError:
    """The named error for what SQLite said when it read. It calls a page that the disk does not
    give damaged.
    """
    return StorageError(
        f"the journal in {folder} is damaged, or its disk cannot be read: {error}; if it stays so,"
        " restore the folder from a copy"
    )
