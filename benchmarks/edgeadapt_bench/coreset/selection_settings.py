"""Pools as they come from the field: some classes rare, most rows copies, some labels wrong. The
test part is never touched.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

F32 = NDArray[np.float32]
I64 = NDArray[np.int64]
TAIL, COPIES, COPIED, NOISE = 20, 0.6, 0.05, 0.2
_JITTER = 0.02  # of the deviation of the features


def clean(z: F32, y: I64, rng: np.random.Generator) -> tuple[F32, I64]:
    return z, y


def long_tail(z: F32, y: I64, rng: np.random.Generator) -> tuple[F32, I64]:
    """Class sizes fall geometrically to a twentieth, classes in random order."""
    classes = rng.permutation(np.unique(y))
    rows = [rng.permutation(np.flatnonzero(y == k)) for k in classes]
    exponents = np.arange(len(classes)) / max(len(classes) - 1, 1)
    kept = np.concatenate(
        [
            r[: max(round(len(r) * float(TAIL) ** -e), 1)]
            for r, e in zip(rows, exponents, strict=True)
        ]
    )
    return z[kept], y[kept]


def near_copies(z: F32, y: I64, rng: np.random.Generator) -> tuple[F32, I64]:
    """60% of the rows of a class become copies of 5% of them, the first of those most often, with a
    little noise.
    """
    z = z.copy()
    for k in np.unique(y):
        rows = rng.permutation(np.flatnonzero(y == k))
        copied = rows[: max(int(COPIED * len(rows)), 1)]
        copies = rows[len(rows) - int(COPIES * len(rows)) :]
        sources = copied[(rng.random(len(copies)) ** 2 * len(copied)).astype(np.int64)]
        z[copies] = z[sources] + rng.standard_normal((len(copies), z.shape[1])).astype(
            np.float32
        ) * np.float32(_JITTER * z.std())
    return z, y


def wrong_labels(z: F32, y: I64, rng: np.random.Generator) -> tuple[F32, I64]:
    """20% of the labels become another class, uniformly."""
    classes = np.unique(y)
    wrong = rng.random(len(y)) < NOISE
    place = (np.searchsorted(classes, y) + rng.integers(1, len(classes), len(y))) % len(classes)
    return z, np.where(wrong, classes[place], y).astype(np.int64)


SETTINGS: dict[str, Callable[[F32, I64, np.random.Generator], tuple[F32, I64]]] = {
    "clean": clean,
    "long_tail": long_tail,
    "near_copies": near_copies,
    "wrong_labels": wrong_labels,
}
