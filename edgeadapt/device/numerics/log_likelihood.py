"""Read-outs of a head that counts: smoothed log-likelihoods per key, in bytes, and which keys are
in use.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]
F32 = NDArray[np.float32]
I8 = NDArray[np.int8]
STEP = 0.1
"""Natural-log units of one step of a read-out byte: a byte reaches from 0 to -12.7."""


def log_frequency(
    counts: Array, *, smoothing: float = 0.5, informative: float = 0.0
) -> tuple[I8, F32, F32]:
    """How likely a key is under each class, from how often samples of the class met it.

    With N[c, j, k] the count of class k at key j of book c, J keys per book and n_k = sum_j N[c, j,
    k], the same for every book::

        L[c, j, k] = w_c log((N[c, j, k] + smoothing) / (n_k + smoothing J)),
                w_c = (I_c / max_c I_c)^informative
        I_c = mutual information of key and class in book c, every class having the same mass

    A likelihood under the class and not a share of the key, so that every class has the same prior:
    a class of ten labels beside classes of thousands is not drowned, and (with ``informative`` 0)
    counting one class leaves the read-outs of the others as they are, bit for bit.

    Args:
        counts: N (C, J, K) integers; negative ones (something forgotten that was never learned) are
            taken as 0.
        smoothing: labels that every key has of every class before any was counted, above 0.
        informative: how far books that tell classes apart outweigh others; 0 for equal weights.

    Returns:
        L (C, J, K) int8 in steps of 0.1, from 0 to -12.7, 0 for inactive classes; used (C, J)
        float32, 1 where a key has any count; active (K,) float32, 1 for classes with any count.

    >>> values, used, active = log_frequency(np.array([[[3, 0], [1, 0], [0, 0]]]))
    >>> values[0, :, 0].tolist(), used.tolist(), active.tolist()
    ([-5, -13, -24], [[1.0, 1.0, 0.0]], [1.0, 0.0])
    """
    found = np.maximum(np.asarray(counts, np.float64), 0.0)
    keys = found.shape[1]
    totals = found.sum(axis=1, keepdims=True)
    active = totals[0, 0] > 0
    log = np.log((found + smoothing) / (totals + smoothing * keys)) * active
    if informative:
        log *= _weights(found[:, :, active], informative)
    steps = np.clip(np.rint(log / STEP), -127, 0).astype(np.int8)
    return steps, (found.sum(axis=2) > 0).astype(np.float32), active.astype(np.float32)


def _weights(found: NDArray[np.float64], power: float) -> NDArray[np.float64]:
    """(C, 1, 1) mutual information of key and class in each book, relative to the largest; 1 while
    there is nothing to tell apart.
    """
    if found.shape[2] < 2:
        return np.ones((len(found), 1, 1))
    joint = found / found.sum(axis=1, keepdims=True) / found.shape[2]
    independent = joint.sum(axis=2, keepdims=True) * joint.sum(axis=1, keepdims=True)
    terms = joint * np.log(np.where(joint > 0, joint, 1.0) / np.where(joint > 0, independent, 1.0))
    information = np.maximum(terms.sum(axis=(1, 2)), 0.0)
    largest = information.max()
    share = information / largest if largest > 0 else np.ones(len(found))
    return np.asarray(share**power)[:, None, None]
