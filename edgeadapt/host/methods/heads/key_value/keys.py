"""Where the keys of a codebook lie: exponential moving averages of unlabelled queries (van den Oord
et al., NeurIPS 2017, arXiv 1711.00937, appendix A.1; Traeuble et al., ICML 2023, arXiv 2207.11240,
for books of heads and dead keys).

With n[c, j] the queries of a batch nearest to key j of book c, s[c, j] their sum, B the batch, g
the decay and J the keys per book:

    size <- g size + (1 - g) n,   sums <- g sums + (1 - g) s
    smooth = (size + eps) / (sum_j size + J eps) sum_j size,   key = sums / smooth
    size < replace_below B / J:  key <- a random query of the batch

After the last epoch the keys are frozen. Where we differ from the released code: a key is always
``sums / size`` of something. There a start by k-means copies the centroids into the keys and leaves
the sums at zero, so that the first step shrinks every key to (1 - g) of its length; here the sums
are centroid times count. There a dead key gets a new place and keeps its old sums, so that it is
lost again if the next batch misses it; here it gets the query as its sum and the threshold as its
size.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from edgeadapt.errors import InputError

F32 = NDArray[np.float32]
I64 = NDArray[np.int64]
Start = Literal["normal", "rows", "kmeans"]


@dataclass(frozen=True, eq=False)
class MovingKeys:
    """keys (C, J, d) = sums (C, J, d) / sizes (C, J), as far as sizes are not zero."""

    keys: F32
    sums: F32
    sizes: F32


@dataclass(frozen=True)
class MovingAverage:
    """g, eps, and the share of the mean hits below which a key is dead."""

    decay: float = 0.95
    epsilon: float = 1e-5
    replace_below: float = 0.1


_PUBLISHED = MovingAverage()


def nearest_keys(queries: F32, keys: F32) -> I64:
    """(N, C, d), (C, J, d) -> (N, C) the index of the nearest key in every book; the first of
    equals.
    """
    squared = (keys**2).sum(axis=2)
    return np.stack(
        [(squared[c] - 2.0 * queries[:, c] @ keys[c].T).argmin(axis=1) for c in range(len(keys))],
        axis=1,
    )


def _hits(queries: F32, nearest: I64, pairs: int) -> tuple[F32, F32]:
    """(C, J) how many queries chose each key, and (C, J, d) their sum."""
    # (C, J, N)
    one_hot = (nearest.T[:, None, :] == np.arange(pairs)[None, :, None]).astype(np.float32)
    return one_hot.sum(axis=2), one_hot @ queries.transpose(1, 0, 2)


def start_keys(queries: F32, pairs: int, start: Start, rng: np.random.Generator) -> MovingKeys:
    """Keys before the first average.

    ``normal`` draws them from N(0, 1), as published; ``rows`` takes random queries; ``kmeans``
    takes ten rounds of Lloyd from there, with sums that are centroid times count.
    """
    count, books, width = queries.shape
    if start == "normal":
        keys = rng.standard_normal((books, pairs, width)).astype(np.float32)
        return MovingKeys(keys, np.zeros_like(keys), np.zeros((books, pairs), np.float32))
    keys = np.stack(
        [queries[rng.choice(count, pairs, replace=count < pairs), c] for c in range(books)]
    )
    sizes = np.ones((books, pairs), np.float32)
    for _ in range(10 if start == "kmeans" else 0):
        sizes, sums = _hits(queries, nearest_keys(queries, keys), pairs)
        keys = np.where(
            sizes[:, :, None] > 0, sums / np.maximum(sizes, 1.0)[:, :, None], keys
        ).astype(np.float32)
    return MovingKeys(keys, keys * sizes[:, :, None], sizes)


def step(
    state: MovingKeys,
    queries: F32,
    rng: np.random.Generator,
    average: MovingAverage = _PUBLISHED,
) -> MovingKeys:
    """The averages after one batch of queries (B, C, d)."""
    pairs, decay, epsilon = state.keys.shape[1], average.decay, average.epsilon
    hits, added = _hits(queries, nearest_keys(queries, state.keys), pairs)
    sizes = decay * state.sizes + (1.0 - decay) * hits
    sums = decay * state.sums + (1.0 - decay) * added
    total = sizes.sum(axis=1, keepdims=True)
    keys = sums / ((sizes + epsilon) / (total + pairs * epsilon) * total)[:, :, None]
    least = average.replace_below * len(queries) / pairs
    dead = sizes < least
    for c in np.flatnonzero(dead.any(axis=1)):
        keys[c, dead[c]] = queries[rng.integers(0, len(queries), int(dead[c].sum())), c]
    sizes = np.where(dead, max(least, epsilon), sizes)
    sums = np.where(dead[:, :, None], keys * sizes[:, :, None], sums)
    return MovingKeys(keys.astype(np.float32), sums.astype(np.float32), sizes.astype(np.float32))


def moving_average_keys(
    queries: F32,
    pairs: int,
    *,
    start: Start = "normal",
    epochs: int = 10,
    batch: int = 256,
    average: MovingAverage = _PUBLISHED,
    seed: int = 0,
) -> MovingKeys:
    """Keys of every book from unlabelled queries.

    Args:
        queries: (N, C, d) finite, N at least 1. pairs: J, keys per book.
        epochs: passes over the queries; 0 leaves the start.
        batch: queries per step.

    Raises:
        InputError: no queries, or some that are not finite.
    """
    if queries.ndim != 3 or len(queries) == 0:
        raise InputError(
            f"keys are placed by queries (N, books, width) with N at least 1, got {queries.shape}"
        )
    if not np.isfinite(queries).all():
        raise InputError("keys are placed by finite queries; some features are not finite")
    rng = np.random.default_rng(seed)
    state = start_keys(queries.astype(np.float32), pairs, start, rng)
    for _ in range(epochs):
        order = rng.permutation(len(queries))
        for first in range(0, len(order), batch):
            state = step(state, queries[order[first : first + batch]], rng, average)
    return state


__all__ = [
    "MovingAverage",
    "MovingKeys",
    "Start",
    "moving_average_keys",
    "nearest_keys",
    "start_keys",
    "step",
]
