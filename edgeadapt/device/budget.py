"""May this work start now? Measured costs against the share of time the user allows."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

from edgeadapt.errors import BudgetError


@dataclass(frozen=True)
class Budget:
    """What learning may cost.

    Args:
        busy_fraction: share of wall time the worker may be busy with adaptation, over any ``window_s``; answered labels
            are learned regardless.
        memory_mib: declared tensors, pools and pending samples must fit; checked when opening.
        window_s: length of the accounting window, seconds.
    """

    busy_fraction: float = 0.2
    memory_mib: float = 256.0
    window_s: float = 10.0

    def __post_init__(self) -> None:
        if not 0.0 < self.busy_fraction <= 1.0:
            raise BudgetError(f"busy_fraction is in (0, 1], got {self.busy_fraction}")
        if self.memory_mib <= 0 or self.window_s <= 0:
            raise BudgetError(f"memory_mib and window_s are above 0, got {self.memory_mib} and {self.window_s}")

    def require_memory(self, declared: dict[str, int]) -> None:
        """Refuse, with numbers, a bundle whose declared memory cannot fit."""
        total = sum(declared.values()) / 2**20
        if total > self.memory_mib:
            parts = ", ".join(f"{name} {size / 2**20:.1f}" for name, size in sorted(declared.items(), key=lambda item: -item[1]))
            raise BudgetError(f"the bundle declares {total:.1f} MiB ({parts}) and memory_mib is {self.memory_mib:g}")


class Meter:
    """Measured cost of each kind of work, and the busy time of the last window."""

    def __init__(self, budget: Budget, clock: Callable[[], float] = time.monotonic) -> None:
        self._budget, self._clock = budget, clock
        self._spans: deque[tuple[float, float]] = deque()
        self._costs: dict[str, deque[float]] = {}
        self.deferred = 0
        self.overruns = 0

    def cost(self, kind: str) -> float:
        """95th percentile of the last 50 measured costs, seconds; 0 before the first."""
        costs = sorted(self._costs.get(kind, ()))
        return costs[min(len(costs) - 1, int(0.95 * len(costs)))] if costs else 0.0

    def may_start(self, kind: str) -> bool:
        """True if the work, at its measured cost, fits into the busy share of the window."""
        if self._budget.busy_fraction >= 1.0:
            return True
        self._drop_old()
        busy = sum(length for _, length in self._spans)
        fits = busy == 0.0 or busy + self.cost(kind) <= self._budget.busy_fraction * self._budget.window_s  # dear work runs once a window
        self.deferred += not fits
        return fits

    def record(self, kind: str, seconds: float) -> None:
        expected = self.cost(kind)
        self.overruns += bool(expected) and seconds > 2 * expected
        self._drop_old()
        self._spans.append((self._clock(), seconds))
        self._costs.setdefault(kind, deque(maxlen=50)).append(seconds)

    def _drop_old(self) -> None:
        oldest = self._clock() - self._budget.window_s
        while self._spans and self._spans[0][0] < oldest:
            self._spans.popleft()
