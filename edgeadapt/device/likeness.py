"""Samples in an order in which like stands beside like, cut into groups.

    next  = argmin_j |x_j - x_last|^2 among those that are left      a greedy chain
    cut   where a step is more than CUT times the median step

O(N^2 D), once for a page of questions: 200 samples of 1,280 features take some milliseconds.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

CUT = 1.25


def chained(x: NDArray[np.floating]) -> tuple[list[int], list[int]]:
    """Rows in order, and the group of each place in that order, from 0.

    Args:
        x: (N, D) features; rows are compared by direction.
    """
    if not len(x):
        return [], []
    rows = x.astype(np.float32)
    rows = rows - rows.mean(axis=0)
    rows /= np.sqrt((rows * rows).sum(axis=1, keepdims=True)) + 1e-12
    distance = np.maximum(0.0, 2.0 - 2.0 * (rows @ rows.T))
    order, steps = [0], []
    left = np.ones(len(rows), bool)
    left[0] = False
    while left.any():
        away = np.where(left, distance[order[-1]], np.inf)
        order.append(int(away.argmin()))
        steps.append(float(away[order[-1]]))
        left[order[-1]] = False
    limit = CUT * float(np.median(steps)) if steps else 0.0
    group = np.concatenate([[0], np.cumsum(np.array(steps) > limit)]).astype(int)
    return order, group.tolist()


__all__ = ["CUT", "chained"]
