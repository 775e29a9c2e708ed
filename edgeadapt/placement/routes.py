"""Batches of about one size of one graph: where they run now, what was measured, and the call that
a trial waits for.
"""

from __future__ import annotations

import threading
import weakref
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, cast

import numpy as np

from edgeadapt.placement.places import Place, PlacedBuffer
from edgeadapt.runtime import ArrayLike, Executable, Tensors

Live = tuple[Place, Executable]


@dataclass(frozen=True, eq=False)
class Sample:
    """A real call, to be run again: ports copied, for they are the caller's; tensors held, for they
    do not change.
    """

    ports: Mapping[str, Any]
    tensors: Mapping[str, PlacedBuffer]


class SampleBudget:
    """Bytes that samples may hold between them. One alone may be larger."""

    def __init__(self, limit: int) -> None:
        self._limit, self._lock, self._taken = limit, threading.Lock(), 0
        self._returned: deque[int] = deque()

    @property
    def used(self) -> int:
        with self._lock:
            return self._count()

    def take(self, nbytes: int) -> bool:
        with self._lock:
            used = self._count()
            fits = not used or used + nbytes <= self._limit
            self._taken += nbytes if fits else 0
        return fits

    def give_back(self, nbytes: int) -> None:
        # without the lock: the garbage collector may call this on the thread that holds it
        self._returned.append(nbytes)

    def _count(self) -> int:
        while self._returned:
            self._taken -= self._returned.popleft()
        return self._taken


@dataclass
class Measured:
    """What a trial has found so far.

    Attributes:
        error: largest relative difference. calls: that agreed. ties: that said nothing.
        here, there: of every measurement on the reference and on the candidate: seconds of the
            call, and seconds for its tensors to come and go.
    """

    error: float = 0.0
    calls: int = 0
    ties: int = 0
    here: list[tuple[float, float]] = field(default_factory=list)
    there: list[tuple[float, float]] = field(default_factory=list)

    @property
    def here_s(self) -> float:
        """Round trip on the reference."""
        return _round_trip(self.here)

    @property
    def there_s(self) -> float:
        """Round trip on the candidate."""
        return _round_trip(self.there)

    @property
    def ratio(self) -> float:
        """Of the candidate's round trip to the reference's."""
        return self.there_s / self.here_s if self.here else float("inf")


def _round_trip(seconds: list[tuple[float, float]]) -> float:
    return float(sum(np.median(np.array(seconds), axis=0))) if seconds else float("nan")


class Trial:
    """A graph in a candidate, for one route: it asks for one call at a time.

    Args:
        place, run: the candidate and the graph loaded there.
        budget: for the samples of all trials.
        read_only: tensors that the graph reads and does not write: they come from others.
        is_audit: the graph runs there already; one call is compared and nothing is timed.
    """

    def __init__(
        self,
        place: Place,
        run: Executable,
        budget: SampleBudget,
        read_only: Sequence[str],
        is_audit: bool = False,
    ) -> None:
        self.place, self.run = place, run
        self.read_only, self.is_audit = tuple(read_only), is_audit
        self.measured, self.is_warm = Measured(), False
        self.sample: Sample | None = None
        self._budget, self._lock, self._is_over = budget, threading.Lock(), False
        self._give_back: Callable[[], Any] | None = None
        # weak: a number is given to another buffer when one is released
        self._last: tuple[weakref.ref[Any], ...] | None = None
        self._seen = self._changed = 0

    @property
    def fresh_share(self) -> float:
        """Share of calls that came with other read-only tensors than the call before: those for
        which tensors have to cross.
        """
        return self._changed / self._seen if self._seen else 1.0

    @property
    def knows_share(self) -> bool:
        """The share was seen, and is not the largest that it could be."""
        return self._seen > 0 or not self.read_only

    def offer(self, ports: Mapping[str, ArrayLike], reads: Sequence[str], tensors: Tensors) -> bool:
        """Look at a call that was just answered; True if it was taken as a sample, which the trial
        then runs again.
        """
        held, last = tuple([weakref.ref(tensors[name]) for name in self.read_only]), self._last
        if last is not None:
            # a race costs a count
            self._seen, self._changed = self._seen + 1, self._changed + (held != last)
        self._last = held
        if (
            self.sample is not None
            or self._is_over
            or not all(isinstance(v, (np.ndarray, np.generic, int, float)) for v in ports.values())
        ):
            return False
        nbytes = sum(value.nbytes for value in ports.values() if isinstance(value, np.ndarray))
        with self._lock:
            if self.sample is not None or self._is_over or not self._budget.take(nbytes):
                return False
            copies = {
                name: np.array(value, order="C") if isinstance(value, np.ndarray) else value
                for name, value in ports.items()
            }
            sample = Sample(copies, {name: cast(PlacedBuffer, tensors[name]) for name in reads})
            # once: by ``done``, or with a graph that nobody holds
            self._give_back = give_back = weakref.finalize(sample, self._budget.give_back, nbytes)
            give_back.atexit = False
            self.sample = sample
        return True

    def done(self) -> None:
        """Release the sample; the next call may be one."""
        with self._lock:
            self.sample = None
            if self._give_back is not None:
                self._give_back()
                self._give_back = None

    def end(self) -> None:
        """No more samples."""
        self._is_over = True
        self.done()


