"""From the space of a projection back to feature space, for class means that are kept in M numbers
and read in D.

``edgeadapt/host/methods/heads/projection.py`` says what the projections are and how their frozen
tensors are packed.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]
F32 = NDArray[np.float32]
F64 = NDArray[np.float64]
DIGITS_PER_BYTE = 5  # 3^5 = 243
BYTE_ZERO = 128  # of whole numbers that are stored as uint8
_PENALTY = 1e-6  # P^T P is about 1 where it is not singular


def back_projection(mean: Array, centre: Array, *parts: Array) -> tuple[F32]:
    """Class means in feature space, as far as a projection kept them: c + m pinv(P), the shortest
    vectors that project onto m.

    Args:
        mean: (K, M), zeros for inactive classes. centre: c (D,).
        parts: the frozen tensors of the projection, as ``projected_matrix`` takes them.

    Returns:
        (K, D), zeros for inactive classes.
    """
    exact = np.asarray(mean, np.float64)
    matrix = projected_matrix(len(centre), exact.shape[1], *parts)
    square = matrix.T @ matrix + _PENALTY * np.eye(matrix.shape[1])
    placed = np.asarray(centre, np.float64) + np.linalg.solve(square, exact.T).T @ matrix.T
    return (np.where(exact.any(axis=1, keepdims=True), placed, 0.0).astype(np.float32),)


def projected_matrix(features: int, width: int, *parts: Array) -> F64:
    """P (D, M) of a projection: from digits (ceil(D / 5), M) uint8 to base 3, or from signs (D,),
    H_a, H_b and rows (M,) of a Hadamard transform.

    Signs and H are uint8 with 128 added; older bundles have them as int8, as they are.
    """
    if len(parts) == 1:
        digits = np.asarray(parts[0], np.int64)
        planes = [digits // 3**place % 3 - 1 for place in range(DIGITS_PER_BYTE)]
        return np.asarray(np.concatenate(planes)[:features] / np.sqrt(width))
    signs, left, right = (
        np.asarray(part, np.int64) - (BYTE_ZERO if part.dtype == np.uint8 else 0)
        for part in parts[:3]
    )
    rows = np.asarray(parts[3], np.int64)
    transform = left[rows // len(right)][:, :, None] * right[rows % len(right)][:, None, :]
    signed: F64 = transform.reshape(width, -1)[:, :features] * signs / np.sqrt(width)
    return signed.T
