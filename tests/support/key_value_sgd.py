"""Values by gradient descent, as published (Traeuble et al., ICML 2023, arXiv 2207.11240): for
comparison with counting, not for a device.

    logits = 1 / C sum_c V[c, i_c],   loss = cross-entropy against (1 - e) onehot(y) + e / K,
            V <- V - rate grad, |grad| cut to 1

The gradient of one sample is (p - y') / C in the C rows that it hits, and it always hits the same
ones. At the published settings (rate 0.3, batch 256, many books) the logits stay so small that p
stays near 1 / K. Then every hit adds the same multiple of onehot(y) - 1 / K, and V is proportional
to the counts minus their mean over classes: ``centred_counts``. This derivation is ours; a test
compares the two.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgeadapt.errors import InputError

F32 = NDArray[np.float32]
I64 = NDArray[np.int64]


def train_values(
    codes: NDArray[Any],
    y: I64,
    *,
    pairs: int,
    classes: int,
    epochs: int = 1,
    batch: int = 256,
    rate: float = 0.3,
    label_smoothing: float = 0.1,
    clip: float = 1.0,
    start: F32 | None = None,
    seed: int = 0,
) -> F32:
    """Values after some epochs on these samples; call it once per task with the values of the one
    before.

    Args:
        codes: (N, C) the key of every sample in every book.
        y: (N,) from 0 to ``classes`` - 1.
        pairs: J.
        start: (C, J, K); zeros if None.

    Returns:
        V (C, J, K) float32.

    Raises:
        InputError: labels or keys out of range, or no samples.
    """
    if codes.ndim != 2 or not len(codes) or y.shape != codes.shape[:1]:
        raise InputError(
            f"codes are (N, books) and labels (N,), N at least 1; got {codes.shape} and {y.shape}"
        )
    if y.min() < 0 or y.max() >= classes or codes.max() >= pairs:
        raise InputError(
            f"labels lie below {classes} and keys below {pairs}; got up to {y.max()} and"
            f" {codes.max()}"
        )
    books = codes.shape[1]
    values = (
        np.zeros((books * pairs, classes))
        if start is None
        else start.reshape(books * pairs, classes).astype(np.float64)
    )
    rows = codes.astype(np.int64) + pairs * np.arange(books)
    target = np.eye(classes)[y] * (1.0 - label_smoothing) + label_smoothing / classes
    rng = np.random.default_rng(seed)
    for _ in range(epochs):
        order = rng.permutation(len(y))
        for first in range(0, len(order), batch):
            part = order[first : first + batch]
            logits = values[rows[part]].mean(axis=1)
            p = np.exp(logits - logits.max(axis=1, keepdims=True))
            p /= p.sum(axis=1, keepdims=True)
            gradient = np.zeros_like(values)
            np.add.at(gradient, rows[part], ((p - target[part]) / (books * len(part)))[:, None, :])
            norm = float(np.sqrt((gradient**2).sum()))
            values -= rate * gradient * min(1.0, clip / max(norm, 1e-12))
    trained: F32 = values.reshape(books, pairs, classes).astype(np.float32)
    return trained


def centred_counts(counts: NDArray[Any]) -> F32:
    """(C, J, K) counts minus their mean over the classes: what the values are proportional to."""
    exact = counts.astype(np.float64)
    centred: F32 = (exact - exact.mean(axis=2, keepdims=True)).astype(np.float32)
    return centred


def vote(values: NDArray[Any], codes: NDArray[Any]) -> F32:
    """(C, J, K), (N, C) -> (N, K) logits: the mean over the books of the values at the keys."""
    votes = np.stack([values[c][codes[:, c]] for c in range(len(values))]).astype(np.float64)
    logits: F32 = votes.mean(axis=0).astype(np.float32)
    return logits


__all__ = ["centred_counts", "train_values", "vote"]
