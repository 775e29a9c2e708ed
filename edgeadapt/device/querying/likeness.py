"""Samples in an order in which like stands beside like, cut into groups.

Average linkage (Sokal and Michener, 1958): the two nearest clusters become one, their rows side by
side with the nearest ends together, until all are one; rows that were joined below ``CUT`` times
the median distance are a group. O(N^3) with small constants: some milliseconds for the sixty
pictures of a page. Beyond ``MOST`` rows the others follow as they came, in a group of their own.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

CUT, MOST = 0.6, 256
_SAME = 1e-3  # squared distance of directions: the mean that is taken off would leave noise alone


def chained(x: NDArray[np.floating]) -> tuple[list[int], list[int]]:
    """Rows in order, and the group of each place in that order, from 0.

    Args:
        x: (N, D) features; rows are compared by direction.
    """
    rows = x[:MOST].astype(np.float32)
    count = len(rows)
    if count < 2:
        return list(range(len(x))), [0] * len(x)
    same = _apart(rows) < _SAME
    between = np.where(same, 0.0, _apart(rows - rows.mean(axis=0)))
    limit = CUT * float(np.median(between[~np.eye(count, dtype=bool)]))
    clusters: dict[int, list[int]] = {row: [row] for row in range(count)}
    group = np.arange(count)
    distance = between + np.diag(np.full(count, np.inf))
    while len(clusters) > 1:
        a, b = divmod(int(distance.argmin()), count)
        if distance[a, b] <= limit:
            group[clusters[b]] = group[clusters[a][0]]
        sizes = len(clusters[a]), len(clusters[b])
        mean = (sizes[0] * distance[a] + sizes[1] * distance[b]) / sum(sizes)
        distance[a], distance[:, a] = mean, mean
        distance[b], distance[:, b], distance[a, a] = np.inf, np.inf, np.inf
        clusters[a] = _joined(clusters[a], clusters.pop(b), between)
    order = next(iter(clusters.values()))
    numbers: dict[int, int] = {}
    groups = [numbers.setdefault(int(group[row]), len(numbers)) for row in order]
    left = list(range(count, len(x)))
    return order + left, groups + [len(numbers)] * len(left)


def _apart(rows: NDArray[np.float32]) -> NDArray[np.float64]:
    """(N, N) squared distances of the directions, 0 to 4."""
    unit = rows / (np.sqrt((rows * rows).sum(axis=1, keepdims=True)) + 1e-12)
    cosine: NDArray[np.float64] = (unit @ unit.T).astype(np.float64)
    return np.maximum(0.0, 2.0 - 2.0 * cosine)


def _joined(a: list[int], b: list[int], between: NDArray[np.float64]) -> list[int]:
    """Both, one after the other, turned so that the nearest ends meet."""
    ways = [(x, y) for x in (a, a[::-1]) for y in (b, b[::-1])]
    first, second = min(ways, key=lambda way: between[way[0][-1], way[1][0]])
    return [*first, *second]


__all__ = ["CUT", "MOST", "chained"]
