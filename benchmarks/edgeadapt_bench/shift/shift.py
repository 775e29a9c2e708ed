"""Label-free adaptation beside what one could pick instead: accuracy, the worst it can do, what it
costs, and when frames do not wait.

Ours first: a network that our trainer trained on the source, as our exporter ships it. Then
(``--foreign``) an encoder that never saw the source. Fifteen corruptions are reported at two
severities, shuffled and sorted by class; learning rates were chosen on four others, on images held
out of training.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from edgeadapt.scenarios.corruptions import REPORTING, TUNING
from edgeadapt_bench.datasets.image_dataset import Say, bar
from edgeadapt_bench.harness import plots as pictures
from edgeadapt_bench.harness.measure import Row
from edgeadapt_bench.shift.shift_baselines import BARRED, CHOSEN, STEPPED, makers, rated
from edgeadapt_bench.shift.shift_cost import Costs, costs
from edgeadapt_bench.shift.shift_dataset import ShiftDataset, ours
from edgeadapt_bench.shift.shift_dataset import foreign as foreign_dataset
from edgeadapt_bench.shift.shift_members import member_rows
from edgeadapt_bench.shift.shift_picture import draw
from edgeadapt_bench.shift.shift_rate import RATES, AtRate, learner_at_rate, method_at_rate
from edgeadapt_bench.shift.shift_runs import (
    ACTING,
    FROZEN,
    ORACLE,
    OURS,
    Results,
    answer,
    oracle_of,
    show,
)
from edgeadapt_bench.shift.shift_streams import Shown
from edgeadapt_bench.shift.shift_summary import (
    COST,
    best_of,
    gap_rows,
    loss_rows,
    per_condition,
    step_rows,
)

KINDS = ("shuffled", "sorted")
CHEAP = ("batch statistics", "TENT", "LAME", "T3A", "slow feature shift", "mean and sd")


@dataclass(frozen=True)
class Plan:
    """How much is shown.

    Attributes:
        seeds: of images, orders and corruptions.
        count: images per stream.
        single: of those that arrive one by one.
        tuning: per stream that chooses a rate.
        severities: the first is judged; the others are shown for the first seed, to methods with
            published rates.
        is_judged: whether rows have targets. children: measure memory too.
        only: these methods; empty for all.
    """

    seeds: tuple[int, ...] = (0, 1, 2)
    count: int = 2048
    single: int = 256
    tuning: int = 1024
    conditions: tuple[str, ...] = REPORTING
    severities: tuple[int, ...] = (3, 5)
    is_judged: bool = True
    children: bool = True
    rounds: int = 4
    only: tuple[str, ...] = ()


QUICK = Plan(
    seeds=(0,),
    count=320,
    single=8,
    tuning=0,
    conditions=("brightness", "gaussian_noise"),
    severities=(3,),
    is_judged=False,
    children=False,
    rounds=1,
    only=CHEAP[:3],
)
FOREIGN = Plan(
    seeds=(0,),
    count=512,
    single=32,
    tuning=0,
    conditions=("gaussian_noise", "defocus_blur", "fog", "contrast", "pixelate"),
    severities=(3,),
    is_judged=False,
    rounds=1,
    only=CHEAP,
)
MEMBERS = Plan(seeds=(0,), count=768)


def run_shift(
    data: str | None = None,
    say: Say = print,
    *,
    quick: bool = False,
    members: bool = False,
    foreign: bool = False,
    plots: str | None = None,
    seeds: tuple[int, ...] | None = None,
    count: int | None = None,
) -> list[Row]:
    """The suite.

    Args:
        data: folder of the four idx files; ``"sample"``, or ``quick``: the images and the bundle
            that ship.
        members: instead, every label-free method that a bundle can carry, in the same bundle
            otherwise.
        foreign: instead, on EfficientNet-Lite0.
        plots: a folder for a picture.
        seeds, count: instead of three and 2,048 images per stream (``members``: one and 768,
            ``foreign``: one and 512).
    """
    if plots is not None:
        pictures.check()
    dataset = (
        foreign_dataset(data, say) if foreign else ours(data, say, quick=quick, stress=not members)
    )
    plan = QUICK if quick else FOREIGN if foreign else MEMBERS if members else Plan()
    plan = replace(plan, seeds=seeds or plan.seeds, count=count or plan.count)
    say(
        f"shift: {dataset.card()}; {dataset.source}, {plan.count} images per stream, seeds"
        f" {', '.join(map(str, plan.seeds))}"
    )
    if members:
        return member_rows(dataset, plan.seeds, plan.count, plan.conditions, plan.severities, say)
    return compare(dataset, plan, say, plots)


def compare(dataset: ShiftDataset, plan: Plan, say: Say, plots: str | None = None) -> list[Row]:
    """All tables of one encoder."""
    chosen = choose_rates(dataset, plan.tuning, say) if plan.tuning else {}
    methods = {
        name: make
        for name, make in makers(dataset.basis, chosen).items()
        if not plan.only or name in plan.only
    }
    published = {name: make for name, make in methods.items() if CHOSEN not in name}
    results = Results()
    shown = {seed: Shown(dataset.test, plan.count, seed) for seed in plan.seeds}
    for seed, images in shown.items():
        for severity in plan.severities if seed == plan.seeds[0] else plan.severities[:1]:
            for condition in plan.conditions:
                oracle = oracle_of(dataset, images, condition, severity)
                for kind in KINDS:
                    stream = images.stream(kind, condition, severity)
                    results.all += show(
                        dataset,
                        stream,
                        methods if severity == plan.severities[0] else published,
                        seed,
                        oracle,
                    )
                    say(_line(results, stream.name, seed))
        for stream in images.stress(plan.conditions, plan.severities[0], plan.single):
            results.all += show(dataset, stream, published, seed)
            say(_line(results, stream.name, seed))
    rows = summarise(results, plan, say)
    stream = shown[plan.seeds[0]].stream("shuffled", plan.conditions[0], plan.severities[0])
    spent = costs(dataset, stream, methods, say, rounds=plan.rounds, children=plan.children)
    rows += cost_rows(spent, judged=plan.is_judged) + rate_rows(
        dataset, shown[plan.seeds[0]], plan, spent, say
    )
    if plots is not None:
        picture = Path(plots) / f"shift-{dataset.name}.png"
        say(f"shift: {draw(picture, results, plan.severities[0], _barred(results))}")
    return rows


def choose_rates(dataset: ShiftDataset, count: int, say: Say) -> dict[str, float]:
    """The best of three learning rates per method: mean accuracy on shuffled streams of the tuning
    corruptions at severity 3, of held-out images.
    """
    images = Shown(dataset.tuning, count, 0)
    streams = [images.stream("shuffled", condition, 3) for condition in TUNING]
    features = [dataset.program.encode(stream.x)[0] for stream in streams]
    chosen = {}
    for name, (make, rates) in STEPPED.items():
        marks = {
            rate: float(
                np.mean(
                    [
                        answer(make(dataset.basis, rate), stream, z).mean()
                        for stream, z in zip(streams, features, strict=True)
                    ]
                )
            )
            for rate in rates
        }
        chosen[name] = max(rates, key=lambda rate: marks[rate])
        say(
            f"{name}: rate {chosen[name]:g} chosen on tuning streams"
            f" ({', '.join(f'{rate:g}: {mark:.1%}' for rate, mark in marks.items())})"
        )
    return chosen


def _line(results: Results, stream: str, seed: int) -> str:
    found = [r for r in results.all if r.stream == stream and r.seed == seed]
    steps = next(r.steps for r in found if r.method == OURS)
    return (
        f"{stream}, seed {seed}: "
        + ", ".join(f"{r.method} {r.accuracy:.1%}" for r in found)
        + f"; {steps} refreshes"
    )


def _barred(results: Results) -> list[str]:
    return [name for name in results.methods if name.removesuffix(CHOSEN) in BARRED]


def summarise(results: Results, plan: Plan, say: Say) -> list[Row]:
    """Shares, leads, losses and steps; tables and lines are said."""
    rows: list[Row] = []
    for severity in plan.severities:
        for kind in KINDS:
            found, line = gap_rows(
                results,
                kind,
                severity,
                _barred(results),
                judged=plan.is_judged and severity == plan.severities[0],
            )
            rows += found
            say(line)
    lost, lines = loss_rows(results, judged=plan.is_judged)
    for line in lines:
        say(line)
    for kind in KINDS:
        best = best_of(results, kind, plan.severities[0], _barred(results))
        say(
            per_condition(
                results,
                kind,
                plan.severities[0],
                [name for name in (FROZEN, OURS, ACTING, best, ORACLE) if name in results.methods],
            )
        )
    return rows + lost + step_rows(results)


def cost_rows(spent: Costs, *, judged: bool) -> list[Row]:
    """Multiples of plain inference; between refreshes the learner (made to act, if its card does
    not let it) is held against one that never adapts.
    """
    own = spent.ours
    rows = [
        bar(
            "time_between_refreshes",
            own.between,
            "x the factory's predict",
            1.0,
            at_most=COST if judged else None,
        ),
        Row(
            "time/edgeadapt",
            own.whole,
            "x plain inference (ONNX Runtime), processor time of all threads",
            1.0,
        ),
        Row("time_without_refresh/edgeadapt", own.observe, "x plain inference", 1.0),
        Row("refresh_ms", own.refresh_ms, "ms", own.plain_ms),
        Row("refresh_batches", own.refresh_batches, "plain batches of 32"),
        *(
            Row(f"time/{name}", value, "x plain inference (torch)", 1.0)
            for name, value in spent.time.items()
        ),
        *(
            Row(f"memory/{name}", value, "x plain inference (torch)", 1.0)
            for name, value in spent.memory.items()
        ),
    ]
    if np.isfinite(own.between_memory):
        rows[1:1] = [
            bar(
                "memory_between_refreshes",
                own.between_memory,
                f"x a learner that never adapts, {own.between_mib:.0f} MiB",
                1.0,
                at_most=COST if judged else None,
            )
        ]
        rows.append(
            Row(
                "memory_between_refreshes/one_heap",
                own.one_heap,
                "x a learner that never adapts, MALLOC_ARENA_MAX=1",
                1.0,
            )
        )
        rows.append(
            Row(
                "memory/edgeadapt",
                own.peak,
                "x plain inference (ONNX Runtime), with refreshes",
                1.0,
            )
        )
    return rows


def rate_rows(
    dataset: ShiftDataset, images: Shown, plan: Plan, spent: Costs, say: Say
) -> list[Row]:
    """Mean accuracy of shuffled streams that do not wait: first seed, first severity."""
    severity = plan.severities[0]
    published = {name: make for name, make in rated(dataset.basis).items() if name in spent.time}
    found: dict[tuple[int, str], list[AtRate]] = {
        (k, name): [] for k in RATES for name in (OURS, *published)
    }
    without = []
    for condition in plan.conditions:
        stream = images.stream("shuffled", condition, severity)
        z = dataset.program.encode(stream.x)[0]
        frozen = dataset.head.logits(z).argmax(axis=1) == stream.y
        without.append(frozen.mean())
        for k in RATES:
            found[k, OURS].append(
                learner_at_rate(
                    dataset.acting, stream, frozen, spent.ours.observe, spent.ours.refresh, k
                )
            )
            for name, make in published.items():
                found[k, name].append(
                    method_at_rate(make(), stream, z, frozen, spent.time[name], k)
                )
    rows, plain = [], float(np.mean(without))
    for (k, name), values in found.items():
        last, strict, share = (
            float(np.mean([getattr(value, part) for value in values]))
            for part in ("last", "frozen", "in_time")
        )
        say(
            f"a batch every {k} x plain inference, {name}: {last:.1%}, {strict:.1%} if the frozen"
            f" model answers what is missed; {share:.0%} of batches adapted to; frozen {plain:.1%}"
        )
        rows += [
            Row(f"rate_{k}x/{name}", last, f"accuracy, {share:.0%} of batches in time", plain),
            Row(f"rate_{k}x_else_frozen/{name}", strict, "accuracy", plain),
        ]
    return rows
