"""What the next ten labels are expected to bring, told from the labels that are there.

    p(m)  = P + k(., M) (K + lambda I)^-1 (Y - P)     P (N, C): the factory head's probabilities
    e(m)  = e0 - A m / (m + h)                        error on the rows that were left out
    gain  = w (e(n) - e(n + 10)) + (1 - w) share e prior / (prior + n),   w = n / (n + prior)

The curve is that of a stand-in for the live head: kernel ridge on what the factory's head leaves
over, refitted on random subsets M of m labels and judged on the other rows, so that one curve costs
solves of at most 256 rows. Below ten labels nothing is known of the field: then it is what first
labels brought in validation streams. Curves of learning: Cortes et al., NIPS 1993 (there a power
law; a hyperbola has a parameter less). The interval goes from ``-half`` to ``gain + half``, for a
curve may promise what the live head has already taken, and is conformal: half is a multiple of
``sqrt(floor^2 + e (1 - e) / (n + 10))`` that held the gains of validation streams (Vovk et al.,
"Algorithmic Learning in a Random World", 2005); ``edgeadapt bench gain`` measures how often it
holds those of others.
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
"""Labels whose gain is told."""
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
        prior: labels that the prior weighs. share: of the error that ten labels take, a priori.
        floor: least deviation. width: multiple of the deviation.
        first: before ten labels: median, 5% and 95% quantile of the gains of validation streams.
    """

    prior: float = 20.0
    share: float = 0.2
    floor: float = 0.012
    width: float = 0.453
    first: tuple[float, float, float] = (0.018, -0.038, 0.131)


CHOSEN = Settings()


@dataclass(frozen=True)
class Curve:
    """Errors (0 to 1) of the stand-in, each at a number of labels; by random splits.

    Attributes:
        labels: (S,) that taught. errors: (S,) on the rest. count: all labels there are.
    """

    labels: tuple[float, ...]
    errors: tuple[float, ...]
    count: int

    @property
    def slope(self) -> float:
        """How much less the error is after ``NEXT`` more than after all labels, by the fit."""
        return fitted_gain(np.array(self.labels), np.array(self.errors), self.count)


def measured_curve(x: NDArray[np.floating], y: NDArray[np.int64], believed: F64) -> Curve | None:
    """The stand-in's errors; None below ten labels.

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
    left_over = np.eye(believed.shape[1])[y] - believed
    rng = np.random.default_rng(0)
    sizes = [int(share * count) for share in _SHARES]
    wrong = np.zeros((_SPLITS, len(sizes)))
    for split in range(_SPLITS):
        rows = rng.permutation(count)
        judged = rows[sizes[-1] :]
        for place, size in enumerate(sizes):
            answer = believed[judged]
            if size:
                taught = rows[:size]
                own = gram[np.ix_(taught, taught)]
                ridge = _PENALTY * max(float(np.trace(own)) / size, 1e-12)
                solved = np.linalg.solve(own + ridge * np.eye(size), left_over[taught])
                answer = answer + gram[np.ix_(judged, taught)] @ solved
            wrong[split, place] = float((answer.argmax(axis=1) != y[judged]).mean())
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
        error: of the head as it is, estimated, 0 to 1. labels: that teach or judge.
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
