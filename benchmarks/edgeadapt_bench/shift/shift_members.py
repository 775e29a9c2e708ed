"""Every label-free method that a bundle can carry, in the same bundle otherwise: one memory, one
schedule of refreshes, one guard of health.

So Hebbian learning stands beside norm statistics and slow feature shift at equal cost but for the
refresh itself, which is measured.
"""

from __future__ import annotations

import numpy as np

from edgeadapt.errors import EdgeadaptError
from edgeadapt_bench.datasets.image_dataset import Say, spread
from edgeadapt_bench.harness.measure import Row, absent
from edgeadapt_bench.shift.shift_cost import learner_cost
from edgeadapt_bench.shift.shift_dataset import ShiftDataset, with_method
from edgeadapt_bench.shift.shift_runs import FROZEN, Result, Results, learn
from edgeadapt_bench.shift.shift_streams import Shown, Stream
from edgeadapt_bench.shift.shift_summary import losses

BESIDE = ("norm_statistics", "norm_statistics_averaged", "feature_shift")
SMOOTHED = "class_matched_statistics, lame"
"""The default method, and answers of a batch that speak for each other where a stream is
correlated.
"""
WINS = 2.0  # standard errors
KINDS = ("shuffled", "sorted")


def member_rows(
    dataset: ShiftDataset,
    seeds: tuple[int, ...],
    count: int,
    conditions: tuple[str, ...],
    severities: tuple[int, ...],
    say: Say,
) -> list[Row]:
    """Accuracy, worst loss and refresh cost per method; which settings Hebbian learning wins."""
    from edgeadapt.host.methods.label_free.adaptations import NAMES

    shown = {seed: Shown(dataset.test, count, seed) for seed in seeds}
    results, rows = Results(), []
    for name in (*NAMES, SMOOTHED):
        method, _, smooth = name.partition(", ")
        try:
            member = with_method(dataset, method, say, smooth=smooth or "none")
            _run(member, name, shown, conditions, severities, results)
            found = learner_cost(
                member.bundle,
                shown[seeds[0]].stream("shuffled", conditions[0], severities[0]).x[:512],
                rounds=1,
            )
        except (EdgeadaptError, RuntimeError, ValueError) as error:
            reason = f"{type(error).__name__}: {error}".splitlines()[0][:160]
            say(f"{name}: left out: {reason}")
            rows.append(absent(f"accuracy/{name}", reason))
            continue
        rows += _rows_of(
            name, results, severities, found.refresh_ms, found.refresh_batches, found.between, say
        )
    return rows + hebbian_rows(results, [name for name in results.methods if name != FROZEN], say)


def _run(
    member: ShiftDataset,
    name: str,
    shown: dict[int, Shown],
    conditions: tuple[str, ...],
    severities: tuple[int, ...],
    results: Results,
) -> None:
    for seed, images in shown.items():
        streams = [
            images.stream(kind, condition, severity)
            for severity in severities
            for condition in conditions
            for kind in KINDS
        ]
        for stream in [*streams, *(images.stream(kind, "clean", 0) for kind in KINDS)]:
            right, steps = learn(member.bundle, stream)
            results.all.append(_result(name, stream, seed, right, steps))
            if not any(
                r.stream == stream.name and r.seed == seed for r in results.of(FROZEN, clean=True)
            ):
                z = member.program.encode(stream.x)[0]
                results.all.append(
                    _result(
                        FROZEN, stream, seed, member.head.logits(z).argmax(axis=1) == stream.y, 0
                    )
                )


def _result(name: str, stream: Stream, seed: int, right: np.ndarray, steps: int) -> Result:
    return Result(name, stream.kind, stream.condition, stream.severity, seed, right, steps)


def _rows_of(
    name: str,
    results: Results,
    severities: tuple[int, ...],
    refresh_ms: float,
    refresh_batches: float,
    between: float,
    say: Say,
) -> list[Row]:
    rows, parts = [], []
    for severity in severities:
        for kind in KINDS:
            value, frozen = (results.mean(who, kind, severity) for who in (name, FROZEN))
            rows.append(Row(f"accuracy/{kind}/{severity}/{name}", value, "accuracy", frozen))
            parts.append(f"{kind} {severity}: {value:.1%} ({value - frozen:+.1%})")
    lost = losses(results, name)
    worst = max(lost, key=lambda stream: max(lost[stream]))
    steps = [r.steps for r in results.of(name)]
    rows += [
        Row(f"worst_loss/{name}", max(lost[worst]), f"accuracy, {worst}"),
        Row(f"refresh_ms/{name}", refresh_ms, f"ms, {refresh_batches:.1f} plain batches of 32"),
        Row(f"time_between_refreshes/{name}", between, "x the factory's predict", 1.0),
        Row(f"refreshes/{name}", float(np.mean(steps)), "per stream"),
    ]
    say(
        f"{name}: {', '.join(parts)}; worst loss {max(lost[worst]):.1%} ({worst}), refresh"
        f" {refresh_ms:.1f} ms, {np.mean(steps):.1f} per stream"
    )
    return rows


def hebbian_rows(results: Results, names: list[str], say: Say) -> list[Row]:
    """A setting is a condition, an order and a severity. It is won by two standard errors of the
    paired difference over each of ``BESIDE``.
    """
    rows = []
    baselines = [name for name in BESIDE if name in names]
    for name in [name for name in names if "hebb" in name and baselines]:
        won, margins = [], []
        for mine in sorted(dict.fromkeys(r.stream for r in results.of(name, clean=True))):
            gaps = [_paired(results, name, baseline, mine) for baseline in baselines]
            margins.append(min(mean for mean, _ in gaps))
            if all(mean > WINS * error for mean, error in gaps):
                won.append(f"{mine} ({min(mean for mean, _ in gaps):+.1%})")
        rows.append(
            Row(
                f"settings_won/{name}",
                float(len(won)),
                f"of {len(margins)} settings, over {' and '.join(baselines)}",
            )
        )
        say(
            f"{name} wins {len(won)} of {len(margins)} settings over {' and '.join(baselines)}"
            + (f": {', '.join(won)}" if won else "; it found none")
            + f"; margin {spread(margins)}"
        )
    return rows


def _paired(results: Results, name: str, baseline: str, stream: str) -> tuple[float, float]:
    """Mean difference per image and its standard error."""
    mine, theirs = (
        np.concatenate([r.right for r in results.of(who, clean=True) if r.stream == stream]).astype(
            np.float64
        )
        for who in (name, baseline)
    )
    change = mine - theirs
    return float(change.mean()), float(change.std() / np.sqrt(len(change)))