class Route:
    """Calls whose free axis has between ``smallest`` and ``largest`` entries; 0 and 0 where no axis
    is free.

    Attributes:
        live: where they run; None is the reference. Published by one assignment.
        paused: where they will run again when what is built there has been built.
        trial: that wants a call; None while there is none.
        todo: places that are still to be tried.
        failed_at: places where a run has failed.
        measured: place -> what its trial has found.
        why: why they run where they do.
        calls: until now, about: threads may lose one.
        served: of these, since they run where they do.
        wants_audit: a call is to be compared again. audits: that were, and agreed. ties: that said
            nothing.
    """

    def __init__(self, smallest: int, largest: int) -> None:
        self.smallest, self.largest = smallest, largest
        self.live: Live | None = None
        self.paused: Live | None = None
        self.trial: Trial | None = None
        self.todo: list[Place] = []
        self.failed_at: set[int] = set()
        self.measured: dict[str, Measured] = {}
        self.why = "served from the first moment"
        self.calls = self.served = self.audits = self.ties = 0
        self.wants_audit = False

    @property
    def key(self) -> tuple[int, int]:
        return self.smallest, self.largest

    def move(self, place: Place, run: Executable, why: str) -> None:
        """From the next call on they run there."""
        self.served = self.ties = 0
        self.wants_audit, self.why = False, why
        self.live = (place, run)

    def leave(self, place: Place, why: str) -> bool:
        """They do not run in a place any more, nor are they tried there; True if they did run
        there.
        """
        self.todo = [one for one in self.todo if one is not place]
        if self.trial is not None and self.trial.place is place:
            self.end_trial()
        ran = self.live or self.paused
        if ran is None or ran[0] is not place:
            return False
        self.live = self.paused = None
        self.why = f"{place.name}: {why}"
        return True

    def pause(self, place: Place) -> None:
        """They run in the reference for a while."""
        if self.live is not None and self.live[0] is place:
            self.paused, self.live = self.live, None

    def resume(self) -> None:
        """They run again where they did; in the reference if they left meanwhile."""
        if self.paused is not None:
            self.live, self.paused = self.live or self.paused, None

    def where(self, reference: str) -> str:
        live = self.live
        return reference if live is None else live[0].name

    def ratio(self) -> float:
        """Of the live place's round trip to the reference's."""
        measured = None if (live := self.live) is None else self.measured.get(live[0].name)
        return 1.0 if measured is None else measured.ratio

    def end_trial(self) -> None:
        trial, self.trial = self.trial, None
        if trial is not None:
            trial.end()

    @property
    def batches(self) -> str:
        """``9-16``; ``any`` where no axis is free."""
        if not self.largest:
            return "any"
        is_one = self.smallest == self.largest
        return str(self.largest) if is_one else f"{self.smallest}-{self.largest}"

    def __repr__(self) -> str:
        return f"Route({self.batches})"


def bounds(size: int, largest: int = 0) -> tuple[int, int]:
    """The range of batches that a size belongs to: powers of two, as engines are built for; not
    above ``largest`` where that is known.

    >>> bounds(1), bounds(9), bounds(32), bounds(20, 24), bounds(40, 24)
    ((1, 1), (9, 16), (17, 32), (17, 24), (33, 64))
    """
    if size < 1:
        return 0, 0
    high = 1 << (size - 1).bit_length()
    low = high // 2 + 1 if high > 1 else 1
    return low, min(high, largest) if size <= largest else high


__all__ = ["Live", "Measured", "Route", "Sample", "SampleBudget", "Trial", "bounds"]
