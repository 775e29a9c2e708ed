"""Shares of classes from logits, ``exp(a_k) / sum_j exp(a_j)`` in every row, after the largest was
subtracted.
"""

from __future__ import annotations

from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

Real = TypeVar("Real", np.float32, np.float64)


def softmax(logits: NDArray[Real]) -> NDArray[Real]:
    """(N, K) shares of (N, K) logits, in their dtype."""
    grown = np.exp(logits - logits.max(axis=1, keepdims=True))
    shares: NDArray[Real] = grown / grown.sum(axis=1, keepdims=True)
    return shares


def tempered_softmax(logits: NDArray[np.float32], temperature: float) -> NDArray[np.float64]:
    """(N, K) float64 shares of logits over a temperature; the largest is subtracted in float32. A
    row that is not finite is of NaN, and K may be 0.
    """
    with np.errstate(invalid="ignore"):
        below = logits - logits.max(axis=1, keepdims=True, initial=-np.inf)
        grown = np.exp(below.astype(np.float64) / temperature)
    shares: NDArray[np.float64] = grown / grown.sum(axis=1, keepdims=True)
    return shares
