"""Background numerics: a short, closed list in numpy, run by the worker and never per sample.

Names match ``NumericSpec.numeric`` in the manifest. Everything is solved in float64 and handed back
in float32.

>>> two_samples_of_the_first_class = np.array([[2.0, 0.0], [4.0, 0.0], [2.0, 0.0]])
>>> weight, mean, active = NUMERICS["nearest_mean"](two_samples_of_the_first_class)
>>> mean.tolist(), active.tolist(), weight[:, 0].tolist()
([[1.0, 2.0], [0.0, 0.0]], [1.0, 0.0], [2.0, 4.0, -5.0])
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

import numpy as np
from numpy.typing import NDArray
from threadpoolctl import ThreadpoolController

from edgeadapt.bundle.packed_gram import unpacked
from edgeadapt.device.numerics.back_projection import back_projection
from edgeadapt.device.numerics.class_residual import class_residual
from edgeadapt.device.numerics.log_likelihood import log_frequency

Array = NDArray[Any]
F32 = NDArray[np.float32]
F64 = NDArray[np.float64]
_BLOCK = 128
_RAISES = 4  # of the penalty, tenfold each, before a matrix is given up
_SMALLEST_PENALTY = 1e-9
# of the second moment: what is left of a scatter below it is rounding of float32 sums
_RESOLUTION = 1e-4
_PROBES = 32  # of a trace: 1% of it at a thousand columns
_ORPHAN_SHARE = 1e-4  # evidence without a class below this share is rounding
FEWEST = 1e-4
"""A class whose labels weigh no more than this is inactive: its columns and its mean are zero.
Float32 sums that were added and taken away again leave residues near 1e-5, and a mean over such a
residue is noise."""


def cholesky_solve(a: Array, b: Array) -> F64:
    """Solve ``a x = b`` for symmetric positive definite ``a``.

    ``a = L L^T``, then two blocked triangular solves; half the work of a general solve, and it
    notices a matrix that is not positive definite.

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


def balanced_ridge(
    gram: Array, moment: Array, class_moment: Array, *, penalty: float = 1e-3, balance: float = 1.0
) -> tuple[F32, F32, F32]:
    """Weights of a ridge head whose classes weigh what ``balance`` says, from sums.

    With n_k the count and m_k = Q_k / n_k the mean of class k, N = sum_k n_k and nu_k proportional
    to n_k^(1 - balance), sum_k nu_k = 1::

        G' = (G - sum_k n_k m_k m_k^T) / N + sum_k nu_k m_k m_k^T
                = G / N + sum_k (nu_k - n_k / N) m_k m_k^T
        Q'_k = nu_k m_k,   lambda = penalty trace(G') / (M + 1),   W = (G' + lambda I)^-1 Q'

    W is the regression of the one-hot label under the class masses nu: a perfect fit reads 1 for
    the right class and 0 for the others whatever nu is, so its columns are not scaled. With equal
    counts it is plain ridge. Evidence in G that belongs to no class any more (the class was
    removed) counts as one more class of mass 0: its scatter stays in the pool, its mean does not.

    Args:
        gram: G (M + 1, M + 1), sum of w h h^T with h = [phi, 1], or packed.
        moment: Q (M + 1, K), sum of w h onehot^T; its last row are the counts.
        class_moment: (D + 1, K), the same in feature space.
        penalty: relative to the mean diagonal of G'; raised tenfold up to four times while the
            matrix is not positive definite.
        balance: 1 gives active classes equal mass, 0 leaves them as counted.

    Returns:
        Weights (M + 1, K), class means (K, D), active (K,) 1 or 0; inactive classes have zeros.

    Raises:
        np.linalg.LinAlgError: not positive definite at any penalty.
    """
    counts, active = _counts(moment)
    weight = np.zeros(np.shape(moment))
    if active.any():
        gram = unpacked(gram, len(weight))
        sums = np.asarray(moment, np.float64)[:, active]
        count = counts[active]
        means = sums / count
        mass = count ** (1.0 - balance)
        mass /= mass.sum()
        orphan = gram[:, -1] - np.asarray(moment, np.float64).sum(axis=1)
        total = count.sum()
        if orphan[-1] > _ORPHAN_SHARE * total:
            total += orphan[-1]
            centres = np.column_stack([means, orphan / orphan[-1]])
            change = np.append(mass, 0.0) - np.append(count, orphan[-1]) / total
        else:
            centres, change = means, mass - count / total
        weight[:, active] = _penalised_solve(
            gram / total + (centres * change) @ centres.T, means * mass, penalty
        )
    return weight.astype(np.float32), *_means(class_moment)[:1], active.astype(np.float32)


