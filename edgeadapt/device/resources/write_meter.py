"""How many bytes went to the disk, in all and over the last day."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Sequence

_DAY_S, _HOUR_S = 86_400.0, 3600.0


class Writes:
    """A count that only grows, and how much of it came in each of the last 24 hours.

    Args:
        total: bytes written before.
        hours: (a time in the hour, bytes written in it), the oldest first.
    """

    def __init__(
        self,
        total: int = 0,
        hours: Sequence[tuple[float, int]] = (),
        clock: Callable[[], float] | None = None,
    ) -> None:
        self.total = total
        self._clock = clock or (lambda: time.time())
        self._hours: deque[tuple[float, int]] = deque(hours)

    def add(self, count: int) -> None:
        if count <= 0:
            return
        self.total += count
        now = self._clock()
        self._age(now)
        if self._hours and now < self._hours[-1][0] + _HOUR_S:
            self._hours[-1] = (self._hours[-1][0], self._hours[-1][1] + count)
        else:
            self._hours.append((now, count))

    def _age(self, now: float) -> None:
        # the clock was set back: what was written counts as written now
        if self._hours and self._hours[-1][0] > now:
            self._hours = deque([(now, sum(count for _, count in self._hours))])
        while self._hours and self._hours[0][0] + _HOUR_S < now - _DAY_S:
            self._hours.popleft()

    @property
    def last_day(self) -> int:
        """Bytes of the last 24 hours, rounded up to the hour."""
        self._age(self._clock())
        return sum(count for _, count in self._hours)
