"""What is kept of a stream in bounded memory: a selector over what is kept and what is new, batch
after batch.

A kept row stands for the samples of its class that were offered: ``weight`` (seen of the class) /
(kept of the class). So the averages that a selector matches stay those of the whole stream, and a
class that is offered no more keeps its quota. The idea of a pool that holds what was selected
before and what is new: Maharana et al., Adapt-infinity, ICLR 2025, section 4, step 1.
"""

from __future__ import annotations

import numpy as np

from edgeadapt.device.coreset.samples import F64, I64, Samples, Selector, checked
from edgeadapt.errors import InputError


class SelectedMemory:
    """At most ``budget`` samples of everything offered.

    Args:
        selector: any of the package.
        budget: rows, at least 1.
        patience: new rows that gather before a selection; the memory holds up to ``budget +
            patience`` rows in between.
        seed: of the draws, different for every selection.

    >>> from edgeadapt.device.coreset.balanced import Balanced
    >>> memory = SelectedMemory(Balanced(), 4)
    >>> for slot in (0, 1):
    ...     memory.offer(Samples(np.full((50, 2), slot), np.full(50, slot)))
    >>> memory.kept().y.tolist()
    [0, 0, 1, 1]
    """

    def __init__(
        self, selector: Selector, budget: int, *, patience: int = 1, seed: int = 0
    ) -> None:
        self.selector, self.budget, self.patience = selector, checked(budget), checked(patience)
        self._seed, self._turns = seed, 0
        self._pool: Samples | None = None  # kept rows first
        self._seen: dict[int, float] = {}
        self._new = 0

    def __len__(self) -> int:
        return 0 if self._pool is None else len(self._pool)

    @property
    def nbytes(self) -> int:
        """Of features, labels and weights."""
        pool = self._pool
        return 0 if pool is None else pool.z.nbytes + pool.y.nbytes + pool.weight.nbytes

    def offer(self, batch: Samples) -> None:
        """Take a batch; select once ``patience`` rows are new and there are more than ``budget``.

        Probabilities are not carried over: those of an earlier head say nothing about today's.
        Selectors that want some take those of a ridge read-out of what is there.

        Raises:
            InputError: features of another width than those kept.
        """
        if self._pool is not None and batch.z.shape[1] != self._pool.z.shape[1]:
            raise InputError(
                f"the memory holds features of width {self._pool.z.shape[1]}, the batch has"
                f" {batch.z.shape[1]}"
            )
        for slot in batch.classes.tolist():
            offered = float(batch.weight[batch.y == slot].sum())
            self._seen[slot] = self._seen.get(slot, 0.0) + offered
        self._pool = (
            Samples(batch.z.copy(), batch.y.copy(), None, batch.weight.copy())
            if self._pool is None
            else _joined(self._pool, batch)
        )
        self._new += len(batch)
        if self._new >= self.patience and len(self._pool) > self.budget:
            self._select()

    def kept(self) -> Samples:
        """At most ``budget`` samples; selects first if more are there.

        Raises:
            InputError: nothing was offered.
        """
        if self._pool is None:
            raise InputError("nothing was offered to the memory")
        if len(self._pool) > self.budget:
            self._select()
        return self._pool

    def _select(self) -> None:
        assert self._pool is not None
        rows = self.selector.select(self._pool, self.budget, self._seed + self._turns)
        kept = self._pool.take(rows)
        self._pool = Samples(kept.z, kept.y, None, self._weights(kept.y))
        self._turns, self._new = self._turns + 1, 0

    def _weights(self, y: I64) -> F64:
        counts = np.bincount(y)
        weights: F64 = np.array([self._seen[int(slot)] / counts[slot] for slot in y])
        return weights if weights.any() else np.ones(len(y))


def _joined(first: Samples, second: Samples) -> Samples:
    z, y, weight = (
        np.concatenate([getattr(first, name), getattr(second, name)])
        for name in ("z", "y", "weight")
    )
    return Samples(z, y, None, weight)
