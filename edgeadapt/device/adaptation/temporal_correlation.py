"""Does a stream show one class after the other? Only then may answers of a batch speak for each
other (role ``smooth``).

    M   neighbouring samples among the last n + 1 that were taken for the same class, n = 64
    q_2 = sum_c n_c (n_c - 1) / N (N - 1)
          chance that two of the stream's last N <= 2048 samples share a class in any order
    z   = (M - n q_2) / sqrt(V + 1)
          correlated: z > 3

If the order carries no information every permutation of the N predictions is as likely as the one
that came, so M has the exact mean n q_2 and the exact variance V = n q_2 (1 - q_2) + 2 (n - 1) (q_3
- q_2^2) + (n - 1) (n - 2) (q_4 - q_2^2), with q_3 the chance that three share a class and q_4 that
two pairs do. The 1 added keeps a chance match or two among hundreds of classes from counting. This
is the runs test for many categories (Wald and Wolfowitz, 1940; Mood, 1940), on the latest pairs. At
z > 3 a stream without order fires in fewer than 1% of windows (below .4% in simulated streams of 2
to 1000 classes, even and skewed; a test keeps it below 1%).

A stream that has only ever shown one class has no order to speak of: M is what q_2 says, and
nothing fires. Predictions that change for another reason, because the conditions did, look like
order too. So the past starts over when a stream enters or leaves a condition and when that is
corrected for the first time, and under a shift that is not a known condition yet nothing is
smoothed.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING
from weakref import WeakKeyDictionary

import numpy as np
from numpy.typing import NDArray

from edgeadapt.device.inference.state import SOURCE, LearnerState

if TYPE_CHECKING:
    from edgeadapt.device.adaptation.stream import Stream
    from edgeadapt.device.inference.program import HeadOutput, Program
    from edgeadapt.results import Reading

PAIRS = 64
_PAST = 2048
_Key = tuple[str, bool]


class Correlation:
    """The predicted classes of one stream, in a ring; reading it costs a pass over the ring, adding
    to it does not.
    """

    def __init__(self) -> None:
        self._ring: NDArray[np.int32] = np.zeros(_PAST, np.int32)
        self._at = self._count = 0

    def __len__(self) -> int:
        return self._count

    def clear(self) -> None:
        self._at = self._count = 0

    def push(self, slots: NDArray[np.int64]) -> None:
        """Predicted class slots (N,) of a batch, in order."""
        given = len(slots)
        if given == 1:
            self._ring[self._at] = slots[0]
        else:
            slots = slots[-_PAST:]
            self._ring[(self._at + np.arange(len(slots))) % _PAST] = slots
            given = len(slots)
        self._at = (self._at + given) % _PAST
        self._count = min(self._count + given, _PAST)

    def z(self) -> float:
        """Standard deviations by which neighbours agree more often than their classes' shares say;
        0 before there are enough.
        """
        if self._count < PAIRS + 2:
            return 0.0
        recent = self._ring[np.arange(self._at - PAIRS - 1, self._at) % _PAST]
        matches = int(np.count_nonzero(recent[1:] == recent[:-1]))
        counts = np.bincount(self._ring[: self._count]).astype(np.float64)
        mean, variance = _expected(counts[counts > 0], PAIRS)
        return float((matches - mean) / np.sqrt(variance + 1.0))


def _expected(counts: NDArray[np.float64], pairs: int) -> tuple[float, float]:
    """Mean and variance of matches among ``pairs`` successive neighbours, over all orders of
    samples with these counts per class.
    """
    n = float(counts.sum())
    two = counts * (counts - 1.0)
    three = two * (counts - 2.0)
    all_two = float(two.sum())
    q2 = all_two / (n * (n - 1.0))
    q3 = float(three.sum()) / (n * (n - 1.0) * (n - 2.0))
    within = float((three * (counts - 3.0)).sum())
    between = all_two * all_two - float((two * two).sum())
    q4 = (within + between) / (n * (n - 1.0) * (n - 2.0) * (n - 3.0))
    variance = (
        pairs * q2 * (1.0 - q2)
        + 2.0 * (pairs - 1.0) * (q3 - q2 * q2)
        + (pairs - 1.0) * (pairs - 2.0) * (q4 - q2 * q2)
    )
    return pairs * q2, max(variance, 0.0)


@dataclass(eq=False)
class _Watched:
    """What is known of one stream's order, and the condition that it was learned in."""

    order: Correlation = field(default_factory=Correlation)
    key: _Key = (SOURCE, False)


class Smoothing:
    """Applies the role ``smooth`` to batches of correlated streams. Only predictions read what it
    says.
    """

    def __init__(self, program: Program) -> None:
        self._program, self._policy = program, program.manifest.policy.smooth
        self._streams: WeakKeyDictionary[Stream, _Watched] = WeakKeyDictionary()
        self._lock = threading.Lock()
        self.batches = 0
        """Batches whose answers were smoothed."""

    def of(
        self,
        stream: Stream,
        read: HeadOutput,
        slots: NDArray[np.int64],
        reading: Reading,
        memory: LearnerState,
    ) -> HeadOutput:
        """``read`` with smoothed logits if the stream is correlated and the batch is large enough;
        else ``read`` itself.

        Args:
            slots: (N,) classes predicted without smoothing.
            reading: what the window says with this batch in it.
        """
        known = memory.domains.get(reading.domain)
        key = (reading.domain, known is not None and known.refreshes > 0)
        with self._lock:
            watched = self._streams.get(stream)
            if watched is None:
                watched = self._streams[stream] = _Watched()
            if watched.key != key:
                watched.key = key
                watched.order.clear()
            watched.order.push(slots)
            if len(slots) < self._policy.fewest or (reading.is_shifted and known is None):
                return read
            if watched.order.z() <= self._policy.threshold:
                return read
            self.batches += 1
        return replace(
            read,
            logits=self._program.smooth(
                read.logits, read.embedding, memory.tensors_in(reading.domain)
            ),
        )


__all__ = ["PAIRS", "Correlation", "Smoothing"]
