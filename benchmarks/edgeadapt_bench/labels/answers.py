"""What answers are worth under a condition: ten labels per class that are given, and the few
questions that it asks itself.

    recovery = (accuracy - frozen) / (oracle - frozen)

on other images of the condition, after the last answer. The oracle is the bundle's own kind of head
refitted on the uncorrected encoder's features with 1,000 labels of the condition; stream, oracle
and judging images are disjoint.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from edgeadapt.demo.sample import KNOWN
from edgeadapt.device.detection.policy import Policy
from edgeadapt.device.learner import Learner
from edgeadapt.host.data.images import ImageData
from edgeadapt.scenarios.orders import batches, stream_rows
from edgeadapt.scenarios.refitted_head import RefittedHead, recovery
from edgeadapt_bench.datasets.image_dataset import (
    BATCH,
    CONDITIONS,
    PREFIX,
    SETTLED,
    ImageDataset,
    Say,
    accuracy,
    bar,
    degraded,
    load_dataset,
    names_of,
    open_quick,
    shares,
    spread,
)
from edgeadapt_bench.harness.measure import Row

Arm = Literal["none", "questions", "given", "given_at_onset", "given_frozen"]
ARMS: tuple[Arm, ...] = ("none", "questions", "given", "given_at_onset", "given_frozen")
TEN_PER_CLASS = 0.75
_PER_CLASS, _QUESTIONS = 10, 20
_ORACLE = _JUDGE = 1000
_LEAST_GAP = 0.02
_STREAM = "default"


@dataclass(frozen=True, eq=False)
class Showing:
    """One condition as one seed shows it: a clean prefix, the condition, and images of it that
    judge.
    """

    before: ImageData
    under: ImageData
    judge: ImageData
    oracle: ImageData
    clean_judge: ImageData


def showing(images: ImageData, condition: str, length: int, seed: int) -> Showing:
    """Disjoint parts of a pool under one condition."""
    oracle, judge, rest = shares(len(images), seed, _ORACLE, _JUDGE)
    first, under = (
        rest[rows] for rows in stream_rows(images.y[rest], "shuffled", length, seed, PREFIX)
    )

    def shown(rows: NDArray[np.int64], salt: int) -> ImageData:
        return ImageData(
            degraded(images, rows, condition, 1000 * seed + salt), images.y[rows], images.classes
        )

    return Showing(
        images.take(first), shown(under, 1), shown(judge, 2), shown(oracle, 3), images.take(judge)
    )


def told(dataset: ImageDataset, shown: Showing, arm: Arm) -> tuple[float, int]:
    """One pass: accuracy on the judging images at its end, and how many labels it had."""
    policy = Policy(adapt="off") if arm == "given_frozen" else None
    with open_quick(dataset.bundle, policy) as learner:
        for rows in batches(len(shown.before), BATCH):
            learner.observe(shown.before.x[rows], stream=_STREAM)
            learner.settle()
        labels = 0
        left = np.full(len(KNOWN), _PER_CLASS)
        for number, rows in enumerate(batches(len(shown.under), BATCH)):
            seen = learner.observe(shown.under.x[rows], stream=_STREAM)
            learner.settle()
            if arm == "questions":
                labels += _answer(learner, seen.ids, shown.under.y[rows], labels)
            elif arm == "given_at_onset" or (
                arm.startswith("given") and number >= SETTLED // BATCH
            ):
                labels += _give(learner, seen.ids, shown.under.y[rows], left)
        return accuracy(learner, shown.judge.x, shown.judge.y, stream=_STREAM), labels


def _answer(learner: Learner, ids: tuple[str, ...], y: NDArray[np.int64], answered: int) -> int:
    """The truth about every open question, up to twenty in all. Questions are about the latest
    window.
    """
    truth = dict(zip(ids, names_of(y), strict=True))
    asked = [q.id for q in learner.questions(100) if q.id in truth][: _QUESTIONS - answered]
    if asked:
        learner.label(asked, [truth[sample] for sample in asked], source="operator")
        learner.settle()
    return len(asked)


def _give(
    learner: Learner, ids: tuple[str, ...], y: NDArray[np.int64], left: NDArray[np.int64]
) -> int:
    """Label what the batch has of classes that still lack labels; counts them down in ``left``."""
    picked = []
    for sample, slot in zip(ids, y, strict=True):
        if left[slot] > 0 and learner.is_pending(sample):
            picked.append((sample, KNOWN[slot]))
            left[slot] -= 1
    if picked:
        learner.label(
            [sample for sample, _ in picked], [name for _, name in picked], source="operator"
        )
        learner.settle()
    return len(picked)


@dataclass(frozen=True, eq=False)
class _Outcome:
    frozen: float
    oracle: float
    clean: float
    accuracy: dict[Arm, float]
    labels: dict[Arm, int]

    def recovered(self, arm: Arm) -> float:
        """NaN where labels would hardly help: a ratio of two small numbers says nothing."""
        return (
            recovery(self.accuracy[arm], self.frozen, self.oracle)
            if self.oracle - self.frozen >= _LEAST_GAP
            else float("nan")
        )


def _outcome(dataset: ImageDataset, shown: Showing, arms: tuple[Arm, ...]) -> _Outcome:
    with open_quick(dataset.bundle, Policy(adapt="off")) as frozen:
        z = frozen.predict(shown.oracle.x).embedding
        oracle = RefittedHead(z, shown.oracle.y, len(KNOWN)).accuracy(
            frozen.predict(shown.judge.x).embedding, shown.judge.y
        )
        marks = (
            accuracy(frozen, shown.judge.x, shown.judge.y),
            oracle,
            accuracy(frozen, shown.clean_judge.x, shown.clean_judge.y),
        )
    found = {arm: told(dataset, shown, arm) for arm in arms}
    return _Outcome(
        *marks,
        {arm: value for arm, (value, _) in found.items()},
        {arm: count for arm, (_, count) in found.items()},
    )


def run_answers(
    data: str | None = None,
    seeds: tuple[int, ...] = (0, 1, 2),
    say: Say = print,
    *,
    length: int = 960,
    conditions: tuple[str, ...] = CONDITIONS,
    arms: tuple[Arm, ...] = ARMS,
    tuning: bool = False,
) -> list[Row]:
    """Recovery with ten labels per class, with the questions alone, and with none.

    Args:
        data, tuning: see ``load_dataset``. length: images of a condition before it is judged.
        arms: ``given`` labels what it sees from the fifth window on, ``given_at_onset`` from the
            first (before the shift is confirmed); ``given_frozen`` gives the same labels with
            adaptation off: the baseline.
    """
    dataset = load_dataset(data, tuning=tuning)
    images = dataset.known()
    outcomes: dict[int, list[_Outcome]] = {seed: [] for seed in seeds}
    for condition in conditions:
        for seed in seeds:
            found = _outcome(dataset, showing(images, condition, length, seed), arms)
            outcomes[seed].append(found)
            listed = ", ".join(
                f"{arm} {found.accuracy[arm]:.1%} ({found.labels[arm]} labels)" for arm in arms
            )
            say(
                f"{condition}, seed {seed}: frozen {found.frozen:.1%}, {listed}, oracle"
                f" {found.oracle:.1%}, clean {found.clean:.1%}"
            )
    pooled = [outcome for seed in seeds for outcome in outcomes[seed]]
    for arm in arms:
        say(
            f"recovery, {arm}, over seeds:"
            f" {spread([_mean_recovery(outcomes[seed], arm) for seed in seeds])}"
        )
    return _rows(pooled, arms)


_NAMES: dict[Arm, str] = {
    "none": "no_labels",
    "questions": "20_questions",
    "given": "10_per_class",
    "given_at_onset": "10_per_class_from_onset",
    "given_frozen": "10_per_class_adaptation_off",
}
# the baseline's arm
_INSTEAD: dict[Arm, Arm] = {
    "questions": "none",
    "given": "given_frozen",
    "given_at_onset": "given_frozen",
}


def _mean_recovery(outcomes: list[_Outcome], arm: Arm) -> float:
    found = [value for value in (o.recovered(arm) for o in outcomes) if value == value]
    return float(np.mean(found)) if found else float("nan")


def _rows(pooled: list[_Outcome], arms: tuple[Arm, ...]) -> list[Row]:
    rows = []
    for arm in arms:
        instead = _INSTEAD.get(arm)
        baseline = (
            _mean_recovery(pooled, instead) if instead is not None and instead in arms else None
        )
        target = TEN_PER_CLASS if arm == "given" else None
        rows.append(
            bar(
                f"recovery/{_NAMES[arm]}",
                _mean_recovery(pooled, arm),
                "share",
                baseline,
                at_least=target,
            )
        )
    frozen, oracle, clean = (
        float(np.mean([getattr(o, mark) for o in pooled])) for mark in ("frozen", "oracle", "clean")
    )
    for arm in arms:
        reached = float(np.mean([o.accuracy[arm] for o in pooled]))
        rows.append(
            bar(f"recovery_of_means/{_NAMES[arm]}", recovery(reached, frozen, oracle), "share")
        )
        rows.append(bar(f"accuracy/{_NAMES[arm]}", reached, "accuracy", frozen))
    rows += [
        bar("accuracy/oracle", oracle, "accuracy", frozen),
        bar("accuracy/clean", clean, "accuracy"),
    ]
    if "questions" in arms:
        rows.append(
            bar(
                "questions",
                float(np.mean([o.labels["questions"] for o in pooled])),
                "per condition",
            )
        )
    return rows