def slda(
    gram: Array,
    moment: Array,
    class_moment: Array,
    *,
    shrinkage: float = 1e-2,
    balance: float = 1.0,
) -> tuple[F32, F32, F32]:
    """Weights of linear discriminant analysis with equal priors, from the sums of
    ``balanced_ridge``.

    With n_k the count and m_k the mean of class k, N = sum_k n_k, mu the plain mean of the class
    means and a_k = m_k - mu::

        S = (G - sum_k n_k m_k m_k^T) / N,   T = S + sum_k a_k a_k^T / K,
                A = S + shrinkage max(tr S, tr T / 10) / M I
        W_k = A^-1 a_k,   b_k = -a_k^T A^-1 a_k / 2 - mu^T W_k + balance tr(A^-1 S) / (2 n_k)

    The floor tr T / 10 is what keeps one label per class from chance: S is then exactly 0. (Under
    both lies 1e-4 tr G / N, the rounding of float32 sums.) The last term is ours: a mean of n_k
    samples lies further out than the class does, by tr(A^-1 S) / n_k on average, so that without it
    a class of few labels is passed over. Evidence in G that belongs to no class any more counts as
    one more class whose mean is in no W_k.

    Args:
        gram: G (M + 1, M + 1), or packed.
        moment: (M + 1, K), counts in the last row.
        class_moment: (D + 1, K), the same in feature space.
        shrinkage: epsilon. balance: share of the correction for few labels.

    Returns:
        Weights (M + 1, K), class means (K, D), active (K,) 1 or 0; inactive classes have zeros.

    Raises:
        np.linalg.LinAlgError: not positive definite at any shrinkage.
    """
    counts, active = _counts(moment)
    weight = np.zeros(np.shape(moment))
    if active.any():
        sums, count = np.asarray(moment, np.float64)[:, active], counts[active]
        square = unpacked(gram, len(weight))
        means = (sums / count)[:-1]
        total = count.sum()
        scatter = square[:-1, :-1] - (means * count) @ means.T
        orphan = square[:, -1] - np.asarray(moment, np.float64).sum(axis=1)
        if orphan[-1] > _ORPHAN_SHARE * total:
            scatter -= np.outer(orphan[:-1], orphan[:-1]) / orphan[-1]
            total += orphan[-1]
        scatter /= total
        centre = means.mean(axis=1)
        apart = means - centre[:, None]
        within = max(float(scatter.trace()), 0.0)
        floor = max(
            within,
            0.1 * (within + float((apart**2).sum()) / len(count)),
            _RESOLUTION * float(square[:-1, :-1].trace()) / total,
        )
        if floor <= 0.0:  # every sample is the same point: any positive definite matrix will do
            scatter, floor = np.eye(len(scatter)), float(len(scatter))
        probes = _signs(len(apart)) if balance else apart[:, :0]
        targets = np.hstack([apart, probes])
        matrix = scatter.copy()
        solved = _penalised_solve(matrix, targets, shrinkage, floor / len(scatter))
        solution = solved[:, : len(count)]
        bias = -0.5 * (apart * solution).sum(axis=0) - centre @ solution
        if balance:
            spread = float((solved[:, len(count) :] * (scatter @ probes)).sum()) / probes.shape[1]
            bias += balance * max(spread, 0.0) / (2.0 * count)
        weight[:, active] = np.vstack([solution, bias])
    return weight.astype(np.float32), *_means(class_moment)[:1], active.astype(np.float32)


