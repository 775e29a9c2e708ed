"""What one could ask about instead: rules beside
``edgeadapt.device.querying.strategy.choose_questions``, on the same windows.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from edgeadapt.device.querying.strategy import Candidates, Rule


def random_rule(seed: int) -> Rule:
    rng = np.random.default_rng([seed, 11])
    return lambda window: rng.permutation(len(window.novelty))[: window.count].tolist()


def balanced_rule(seed: int) -> Rule:
    """At random, one of each predicted class in turn."""
    rng = np.random.default_rng([seed, 12])
    return lambda window: _in_turn(
        window.predicted, rng.permutation(len(window.novelty)).tolist(), [], window.count
    )


def most_novel(window: Candidates) -> list[int]:
    rows: list[int] = np.argsort(-window.novelty, kind="stable")[: window.count].tolist()
    return rows


def least_margin(window: Candidates) -> list[int]:
    """Smallest gap between the two most probable classes (Scheffer et al., IDA 2001)."""
    if window.probability.shape[1] < 2:
        return most_novel(window)
    ranked = np.sort(window.probability, axis=1)
    rows: list[int] = np.argsort(ranked[:, -1] - ranked[:, -2], kind="stable")[
        : window.count
    ].tolist()
    return rows


def k_centre(window: Candidates) -> list[int]:
    """Farthest first from what was asked before (Sener and Savarese, ICLR 2018); the sample nearest
    to the mean begins.
    """
    places = window.embedding.astype(np.float64)
    known = window.asked.astype(np.float64)
    nearest = np.array(
        [((known - place) ** 2).sum(axis=1).min() if len(known) else np.inf for place in places]
    )
    chosen: list[int] = []
    while len(chosen) < min(window.count, len(places)):
        first = not chosen and not len(known)
        best = int(
            ((places - places.mean(axis=0)) ** 2).sum(axis=1).argmin()
            if first
            else nearest.argmax()
        )
        chosen.append(best)
        nearest = np.minimum(nearest, ((places - places[best]) ** 2).sum(axis=1))
        nearest[chosen] = -1.0
    return chosen


def previous(window: Candidates) -> list[int]:
    """Half the most novel of all, half the most novel of each predicted class in turn: what this
    device asked before.
    """
    by_novelty: list[int] = np.argsort(-window.novelty, kind="stable").tolist()
    return _in_turn(window.predicted, by_novelty, by_novelty[: window.count // 2], window.count)


def _in_turn(
    predicted: NDArray[np.int64], order: list[int], chosen: list[int], count: int
) -> list[int]:
    chosen = list(chosen)
    queues = [
        [row for row in order if predicted[row] == slot and row not in chosen]
        for slot in np.unique(predicted)
    ]
    while len(chosen) < count and any(queues):
        for queue in queues:
            if queue and len(chosen) < count:
                chosen.append(queue.pop(0))
    return chosen


BASELINES: dict[str, Callable[[int], Rule]] = {
    "random": random_rule,
    "most_novel": lambda seed: most_novel,
    "least_margin": lambda seed: least_margin,
    "k_centre": lambda seed: k_centre,
    "balanced": balanced_rule,
    "previous": lambda seed: previous,
}
"""Name -> rule for a seed."""


def paced(rule: Rule, counts: Iterable[int]) -> Rule:
    """The rule held to so many questions in the first window that is searched, so many in the
    second, and so on; none after the last.
    """
    left = iter(counts)

    def choose(window: Candidates) -> list[int]:
        count = min(next(left, 0), window.count)
        return rule(replace(window, count=count, least=count))[:count] if count else []

    return choose
