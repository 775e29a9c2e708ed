"""Which samples are worth a question: precision of what is asked, and what the answers recover,
beside other rules on the same windows.

    precision = share of questions whose answer is another class than the prediction at that time,
    new classes included
    recovery  = (accuracy - frozen) / (oracle - frozen)

on other images of the condition, after the last answer. The oracle is the bundle's own kind of head
refitted on the uncorrected encoder's features with 1,000 labels of the condition. Means over
conditions and seeds are taken before the quotient. Every rule asks in the same windows and as often
as ours did there, unless it is named ``at_once``: then it asks ten and ten, as soon as it may. "Ten
per class" are 60 labels, three in each of the first twenty windows of the condition. The best of
many random label sets of the same size, picked by the judging images, is an upper mark. Intervals:
paired bootstrap over streams (a condition and a seed).

New classes come into a stream of known ones, at once with a mild shift (severity 1) or without one.
"""

from __future__ import annotations

from pathlib import Path

from edgeadapt.demo.sample import KNOWN
from edgeadapt.device.detection.policy import Policy
from edgeadapt.device.querying.strategy import choose_questions
from edgeadapt.scenarios.refitted_head import RefittedHead
from edgeadapt_bench.baselines.question_rules import (
    BASELINES,
    least_margin,
    paced,
    previous,
    random_rule,
)
from edgeadapt_bench.datasets.image_dataset import (
    BATCH,
    SAMPLE,
    ImageDataset,
    Say,
    load_dataset,
    open_quick,
)
from edgeadapt_bench.harness.measure import Row
from edgeadapt_bench.labels.answers import Showing, showing
from edgeadapt_bench.labels.new_class_questions import new_class_rows
from edgeadapt_bench.labels.question_rows import (
    PER_CONDITION,
    Passes,
    Size,
    compared,
    condition_rows,
    draw_bars,
)
from edgeadapt_bench.labels.question_streams import allowing, best_of_sets, marks, under_condition

TEN_PER_CLASS = 10 * len(KNOWN)
_A_WINDOW = 3  # of the sixty
_QUICK = Size(("fog",), ("clean",), (1,), ("random",), (), 9 * BATCH, 9 * BATCH, 2)


def run_questions(
    data: str | None,
    say: Say,
    quick: bool = False,
    plots: str | None = None,
    *,
    tuning: bool = False,
    conditions: tuple[str, ...] | None = None,
) -> list[Row]:
    """Precision and recovery of the questions, under conditions and with new classes.

    Args:
        data, tuning: see ``load_dataset``.
        quick: one short stream of each kind from the images that ship.
        plots: a folder for bars of precision and recovery per rule.
        conditions: other ones, for choosing defaults.
    """
    size = _QUICK if quick else Size()
    if conditions is not None:
        size = Size(conditions, ("clean", *conditions[:2]))
    dataset = load_dataset(SAMPLE if quick else data, tuning=tuning)
    say(f"questions: {dataset.source}")
    corrected = _under_conditions(dataset, size, say)
    bare = _without_correction(dataset, size, say) if size.without_correction else None
    rows = condition_rows(corrected, size)
    rows += compared(bare, "20_adaptation_off", None) if bare is not None else []
    rows += new_class_rows(dataset, size, say)
    if plots is not None:
        draw_bars(corrected, Path(plots))
    return rows


def _under_conditions(dataset: ImageDataset, size: Size, say: Say) -> Passes:
    found, many = Passes(), allowing(dataset.bundle, TEN_PER_CLASS)
    for condition, seed, shown in _showings(dataset, size):
        _mark(dataset, shown, found)
        ours = found.add("ours", under_condition(dataset, shown, choose_questions))
        for name in size.baselines:
            found.add(
                name, under_condition(dataset, shown, paced(BASELINES[name](seed), ours.counts))
            )
        found.add("none", under_condition(dataset, shown, lambda window: []))
        for name, rule in (("least_margin_at_once", least_margin), ("previous_at_once", previous)):
            found.add(name, under_condition(dataset, shown, rule))
        sixty = [_A_WINDOW] * (TEN_PER_CLASS // _A_WINDOW)
        found.add(
            "ours_60", under_condition(dataset, shown, paced(choose_questions, sixty), bundle=many)
        )
        found.add(
            "random_60",
            under_condition(dataset, shown, paced(random_rule(seed), sixty), bundle=many),
        )
        for count, best in best_of_sets(
            dataset, shown, (PER_CONDITION, TEN_PER_CLASS), size.sets, seed
        ).items():
            found.best.setdefault(count, []).append(best)
        _tell(say, f"{condition}, seed {seed}", found)
    return found


def _without_correction(dataset: ImageDataset, size: Size, say: Say) -> Passes:
    """The same with adaptation off: all that is recovered, the answers recover."""
    found, off = Passes(), Policy(adapt="off")
    for condition, seed, shown in _showings(dataset, size):
        _mark(dataset, shown, found)
        ours = found.add("ours", under_condition(dataset, shown, choose_questions, off))
        for name in size.without_correction:
            found.add(
                name,
                under_condition(dataset, shown, paced(BASELINES[name](seed), ours.counts), off),
            )
        _tell(say, f"{condition}, seed {seed}, adaptation off", found)
    return found


def _showings(dataset: ImageDataset, size: Size) -> list[tuple[str, int, Showing]]:
    images = dataset.known()
    return [
        (condition, seed, showing(images, condition, size.length, seed))
        for condition in size.conditions
        for seed in size.seeds
    ]


def _mark(dataset: ImageDataset, shown: Showing, found: Passes) -> None:
    with open_quick(dataset.bundle, Policy(adapt="off")) as frozen:
        oracle = RefittedHead(frozen.predict(shown.oracle.x).embedding, shown.oracle.y, len(KNOWN))
        found.frozen.append(float(marks(frozen, shown.judge.x, shown.judge.y).mean()))
        found.oracle.append(oracle.accuracy(frozen.predict(shown.judge.x).embedding, shown.judge.y))


def _tell(say: Say, where: str, found: Passes) -> None:
    arms = ", ".join(
        f"{name} {passes[-1].accuracy:.1%} ({sum(passes[-1].taught)} of {len(passes[-1].taught)})"
        for name, passes in found.arms.items()
    )
    say(f"{where}: frozen {found.frozen[-1]:.1%}, oracle {found.oracle[-1]:.1%}; {arms}")


# -- new classes -----------------------------------------------------------------------------------
# -- rows ------------------------------------------------------------------------------------------
