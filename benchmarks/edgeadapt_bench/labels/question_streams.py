"""Streams on which a learner asks and hears the truth: what it asked about, whether the answers
taught it something, and what it can do afterwards.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import numpy as np
from msgspec import structs
from numpy.typing import NDArray

from edgeadapt.bundle import Bundle
from edgeadapt.demo.sample import CLASSES, KNOWN
from edgeadapt.device.detection.policy import Policy
from edgeadapt.device.learner import Learner
from edgeadapt.device.querying.strategy import Asking, Candidates, Rule
from edgeadapt.scenarios.orders import batches
from edgeadapt_bench.datasets.image_dataset import BATCH, ImageDataset, open_quick, right
from edgeadapt_bench.labels.answers import Showing

_STREAM = "default"
Marks = NDArray[np.bool_]


@dataclass(eq=False)
class Asked:
    """What a rule did in one pass.

    Attributes:
        taught: whether the answer to each question was another name than the prediction, a new
            class included.
        is_new: whether it named a class that the bundle does not know. names: the answers.
        counts: questions per window that was searched.
        base: share of each of those windows whose answer would have taught.
        right: (N,) of the judging images at the end.
    """

    taught: list[bool] = field(default_factory=list)
    is_new: list[bool] = field(default_factory=list)
    names: list[str] = field(default_factory=list)
    counts: list[int] = field(default_factory=list)
    base: list[float] = field(default_factory=list)
    right: Marks = field(default_factory=lambda: np.zeros(0, bool))
    most_on_a_topic: int = 0

    @property
    def precision(self) -> float:
        """NaN if nothing was asked."""
        return float(np.mean(self.taught)) if self.taught else float("nan")

    @property
    def chance(self) -> float:
        """Precision to expect of as many random questions in the same windows."""
        return (
            float(np.average(self.base, weights=self.counts)) if sum(self.counts) else float("nan")
        )

    @property
    def accuracy(self) -> float:
        return float(self.right.mean())


class Witness:
    """A rule, and what it was shown: every window is the batch that was observed last, in order."""

    def __init__(self, rule: Rule, asked: Asked) -> None:
        self._rule, self._asked = rule, asked
        self.names: NDArray[np.str_] = np.zeros(0, np.str_)
        self.classes: NDArray[np.str_] = np.zeros(0, np.str_)

    def __call__(self, window: Candidates) -> list[int]:
        rows = self._rule(window)[: window.count]
        teaches = self.classes[window.predicted] != self.names
        self._asked.taught += teaches[rows].tolist()
        self._asked.names += self.names[rows].tolist()
        self._asked.is_new += [name not in KNOWN for name in self.names[rows]]
        self._asked.counts.append(len(rows))
        self._asked.base.append(float(teaches.mean()))
        self._asked.most_on_a_topic = max(
            self._asked.most_on_a_topic, len(window.asked) + len(rows)
        )
        return rows


def allowing(bundle: Bundle, per_condition: int) -> Bundle:
    """The bundle with another number of questions per condition."""
    policy = bundle.manifest.policy
    ask = structs.replace(policy.ask, per_condition=per_condition)
    return replace(
        bundle, manifest=structs.replace(bundle.manifest, policy=structs.replace(policy, ask=ask))
    )


def watched(
    learner: Learner,
    rule: Rule,
    before: NDArray[np.uint8],
    x: NDArray[np.uint8],
    y: NDArray[np.int64],
) -> Asked:
    """Show a clean prefix, then images (N, ...) with their slots in ``CLASSES``; every question is
    answered before the next batch.
    """
    asked = Asked()
    witness = Witness(rule, asked)
    learner._streams.observed(_STREAM).asking = Asking(witness)
    for rows in batches(len(before), BATCH):
        learner.observe(before[rows], stream=_STREAM)
        learner.settle()
    names = np.array(CLASSES)[y]
    for rows in batches(len(x), BATCH):
        witness.names, witness.classes = names[rows], np.array(learner.classes)
        seen = learner.observe(x[rows], stream=_STREAM)
        learner.settle()
        truth = dict(zip(seen.ids, names[rows].tolist(), strict=True))
        if open_ones := [q.id for q in learner.questions(100) if q.id in truth]:
            learner.label(open_ones, [truth[sample] for sample in open_ones], source="operator")
            learner.settle()
    return asked


def under_condition(
    dataset: ImageDataset,
    shown: Showing,
    rule: Rule,
    policy: Policy | None = None,
    bundle: Bundle | None = None,
) -> Asked:
    """One pass through a condition, judged at its end."""
    with open_quick(bundle or dataset.bundle, policy) as learner:
        asked = watched(learner, rule, shown.before.x, shown.under.x, shown.under.y)
        asked.right = marks(learner, shown.judge.x, shown.judge.y)
        return asked


def marks(learner: Learner, x: NDArray[np.uint8], y: NDArray[np.int64]) -> Marks:
    """(N,) right answers under the condition the stream is in."""
    return np.concatenate(
        [
            right(learner.predict(x[rows], stream=_STREAM).labels, y[rows])
            for rows in batches(len(x), 256)
        ]
    )


def best_of_sets(
    dataset: ImageDataset, shown: Showing, sizes: tuple[int, ...], sets: int, seed: int
) -> dict[int, float]:
    """Highest accuracy on the judging images that any of ``sets`` random label sets of each size
    reaches, behind the label-free correction.

    The set is picked by the judging images: an upper mark, not a rule.
    """
    with open_quick(dataset.bundle) as learner:
        watched(learner, lambda window: [], shown.before.x, shown.under.x, shown.under.y)
        program, memory, domain = learner._program, learner._live.current, learner.domain(_STREAM)
        found = memory.domains.get(domain)
        z, taps = program.encode(shown.under.x, memory.encoder_in(domain))
        judge_z, judge_taps = program.encode(shown.judge.x, memory.encoder_in(domain))
        weight, rng = program.manifest.policy.learn.field_weight, np.random.default_rng([seed, 13])
        best = dict.fromkeys(sizes, 0.0)
        for size in sizes:
            for _ in range(sets):
                rows = rng.choice(len(z), min(size, len(z)), replace=False)
                weights = np.full(len(rows), weight, np.float32)
                unshifted = np.zeros(len(rows), np.float32)
                learned, _ = program.learn(
                    memory.tensors, z[rows], taps[rows], shown.under.y[rows], weights, unshifted
                )
                tensors = program.derive(learned)
                logits = program.read(
                    judge_z, judge_taps, tensors if found is None else found.tensors.over(tensors)
                ).logits
                best[size] = max(best[size], float((logits.argmax(axis=1) == shown.judge.y).mean()))
        return best
