"""The constant-rate protocol: frames do not wait (Alfarra et al., ICML 2024, arXiv 2304.04795).

Batches arrive every ``k`` times what plain inference takes on one. A contender that is still busy
with an earlier one when a batch arrives does not adapt to it. As published, its last adapted state
answers; beside that, the stricter reading: the frozen model answers. A method that normalises by
the batch does so for those answers too; that they cost more than plain inference is not counted, as
published.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from edgeadapt.bundle import Bundle
from edgeadapt.scenarios.orders import batches
from edgeadapt.scenarios.refitted_head import as_slots
from edgeadapt_bench.datasets.image_dataset import BATCH, open_quick
from edgeadapt_bench.shift.shift_baselines import Rated
from edgeadapt_bench.shift.shift_streams import Stream

RATES = (1, 2, 4)
_LATE = 0.05  # of an interval: what reads as busy must be more than the clock's noise
Marks = NDArray[np.bool_]
Step = Callable[[int], tuple[Marks, float]]


@dataclass(frozen=True, eq=False)
class AtRate:
    """Accuracy when missed batches are answered by the last adapted state, and when by the frozen
    model; the share that was adapted to.
    """

    last: float
    frozen: float
    in_time: float


def at_rate(
    step: Step, read: Callable[[int], Marks], frozen: Sequence[Marks], interval: float
) -> AtRate:
    """A stream whose batches do not wait.

    Args:
        step: batch -> (right per image, cost in plain inferences); called only for batches that
            arrive in time, in order.
        read: right per image of a batch that is not adapted to, by the last state.
        frozen: the same by the frozen model, of every batch.
        interval: between arrivals, in plain inferences.
    """
    free_at, adapted = 0.0, 0
    by_last, by_frozen = [], []
    for k, without in enumerate(frozen):
        arrives = k * interval
        if arrives < free_at - _LATE * interval:
            by_last.append(read(k))
            by_frozen.append(without)
            continue
        right, cost = step(k)
        free_at, adapted = arrives + cost, adapted + 1
        by_last.append(right)
        by_frozen.append(right)
    return AtRate(
        float(np.concatenate(by_last).mean()),
        float(np.concatenate(by_frozen).mean()),
        adapted / len(frozen),
    )


def method_at_rate(
    method: Rated,
    stream: Stream,
    z: NDArray[np.float32],
    frozen: Marks,
    cost: float,
    interval: float,
) -> AtRate:
    """A published method whose every step costs the same."""
    parts = stream.parts()

    def step(k: int) -> tuple[Marks, float]:
        return method.predict(stream.x[parts[k]], z[parts[k]]) == stream.y[parts[k]], cost

    return at_rate(
        step,
        lambda k: method.read(stream.x[parts[k]]) == stream.y[parts[k]],
        [frozen[rows] for rows in parts],
        interval,
    )


def learner_at_rate(
    bundle: Bundle, stream: Stream, frozen: Marks, observe: float, refresh: float, interval: float
) -> AtRate:
    """The learner on a single core: its background work makes it busy too. ``refresh`` is what a
    batch costs in which it adapted.
    """
    parts = list(batches(len(stream.y), BATCH))
    with open_quick(bundle) as learner:
        done = 0

        def right(labels: tuple[str, ...], k: int) -> Marks:
            marks: Marks = as_slots(labels, bundle.manifest.classes) == stream.y[parts[k]]
            return marks

        def step(k: int) -> tuple[Marks, float]:
            nonlocal done
            seen = learner.observe(stream.x[parts[k]])
            learner.settle()
            before, done = done, int(learner.counters()["refreshes"])
            return right(seen.prediction.labels, k), refresh if done > before else observe

        return at_rate(
            step,
            lambda k: right(learner.predict(stream.x[parts[k]]).labels, k),
            [frozen[rows] for rows in parts],
            interval,
        )
