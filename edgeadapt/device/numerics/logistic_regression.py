"""Multinomial logistic regression of a few hundred rows, in numpy.

    min_W  sum_i w_i [log sum_k exp(x_i W_k) - x_i W_y]  +  |W|^2 / (2 C)
            x_i (M + 1,), the last one 1

The rows are turned into their own principal axes first, where the sum of their squares is diagonal.
Half of that diagonal bounds the curvature (Boehning, Ann. Inst. Stat. Math. 1992), so each step is
one division, and needs no line search; steps are accelerated (Nesterov 1983), and the momentum is
dropped where it points uphill (O'Donoghue and Candes, Found. Comput. Math. 2015). It starts at zero
and does the same steps each time: the same rows give the same weights.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from edgeadapt.device.numerics.softmax import softmax

F32 = NDArray[np.float32]
F64 = NDArray[np.float64]
I64 = NDArray[np.int64]
_STEPS = 300
_STILL = 1e-3  # largest gradient of a step's start that ends it, of the rows' weight
_RANK = 1e-10  # of the largest square: axes below are rounding


def logistic(x: F32, y: I64, weight: F32, classes: int, cs: Sequence[float]) -> list[F64]:
    """(M + 1, K) weights with the bias in the last row, for every penalty.

    Args:
        x: (N, M).
        y: (N,) 0..K-1.
        weight: (N,) not negative.
        classes: K.
        cs: inverse penalties, for rows whose mean square length is 1; others are scaled to that.
    """
    exact = x.astype(np.float64)
    centre = exact.mean(axis=0)
    exact -= centre
    length = max(float(np.sqrt(np.square(exact).sum(axis=1).mean())), 1e-12)
    rows = np.hstack([exact / length, np.ones((len(exact), 1))])
    squares, axes = np.linalg.eigh(rows @ rows.T)
    kept = squares > _RANK * squares[-1]
    squares, axes = squares[kept], axes[:, kept] * np.sqrt(squares[kept])  # (R,), (N, R)
    target, weights = np.eye(classes)[y], weight.astype(np.float64)
    found = []
    for c in cs:
        solved = rows.T @ (axes / squares @ _minimum(axes, target, weights, squares, c))
        solved[:-1] /= length
        solved[-1] -= centre @ solved[:-1]
        found.append(solved)
    return found


def _minimum(x: F64, target: F64, weight: F64, squares: F64, c: float) -> F64:
    step = 1.0 / (0.5 * weight.max() * squares + 1.0 / c)[:, None]
    at = before = np.zeros((x.shape[1], target.shape[1]))
    ahead, momentum = at, 1.0
    for _ in range(_STEPS):
        p = softmax(x @ ahead)
        gradient = x.T @ (weight[:, None] * (p - target)) + ahead / c
        before, at = at, ahead - step * gradient
        if np.abs(gradient).max() < _STILL * weight.mean():
            break
        if float((gradient * (at - before)).sum()) > 0.0:
            momentum, ahead = 1.0, at
            continue
        grown = (1.0 + np.sqrt(1.0 + 4.0 * momentum**2)) / 2.0
        ahead = at + (momentum - 1.0) / grown * (at - before)
        momentum = grown
    return at
