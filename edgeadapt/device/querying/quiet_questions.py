"""A few questions a day although nothing seems wrong: when the next one is due.

Half of a day's questions come early, after 2, 4, 8, ... windows, so that a short stream is measured
too; the others are spread over the
rest of the day. Every other one is about a sample drawn at random, the first too.
"""

from __future__ import annotations

import time
from collections.abc import Callable

_DAY_S = 86_400.0


class QuietQuestions:
    """Of one learner, over all streams. In memory only: a learner that is opened again begins a
    day."""

    def __init__(self, per_day: int, clock: Callable[[], float] = time.monotonic) -> None:
        """``clock``: seconds that only grow."""
        self._per_day, self._clock = per_day, clock
        self._began: float | None = None
        self._windows = self._asked = 0

    def is_due(self) -> bool:
        """One window more was analysed: whether something may be asked about it. The day begins
        with the first."""
        now = self._clock()
        if self._began is None or now - self._began >= _DAY_S:
            self._began, self._windows, self._asked = now, 0, 0
        self._windows += 1
        if self._asked >= self._per_day or self._windows < 2 ** min(self._asked + 1, 30):
            return False
        is_early = self._asked < (self._per_day + 1) // 2
        return is_early or now - self._began >= _DAY_S * self._asked / self._per_day

    @property
    def is_random_next(self) -> bool:
        return self._asked % 2 == 0

    def asked(self) -> None:
        """One question was asked."""
        self._asked += 1


__all__ = ["QuietQuestions"]
