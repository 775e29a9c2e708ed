"""Rows with their bars, and tables for people: medians over seeds and paired differences."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from edgeadapt_bench.harness.measure import Row, absent, at_least, at_most
from edgeadapt_bench.harness.resampling import paired_interval
from edgeadapt_bench.transfer.tasks import Measured

CLEAN_MARGIN, LABEL_MARGIN, OWN_MARGIN = 0.5, 1.0, 1.0  # points below the bar that hold
ACCEPTED, NOTICED, FALSE_ALARMS, FEWEST_WINDOWS = 0.95, 0.8, 0.02, 300
LARGE_DROP, MEDIUM_DROP, LARGE_WITHIN, MEDIUM_WITHIN = 0.20, 0.10, 128, 512
PROMISED = (
    0.03  # a clean stream counts for false alarms where it is so near to what the card promises
)
SECONDS = 60.0
_BARS = {"clean": ("linear", CLEAN_MARGIN), "own": ("random", OWN_MARGIN)}
_REFIT = ("refit", LABEL_MARGIN)
_SHOWN = (
    "frozen",
    "random",
    "nearest_mean",
    "logistic",
    "logistic_25",
    "ridge",
    "lda",
    "neighbours",
    "linear",
    "refit",
    "best_of",
    "river_softmax",
    "avalanche_slda",
)
_UNJUDGED = ("none", "new_known", "new_new")


def is_judged(task: str) -> bool:
    """Whether a task has a bar."""
    return task not in _UNJUDGED and not task.startswith("clean_")


def bar_of(task: str) -> tuple[str, float]:
    """Who is the bar of a task, and the points that the learner may stay below it."""
    return _BARS.get(task, _REFIT)


def rows_of(found: Sequence[Measured], is_quick: bool) -> list[Row]:
    """All rows; without targets if it was quick."""
    rows: list[Row] = []
    for task in tasks_of(found):
        rows += _accuracy_rows(task, found, is_quick)
    rows += _label_rows(found, is_quick)
    rows += _noticing_rows(found, is_quick)
    rows.append(_false_alarms(found, is_quick))
    slowest = max(sum(each.seconds.values()) for each in found)
    rows.append(
        at_most("seconds/slowest", slowest, "s a transfer and seed", None if is_quick else SECONDS)
    )
    return rows


def tasks_of(found: Sequence[Measured]) -> list[str]:
    return list(dict.fromkeys(task for each in found for task in each.accuracy))


def names_of(found: Sequence[Measured], task: str) -> list[str]:
    return list(dict.fromkeys(each.transfer.name for each in found if task in each.accuracy))


def points(found: Sequence[Measured], task: str, who: str) -> np.ndarray:
    """(seeds,) percent right."""
    return np.array([100 * each.accuracy[task][who] for each in found if task in each.accuracy])


def _accuracy_rows(task: str, found: Sequence[Measured], is_quick: bool) -> list[Row]:
    bar, margin = bar_of(task)
    rows = []
    for name in names_of(found, task):
        here = [each for each in found if each.transfer.name == name and task in each.accuracy]
        ours, theirs = points(here, task, "learner"), points(here, task, bar)
        gain = ours - theirs
        middle = float(np.median(ours))
        paired = middle - float(
            np.median(gain)
        )  # so that the bar holds where the median of paired differences does
        unit = f"% ({np.median(gain):+.1f}, {gain.min():+.1f} to {gain.max():+.1f} to {bar})"
        target = paired - margin if is_judged(task) and not is_quick else None
        rows.append(at_least(f"{task}/{name}", middle, unit, target, paired))
    ours, theirs = points(found, task, "learner"), points(found, task, bar)
    gain, low, high = (100 * value for value in paired_interval(ours / 100, theirs / 100))
    must = is_judged(task) and task != "clean" and not is_quick
    unit = f"% ({gain:+.1f}, {low:+.1f} to {high:+.1f} to {bar})"
    rows.append(
        at_least(
            f"{task}/mean",
            float(ours.mean()),
            unit,
            float(theirs.mean()) if must else None,
            float(theirs.mean()),
        )
    )
    return rows


def _label_rows(found: Sequence[Measured], is_quick: bool) -> list[Row]:
    rows = []
    for name in dict.fromkeys(each.transfer.name for each in found):
        here = [each for each in found if each.transfer.name == name]
        shares = [min(each.accepted.values()) for each in here]
        rows.append(
            at_least(
                f"accepted/{name}",
                float(np.median(shares)),
                "share, least task",
                None if is_quick else ACCEPTED,
            )
        )
        rows.append(
            Row(f"asked/{name}", float(np.median([each.asked for each in here])), "questions")
        )
    return rows


def _noticing_rows(found: Sequence[Measured], is_quick: bool) -> list[Row]:
    rows = []
    target = None if is_quick else NOTICED
    for name, low, high, within in (
        ("large_drop", LARGE_DROP, np.inf, LARGE_WITHIN),
        ("medium_drop", MEDIUM_DROP, LARGE_DROP, MEDIUM_WITHIN),
    ):
        here = [each for each in found if low <= each.drop < high]
        label = f"noticed/{name}"
        if not here:
            rows.append(absent(label, "no transfer loses so much", target))
            continue
        times = [each.noticed_after is not None and each.noticed_after <= within for each in here]
        rows.append(
            at_least(
                label, float(np.mean(times)), f"of {len(here)} within {within} samples", target
            )
        )
    new = [each.new_noticed for each in found if each.new_noticed is not None]
    if new:
        before, after = np.mean(new, axis=0)
        rows.append(
            Row(
                "noticed/new_classes", float(after), "of batches, before as baseline", float(before)
            )
        )
    return rows


def _false_alarms(found: Sequence[Measured], is_quick: bool) -> Row:
    """One-sided 95% bound, over clean streams whose accuracy is what the card promises.

    A factory counts once a seed.
    """
    factories = {(each.transfer.clean.z.tobytes(), each.seed): each for each in found}.values()
    kept = [each for each in factories if each.accuracy["clean"]["learner"] >= each.card - PROMISED]
    alarms, windows = sum(each.alarms for each in kept), sum(each.windows for each in kept)
    target = None if is_quick else FALSE_ALARMS
    if not windows:
        return absent(
            "false_alarms/bound",
            f"on none of {len(factories)} clean streams is the card's accuracy reached",
            target,
        )
    everything = sum(each.alarms for each in factories) / sum(each.windows for each in factories)
    unit = (
        f"share, {alarms} of {windows} windows, {len(kept)} of {len(factories)} factories "
        f"({everything:.3f} of all windows)"
    )
    bound = upper_bound(alarms, windows)
    if windows < FEWEST_WINDOWS and target is not None:
        return Row(
            "false_alarms/bound",
            bound,
            f"{unit}; too few to judge",
            alarms / windows,
            target,
            False,
        )
    return at_most("false_alarms/bound", bound, unit, target, alarms / windows)


def upper_bound(count: int, total: int, level: float = 0.95) -> float:
    """The largest share that ``count`` of ``total`` does not contradict at this level, one-sided.

    Source: Clopper and Pearson, Biometrika 26, 1934.
    """
    from scipy.stats import beta

    return 1.0 if count >= total else float(beta.ppf(level, count + 1, total - count))


def tables(found: Sequence[Measured]) -> list[str]:
    """Lines for people, a table per task: percent right, medians over seeds, paired differences."""
    lines = []
    for task in tasks_of(found):
        bar, _ = bar_of(task)
        present = [
            who
            for who in _SHOWN
            if any(who in each.accuracy[task] for each in found if task in each.accuracy)
        ]
        width = max(len(name) for name in names_of(found, task)) + 1
        lines.append(
            f"{task}: % right, median over seeds; difference to {bar} in points, with its range"
        )
        lines.append(
            " " * width
            + f"{'learner':>8}{'difference':>24}"
            + "".join(f"{who:>{max(len(who) + 1, 7)}}" for who in present)
        )
        for name in names_of(found, task):
            here = [each for each in found if each.transfer.name == name and task in each.accuracy]
            gain = points(here, task, "learner") - points(here, task, bar)
            told = f"{np.median(gain):+.1f} ({gain.min():+.1f} to {gain.max():+.1f})"
            cells = "".join(
                f"{_median(here, task, who):>{max(len(who) + 1, 7)}}" for who in present
            )
            lines.append(f"{name:<{width}}{_median(here, task, 'learner'):>8}{told:>24}{cells}")
        lines.append("")
    return lines + _other_lines(found)


def _median(here: Sequence[Measured], task: str, who: str) -> str:
    found = [100 * each.accuracy[task][who] for each in here if who in each.accuracy[task]]
    return f"{np.median(found):.1f}" if found else ""


def _other_lines(found: Sequence[Measured]) -> list[str]:
    lines = [
        "per seed: drop in the field, noticed after, questions, labels accepted, "
        "clean windows that read shifted, new classes noticed before and after"
    ]
    for each in found:
        accepted = " ".join(f"{task} {share:.2f}" for task, share in each.accepted.items())
        new = (
            ""
            if each.new_noticed is None
            else f"; new {each.new_noticed[0]:.2f} {each.new_noticed[1]:.2f}"
        )
        lines.append(
            f"{each.transfer.name} seed {each.seed}: {100 * each.drop:.1f} points; "
            f"{each.noticed_after or 'never'}; {each.asked} asked; accepted {accepted}; "
            f"shifted {each.alarms} of {each.windows}; card {each.card:.3f}{new}; "
            + ", ".join(f"{name} {seconds:.0f} s" for name, seconds in each.seconds.items())
        )
    return lines
