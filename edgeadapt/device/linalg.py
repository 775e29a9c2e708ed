"""Background numerics: a short, closed list in numpy, run by the worker and never per sample.

Names match ``NumericSpec.numeric`` in the manifest. Everything is solved in float64 and handed back in float32.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]
_BLOCK = 128


def cholesky_solve(a: Array, b: Array) -> NDArray[np.float64]:
    """Solve ``a x = b`` for symmetric positive definite ``a``.

    ``a = L L^T``, then two blocked triangular solves; half the work of a general solve, and it notices
    a matrix that is not positive definite.

    Args:
        a: (D, D).
        b: (D, K).

    Returns:
        (D, K) float64.

    Raises:
        np.linalg.LinAlgError: ``a`` is not positive definite.
    """
    lower = np.linalg.cholesky(np.asarray(a, np.float64))
    x = np.array(b, np.float64)
    size = len(lower)
    starts = range(0, size, _BLOCK)
    for i in starts:
        j = min(i + _BLOCK, size)
        x[i:j] = np.linalg.solve(lower[i:j, i:j], x[i:j] - lower[i:j, :i] @ x[:i])
    for i in reversed(starts):
        j = min(i + _BLOCK, size)
        x[i:j] = np.linalg.solve(lower[i:j, i:j].T, x[i:j] - lower[j:, i:j].T @ x[j:])
    return x
