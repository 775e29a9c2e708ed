"""What the next ten labels are expected to bring, estimated from the labels that are there.

    p(m)  = P + k(., M) (K + lambda I)^-1 (Y - P)     P (N, C): the factory head's probabilities
    e(m)  = e0 - A m / (m + h)                        error on the held-out rows
    gain  = w (e(n) - e(n + 10)) + (1 - w) share e prior / (prior + n),   w = n / (n + prior)

The curve is that of a surrogate of the live head: kernel ridge regression on the residuals of the
factory's head, fitted to random subsets M of m labels and evaluated on the other rows, so that one
curve costs solves of at most 256 rows. Below ten labels it is the gain of first labels in
validation streams. Learning curves: Cortes et al., NIPS 1993 (there a power law; a hyperbola has a
parameter less). The interval from ``-half`` to ``gain + half`` is conformal (Vovk et al.,
"Algorithmic Learning in a Random World", 2005): half is a multiple of ``sqrt(floor^2 + e (1 - e) /
(n + 10))`` that covered the gains of validation streams. It starts at ``-half`` because the live
head may have realised the gain already. ``edgeadapt bench gain`` measures its coverage on others.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import sqrt

import numpy as np
from numpy.typing import NDArray

from edgeadapt.device.numerics.ridge_refit import unit_rows
from edgeadapt.results import ExpectedGain

F64 = NDArray[np.float64]
NEXT = 10
"""Labels whose gain is estimated."""
MOST_ROWS = 256
"""The newest labels that the curve is measured on."""
_SHARES = (0.0, 0.25, 0.5, 0.8)
_SPLITS = 6
_PENALTY = 1.0  # of the mean diagonal of K
_BENDS = (10.0, 30.0, 100.0, 300.0)  # h
_FEWEST = 10  # labels from which on a curve is fitted


@dataclass(frozen=True)
class Settings:
    """Chosen on the validation streams of ``edgeadapt bench gain``.

    Attributes:
        prior: weight of the prior, in labels. share: of the error that ten labels remove, a priori.
        floor: least deviation. width: multiple of the deviation.
        first: median, 5% and 95% quantile of the gains of validation streams, below ten labels.
    """

    prior: float = 20.0
    share: float = 0.2
    floor: float = 0.012
    width: float = 0.453
    first: tuple[float, float, float] = (0.018, -0.038, 0.131)


CHOSEN = Settings()


@dataclass(frozen=True)
class Curve:
    """Errors (0 to 1) of the surrogate at numbers of labels, over random splits.

    Attributes:
        labels: (S,) fitted. errors: (S,) on the others. count: of all labels.
    """

    labels: tuple[float, ...]
    errors: tuple[float, ...]
    count: int

    @property
    def slope(self) -> float:
        """How much less the error is after ``NEXT`` more than after all labels, by the fit."""
        return fitted_gain(np.array(self.labels), np.array(self.errors), self.count)


def measured_curve(x: NDArray[np.floating], y: NDArray[np.int64], believed: F64) -> Curve | None:
    """The surrogate's errors; None below ten labels.

    Args:
        x: (N, D) features.
        y: (N,) columns of ``believed``.
        believed: (N, C) probabilities of the head without labels from the field.
    """
    count = len(y)
    if count < _FEWEST:
        return None
    unit = unit_rows(x)
    gram = unit @ unit.T
    residuals = np.eye(believed.shape[1])[y] - believed
    rng = np.random.default_rng(0)
    sizes = [int(share * count) for share in _SHARES]
    wrong = np.zeros((_SPLITS, len(sizes)))
    for split in range(_SPLITS):
        rows = rng.permutation(count)
        test = rows[sizes[-1] :]
        for column, size in enumerate(sizes):
            answer = believed[test]
            if size:
                train = rows[:size]
                own = gram[np.ix_(train, train)]
                ridge = _PENALTY * max(float(np.trace(own)) / size, 1e-12)
                solved = np.linalg.solve(own + ridge * np.eye(size), residuals[train])
                answer = answer + gram[np.ix_(test, train)] @ solved
            wrong[split, column] = float((answer.argmax(axis=1) != y[test]).mean())
    return Curve(tuple(map(float, sizes)), tuple(map(float, wrong.mean(axis=0))), count)


def fitted_gain(labels: F64, errors: F64, count: int) -> float:
    """``e(n) - e(n + 10)`` of the hyperbola that fits best; never negative."""
    best, gain = np.inf, 0.0
    for bend in _BENDS:
        taken = labels / (labels + bend)
        spread = float(((taken - taken.mean()) ** 2).sum())
        drop = max(0.0, -float((taken - taken.mean()) @ errors) / spread)
        misfit = float(((errors - errors.mean() + drop * (taken - taken.mean())) ** 2).sum())
        if misfit < best:
            best = misfit
            gain = drop * ((count + NEXT) / (count + NEXT + bend) - count / (count + bend))
    return gain


def expected_gain(
    curve: Curve | None, error: float, labels: int, settings: Settings = CHOSEN
) -> ExpectedGain:
    """What ten labels more are expected to bring, as a difference of accuracies.

    Args:
        curve: of the labels that are there; None where they are too few.
        error: of the live head, estimated, 0 to 1. labels: accepted ones.
    """
    if curve is None:
        return ExpectedGain(*settings.first, labels, NEXT)
    weight = labels / (labels + settings.prior)
    prior = settings.share * error * settings.prior / (settings.prior + labels)
    value = weight * curve.slope + (1.0 - weight) * prior
    deviation = sqrt(settings.floor**2 + error * (1.0 - error) / (labels + NEXT))
    half = settings.width * deviation
    return ExpectedGain(value, -half, value + half, labels, NEXT)


__all__ = [
    "CHOSEN",
    "MOST_ROWS",
    "NEXT",
    "Curve",
    "Settings",
    "expected_gain",
    "fitted_gain",
    "measured_curve",
]
