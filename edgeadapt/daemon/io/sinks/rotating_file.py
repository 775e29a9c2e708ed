"""A file of lines that grows, and is renamed when it is full: ``NAME`` -> ``NAME.1`` -> ``NAME.2``
-> ...
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from collections.abc import Sequence
from pathlib import Path

_BLOCK = 1 << 16
_LONGEST_WRITE = 1 << 20


class LineFile:
    """Opened at the first line, and again if somebody else renames or removes it. One thread uses
    it.

    Args:
        max_bytes: a line that would make the file larger begins a new one.
        keep: full files that are kept; 0: none.
    """

    def __init__(self, path: Path, max_bytes: int, keep: int) -> None:
        self.path, self._max_bytes, self._keep = path, max_bytes, keep
        self._file: int | None = None
        self._size = 0

    def append(self, lines: Sequence[bytes]) -> int:
        """Write some of these lines, at least one, all of them whole.

        Returns:
            How many.

        Raises:
            OSError: none was written; the file ends as before.
        """
        file = self._opened()
        if self._size and self._size + len(lines[0]) > self._max_bytes:
            self._rotate()
            file = self._opened()
        count, size = 1, len(lines[0])
        while count < len(lines) and size + len(lines[count]) <= min(
            _LONGEST_WRITE, self._max_bytes - self._size
        ):
            size += len(lines[count])
            count += 1
        left = memoryview(b"".join(lines[:count]))
        try:
            while left:
                left = left[os.write(file, left) :]  # a disk that fills takes a part
        except OSError:
            self._mend(file)
            raise
        self._size += size
        return count

    def close(self) -> None:
        if self._file is not None:
            with contextlib.suppress(OSError):
                os.close(self._file)
            self._file = None

    def _mend(self, file: int) -> None:
        """Take back the part of a line that was written; if that fails too, the next opening does
        it.
        """
        try:
            os.ftruncate(file, self._size)
        except OSError:
            self.close()

    def _opened(self) -> int:
        if self._file is not None and not self._is_still_there(self._file):
            self.close()
        if self._file is None:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            flags = os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_NONBLOCK | os.O_CLOEXEC
            file = os.open(self.path, flags, 0o640)
            try:
                if not stat.S_ISREG(os.fstat(file).st_mode):
                    raise OSError(errno.EINVAL, "no regular file", str(self.path))
                self._size = _end_of_last_line(file)
                os.ftruncate(file, self._size)
            except BaseException:
                os.close(file)
                raise
            self._file = file
        return self._file

    def _is_still_there(self, file: int) -> bool:
        try:
            return os.path.samestat(os.stat(self.path), os.fstat(file))
        except FileNotFoundError:
            return False

    def _rotate(self) -> None:
        """The oldest goes first, so that a kill in between loses nothing that was to be kept."""
        self.close()
        if self._keep == 0:
            self.path.unlink(missing_ok=True)
            return
        for number in range(self._keep - 1, 0, -1):
            with contextlib.suppress(FileNotFoundError):
                os.replace(self._full(number), self._full(number + 1))
        os.replace(self.path, self._full(1))

    def _full(self, number: int) -> Path:
        return self.path.with_name(f"{self.path.name}.{number}")


def _end_of_last_line(file: int) -> int:
    end = os.fstat(file).st_size
    while end > 0:
        start = max(0, end - _BLOCK)
        at = os.pread(file, end - start, start).rfind(b"\n")
        if at >= 0:
            return start + at + 1
        end = start
    return 0


__all__ = ["LineFile"]
