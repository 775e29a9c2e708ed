"""When the next sample is due, by the monotonic clock.

due_k = start + k / rate
"""

from __future__ import annotations

import threading
import time

_MADE_UP_S = 1.0


class RateTimer:
    """A timer without drift: one that is late does not put off those after it.

    What was missed is made up for as long as it is less than a second; after a longer stop (a full
    queue, a machine asleep) the count starts anew, so that no flood follows.

    Args:
        rate_hz: periods a second. stop: ends a wait.
    """

    def __init__(self, rate_hz: float, stop: threading.Event) -> None:
        self._period_s, self._stop = 1.0 / rate_hz, stop
        self._start, self._count = time.monotonic(), 0.0

    def wait(self, periods: float = 1.0) -> bool:
        """Wait until so many periods after the last one; False if it was stopped."""
        self._count += periods
        left = self._start + self._count * self._period_s - time.monotonic()
        if left < -_MADE_UP_S:
            self._start -= left
        return not (self._stop.wait(left) if left > 0.0 else self._stop.is_set())


__all__ = ["RateTimer"]
