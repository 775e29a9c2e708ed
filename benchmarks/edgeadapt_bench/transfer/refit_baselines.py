"""What a user could pick instead, on the same rows and labels: refits, each chosen by ``choice``.

nearest_mean   the nearest class mean, Euclidean
logistic       logistic regression (scikit-learn) on factory and labels, C chosen
logistic_25    the same, the factory's rows weighted to 25 a class
ridge          RidgeClassifierCV (scikit-learn), the penalty by leave-one-out
lda            linear discriminants, shrinkage chosen: Sw = (1 - s) S + s tr(S)/D I
neighbours     a bank of all rows, cosine, the number of neighbours chosen
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from edgeadapt.errors import RuntimeUnavailable
from edgeadapt_bench.transfer.choice import F64, I64, Chosen, Labelled, Method, choose

COSTS = tuple(np.geomspace(0.3, 1000.0, 8).tolist())  # C of rows with a mean squared length of 1
ALPHAS = tuple(np.geomspace(1e2, 1e-4, 13).tolist())
SHRINKAGES = (0.99, 0.95, 0.8, 0.5, 0.2, 0.05, 0.01, 1e-3)
NEIGHBOURS = (11.0, 5.0, 3.0, 1.0)
_TOLERANCE, _STEPS = 1e-4, 300


def require_sklearn() -> None:
    """Say what is missing.

    Raises:
        RuntimeUnavailable: scikit-learn is not installed; the message has the line that does it.
    """
    try:
        import sklearn.linear_model  # noqa: F401
    except ImportError as error:
        raise RuntimeUnavailable(f'{error}: pip install "scikit-learn>=1.4"') from error


def logistic(
    x: F64, y: I64, weight: F64, parts: Sequence[F64], settings: Sequence[float]
) -> list[list[I64]]:
    """Multinomial, L2; along the settings each fit starts where the last ended."""
    from sklearn.linear_model import LogisticRegression

    model = LogisticRegression(max_iter=_STEPS, tol=_TOLERANCE, warm_start=True)
    found = []
    for cost in settings:
        model.set_params(C=cost).fit(x, y, sample_weight=weight)
        found.append([model.predict(part).astype(np.int64) for part in parts])
    return found


def ridge(
    x: F64, y: I64, weight: F64, parts: Sequence[F64], settings: Sequence[float]
) -> list[list[I64]]:
    from sklearn.linear_model import RidgeClassifierCV

    model = RidgeClassifierCV(alphas=ALPHAS).fit(x, y, sample_weight=weight)
    return [[model.predict(part).astype(np.int64) for part in parts] for _ in settings]


def lda(
    x: F64, y: I64, weight: F64, parts: Sequence[F64], settings: Sequence[float]
) -> list[list[I64]]:
    """One eigendecomposition of the pooled covariance serves every shrinkage.

    Priors are the shares of the rows.
    """
    classes, slot = np.unique(y, return_inverse=True)
    share = np.bincount(slot, weights=weight) / weight.sum()
    onehot = np.eye(len(classes))[slot] * weight[:, None]
    means = (onehot.T @ x) / onehot.sum(axis=0)[:, None]
    centred = (x - means[slot]) * np.sqrt(weight / weight.sum())[:, None]
    values, axes = np.linalg.eigh(centred.T @ centred)
    values = np.maximum(values, 0.0)
    turned, parts = means @ axes, [part @ axes for part in parts]
    found = []
    for shrinkage in settings:
        scaled = turned / ((1 - shrinkage) * values + shrinkage * values.mean() + 1e-12)
        offset = np.log(share) - 0.5 * (scaled * turned).sum(axis=1)
        found.append([classes[(part @ scaled.T + offset).argmax(axis=1)] for part in parts])
    return found


def nearest_mean(
    x: F64, y: I64, weight: F64, parts: Sequence[F64], settings: Sequence[float]
) -> list[list[I64]]:
    classes, slot = np.unique(y, return_inverse=True)
    onehot = np.eye(len(classes))[slot] * weight[:, None]
    means = (onehot.T @ x) / onehot.sum(axis=0)[:, None]
    offset = 0.5 * (means**2).sum(axis=1)
    answers = [classes[(part @ means.T - offset).argmax(axis=1)] for part in parts]
    return [answers for _ in settings]


def neighbours(
    x: F64, y: I64, weight: F64, parts: Sequence[F64], settings: Sequence[float]
) -> list[list[I64]]:
    """Votes count by weight, and the nearest decides a tie."""
    classes, slot = np.unique(y, return_inverse=True)
    onehot = np.eye(len(classes))[slot] * weight[:, None]
    bank = _unit(x)
    near = [np.argsort(-(_unit(part) @ bank.T), axis=1, kind="stable") for part in parts]
    found = []
    for count in settings:
        votes = [
            onehot[rows[:, : int(count)]].sum(axis=1) + 1e-6 * onehot[rows[:, 0]] for rows in near
        ]
        found.append([classes[vote.argmax(axis=1)] for vote in votes])
    return found


def _unit(x: F64) -> F64:
    result: F64 = x / np.maximum(np.linalg.norm(x, axis=1, keepdims=True), 1e-12)
    return result


@dataclass(frozen=True)
class Baseline:
    """A method, what is chosen among, and whether the factory's rows weigh 25 a class."""

    method: Method
    settings: tuple[float, ...] = (0.0,)
    is_balanced: bool = False


CONTENDERS = {
    "logistic_25": Baseline(logistic, COSTS, is_balanced=True),
    "logistic": Baseline(logistic, COSTS),
    "ridge": Baseline(ridge),
    "lda": Baseline(lda, SHRINKAGES),
    "neighbours": Baseline(neighbours, NEIGHBOURS),
    "nearest_mean": Baseline(nearest_mean),
}
"""Name -> contender; of equal scores the first is the best."""
LINEAR = ("logistic", "ridge", "lda")
"""The best of these, by cross-validation, is the bar of a head as exported."""
REFIT = ("logistic_25", "logistic")
"""The best of these, by cross-validation, is the bar after labels."""


@dataclass(frozen=True, eq=False)
class Field:
    """All baselines after the same labels.

    Attributes:
        chosen: name -> answers and score; ``refit`` is the best of ``REFIT``, ``linear`` of
            ``LINEAR``, ``best_of`` of all, by the score and never by what is judged.
    """

    chosen: dict[str, Chosen]

    def accuracy(self, name: str, part: int, y: I64) -> float:
        return float((self.chosen[name].answers[part] == y).mean())


def contend(rows: Labelled, parts: Sequence[NDArray[np.float32]]) -> Field:
    """Fit all of them on the rows; answer every part (M, D)."""
    found = {
        name: choose(each.method, rows, parts, each.settings, each.is_balanced)
        for name, each in CONTENDERS.items()
    }
    for name, among in (("linear", LINEAR), ("refit", REFIT), ("best_of", tuple(CONTENDERS))):
        found[name] = max((found[each] for each in among), key=lambda chosen: chosen.score)
    return Field(found)
