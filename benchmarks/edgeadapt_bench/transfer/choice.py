"""How every contender is chosen: by cross-validation on the rows that it may learn from.

Folds hold out units, class by class, so that no near copy of a held-out row is learned. One score
decides everything, penalties, weightings and scalings, and which contender is the best of all:

    score = (n a + 20 b) / (n + 20)    a, b: accuracy on held-out field (n) and factory rows

With few labels the factory's rows decide, with many the field's. The larger penalty wins a tie.

All that is linear or by distance is computed in the space that the rows span (an exact change of
axes, which neither an L2 penalty nor a distance sees): 1,280 columns become at most as many as
there are rows.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

F64 = NDArray[np.float64]
I64 = NDArray[np.int64]
FOLDS, FACTORY_TRUST, PER_CLASS = 4, 20.0, 25.0
Method = Callable[[F64, I64, F64, Sequence[F64], Sequence[float]], list[list[I64]]]
"""Rows (N, R), labels, weights (N,), parts to answer, settings -> answers per setting and part."""


@dataclass(frozen=True, eq=False)
class Labelled:
    """What a contender may learn from: the factory's rows, then the field's."""

    z: NDArray[np.float32]
    y: I64
    unit: I64
    is_field: NDArray[np.bool_]

    def weights(self, is_balanced: bool) -> F64:
        """(N,) ones; or the factory's rows weigh ``PER_CLASS`` together in every class."""
        weights = np.ones(len(self.y))
        if is_balanced:
            factory = ~self.is_field
            weights[factory] = PER_CLASS / np.bincount(self.y[factory])[self.y[factory]]
        return weights


@dataclass(frozen=True, eq=False)
class Chosen:
    """A contender's answers for every part, and the score that it was chosen by."""

    answers: list[I64]
    score: float
    setting: float


class Space:
    """Rows (N, D) as (N, R) in the axes that they span, centred, with a mean squared length of 1.

    Args:
        is_standardised: every column is divided by its deviation first.
    """

    def __init__(self, z: NDArray[np.float32], is_standardised: bool) -> None:
        rows = z.astype(np.float64)
        self._mean = rows.mean(axis=0)
        self._scale = np.maximum(rows.std(axis=0), 1e-6) if is_standardised else np.ones(z.shape[1])
        rows = (rows - self._mean) / self._scale
        self._length = max(float(np.sqrt((rows**2).sum(axis=1).mean())), 1e-12)
        rows /= self._length
        self._axes = np.eye(rows.shape[1]) if rows.shape[1] <= len(rows) else _axes(rows)
        self.rows: F64 = rows @ self._axes

    def of(self, z: NDArray[np.float32]) -> F64:
        """(M, R) other rows in the same axes; what lies outside no linear reader here sees."""
        moved = (z.astype(np.float64) - self._mean) / (self._scale * self._length)
        result: F64 = moved @ self._axes
        return result


def _axes(rows: F64) -> F64:
    """(D, R) orthonormal, for N < D."""
    values, vectors = np.linalg.eigh(rows @ rows.T)
    kept = values > values[-1] * 1e-12
    result: F64 = rows.T @ (vectors[:, kept] / np.sqrt(values[kept]))
    return result


def folds(y: I64, unit: I64, count: int = FOLDS, seed: int = 0) -> I64:
    """(N,) a fold for every row; the units of a class are dealt out in turn."""
    rng = np.random.default_rng([seed, 3])
    units, first = np.unique(unit, return_index=True)
    order = rng.permutation(len(units))
    order = order[np.argsort(y[first[order]], kind="stable")]
    fold = np.empty(len(units), np.int64)
    fold[order] = np.arange(len(units)) % count
    result: I64 = fold[np.searchsorted(units, unit)]
    return result


def score(right: NDArray[np.bool_], is_field: NDArray[np.bool_]) -> float:
    """The one score, see above."""
    count = int(is_field.sum())
    field = float(right[is_field].mean()) if count else 0.0
    return (count * field + FACTORY_TRUST * float(right[~is_field].mean())) / (
        count + FACTORY_TRUST
    )


def choose(
    method: Method,
    rows: Labelled,
    parts: Sequence[NDArray[np.float32]],
    settings: Sequence[float],
    is_balanced: bool = False,
) -> Chosen:
    """A method with the setting and scaling that score best, fitted on all rows.

    Args:
        settings: from the largest penalty to the smallest. parts: (M, D) each, to be answered.
    """
    fold, weights = folds(rows.y, rows.unit), rows.weights(is_balanced)
    best: tuple[float, Space, float] | None = None
    for is_standardised in (True, False):
        space = Space(rows.z, is_standardised)
        right = np.zeros((len(settings), len(rows.y)), bool)
        for held in (fold == k for k in range(FOLDS)):
            answers = method(
                space.rows[~held], rows.y[~held], weights[~held], [space.rows[held]], settings
            )
            for row, (answer,) in zip(right, answers, strict=True):
                row[held] = answer == rows.y[held]
        scores = [score(row, rows.is_field) for row in right]
        place = int(np.argmax(scores))
        if best is None or scores[place] > best[0]:
            best = (scores[place], space, settings[place])
    assert best is not None
    reached, space, setting = best
    (answers,) = method(space.rows, rows.y, weights, [space.of(part) for part in parts], [setting])
    return Chosen(answers, reached, setting)
