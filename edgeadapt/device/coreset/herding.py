"""Herding: the next row of a class is the one that brings the mean of the chosen closest to the
mean of all.

    i_t = argmin_i | mu - (f_i + sum_{s<t} f_{i_s}) / t |,   f = z / |z|,
            mu the weighted mean of the class

Sources: Welling, Herding dynamical weights, ICML 2009; Rebuffi et al., iCaRL, CVPR 2017 (arXiv
1611.07725), algorithm 4.
"""

from __future__ import annotations

from typing import ClassVar

import numpy as np

from edgeadapt.device.coreset.budgets import class_quotas
from edgeadapt.device.coreset.samples import F32, F64, I64, Samples, checked


def unit(z: F32) -> F32:
    """Rows of length 1; a row of zeros stays."""
    length = np.sqrt((z**2).sum(axis=1, keepdims=True))
    return np.asarray(z / np.where(length > 0, length, 1.0), np.float32)


def herd(features: F32, count: int, weight: F64) -> list[int]:
    """``count`` distinct rows in the order in which they are taken; the first of equals.

    Args:
        features: (N, D). count: at most N. weight: (N,), not all zero.
    """
    mean = (weight / weight.sum()) @ features
    squared = (features**2).sum(axis=1)
    pull, push = features @ mean, np.zeros(len(features))  # <f_i, mu> and <f_i, sum of the chosen>
    chosen: list[int] = []
    for turn in range(1, count + 1):
        gap = squared + 2.0 * push - 2.0 * turn * pull
        gap[chosen] = np.inf
        chosen.append(int(gap.argmin()))
        push += features @ features[chosen[-1]]
    return chosen


class Herding:
    """Herding within each class, under class quotas. The seed plays no part, nor does the order of
    the rows.
    """

    name: ClassVar[str] = "herding"

    def select(self, samples: Samples, budget: int, seed: int = 0) -> I64:
        order = samples.content_order()
        ordered = samples.take(order)
        features, chosen = unit(ordered.z), []
        for slot, quota in class_quotas(ordered.y, checked(budget)).items():
            rows = np.flatnonzero(ordered.y == slot)
            weight = ordered.weight[rows] if ordered.weight[rows].any() else np.ones(len(rows))
            chosen.append(rows[np.array(herd(features[rows], quota, weight), np.int64)])
        return np.sort(order[np.concatenate(chosen)])
