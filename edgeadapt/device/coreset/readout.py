"""A ridge read-out of the pool itself, every class with the same mass, and what it says of a row it
has not seen.

With w_i = weight_i / (K sum of the weights of its class), centred at the weighted means::

    A = sum_i w_i z_i z_i^T + lambda I,  lambda = penalty trace / D,   f_i = W^T z_i + t,
            leverage l_i = w_i (1 + z_i^T A^-1 z_i)
    leave-one-out residual  r_i = (onehot(y_i) - f_i) / (1 - l_i)

so the answer for a row by a read-out fitted without it costs one more product, not N fits (Allen's
PRESS; Hastie et al., The Elements of Statistical Learning, eq. 7.64). Primal for N above D, dual
below. The head's own probabilities would do too, but the head of a stream favours what it saw last;
this one does not.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from edgeadapt.device.coreset.samples import F32, F64, I64, Samples
from edgeadapt.device.numerics.linalg import cholesky_solve
from edgeadapt.device.numerics.softmax import softmax

PENALTY = 1e-2
_TEMPERATURE = 10.0  # a ridge logit is between 0 and 1
_LARGEST_LEVERAGE = 0.9999


@dataclass(frozen=True, eq=False)
class Readout:
    """Answers of the read-out for its own pool.

    Attributes:
        fitted: (N, K) f, near the one-hot label.
        held_out: (N, K) the same by a read-out that did not see the row.
    """

    fitted: F64
    held_out: F64


def fit(samples: Samples, penalty: float = PENALTY) -> Readout:
    """The read-out of a pool; constant for one class or one row."""
    z, share = np.asarray(samples.z, np.float32), balanced_shares(samples.y, samples.weight)
    target = np.zeros((len(z), samples.slots))
    target[np.arange(len(z)), samples.y] = 1.0
    z = (z - (share @ z).astype(np.float32)).astype(np.float32)
    mean = share @ target
    root = np.sqrt(share)
    scaled = (z * root[:, None]).astype(np.float32)
    trace = float((scaled.astype(np.float64) ** 2).sum())
    if trace <= 0.0:
        fitted, quadratic = np.zeros_like(target), np.zeros(len(z))
    else:
        solve = _primal if len(z) > z.shape[1] else _dual
        rest, ridge = (target - mean) * root[:, None], penalty * trace / z.shape[1]
        fitted, quadratic = solve(z, scaled, rest, root, ridge)
    fitted = fitted + mean
    leverage = np.minimum(share * (1.0 + quadratic), _LARGEST_LEVERAGE)
    return Readout(fitted, target - (target - fitted) / (1.0 - leverage)[:, None])


def balanced_shares(y: I64, weight: F64) -> F64:
    """(N,) shares that sum to 1, the same for every class present, proportional to ``weight``
    within a class (equal where all are 0).
    """
    mass = np.bincount(y, weight)
    weight = np.where(mass[y] > 0, weight, 1.0)
    mass = np.bincount(y, weight)
    shares: F64 = weight / mass[y] / np.count_nonzero(mass)
    return shares


def probabilities(samples: Samples) -> F64:
    """(N, K) softmax of the held-out answers, sharpened: what a head would say of a new sample."""
    return softmax(_TEMPERATURE * fit(samples).held_out)


def with_probabilities(samples: Samples) -> Samples:
    """The samples as they are if the head's probabilities are there, else with those of the pool's
    own read-out.
    """
    if samples.p is not None:
        return samples
    return Samples(samples.z, samples.y, probabilities(samples), samples.weight)


def _primal(z: F32, scaled: F32, target: F64, root: F64, penalty: float) -> tuple[F64, F64]:
    a = (scaled.T @ scaled).astype(np.float64)
    a.flat[:: len(a) + 1] += penalty
    inverse = np.linalg.inv(a)
    weight = inverse @ (scaled.T.astype(np.float64) @ target)
    return z @ weight, ((z @ inverse.astype(np.float32)) * z).sum(axis=1).astype(np.float64)


def _dual(z: F32, scaled: F32, target: F64, root: F64, penalty: float) -> tuple[F64, F64]:
    cross = z.astype(np.float64) @ scaled.T  # (N, N) z_i . z_j sqrt(w_j)
    gram = cross * root[:, None]
    gram.flat[:: len(gram) + 1] += penalty
    solved = cholesky_solve(gram, np.hstack([target, cross.T]))
    classes = target.shape[1]
    squared = (z.astype(np.float64) ** 2).sum(axis=1)
    return (
        cross @ solved[:, :classes],
        (squared - (cross * solved[:, classes:].T).sum(axis=1)) / penalty,
    )
