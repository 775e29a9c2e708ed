"""Seeded orders of a labelled pool: what arrives when."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

import numpy as np
from numpy.typing import NDArray

Order = Literal["shuffled", "sorted"]


def arrange(y: NDArray[np.int64], order: Order, count: int, seed: int) -> NDArray[np.int64]:
    """Row indices of a stream of ``count`` samples.

    Args:
        y: (N,) labels of the pool.
        order: ``shuffled``, or ``sorted``: one class after the other, classes in random order.
        count: samples; the pool is passed through again, newly shuffled, if it is smaller.
    """
    rng = np.random.default_rng(seed)
    rounds = [rng.permutation(len(y)) for _ in range(-(-count // len(y)))]
    rows = np.concatenate(rounds)[:count]
    if order == "sorted":
        rank = rng.permutation(int(y.max()) + 1)
        rows = rows[np.argsort(rank[y[rows]], kind="stable")]
    return rows


def stream_rows(
    y: NDArray[np.int64], order: Order, length: int, seed: int, prefix: int
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Rows of a clean beginning of ``prefix`` samples, and of the ``length`` that follow: both in
    the same order, disjoint, each arranged for itself.
    """
    rows = np.random.default_rng([seed, 3]).permutation(len(y))
    cut = min(prefix, len(y) // 5)
    first, rest = rows[:cut], rows[cut:]
    return (
        first[arrange(y[first], order, prefix, seed)],
        rest[arrange(y[rest], order, length, seed)],
    )


def batches(count: int, size: int) -> Iterator[slice]:
    """Consecutive slices of ``size``; the last may be shorter."""
    for start in range(0, count, size):
        yield slice(start, min(start + size, count))
