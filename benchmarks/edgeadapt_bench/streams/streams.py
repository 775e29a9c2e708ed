"""Every head that ships on streams of classes and of domains, beside what a user could pick
instead, in the same number of bytes.

Streams: Fashion-MNIST and MNIST in five tasks of two classes, letters in thirteen; emoji style
after style, motion subject after subject; Fashion-MNIST from 1, 5 and 20 labels a class. Each
training row is met once. What there is to choose (penalties, rates, distances) is chosen on
training rows held out; test rows are only reported on. Three orders each.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from edgeadapt.errors import InputError, RuntimeUnavailable
from edgeadapt_bench.baselines.stream_baselines import (
    NeighbourBank,
    SoftmaxLayer,
    joint_probe,
    layer_bytes,
    row_bytes,
)
from edgeadapt_bench.baselines.stream_plan import Plan, by_class, by_group, judge, least, run_plan
from edgeadapt_bench.datasets.pool import Pool
from edgeadapt_bench.datasets.pools import load_pool, quick_pool
from edgeadapt_bench.harness.measure import Row, Say, absent, at_most
from edgeadapt_bench.streams.few_shot import few_shot_rows
from edgeadapt_bench.streams.stream_tables import (
    BYTE_CLASSES,
    Result,
    class_rows,
    draw,
    markdown,
    result_rows,
)

STREAMS: dict[str, tuple[str, Callable[[Pool, int], Plan]]] = {
    "fashion_5x2": ("fashion", lambda pool, seed: by_class(pool, 2, seed)),
    "mnist_5x2": ("mnist", lambda pool, seed: by_class(pool, 2, seed)),
    "letters_13x2": ("letters", lambda pool, seed: by_class(pool, 2, seed)),
    "emoji_styles": ("emoji", by_group),
    "smartwatch_subjects": ("smartwatch", by_group),
}
"""Name -> pool, and the plan of a seed."""
ORDERS = (0, 1, 2)
RATES = (1e-3, 3e-3, 1e-2, 3e-2, 0.1, 0.3)
DISTANCES = ((5, True), (1, True), (5, False))  # neighbours, by angle
# share of test rows on which sums in another order may answer otherwise: float32 sums differ in
# their last digits
SAME_ANSWERS = 0.002
_CHECKED = 3000  # rows of the order check
_TUNED = 20_000  # training rows on which a baseline's rate or distance is chosen
_SHORT = 600  # training rows of a quick stream


def run_streams(
    data: str | None,
    say: Say,
    quick: bool = False,
    plots: str | None = None,
    only: Sequence[str] = (),
) -> list[Row]:
    """All streams whose data are here; the others say which command fetches them.

    Args:
        data: folder of the four Fashion-MNIST files.
        quick: the shipped sample and drawn data, two streams, two orders.
        plots: folder for the pictures and for ``streams.md``, the tables as a document.
        only: some of ``STREAMS``; ``few_shot`` is one more.
    """
    # first: the command line says if the host extra is missing
    import edgeadapt_bench.streams.stream_methods  # noqa: F401

    rows: list[Row] = []
    tables: list[str] = []
    for stream in ("fashion_5x2", "emoji_styles") if quick else STREAMS:
        if only and stream not in only:
            continue
        name, plan_of = STREAMS[stream]
        try:
            pool = quick_pool(name) if quick else load_pool(name, data, say)
        except (InputError, RuntimeUnavailable) as error:
            rows.append(absent(stream, str(error)))
            continue
        if quick:
            pool = pool.rows(np.random.default_rng(0).permutation(len(pool.y))[:_SHORT])
        say(
            f"{stream}: {len(pool.y):,} training rows, {len(pool.test_y):,} test rows,"
            f" {pool.source}"
        )
        results, checks = run_stream(stream, pool, plan_of, say, quick)
        rows += result_rows(stream, results) + checks
        tables.append(markdown(stream, pool.source, results))
        if plots is not None:
            draw(Path(plots), stream, results)
            (Path(plots) / "streams.md").write_text("\n".join(tables), encoding="utf-8")
    return (
        rows if only and "few_shot" not in only else rows + few_shot_rows(data, say, quick, plots)
    )


def run_stream(
    stream: str, pool: Pool, plan_of: Callable[[Pool, int], Plan], say: Say, quick: bool = False
) -> tuple[list[Result], list[Row]]:
    """Every head and baseline on one stream; and rows on the byte classes and on what the run
    relies on.
    """
    from edgeadapt_bench.streams.stream_methods import defaults, methods, with_defaults

    plans = [plan_of(pool, seed) for seed in (ORDERS[:2] if quick else ORDERS)]
    found, shipped = with_defaults(methods(pool.dim, quick), defaults(pool))
    results, changed = head_results(pool, plans, say, found)
    results += baseline_results(pool, plans, plan_of, say)
    results.append(oracle_result(pool, plans[0], 300 if quick else 3000))
    check = at_most(
        f"order_changed_answers/{stream}",
        100.0 * changed,
        "% of test rows, worst head",
        100.0 * SAME_ANSWERS,
    )
    return results, [*class_rows(stream, pool, results, shipped, judged=not quick), check]


def head_results(
    pool: Pool, plans: Sequence[Plan], say: Say, methods: Sequence[Any]
) -> tuple[list[Result], float]:
    """Each head as it ships, and with what validation chose if that is something else; the largest
    share of answers that depend on the order.
    """
    import edgeadapt_bench.baselines.stream_heads as heads

    held, fitted = pool.held_out(), pool.validation()
    factories = {of_all: heads.factory_of(plans[0], of_all) for of_all in (False, True)}
    short = replace(
        plans[-1], pool=pool.rows(np.random.default_rng(0).permutation(len(pool.y))[:_CHECKED])
    )
    results: list[Result] = []
    changed = 0.0
    for method in methods:
        say(f"  {method.label}")
        shipped, factory = method.shipped, factories[method.of_all_stages]
        sums = heads.Sums(shipped, factory, pool, plans[0].cell, held)
        chosen = heads.choose(method.variants, sums, fitted)
        time = heads.cost(shipped, sums.of(list(sums.cells)), pool.z, pool.y)
        size = heads.state_bytes(shipped, factory.dims)
        memory = heads.state_bytes(shipped, factory.dims, (*heads.KEPT, "derived"))
        outcomes = tuple(judge(plan, heads.predictions(shipped, sums, plan)) for plan in plans)
        kind = "informed" if method.of_all_stages else "head"
        results.append(
            Result(
                method.label,
                method.family,
                kind,
                size,
                outcomes,
                time.update_us,
                time.readout_us,
                time.derive_ms,
                memory=memory,
            )
        )
        if chosen is not shipped:
            outcomes = tuple(judge(plan, heads.predictions(chosen, sums, plan)) for plan in plans)
            results.append(
                Result(
                    f"{method.label}, tuned",
                    method.family,
                    "head",
                    size,
                    outcomes,
                    chosen=heads.difference(shipped, chosen),
                    memory=memory,
                )
            )
        small = heads.Sums(
            shipped, factory, short.pool, short.cell, np.zeros(len(short.pool.y), bool)
        )
        changed = max(changed, heads.order_difference(shipped, factory, short, small))
    return results, changed


def oracle_result(pool: Pool, plan: Plan, steps: int) -> Result:
    """A softmax layer on everything at once, its rate chosen on validation."""
    fitted, classes = pool.validation(), len(pool.classes)
    probe = partial(joint_probe, classes=classes, steps=steps)
    marks = [
        (probe(fitted.z, fitted.y, rate=rate).predict(fitted.test_z) == fitted.test_y).mean()
        for rate in RATES
    ]
    rate = RATES[int(np.argmax(marks))]
    everything = replace(plan, stages=(tuple(k for stage in plan.stages for k in stage),))
    outcome = judge(everything, [probe(pool.z, pool.y, rate=rate).predict(pool.test_z)])
    return Result(
        "all at once, linear",
        "oracle",
        "oracle",
        layer_bytes(pool.dim, classes),
        (outcome,),
        chosen=f"rate {rate:g}",
    )


def baseline_results(
    pool: Pool, plans: Sequence[Plan], plan_of: Callable[[Pool, int], Plan], say: Say
) -> list[Result]:
    """A softmax layer, the same with a replay buffer, and a bank of neighbours, as large as each
    byte class allows.
    """
    dim, classes, count = pool.dim, len(pool.classes), len(pool.y)
    fitted = pool.validation()
    trial = plan_of(
        fitted.rows(np.random.default_rng(0).permutation(len(fitted.y))[:_TUNED]), plans[0].seed
    )
    results: list[Result] = []
    spare = {
        name: (size - layer_bytes(dim, classes)) // row_bytes(dim)
        for name, size in BYTE_CLASSES.items()
    }
    sizes = sorted(
        {0, min(500, count), *(min(rows, count) for rows in spare.values() if rows >= classes)}
    )
    for replay in sizes:
        label = f"softmax SGD, replay {replay}" if replay else "softmax SGD"
        say(f"  {label}")
        marks = [run_plan(trial, SoftmaxLayer(dim, classes, rate, replay)).final for rate in RATES]
        rate = RATES[int(np.argmax(marks))]
        results.append(
            _baseline(
                label,
                "softmax SGD, replay" if replay else "softmax SGD",
                plans,
                partial(SoftmaxLayer, dim, classes, rate, replay, 1),
                f"rate {rate:g}",
            )
        )
    for rows in sorted(
        {
            min(size // row_bytes(dim), count)
            for size in BYTE_CLASSES.values()
            if size // row_bytes(dim) >= classes
        }
    ):
        say(f"  neighbours in {rows}")
        near = DISTANCES[
            int(
                np.argmax(
                    [run_last(trial, NeighbourBank(dim, rows, *distance)) for distance in DISTANCES]
                )
            )
        ]
        results.append(
            _baseline(
                f"neighbours in {rows}",
                "neighbours",
                plans,
                partial(NeighbourBank, dim, rows, *near),
                f"{near[0]}, {'angle' if near[1] else 'distance'}",
            )
        )
    return results


def run_last(plan: Plan, learner: Any) -> float:
    """Accuracy after the last stage, asked only then."""
    for stage in range(len(plan.stages)):
        rows = plan.rows(stage)
        learner.learn(plan.pool.z[rows], plan.pool.y[rows])
    return float((learner.predict(plan.pool.test_z) == plan.pool.test_y).mean())


def _baseline(
    label: str, family: str, plans: Sequence[Plan], make: Callable[[int], Any], chosen: str
) -> Result:
    outcomes, learners = [], []
    for plan in plans:
        learners.append(make(plan.seed))
        outcomes.append(run_plan(plan, learners[-1]))
    pool, last = plans[0].pool, learners[-1]
    fresh = make(0)
    fresh.learn(pool.z[:512], pool.y[:512])
    batches = itertools.cycle([slice(i, i + 32) for i in range(0, min(512, len(pool.y)), 32)])
    update = least(lambda: fresh.learn(pool.z[part := next(batches)], pool.y[part])) / 32
    readout = least(lambda: last.predict(pool.z[:32])) / min(32, len(pool.z))
    return Result(
        label,
        family,
        "rival",
        last.nbytes,
        tuple(outcomes),
        1e6 * update,
        1e6 * readout,
        None,
        chosen,
    )
