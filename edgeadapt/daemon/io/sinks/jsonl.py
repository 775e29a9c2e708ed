"""A file with one JSON object a line, written beside the loop by a thread of its own.

The loop hands an event over and goes on. The thread writes whole lines only: whoever reads the file
at any time finds nothing torn but, after a kill, the end; and that is cut off at the next start. It
writes what comes, rests for a twentieth of a second, and writes all that came meanwhile: the loop
has to wake it only after a pause, as each wake costs the answers more than the line does.
"""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from edgeadapt.daemon.decoding.codec import encode
from edgeadapt.daemon.io.sinks.rotating_file import LineFile

log = logging.getLogger("edgeadapt.daemon")
_AT_ONCE = 512  # events in a write
_REST_S = 0.05
_FIRST_S, _LONGEST_S = 0.1, 30.0


class JsonLines:
    """A sink. While the disk is full or failing it waits, ever longer, and tries again; what the
    queue cannot hold meanwhile is dropped, oldest first.

    Args:
        max_mib, keep: see ``LineFile``. size: events that wait.

    Attributes:
        dropped: events that never reached the file. written: those that did. failures: writes that
            failed.
    """

    def __init__(
        self, name: str, path: Path, max_mib: float = 16.0, keep: int = 4, *, size: int = 10_000
    ) -> None:
        self.name = name
        self.dropped = self.written = self.failures = 0
        self.error = ""
        self._file = LineFile(path, int(max_mib * 2**20), keep)
        self._waiting: deque[Mapping[str, Any]] = deque()
        self._size = size
        self._lock = threading.Lock()
        self._changed = threading.Condition(self._lock)
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._serve, name=f"sink-{name}", daemon=True)
        self._thread.start()

    def counters(self) -> dict[str, Any]:
        """For a status line. ``waiting``: events."""
        return {
            "waiting": len(self._waiting),
            "written": self.written,
            "failures": self.failures,
            "error": self.error,
        }

    def take(self, event: Mapping[str, Any]) -> None:
        """Queue an event, which is not changed from then on. After ``close`` it is dropped."""
        with self._lock:
            if self._closing.is_set():
                self.dropped += 1
                return
            if len(self._waiting) >= self._size:
                self._waiting.popleft()
                self.dropped += 1
            self._waiting.append(event)
            if len(self._waiting) == 1:
                self._changed.notify()

    def close(self, timeout_s: float = 1.0) -> None:
        """Write what waits, once, and stop. What cannot be written within the time is counted as
        dropped.
        """
        with self._changed:
            self._closing.set()
            self._changed.notify()
        self._thread.join(timeout_s)
        with self._changed:
            self.dropped += len(self._waiting)
            self._waiting.clear()

    def _serve(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._waiting or self._closing.is_set())
                if not self._waiting:
                    break
                events = [self._waiting.popleft() for _ in range(min(_AT_ONCE, len(self._waiting)))]
            self._write([line for line in map(self._line, events) if line is not None])
            if len(self._waiting) < _AT_ONCE:
                self._closing.wait(_REST_S)
        self._file.close()

    def _line(self, event: Mapping[str, Any]) -> bytes | None:
        try:
            return encode(event) + b"\n"
        except Exception as error:  # half a character, a cycle: whatever a caller put into it
            self.dropped += 1
            log.warning("sink %s: an event cannot be JSON: %s", self.name, error)
            return None

    def _write(self, lines: list[bytes]) -> None:
        wait_s = _FIRST_S
        while lines:
            try:
                count = self._file.append(lines)
            except OSError as error:
                self.failures += 1
                if not self.error:
                    log.warning("sink %s cannot write, and goes on trying: %s", self.name, error)
                self.error = str(error)
                if self._closing.wait(wait_s):  # nothing is tried again then
                    break
                wait_s = min(_LONGEST_S, 2.0 * wait_s)
            else:
                self.written += count
                lines, self.error, wait_s = lines[count:], "", _FIRST_S
        with self._changed:
            self.dropped += len(lines)


__all__ = ["JsonLines"]
