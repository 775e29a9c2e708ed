"""Pseudo-skill clusters: k-means over gradients, so that a cluster holds samples that would change
the head alike.

k-means++ seeding (Arthur and Vassilvitskii, SODA 2007), then Lloyd rounds. The points are
unit-length sketches of the gradients (``gradient_sketch``), as Adapt-infinity clusters unit-length
projected gradients (Maharana et al., ICLR 2025, section 4; the number of clusters of its main
results could not be verified, its code defaults to 10).
"""

from __future__ import annotations

import numpy as np

from edgeadapt.device.coreset.gradients import gradient_sketch, residuals
from edgeadapt.device.coreset.samples import F32, F64, I64, Samples
from edgeadapt.errors import InputError

CLUSTERS = 10
WIDTH = 128
_ROUNDS = 15


def k_means(points: F32, clusters: int, seed: int, rounds: int = _ROUNDS) -> tuple[I64, F32]:
    """Cluster of each point (N,), numbered 0 .. C - 1 without gaps, and the centres (C, D); C is at
    most ``clusters`` and the number of distinct points.

    Raises:
        InputError: fewer than one cluster.
    """
    if clusters < 1:
        raise InputError(f"k-means needs at least one cluster; got {clusters}")
    points = np.asarray(points, np.float32)
    centres = _spread_out(points, clusters, np.random.default_rng(seed))
    owner = _nearest(points, centres)
    for _ in range(rounds):
        counts = np.bincount(owner, minlength=len(centres))
        member = (owner[:, None] == np.arange(len(centres))).astype(np.float32)
        centres = np.where(
            counts[:, None] > 0,
            member.T @ points / np.maximum(counts, 1)[:, None].astype(np.float32),
            centres,
        )
        before, owner = owner, _nearest(points, centres)
        if np.array_equal(before, owner):
            break
    used, owner = np.unique(owner, return_inverse=True)
    return owner.astype(np.int64), centres[used]


def skill_clusters(
    samples: Samples, p: F64, clusters: int = CLUSTERS, seed: int = 0, width: int = WIDTH
) -> I64:
    """(N,) cluster of each sample by the direction of its gradient under the probabilities ``p``
    (N, K).
    """
    sketch = gradient_sketch(residuals(p, samples.y), samples.z, width, seed)
    length = np.sqrt((sketch**2).sum(axis=1, keepdims=True))
    unit = np.asarray(sketch / np.where(length > 0, length, 1.0), np.float32)
    return k_means(unit, clusters, seed)[0]


def _spread_out(points: F32, clusters: int, rng: np.random.Generator) -> F32:
    """k-means++: each next centre is drawn with probability proportional to the squared distance
    from those there are.
    """
    squared = (points**2).sum(axis=1)
    rows = [int(rng.integers(len(points)))]
    distance = _distances(points, squared, rows[0])
    while len(rows) < min(clusters, len(points)) and distance.max() > 0:
        rows.append(int(rng.choice(len(points), p=distance / distance.sum())))
        distance = np.minimum(distance, _distances(points, squared, rows[-1]))
    return points[rows]


def _distances(points: F32, squared: F32, row: int) -> F64:
    """(N,) squared distances from one point; rounding does not make equal points differ."""
    distance = (squared + squared[row] - 2.0 * points @ points[row]).astype(np.float64)
    return np.where(distance > 1e-6 * max(float(squared.max()), 1e-30), distance, 0.0)


def _nearest(points: F32, centres: F32) -> I64:
    distance = (centres**2).sum(axis=1) - 2.0 * points @ centres.T
    return np.asarray(distance.argmin(axis=1), np.int64)
