"""How many bytes went to the disk, in all and over the last day."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable

_DAY_S, _HOUR_S = 86_400.0, 3600.0


class Writes:
    """A count that only grows, and what it was a day ago, by the hour.

    Args:
        total: bytes written before. before: how many of them more than a day ago.
    """

    def __init__(self, total: int = 0, before: int = 0, clock: Callable[[], float] = time.time) -> None:
        self.total = total
        self._clock = clock
        self._hours: deque[tuple[float, int]] = deque([(clock() - _DAY_S, before)])  # (when, the count then)
        self._last = clock()

    def add(self, count: int) -> None:
        if count <= 0:
            return
        self.total += count
        now = self._clock()
        if now >= self._last + _HOUR_S or now < self._last:  # a clock that was set back starts a new hour
            self._hours.append((now, self.total))
            self._last = now
        while len(self._hours) > 1 and (self._hours[1][0] <= now - _DAY_S or len(self._hours) > 26):
            self._hours.popleft()

    @property
    def last_day(self) -> int:
        """Bytes of the last 24 hours, to the hour; never too few."""
        return self.total - self._hours[0][1]
