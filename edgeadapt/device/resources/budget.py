"""May this work start now? Measured costs against the share of time the user allows,
temperature and power against their limits.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Annotated

from msgspec import Meta

from edgeadapt._fields import check_fields
from edgeadapt.device.resources.sensors import SensorReadings
from edgeadapt.device.resources.thermal import ThermalPowerLimit
from edgeadapt.device.resources.write_meter import Writes
from edgeadapt.errors import BudgetError


@dataclass(frozen=True)
class Budget:
    """What learning may cost.

    Args:
        busy_fraction: share of a core's time the worker may be busy, over any ``window_s``. Beyond
            it adaptation, growth and analyses of a condition's windows that are like the last one
            wait, but each of them runs once a window; answered labels are learned, and new
            conditions noticed, regardless.
        memory_mib: declared tensors, pools and pending samples must fit; checked when opening.
        window_s: length of the accounting window, seconds.
        write_mib_per_day: what the state folder may write to the disk in 24 hours. Snapshots,
            corrections, decisions and compaction wait from 80% of it on; a label that comes when
            all of it is used is refused with a BudgetError.
        temperature_c, power_w: adaptation and growth do not start while the hottest zone (degrees
            Celsius), or the device's power (W), is above it, and start again 3 C or 5% below;
            answered labels are learned regardless. None: no limit. Where nothing measures it, an
            ``InputWarning`` says so once, and the limit is not kept.

    Raises:
        BudgetError: a value that its field does not allow.
    """

    busy_fraction: Annotated[float, Meta(gt=0, le=1)] = 0.2
    memory_mib: Annotated[float, Meta(gt=0)] = 256.0
    window_s: Annotated[float, Meta(gt=0)] = 10.0
    write_mib_per_day: Annotated[float, Meta(gt=0)] = 512.0
    temperature_c: Annotated[float, Meta(gt=0)] | None = None
    power_w: Annotated[float, Meta(gt=0)] | None = None

    def __post_init__(self) -> None:
        check_fields(self, BudgetError)

    @property
    def needs_vitals(self) -> bool:
        """True if temperature or power has a limit."""
        return self.temperature_c is not None or self.power_w is not None

    def require_memory(self, declared: dict[str, int]) -> None:
        """Refuse, with numbers, a bundle whose declared memory cannot fit."""
        total = sum(declared.values()) / 2**20
        if total > self.memory_mib:
            largest_first = sorted(declared.items(), key=lambda item: -item[1])
            parts = ", ".join(f"{name} {size / 2**20:.1f}" for name, size in largest_first)
            raise BudgetError(
                f"the bundle declares {total:.1f} MiB ({parts}) and memory_mib is"
                f" {self.memory_mib:g}"
            )


_WITHOUT_END = 1 << 62  # bytes a day: what an infinite budget comes to
_PATIENT_SHARE = 0.8  # of the day's writes; the rest is for labels


class WriteRoom:
    """May this be written now? What the journal wrote over the last day against what it may."""

    def __init__(self, budget: Budget, writes: Writes) -> None:
        self._writes = writes
        self.per_day = int(min(budget.write_mib_per_day * 2**20, _WITHOUT_END))
        self.deferred = 0

    @property
    def used(self) -> int:
        """Bytes of the last 24 hours."""
        return self._writes.last_day

    def has_room(self, nbytes: int) -> bool:
        """True if something that can wait may write so many bytes now."""
        fits = self.used + nbytes <= _PATIENT_SHARE * self.per_day
        self.deferred += not fits
        return fits

    def require_room(self, nbytes: int) -> None:
        """Refuse a label that the day's budget has no room for.

        Raises:
            BudgetError: with the numbers.
        """
        if self.used + nbytes > self.per_day:
            raise BudgetError(
                f"the state folder has written {self.used / 2**20:.1f} MiB over the last 24 hours"
                f" and write_mib_per_day is {self.per_day / 2**20:g}: no label is taken before some"
                " of that is a day old"
            )


class Meter:
    """Measured cost of each kind of work, and the busy time of the last window. Of the worker,
    which does one thing at a time.

    Args:
        readings: the newest sensor readings; None: neither temperature nor power is limited.
        spent: seconds that the calling thread has used. The worker lets others go first: while it
            waits for a core it uses none.
    """

    def __init__(
        self,
        budget: Budget,
        clock: Callable[[], float] = time.monotonic,
        readings: Callable[[], SensorReadings] | None = None,
        spent: Callable[[], float] = time.thread_time,
    ) -> None:
        self._budget, self._clock, self._spent = budget, clock, spent
        self._inner = 0.0  # seconds of work that is over and was part of other work
        self._limit: ThermalPowerLimit | None = None
        if readings is not None:
            self._limit = ThermalPowerLimit(budget.temperature_c, budget.power_w, readings)
        self._spans: deque[tuple[float, str, float]] = deque()  # when, what, seconds
        self._costs: dict[str, deque[float]] = {}
        self.deferred = 0
        self.overruns = 0

    def cost(self, kind: str) -> float:
        """95th percentile of the last 50 measured costs, seconds; 0 before the first."""
        costs = sorted(self._costs.get(kind, ()))
        return costs[min(len(costs) - 1, int(0.95 * len(costs)))] if costs else 0.0

    def may_start(self, kind: str) -> bool:
        """True if the work, at its measured cost, fits into the busy share of the window, and it is
        neither too hot nor too dear in power.
        """
        if self._limit is not None and not self._limit.allows():
            self.deferred += 1
            return False
        return self.has_room(kind)

    def has_room(self, kind: str) -> bool:
        """True if the work fits into the busy share, however hot it is: for what must go on, as
        leaving a condition that is over.
        """
        if self._budget.busy_fraction >= 1.0:
            return True
        self._drop_old()
        busy = sum(length for _, _, length in self._spans)
        # whatever it costs, and whatever else there is to do
        is_first = all(of != kind for _, of, _ in self._spans)
        room = self._budget.busy_fraction * self._budget.window_s
        fits = is_first or busy + self.cost(kind) <= room
        self.deferred += not fits
        return fits

    @property
    def too_hot(self) -> str:
        """Why no work that can wait starts for temperature or power; empty if it may."""
        return "" if self._limit is None else self._limit.why

    @contextmanager
    def spending(self, kind: str) -> Iterator[None]:
        """Measure a piece of work; what is measured inside it does not count twice."""
        started, inner = self._spent(), self._inner
        try:
            yield
        finally:
            took = self._spent() - started
            self.record(kind, max(0.0, took - (self._inner - inner)))
            self._inner = inner + took

    def record(self, kind: str, seconds: float) -> None:
        expected = self.cost(kind)
        self.overruns += bool(expected) and seconds > 2 * expected
        self._drop_old()
        self._spans.append((self._clock(), kind, seconds))
        self._costs.setdefault(kind, deque(maxlen=50)).append(seconds)

    def _drop_old(self) -> None:
        oldest = self._clock() - self._budget.window_s
        while self._spans and self._spans[0][0] < oldest:
            self._spans.popleft()
