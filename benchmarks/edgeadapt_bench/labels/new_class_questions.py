"""New classes that come into a stream of known ones: whether the questions are about them."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from edgeadapt.demo.sample import KNOWN, NEW
from edgeadapt.device.detection.policy import Policy
from edgeadapt.device.querying.strategy import choose_questions
from edgeadapt.host.data.images import ImageData
from edgeadapt.scenarios.corruptions import corrupt
from edgeadapt_bench.baselines.question_rules import BASELINES, paced, previous
from edgeadapt_bench.datasets.image_dataset import PREFIX, ImageDataset, Say, open_quick
from edgeadapt_bench.harness.measure import Row, absent, at_least, at_most, reported
from edgeadapt_bench.labels.question_rows import PER_CONDITION, PRECISION, Size, expected, pooled
from edgeadapt_bench.labels.question_streams import Asked, watched

_SHARE_NEW = 0.3


def with_new_classes(
    dataset: ImageDataset, condition: str, length: int, seed: int
) -> tuple[NDArray[np.uint8], ImageData]:
    """A clean prefix of known classes, then a stream of which three tenths are of the four new
    ones, under a condition at severity 1.
    """
    rng = np.random.default_rng([seed, 14])
    known, new = dataset.known(), dataset.test.only(NEW)
    # calibration images are of known classes: training images of the others, which no training
    # showed
    if not len(new):
        new = dataset.training.only(NEW)
    rows = rng.permutation(len(known))
    prefix = min(PREFIX, len(known) // 5)
    mixed = np.arange(length) < round(_SHARE_NEW * length)
    rng.shuffle(mixed)
    old = rows[prefix + np.arange(length) % (len(known) - prefix)]
    fresh = rng.permutation(len(new))[np.arange(length) % len(new)]
    x = np.where(mixed.reshape(-1, *[1] * (known.x.ndim - 1)), new.x[fresh], known.x[old])
    y = np.where(mixed, new.y[fresh] + len(KNOWN), known.y[old])
    return known.x[rows[:prefix]], ImageData(
        corrupt(x, condition, 1, seed), y, dataset.test.classes
    )


def new_class_rows(dataset: ImageDataset, size: Size, say: Say) -> list[Row]:
    rows: list[Row] = []
    for condition in size.mild:
        found: dict[str, list[Asked]] = {}
        for seed in size.seeds:
            before, stream = with_new_classes(dataset, condition, size.new_length, seed)
            ours: Asked | None = None
            for name in ("ours", *size.baselines, "previous_at_once"):
                own = {"ours": choose_questions, "previous_at_once": previous}
                rule = (
                    own[name]
                    if name in own
                    else paced(BASELINES[name](seed), ours.counts if ours else ())
                )
                with open_quick(dataset.bundle, Policy(new_classes="add")) as learner:
                    asked = watched(learner, rule, before, stream.x, stream.y)
                ours = ours or asked
                found.setdefault(name, []).append(asked)
            told = ", ".join(
                f"{name} {sum(passes[-1].taught)} of {len(passes[-1].taught)}"
                for name, passes in found.items()
            )
            say(f"new classes, {condition}, seed {seed}: taught {told}")
        rows += _new_class_summary(condition, found)
    return rows


def _new_class_summary(condition: str, found: dict[str, list[Asked]]) -> list[Row]:
    ours = found["ours"]
    if not any(asked.taught for asked in ours):
        return [absent(f"precision_new_classes/{condition}/ours", "nothing was asked", PRECISION)]
    name = f"precision_new_classes/{condition}"
    rows = [at_least(f"{name}/ours", pooled(ours), "share", PRECISION, expected(ours))]
    rows += [
        Row(f"{name}/{rule}", pooled(passes), "share", expected(passes))
        for rule, passes in found.items()
        if rule != "ours" and any(p.taught for p in passes)
    ]
    for rule in [rule for rule in ("ours", "random", "previous_at_once") if rule in found]:
        classes = np.mean([len(set(asked.names) & set(NEW)) for asked in found[rule]])
        asked_for = np.mean([len(asked.taught) for asked in found[rule]])
        rows += reported(
            f"{condition}/{rule}",
            ("new_classes_asked_about", classes, f"of {len(NEW)}"),
            ("questions", asked_for, "per stream"),
        )
    most = max(asked.most_on_a_topic for asked in ours)
    return [*rows, at_most(f"questions_per_topic/{condition}", most, "questions", PER_CONDITION)]