def _signs(size: int) -> F64:
    """(size, P) of +-1, always the same, P at most 32: tr(B) = E[v^T B v] for such columns v
    (Hutchinson 1990).

    A matrix no larger than that gets the identity in scaled columns instead, and its trace is
    exact.
    """
    if size <= _PROBES:
        return np.diag(np.full(size, float(size) ** 0.5))
    bits = np.random.default_rng(size).integers(0, 2, (size, _PROBES))
    return bits.astype(np.float64) * 2.0 - 1.0


def nearest_mean(class_moment: Array) -> tuple[F32, F32, F32]:
    """Weights of the nearest-mean head, [2 m_k; -|m_k|^2] per class.

    Args:
        class_moment: (D + 1, K), class sums, and counts in the last row.

    Returns:
        Weights (D + 1, K), class means (K, D), active (K,) 1 or 0; inactive classes have zeros.
    """
    mean, active = _means(class_moment)
    exact = mean.astype(np.float64)
    weight = np.vstack([2.0 * exact.T, -(exact**2).sum(axis=1)])
    return weight.astype(np.float32), mean, active


def class_mean(moment: Array) -> tuple[F32]:
    """Class means (K, R) from class sums and counts (R + 1, K); zeros for inactive classes."""
    return _means(moment)[:1]


def class_direction(moment: Array, *, bits: float = 8.0) -> tuple[NDArray[np.int8]]:
    """Class sums (D + 1, K) as directions of few bits, (K, D) int8: rounded to +-127 of the largest
    entry, or to signs; zeros for inactive classes.
    """
    sums, active = np.asarray(moment[:-1], np.float64).T, _counts(moment)[1][:, None]
    largest = np.maximum(np.abs(sums).max(axis=1, keepdims=True), 1e-30)
    directions = np.where(sums >= 0, 1.0, -1.0) if bits < 2 else np.round(127.0 * sums / largest)
    return (np.ascontiguousarray(np.where(active, directions, 0.0), np.int8),)


def _counts(moment: Array) -> tuple[F64, NDArray[np.bool_]]:
    counts = np.asarray(moment[-1], np.float64)
    return counts, counts > FEWEST


def _means(moment: Array) -> tuple[F32, F32]:
    counts, active = _counts(moment)
    sums = np.asarray(moment[:-1], np.float64)
    means = np.where(active, sums / np.where(active, counts, 1.0), 0.0)
    return np.ascontiguousarray(means.T, np.float32), active.astype(np.float32)


def _penalised_solve(matrix: F64, target: F64, penalty: float, unit: float | None = None) -> F64:
    """(matrix + penalty unit I)^-1 target, ``unit`` being the mean diagonal if none is given;
    changes the diagonal of ``matrix``.
    """
    diagonal = matrix.diagonal().copy()
    unit = float(diagonal.mean()) if unit is None else unit
    for _ in range(_RAISES + 1):
        matrix.flat[:: len(matrix) + 1] = diagonal + penalty * unit
        try:
            solution = cholesky_solve(matrix, target)
        except np.linalg.LinAlgError:
            solution = np.full_like(target, np.nan)
        if np.isfinite(solution).all():
            return solution
        penalty = 10.0 * max(penalty, _SMALLEST_PENALTY)
    raise np.linalg.LinAlgError(
        f"the Gram matrix is not positive definite, even at a penalty of {penalty / 10:.0e} of its"
        " mean diagonal"
    )


_POOLS = ThreadpoolController()


def one_thread() -> AbstractContextManager[Any]:
    """LAPACK on one thread while this is open: on a busy device a second one spins for a core that
    predictions need (measured: 40 ms for 0.3).
    """
    limited: AbstractContextManager[Any] = _POOLS.limit(limits=1, user_api="blas")
    return limited


NUMERICS: dict[str, Callable[..., tuple[Array, ...]]] = {
    "balanced_ridge": balanced_ridge,
    "nearest_mean": nearest_mean,
    "class_mean": class_mean,
    "class_direction": class_direction,
    "class_residual": class_residual,
    "slda": slda,
    "back_projection": back_projection,
    "log_frequency": log_frequency,
}
"""``NUMERICS[spec.numeric](*values in the order of spec.reads, **spec.arguments)`` -> values in the
order of ``spec.writes``.
"""
