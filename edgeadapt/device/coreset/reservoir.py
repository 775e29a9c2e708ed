"""A uniform sample of everything offered: what a user gets without thinking about it.

    chance_i = min(1, c weight_i),   c such that the chances sum to the budget

With equal weights every row is as likely as any other (as by algorithm R of Vitter, ACM TOMS 1985).
A row that stands for more samples has their chances together: a kept row beside new ones has weight
offered / kept, and what is kept stays a sample of the whole stream.

Source: systematic sampling with unequal probabilities in random order (Madow, Annals of
Mathematical Statistics 1949).
"""

from __future__ import annotations

from typing import ClassVar

import numpy as np

from edgeadapt.device.coreset.samples import F64, I64, Samples, checked


class Reservoir:
    """Rows in proportion to what they stand for, classes as the stream has them: rare ones may be
    lost. Rows of weight 0 come last.
    """

    name: ClassVar[str] = "reservoir"

    def select(self, samples: Samples, budget: int, seed: int) -> I64:
        rng = np.random.default_rng(seed)
        order = rng.permutation(len(samples))
        order = order[np.argsort(samples.weight[order] == 0, kind="stable")]
        count = min(checked(budget), len(samples))
        heavy = np.count_nonzero(samples.weight)
        if count >= heavy:
            return np.sort(order[:count]).astype(np.int64)
        order = order[:heavy]
        steps = np.floor(np.cumsum(_chances(samples.weight[order], count)) + rng.random())
        steps[-1] = count  # the chances sum to the budget up to rounding
        return np.sort(order[np.diff(np.minimum(steps, count), prepend=0.0) > 0]).astype(np.int64)


def _chances(weight: F64, count: int) -> F64:
    """(N,) chances that sum to ``count``, fewer than N; each cap leaves more for the others."""
    certain = np.zeros(len(weight), bool)
    while True:
        left = weight * ((count - certain.sum()) / weight[~certain].sum())
        beyond = (left > 1.0) & ~certain
        if not beyond.any():
            return np.where(certain, 1.0, left)
        certain |= beyond
