"""How long answers take, with and without learning beside them, and when the learner has to wait so
that they stay fast.

    ratio = p99(batches while the learner worked) / p99(batches while it did not)
            over the last 200 of each, from 50 on
    slow  = batches while it worked that took longer than p99_ratio p99(batches while it did not)

Above ``p99_ratio`` the learner is paused: for a second, and twice as long each time, up to 30 s,
until a measurement is fine again. A p99 of 200 is their second largest: two such numbers of the
same answers differ by half every few seconds. So it is paused only if ``slow``, too, is more than
chance makes of a hundredth, n / 100 + 3 sqrt(n / 100) of n. Over the last 1,000 of each the same is
asked once more, where the bound is one batch in fifty: a tail that is thin and stays is met then. A
learner that never rests is paused for a second, too, where nothing is known yet of answers without
it.
"""

from __future__ import annotations

import logging
import math
import threading
import time
from bisect import bisect_right
from collections import deque
from collections.abc import Callable
from typing import Any

log = logging.getLogger("edgeadapt.daemon")
_LAST, _LEAST = 200, 50  # batches of each kind
_FIRST_S, _LONGEST_S = 1.0, 30.0
_LONG = 1000
_JUDGED_EVERY, _LONG_JUDGED_EVERY = 10, 250  # batches: sorting 400 numbers is not free at batch 1


class LatencyGovernor:
    """Fed by the loop, read by anyone.

    Args:
        pause: called with True when the learner has to wait, and False when it may go on.
        p99_ratio: the most by which learning may slow the slowest answers; infinity never pauses.
        clock: monotonic seconds.
    """

    def __init__(
        self,
        pause: Callable[[bool], None],
        p99_ratio: float = 1.5,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.p99_ratio = p99_ratio
        self.pauses = 0
        self.is_pausing = False
        self._pause, self._clock = pause, clock
        self._plain: deque[float] = deque(maxlen=_LAST)
        self._learning: deque[float] = deque(maxlen=_LAST)
        self._wait_s, self._until, self._count = _FIRST_S, 0.0, 0
        self._plain_long: deque[float] = deque(maxlen=_LONG)
        self._learning_long: deque[float] = deque(maxlen=_LONG)
        self._lock = threading.Lock()

    def record(self, seconds: float, *, is_learning: bool) -> None:
        """One batch was answered. ``is_learning``: the learner worked at its start or its end."""
        with self._lock:
            if not is_learning:
                self._plain.append(seconds)
                self._plain_long.append(seconds)
            elif not self.is_pausing:  # else a task that began before the pause comes to its end
                self._learning.append(seconds)
                self._learning_long.append(seconds)
        self._count += 1
        if self._count % _JUDGED_EVERY == 0:
            self._judge()

    def tick(self) -> None:
        """Let the learner go on once its wait is over; the loop calls it on every turn, with or
        without samples.
        """
        if self.is_pausing and self._clock() >= self._until:
            self.is_pausing = False
            self._pause(False)

    def _judge(self) -> None:
        if self.is_pausing:
            return
        with self._lock:
            plain, learning = sorted(self._plain), sorted(self._learning)
        ratio = _ratio(plain, learning)
        if ratio is None:
            if len(learning) == _LAST:
                self._rest(_FIRST_S)
        elif (
            ratio > self.p99_ratio and self._is_slowed(plain, learning)
        ) or self._is_long_slowed():
            log.info(
                "answers are %.2f times as slow beside learning: it waits for %.0f s",
                ratio,
                self._wait_s,
            )
            self.pauses += 1
            self._rest(self._wait_s)
            self._wait_s = min(_LONGEST_S, 2 * self._wait_s)
        elif ratio <= self.p99_ratio:
            self._wait_s = _FIRST_S

    def _is_long_slowed(self) -> bool:
        if (
            self._count % _LONG_JUDGED_EVERY
            or min(len(self._learning_long), len(self._plain_long)) < _LONG
        ):
            return False
        with self._lock:
            plain, learning = sorted(self._plain_long), sorted(self._learning_long)
        return self._is_slowed(plain, learning)

    def _is_slowed(self, plain: list[float], learning: list[float]) -> bool:
        """Whether more of the second are beyond the limit than chance makes of a hundredth."""
        return len(learning) - bisect_right(
            learning, self.p99_ratio * _at(plain, 0.99)
        ) > _by_chance(len(learning))

    def _rest(self, seconds: float) -> None:
        self.is_pausing, self._until = True, self._clock() + seconds
        with self._lock:
            self._learning.clear()  # the next judgement is about what comes after it
            self._learning_long.clear()
        self._pause(True)

    def latency(self) -> dict[str, Any]:
        """p50 and p99 of both kinds in ms, and ``ratio`` of the two p99; None where fewer than 50
        batches say so.
        """
        with self._lock:
            plain, learning = sorted(self._plain), sorted(self._learning)
        return {
            "plain": _summary(plain),
            "learning": _summary(learning),
            "ratio": _ratio(plain, learning),
            "p99_ratio": self.p99_ratio,
            "pauses": self.pauses,
            "is_paused": self.is_pausing,
        }


def _ratio(plain: list[float], learning: list[float]) -> float | None:
    """Of the two p99 of ordered values; None where there are too few."""
    return (
        _at(learning, 0.99) / max(_at(plain, 0.99), 1e-9)
        if min(len(plain), len(learning)) >= _LEAST
        else None
    )


def _by_chance(count: int) -> float:
    """The most of so many batches that lie in the slowest hundredth without a reason: three
    standard deviations above the mean.
    """
    return 0.01 * count + 3.0 * math.sqrt(0.01 * count)


def _at(ordered: list[float], share: float) -> float:
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]


def _summary(values: list[float]) -> dict[str, float | int | None]:
    if not values:
        return {"batches": 0, "p50_ms": None, "p99_ms": None}
    return {
        "batches": len(values),
        "p50_ms": 1e3 * _at(values, 0.5),
        "p99_ms": 1e3 * _at(values, 0.99),
    }


__all__ = ["LatencyGovernor"]
