"""How well scores rank candidates: rank correlations, regret, and choices that the stream they are
judged on had no part in.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

Accuracies = dict[str, float]
NONE = "no adaptor"
UPDATED = "updated head"
REFITTED = "head of these labels alone"
SHARED = "head of all conditions' labels"
BOTH = "pick on the updated head"
DRAWS = ((50, 0), (100, 1), (150, 2))
"""Labels and seed; a condition of fewer rows gives all it has."""


@dataclass(frozen=True, eq=False)
class Trial:
    """One draw of labels on one stream. Accuracies are shares of right answers on rows that had no
    label.

    Attributes:
        trained: candidate -> accuracy of head + trained candidate.
        scores: score -> candidate -> value.
        others: what there is besides: no adaptor, the head after the same labels, ... -> accuracy.
        at_source: the same on the source condition.
        picked: way -> what ``choose`` picks, the base (empty) included.
        gain: what the ridge score promises of its pick.
        seconds: step -> seconds.
    """

    stream: str
    labels: int
    trained: Accuracies
    scores: dict[str, Accuracies]
    others: Accuracies
    at_source: Accuracies
    picked: dict[str, str]
    gain: float
    seconds: Accuracies

    @property
    def family(self) -> str:
        return self.stream.partition("/")[0]

    def best_by(self, score: str) -> str:
        """The candidate of the largest score, the first of equals."""
        return max(self.scores[score], key=lambda name: self.scores[score][name])

    def regret(self, candidate: str) -> float:
        """Accuracy lost against the best candidate."""
        return max(self.trained.values()) - self.trained[candidate]

    def accuracy_of(self, pick: str) -> float:
        return self.trained[pick] if pick else self.others[NONE]


def ranks(values: ArrayLike) -> NDArray[np.float64]:
    """1 for the smallest; equal values share their mean rank."""
    v = np.asarray(values, np.float64)
    return np.array([(v < x).sum() + 0.5 * ((v == x).sum() + 1) for x in v])


def spearman(a: ArrayLike, b: ArrayLike) -> float:
    """Correlation of ranks; 0 if one of them has no order.

    >>> up, down, flat = [1, 2, 3], [3, 2, 1], [1, 1, 1]
    >>> spearman(up, [10, 20, 25]), spearman(up, down), spearman(flat, up)
    (1.0, -1.0, 0.0)
    """
    x, y = ranks(a) - ranks(a).mean(), ranks(b) - ranks(b).mean()
    size = float(np.sqrt((x**2).sum() * (y**2).sum()))
    return float((x * y).sum() / size) if size > 0 else 0.0


def kendall(a: ArrayLike, b: ArrayLike) -> float:
    """tau-b: pairs in the same order minus pairs in the opposite one, over the pairs that have an
    order.

    >>> round(kendall([1, 2, 3], [1, 3, 2]), 3)
    0.333
    """
    x, y = (
        np.sign(np.subtract.outer(np.asarray(v, np.float64), np.asarray(v, np.float64)))
        for v in (a, b)
    )
    size = float(np.sqrt((x**2).sum() * (y**2).sum()))
    return float((x * y).sum() / size) if size > 0 else 0.0


def correlation(
    trial: Trial, score: str, measure: Callable[[ArrayLike, ArrayLike], float]
) -> float:
    names = list(trial.trained)
    return measure(
        [trial.scores[score][name] for name in names], [trial.trained[name] for name in names]
    )


def by_stream(trials: Sequence[Trial], value: Callable[[Trial], float]) -> dict[str, float]:
    """Mean over the draws of each stream."""
    return {
        stream: float(np.mean([value(t) for t in trials if t.stream == stream]))
        for stream in dict.fromkeys(t.stream for t in trials)
    }


def left_out(
    trials: Sequence[Trial], options: Sequence[str], loss: Callable[[Trial, str], float]
) -> dict[str, str]:
    """For each stream the option with the least mean loss on the other streams, each stream
    weighing the same.
    """
    losses = {option: by_stream(trials, lambda t, o=option: loss(t, o)) for option in options}  # type: ignore[misc]
    streams = list(dict.fromkeys(t.stream for t in trials))
    return {
        out: min(
            options,
            key=lambda o: float(
                np.mean([losses[o][s] for s in streams if s != out or len(streams) == 1])
            ),
        )
        for out in streams
    }
