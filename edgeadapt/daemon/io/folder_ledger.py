"""What folder sources have taken, over restarts: one small file in the state folder, beside the
learner's.

    learner.folders = "edgeadapt folders 1\\n", sha256(table), table
            table: msgpack {source: its marks, one after the other}
    mark = first 8 bytes of blake2b(path from the folder, size, time of the last change)

A mark is set once a file was answered, or found unreadable, and written with the next checkpoint:
what was taken since the last one is taken again after a kill.
"""

from __future__ import annotations

import hashlib
import logging
import threading
from collections.abc import Iterable
from pathlib import Path

import msgspec

from edgeadapt._durable import replace_file
from edgeadapt.device.resources.write_meter import Writes

log = logging.getLogger("edgeadapt.daemon")
FILE_NAME = "learner.folders"
Stamp = tuple[int, int]
"""Size in bytes, and time of the last change in ns: compared for equality only, as the clock may be
set in between.
"""
_HEAD = b"edgeadapt folders 1\n"
_MARK_BYTES, _SUM_BYTES = 8, 32
# of the day's writes: a folder of 100,000 files has 0.8 MB of marks, and would be written 288 times
# a day
_SHARE = 0.1


class Taken:
    """The marks of one source; thread-safe.

    Args:
        most: marks that are kept; beyond it the oldest go.
    """

    def __init__(self, marks: Iterable[bytes] = (), *, most: int = 100_000) -> None:
        self._marks = dict.fromkeys(marks)
        self._most = most
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return len(self._marks)

    def has(self, file: str, stamp: Stamp) -> bool:
        return _mark(file, stamp) in self._marks

    def add(self, file: str, stamp: Stamp) -> None:
        """``file``: path from the folder."""
        mark = _mark(file, stamp)
        with self._lock:
            self._marks[mark] = None
            while len(self._marks) > self._most:
                del self._marks[next(iter(self._marks))]

    def keep(self, present: Iterable[tuple[str, Stamp]]) -> None:
        """Drop files that do not lie there any more."""
        here = {_mark(file, stamp) for file, stamp in present}
        with self._lock:
            self._marks = {mark: None for mark in self._marks if mark in here}

    def joined(self) -> bytes:
        with self._lock:
            return b"".join(self._marks)


class FolderMemory:
    """The file, and the marks of every source by its name.

    Args:
        state: the state folder, which this process has for itself.

    Attributes:
        error: why the last write failed; empty if it went well.
    """

    def __init__(self, state: Path) -> None:
        self.error = ""
        self._path = state / FILE_NAME
        self._writes = Writes()
        self._lock = threading.Lock()
        self._clear()
        self._table = self._read()
        self._written = self._table
        self._taken: dict[str, Taken] = {}

    @property
    def written_last_day(self) -> int:
        """Bytes of the last 24 hours, of this process."""
        return self._writes.last_day

    def of(self, source: str) -> Taken:
        """The marks of a source; whoever reads the same folder next goes on with them."""
        with self._lock:
            if source not in self._taken:
                marks = self._table.get(source, b"")
                self._taken[source] = Taken(
                    marks[at : at + _MARK_BYTES] for at in range(0, len(marks), _MARK_BYTES)
                )
            return self._taken[source]

    def table(self, sources: Iterable[str]) -> dict[str, bytes]:
        """The marks of these sources as they are now; those of others are forgotten when it is
        written.
        """
        return {source: self.of(source).joined() for source in sources}

    def write(
        self, table: dict[str, bytes], bytes_per_day: float, *, is_last: bool = False
    ) -> None:
        """Replace the file, if something has changed. What fails is logged, kept in ``error``, and
        tried again the next time.

        Args:
            bytes_per_day: of the whole budget; while a tenth of it is used up the file waits.
            is_last: then it does not.
        """
        with self._lock:
            if table == self._written:
                return
            packed = msgspec.msgpack.encode(table)
            data = _HEAD + hashlib.sha256(packed).digest() + packed
            if not is_last and self._writes.last_day + len(data) > _SHARE * bytes_per_day:
                return
            try:
                replace_file(self._path, data)
            except OSError as error:
                if not self.error:
                    log.warning("%s cannot be written, and is tried again: %s", self._path, error)
                self.error = f"{self._path.name}: {error.strerror or error}"
                return
            self._writes.add(len(data))
            self._written, self.error = table, ""

    def _read(self) -> dict[str, bytes]:
        try:
            return _decoded(self._path.read_bytes())
        except FileNotFoundError:
            return {}
        except (OSError, ValueError) as error:
            log.warning(
                "%s is damaged: %s; it is begun anew, and files that lie in watched folders are"
                " taken again",
                self._path,
                error,
            )
            return {}

    def _clear(self) -> None:
        """What a kill left of a write."""
        for left in self._path.parent.glob(f".{FILE_NAME}.*"):
            left.unlink(missing_ok=True)


def _mark(file: str, stamp: Stamp) -> bytes:
    text = f"{file}\0{stamp[0]}\0{stamp[1]}".encode("utf-8", "surrogateescape")
    return hashlib.blake2b(text, digest_size=_MARK_BYTES).digest()


def _decoded(data: bytes) -> dict[str, bytes]:
    if not data.startswith(_HEAD):
        raise ValueError(f"it does not begin with {_HEAD.decode().strip()!r}")
    start = len(_HEAD) + _SUM_BYTES
    if hashlib.sha256(data[start:]).digest() != data[len(_HEAD) : start]:
        raise ValueError("its sum is wrong")
    table = msgspec.msgpack.decode(data[start:], type=dict[str, bytes])
    if any(len(marks) % _MARK_BYTES for marks in table.values()):
        raise ValueError("it holds half a mark")
    return table


__all__ = ["FILE_NAME", "FolderMemory", "Stamp", "Taken"]
