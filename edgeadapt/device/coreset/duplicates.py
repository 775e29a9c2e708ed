"""Near-duplicates: rows that a budget should not pay for twice.

Two rows are near-duplicates if |z_i - z_j|^2 <= radius * spread, spread the mean squared distance
of two rows of the set: no unit, no threshold on a cosine that means something else for every
encoder. Rows are visited in an order that their content decides; a row stays unless one that stayed
already is its near-duplicate. So every row that goes has a stand-in that stays, at least one of
every group of duplicates stays, and the order of arrival does not matter.

Source of the idea: permanent pruning in Adapt-infinity (Maharana et al., ICLR 2025), which keeps
the rows of smallest M_i = max_{j<i} sim(i, j) in the order of the pool: which of two copies stays,
and what a third one is compared with, then depends on arrival. ``redundancy`` is that score in
content order.
"""

from __future__ import annotations

import numpy as np

from edgeadapt.device.coreset.samples import F32, F64, I64

RADIUS = 0.02
_BLOCK = 512


def distinct_rows(z: F32, radius: float = RADIUS, rank: I64 | None = None) -> I64:
    """Rows that stay, ascending; at least one.

    Args:
        z: (N, D).
        radius: of the mean squared distance of two rows; 0 drops exact copies only.
        rank: (N,) who goes first, smallest first; by place if not given, so pass rows in an order
            that does not depend on arrival.
    """
    centred = z - z.mean(axis=0)
    squared = (centred**2).sum(axis=1)
    order = np.arange(len(z)) if rank is None else np.argsort(rank, kind="stable")
    # float32 rounding does not make a copy distinct
    limit = (radius + 1e-6) * 2.0 * float(squared.mean())
    stays: list[int] = []
    for start in range(0, len(order), _BLOCK):
        rows = order[start : start + _BLOCK]
        free = np.ones(len(rows), bool)
        if stays:
            free &= ~(_distances(centred, squared, rows, np.array(stays)) <= limit).any(axis=1)
        within = _distances(centred, squared, rows, rows) <= limit
        for i in range(len(rows)):
            if free[i]:
                stays.append(int(rows[i]))
                free[i + 1 :] &= ~within[i, i + 1 :]
    return np.sort(np.array(stays, np.int64))


def redundancy(z: F32, rank: I64 | None = None) -> F64:
    """(N,) largest cosine to a row of smaller rank; -1 for the first. Keeping the smallest keeps
    one of every group of copies.
    """
    order = np.arange(len(z)) if rank is None else np.argsort(rank, kind="stable")
    length = np.sqrt((z**2).sum(axis=1, keepdims=True))
    units = (z / np.where(length > 0, length, 1.0))[order]
    largest = np.full(len(z), -1.0)
    for start in range(0, len(z), _BLOCK):
        block = (units[start : start + _BLOCK] @ units[: start + _BLOCK].T).astype(np.float64)
        earlier = np.arange(block.shape[1])[None, :] < np.arange(start, start + len(block))[:, None]
        largest[order[start : start + len(block)]] = np.where(earlier, block, -1.0).max(axis=1)
    return largest


def _distances(centred: F32, squared: F32, rows: I64, others: I64) -> F32:
    products = np.float32(2.0) * centred[rows] @ centred[others].T
    return np.asarray(squared[rows][:, None] + squared[others][None, :] - products, np.float32)
