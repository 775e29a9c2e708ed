"""One stream shown to every contender: right or wrong per image, and how often each changed
itself.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from edgeadapt.bundle import Bundle
from edgeadapt.scenarios.orders import batches
from edgeadapt.scenarios.refitted_head import RefittedHead, as_slots
from edgeadapt_bench.datasets.image_dataset import BATCH, open_quick
from edgeadapt_bench.shift.shift_baselines import Maker, ShiftMethod
from edgeadapt_bench.shift.shift_dataset import ShiftDataset
from edgeadapt_bench.shift.shift_streams import Shown, Stream

FROZEN, ORACLE, OURS = "frozen", "oracle", "edgeadapt"
ACTING = "edgeadapt, made to act"
"""The same bundle against its card's advice; shown where the card does not let it act."""
Marks = NDArray[np.bool_]


@dataclass(frozen=True, eq=False)
class Result:
    """One contender on one stream.

    Attributes:
        right: (N,) in order of arrival.
        steps: how often it changed itself; for the learner, refreshes.
    """

    method: str
    kind: str
    condition: str
    severity: int
    seed: int
    right: Marks
    steps: int = 0

    @property
    def accuracy(self) -> float:
        return float(self.right.mean())

    @property
    def stream(self) -> str:
        return f"{self.kind}/{self.condition}" + (f"/{self.severity}" if self.severity else "")


class Results:
    """All results of a suite, by what they are of."""

    def __init__(self, found: Iterable[Result] = ()) -> None:
        self.all = list(found)

    def of(
        self,
        method: str,
        kind: str | None = None,
        severity: int | None = None,
        seed: int | None = None,
        *,
        clean: bool = False,
    ) -> list[Result]:
        """``clean``: also clean streams; without, only those under a condition."""
        return [
            r
            for r in self.all
            if r.method == method
            and kind in (None, r.kind)
            and severity in (None, r.severity)
            and seed in (None, r.seed)
            and (clean or r.condition != "clean")
        ]

    def mean(self, method: str, kind: str, severity: int, seed: int | None = None) -> float:
        return float(np.mean([r.accuracy for r in self.of(method, kind, severity, seed)]))

    @property
    def methods(self) -> list[str]:
        return list(dict.fromkeys(r.method for r in self.all))

    def shown(self, kind: str, severity: int) -> tuple[list[str], list[int]]:
        """Contenders and seeds of an order and severity."""
        found = [r for r in self.all if (r.kind, r.severity) == (kind, severity)]
        return list(dict.fromkeys(r.method for r in found)), sorted({r.seed for r in found})


def answer(method: ShiftMethod, stream: Stream, z: NDArray[np.float32]) -> Marks:
    """Every batch in turn."""
    return np.concatenate(
        [method.predict(stream.x[rows], z[rows]) == stream.y[rows] for rows in stream.parts()]
    )


def learn(bundle: Bundle, stream: Stream) -> tuple[Marks, int]:
    """The learner, told nothing, in batches of its window (or one by one); its worker is waited
    for, so that the machine's speed does not matter.
    """
    size = 1 if stream.batch == 1 else BATCH
    marks = []
    with open_quick(bundle) as learner:
        for rows in batches(len(stream.y), size):
            seen = learner.observe(stream.x[rows])
            learner.settle()
            marks.append(
                as_slots(seen.prediction.labels, bundle.manifest.classes) == stream.y[rows]
            )
        return np.concatenate(marks), int(learner.counters()["refreshes"])


def show(
    dataset: ShiftDataset,
    stream: Stream,
    makers: Mapping[str, Maker],
    seed: int,
    oracle: RefittedHead | None = None,
) -> list[Result]:
    """Frozen, the learner (and made to act, if its card does not let it), each of ``makers``, and
    the oracle where there is one.
    """
    z = dataset.program.encode(stream.x)[0]
    found: list[tuple[str, Marks, int]] = [
        (FROZEN, dataset.head.logits(z).argmax(axis=1) == stream.y, 0),
        (OURS, *learn(dataset.bundle, stream)),
    ]
    if oracle is not None:
        found.append((ORACLE, oracle.predict(z) == stream.y, 0))
    if dataset.acting is not dataset.bundle:
        found.append((ACTING, *learn(dataset.acting, stream)))
    for name, make in makers.items():
        method = make()
        found.append((name, answer(method, stream, z), method.steps))
    return [
        Result(name, stream.kind, stream.condition, stream.severity, seed, right, steps)
        for name, right, steps in found
    ]


def oracle_of(dataset: ShiftDataset, shown: Shown, condition: str, severity: int) -> RefittedHead:
    """The bundle's kind of head refitted with 1,000 labels of the condition, on the frozen
    encoder's features.
    """
    z = dataset.program.encode(shown.oracle_x(condition, severity))[0]
    return RefittedHead(z, shown.oracle_y, len(dataset.test.classes))
