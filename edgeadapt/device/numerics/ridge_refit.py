"""How likely labels are under a head that is fitted to them: kernel ridge regression, every row
left out in turn.

    H = 1/N + K (K + lambda I)^-1,
            K = X X^T of centred rows of length 1 (N, N); the intercept is part of H, or own labels
            would leak
    s_i = ((H Y)_i - H_ii Y_i) / (1 - H_ii)
            what row i gets from the other N - 1 (closed-form leave-one-out)
    p_i(c) ~ exp(s_i(c) / t + b log h_i(c)), mixed with a share d that nothing predicts
            h: what the live head believes

N is at most a few hundred, so the width of a feature costs no more than one product. Leave-one-out
residuals of a linear smoother: Allen, "The relationship between variable selection and data
augmentation", Technometrics 1974.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product
from math import erfc, sqrt

import numpy as np
from numpy.typing import NDArray

F64 = NDArray[np.float64]
Slots = NDArray[np.int64]

_PENALTIES = (0.1, 0.5, 2.0)  # of the mean diagonal of K
_SHARPNESS = (2.0, 5.0, 10.0, 20.0)  # 1 / t
_HEADS = (0.0, 0.1, 0.3, 1.0)  # b
_SLACKS = (0.02, 0.1, 0.3)  # d


@dataclass(frozen=True)
class _Setting:
    penalty: float
    sharpness: float
    head: float
    slack: float

    def chance(self, scores: F64, believed: F64) -> F64:
        """(N, K) chance of every class."""
        logits = self.sharpness * scores + self.head * np.log(believed)
        soft = np.exp(logits - logits.max(axis=1, keepdims=True))
        mixed = (1.0 - self.slack) * soft / soft.sum(axis=1, keepdims=True)
        return np.asarray(mixed + self.slack / scores.shape[1])


def _settings(penalty: float) -> Iterator[_Setting]:
    return (_Setting(penalty, *rest) for rest in product(_SHARPNESS, _HEADS, _SLACKS))


def unit_rows(x: NDArray[np.floating]) -> F64:
    """Rows without their mean, of length 1."""
    centred = x.astype(np.float64) - x.mean(axis=0, dtype=np.float64)
    length = np.sqrt((centred * centred).sum(axis=1, keepdims=True) + 1e-12)
    return np.asarray(centred / length, np.float64)


def _smoother(gram: F64, penalty: float) -> F64:
    count = len(gram)
    ridge = penalty * max(float(np.trace(gram)) / count, 1e-12)
    return np.asarray(np.linalg.solve(gram + ridge * np.eye(count), gram) + 1.0 / count, np.float64)


def _left_out(smoother: F64, targets: F64) -> F64:
    own = np.diag(smoother)[:, None]
    return np.asarray((smoother @ targets - own * targets) / (1.0 - own))


def leave_one_out_likelihood(
    x: NDArray[np.floating], y: Slots, believed: F64, asked: NDArray[np.bool_]
) -> float:
    """Leave-one-out log-likelihood of labels, in nats: each from the labels of all other rows.

    The mean over settings, so that none is chosen on the labels that are in doubt.

    Args:
        x: (N, D) features.
        y: (N,) columns.
        believed: (N, K) the live head's chances.
        asked: (N,) rows that count; the others are only fitted.
    """
    gram, rows, targets = _gram(x), np.arange(len(y)), np.eye(believed.shape[1])[y]
    logs = [
        float(np.log(setting.chance(scores, believed)[rows, y][asked]).sum())
        for penalty in _PENALTIES
        for scores in (_left_out(_smoother(gram, penalty), targets),)
        for setting in _settings(penalty)
    ]
    return float(np.logaddexp.reduce(logs)) - float(np.log(len(logs)))


def refit_log_chances(
    x: NDArray[np.floating], y: Slots, believed: F64, asked: int, choosing: NDArray[np.bool_]
) -> tuple[F64, F64]:
    """Log chances under a head fitted to the first rows: of these, each left out in turn, and of
    the last ``asked`` rows, whose labels it does not see.

    Args:
        x: (M + A, D) features.
        y: (M,) columns of the first M rows.
        believed: (M + A, K) the live head's chances.
        choosing: (M,) rows on which the setting is chosen.

    Returns:
        Log chances (M, K) and (A, K).
    """
    fitted = len(x) - asked
    gram, rows = _gram(x), np.arange(fitted)
    targets = np.eye(believed.shape[1])[y]
    best = (believed[:fitted], believed[fitted:])
    likeliest = -np.inf
    for penalty in _PENALTIES:
        own = gram[:fitted, :fitted]
        ridge = penalty * max(float(np.trace(own)) / fitted, 1e-12)
        scores = _left_out(_smoother(own, penalty), targets)
        others = gram[fitted:, :fitted] @ np.linalg.solve(
            own + ridge * np.eye(fitted), targets - targets.mean(axis=0)
        ) + targets.mean(axis=0)
        for setting in _settings(penalty):
            chance = setting.chance(scores, believed[:fitted])
            fit = float(np.log(chance[rows, y][choosing]).sum())
            if fit > likeliest:
                best, likeliest = (chance, setting.chance(others, believed[fitted:])), fit
    return np.log(best[0]), np.log(best[1])


def _gram(x: NDArray[np.floating]) -> F64:
    unit = unit_rows(x)
    return np.asarray(unit @ unit.T)


def two_sample_test(known: NDArray[np.floating], rows: NDArray[np.floating]) -> tuple[float, float]:
    """Classifier two-sample test of rows (N, D) against known ones (M, D): the share of pairs that
    are ranked right, 1/2 for equal distributions, and the chance of as many for these.

    Pass differences from the mean of the predicted class, so that the mix of classes does not
    matter. Rank sum of leave-one-out scores of a ridge classifier (Lopez-Paz and Oquab, "Revisiting
    classifier two-sample tests", ICLR 2017).
    """
    both = np.concatenate([known, rows]).astype(np.float64)
    both -= both.mean(axis=0)
    side = np.repeat([-1.0 / len(known), 1.0 / len(rows)], [len(known), len(rows)])[:, None]
    scores = _left_out(_smoother(both @ both.T, 1.0), side)[:, 0]
    ranks = np.argsort(np.argsort(scores, kind="stable"), kind="stable") + 1.0
    n, m = len(rows), len(known)
    above = float(ranks[m:].sum()) - n * (n + 1) / 2
    deviations = (above - n * m / 2) / sqrt(n * m * (n + m + 1) / 12)
    return above / (n * m), 0.5 * erfc(deviations / sqrt(2))
