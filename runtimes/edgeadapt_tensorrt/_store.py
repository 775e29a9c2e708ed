"""Plans and timings on disk. Everything a file depends on is in its key; what is damaged, foreign
or too much is dropped and made again.

A file is a line of JSON (the key, and SHA-256 of the rest), then the content. It is written beside
its place, synchronised and renamed, so a reader sees the old file, the new one, or none. A plan is
a program: a folder that others may write to is not used.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import stat
import tempfile
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

_FORMAT = 1
_HEADER = 64 << 10  # bytes that the first line may have
_STALE_S = 3600.0  # a file that was being written so long ago belongs to a process that died
Key = Mapping[str, Any]


def default_folder() -> Path:
    """systemd's ``CacheDirectory`` where there is one, else the user's cache."""
    service = os.environ.get("CACHE_DIRECTORY", "").split(":")[0]
    return (
        Path(
            service
            or Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "edgeadapt"
        )
        / "tensorrt"
    )


class Store:
    """Files by kind and key, bounded in bytes; the least recently used go first.

    Args:
        folder: made when it is missing; None keeps nothing.
        limit: bytes of all files together.
        note: is told in a sentence what was dropped or could not be kept. None of it is an error:
            the engine is built again.
    """

    def __init__(self, folder: Path | None, limit: int, note: Callable[[str], None]) -> None:
        self._note, self._limit, self._lock = note, limit, threading.Lock()
        self.folder = folder if folder is not None and self._is_usable(folder) else None

    def _is_usable(self, folder: Path) -> bool:
        try:
            folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            found = folder.stat()
        except OSError as error:
            self._note(f"plans are not kept: {folder}: {error.strerror}")
            return False
        if found.st_mode & stat.S_IWOTH or found.st_uid not in (os.geteuid(), 0):
            self._note(
                f"plans are not kept: others may write to {folder}, and a plan is a program; chmod"
                " 700 it, or name another folder"
            )
            return False
        return True

    def read(self, kind: str, key: Key) -> bytes | None:
        """The content, or None."""
        if self.folder is None:
            return None
        path = self._path(self.folder, kind, key)
        try:
            with open(path, "rb") as file:
                head, content = file.readline(_HEADER), file.read()
            os.utime(path)
        except FileNotFoundError:
            return None
        except OSError as error:
            self._note(f"{path.name} cannot be read ({error.strerror}); made again")
            return None
        if reason := _fault(head, content, key):
            self._note(f"{path.name} {reason}; made again")
            return None
        return content

    def write(self, kind: str, key: Key, content: bytes) -> str:
        """Keep it, and make room; why it is not kept, empty if it is."""
        if self.folder is None:
            return "nothing is kept here"
        path = self._path(self.folder, kind, key)
        head = (
            json.dumps(
                {"format": _FORMAT, "key": dict(key), "sha256": hashlib.sha256(content).hexdigest()}
            ).encode()
            + b"\n"
        )
        if len(head) + len(content) > self._limit:
            return self._told(
                f"{path.name} has {len(content) >> 20} MiB, more than the {self._limit >> 20} MiB"
                " that are kept; it is made at every start"
            )
        with self._lock:
            try:
                _replace(path, head + content)
                self._make_room(path)
            except OSError as error:
                return self._told(f"{path.name} could not be kept: {error.strerror}")
        return ""

    def _told(self, reason: str) -> str:
        self._note(reason)
        return reason

    def place(self, kind: str, key: Key) -> tuple[Path, ...]:
        """The file that is kept; none if there is none."""
        path = self._path(self.folder, kind, key) if self.folder is not None else None
        return (path,) if path is not None and path.is_file() else ()

    def _make_room(self, newest: Path) -> None:
        found = []
        for path in newest.parent.glob("*.trt*"):
            with contextlib.suppress(FileNotFoundError):  # another process makes room too
                status = path.stat()
                if path.suffix == ".trt":
                    found.append((status.st_mtime_ns, status.st_size, path))
                elif time.time() - status.st_mtime > _STALE_S:
                    path.unlink()
        total = sum(size for _, size, _ in found)
        for _, size, path in sorted(found):
            if total <= self._limit:
                break
            if path != newest:
                path.unlink(missing_ok=True)
                total -= size

    @staticmethod
    def _path(folder: Path, kind: str, key: Key) -> Path:
        digest = hashlib.sha256(json.dumps(dict(key), sort_keys=True).encode()).hexdigest()
        return folder / f"{kind}-{digest[:32]}.trt"


def _fault(head: bytes, content: bytes, key: Key) -> str:
    """What is wrong with a file, or an empty string."""
    try:
        found = json.loads(head)
        if found["format"] != _FORMAT:
            return f"has format {found['format']!r}"
        if found["key"] != json.loads(json.dumps(dict(key))):
            return "was made for something else"
        return "" if found["sha256"] == hashlib.sha256(content).hexdigest() else "is damaged"
    except (ValueError, KeyError, TypeError):
        return "is damaged"


def _replace(path: Path, content: bytes) -> None:
    handle, name = tempfile.mkstemp(prefix=path.stem, suffix=".trt-new", dir=path.parent)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(name, path)
    except BaseException:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(name)
        raise
    folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
