"""Which samples a small budget is spent on: replay over five tasks, and heads that see nothing but
the selection, on clean and on damaged pools.

The penalty of the ridge read-out is chosen on a validation part of the training rows with
class-balanced random selections, in their favour; every selector then reads out with it. The
constants of the selectors were chosen on training rows of Fashion-MNIST; of MNIST only the share of
contradicted training labels was looked at. Differences are paired over test images, each the share
of seeds that answered it rightly: their intervals are about the images, not about the seeds.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from itertools import product
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from edgeadapt.device.coreset import DEFAULT, DEFAULT_RETAINED, SELECTORS, Samples, SelectedMemory
from edgeadapt.device.coreset.clusters import skill_clusters
from edgeadapt.device.coreset.herding import unit
from edgeadapt.device.coreset.matched import WIDTH, projected
from edgeadapt.device.coreset.readout import probabilities
from edgeadapt.device.numerics.linalg import one_thread
from edgeadapt.errors import EdgeadaptError
from edgeadapt_bench.coreset.selection_heads import BATCH, by_gradient, replay, ridge
from edgeadapt_bench.coreset.selection_settings import SETTINGS
from edgeadapt_bench.datasets.pool import Pool
from edgeadapt_bench.datasets.pools import load_pool, quick_pool
from edgeadapt_bench.harness.measure import Row, Say, absent, at_most
from edgeadapt_bench.harness.plots import save_lines
from edgeadapt_bench.harness.resampling import mean_and_spread, paired_interval

BAR = "herding"
PENALTIES = (0.3, 1.0, 3.0, 10.0, 30.0)
CLUSTER_MS, CLUSTER_ROWS = 200.0, 2000
F64 = NDArray[np.float64]


@dataclass(frozen=True)
class Plan:
    """How much is run."""

    budgets: tuple[int, ...] = (50, 100, 200, 500)
    replay_budgets: tuple[int, ...] = (500, 200)
    seeds: int = 3
    per_class: int = 400  # rows of a pool to select from
    per_task_class: int = 2000


QUICK = Plan(budgets=(30,), replay_budgets=(30,), seeds=1, per_class=40, per_task_class=40)


def run_selection(
    data: str | None, say: Say, quick: bool = False, plots: str | os.PathLike[str] | None = None
) -> list[Row]:
    """Accuracy by selector: replay, then heads trained on the selection alone; what a selection
    costs.

    Args:
        data: folder of the four Fashion-MNIST files.
        quick: the shipped sample, small; the figures mean nothing.
        plots: a folder for one picture per setting.
    """
    plan = QUICK if quick else Plan()
    pool = quick_pool("fashion") if quick else load_pool("fashion", data, say)
    with one_thread():
        penalty = _penalty(pool, plan)
        say(f"selection: {pool.source}; ridge penalty {penalty:g}")
        rows = _replayed(pool, plan, penalty, say)
        rows += _alone(pool, plan, penalty, say, plots)
        rows += _streamed(pool, plan, penalty)
        rows += _elsewhere(plan, say, quick)
        rows += _costs(pool, plan)
    return rows


def _penalty(pool: Pool, plan: Plan) -> float:
    """The best on validation for class-balanced random selections of the middle budget."""
    part, budget = pool.validation(), plan.budgets[len(plan.budgets) // 2]
    marks = dict.fromkeys(PENALTIES, 0.0)
    for seed in range(plan.seeds):
        rows = SELECTORS["balanced"].select(Samples(part.z, part.y), budget, seed)
        for penalty in PENALTIES:
            marks[penalty] += float(
                ridge(part.z[rows], part.y[rows], len(pool.classes), penalty)
                .right(part.test_z, part.test_y)
                .mean()
            )
    return max(marks, key=lambda p: marks[p])


def _replayed(pool: Pool, plan: Plan, penalty: float, say: Say) -> list[Row]:
    rows = []
    for budget in plan.replay_budgets:
        heads: dict[str, F64] = {}
        buffers: dict[str, F64] = {}
        for name, selector in SELECTORS.items():
            outcomes = [
                replay(pool, selector, budget, seed, plan.per_task_class)
                for seed in range(plan.seeds)
            ]
            heads[name] = np.array(
                [outcome.head.right(pool.test_z, pool.test_y) for outcome in outcomes], np.float64
            )
            buffers[name] = np.array(
                [
                    ridge(o.z, o.y, len(pool.classes), penalty).right(pool.test_z, pool.test_y)
                    for o in outcomes
                ],
                np.float64,
            )
            rows.append(
                Row(
                    f"{name}/replay_{budget}/select",
                    1e6 * float(np.mean([o.seconds for o in outcomes])),
                    "us a sample",
                )
            )
        rows += _compared(f"replay_{budget}/sgd_head", heads, say)
        rows += _compared(f"replay_{budget}/buffer_ridge", buffers, say)
    return rows


def _alone(
    pool: Pool, plan: Plan, penalty: float, say: Say, plots: str | os.PathLike[str] | None
) -> list[Row]:
    rows = []
    quick = plan is QUICK
    for setting in SETTINGS:
        curves: dict[str, list[float]] = {name: [] for name in SELECTORS}
        pools = [_damaged(pool, setting, seed, plan.per_class) for seed in range(plan.seeds)]
        whole: dict[str, list[F64]] = {name: [] for name in SELECTORS}
        for budget in plan.budgets:
            right = _answers(pools, budget, pool, penalty)
            rows += _compared(
                f"{setting}_{budget}/ridge", {name: parts[0] for name, parts in right.items()}, say
            )
            rows += _compared(
                f"{setting}_{budget}/sgd_head",
                {name: parts[1] for name, parts in right.items()},
                say,
            )
            for name, parts in right.items():
                curves[name].append(100.0 * float(parts[0].mean()))
                whole[name].append(parts[0])
        rows += _compared(
            f"{setting}/ridge",
            {name: np.mean(parts, axis=0) for name, parts in whole.items()},
            say,
            held=not quick,
        )
        if plots is not None:
            save_lines(
                Path(plots) / f"selection_{setting}.png",
                {name: (plan.budgets, values) for name, values in curves.items()},
                labels=(
                    f"ridge trained on the selection alone, {setting}",
                    "samples selected",
                    "test accuracy, %",
                ),
                log_x=True,
            )
    return rows


def _answers(
    pools: list[Samples], budget: int, pool: Pool, penalty: float, by_sgd: bool = True
) -> dict[str, tuple[F64, F64]]:
    """Selector -> (seeds, N) right answers on the test part, by ridge and by SGD; one pool to
    select from per seed.
    """
    right: dict[str, tuple[list[NDArray[np.bool_]], list[NDArray[np.bool_]]]] = {
        name: ([], []) for name in SELECTORS
    }
    for seed, samples in enumerate(pools):
        for name, selector in SELECTORS.items():
            rows = selector.select(samples, budget, seed)
            z, y = samples.z[rows], samples.y[rows]
            right[name][0].append(
                ridge(z, y, len(pool.classes), penalty).right(pool.test_z, pool.test_y)
            )
            if by_sgd:
                right[name][1].append(
                    by_gradient(z, y, len(pool.classes), seed).right(pool.test_z, pool.test_y)
                )
    return {
        name: (np.array(a, np.float64), np.array(b, np.float64)) for name, (a, b) in right.items()
    }


def _damaged(pool: Pool, setting: str, seed: int, per_class: int) -> Samples:
    """A pool to select from, with the probabilities of a read-out of itself for the selectors that
    ask how hard a sample is.
    """
    rng = np.random.default_rng([seed, len(setting)])
    rows = np.concatenate(
        [rng.permutation(np.flatnonzero(pool.y == k))[:per_class] for k in range(len(pool.classes))]
    )
    z, y = SETTINGS[setting](pool.z[rows], pool.y[rows], rng)
    return Samples(z, y, probabilities(Samples(projected(unit(z), WIDTH), y)))


def _compared(where: str, right: dict[str, F64], say: Say, held: bool = False) -> list[Row]:
    """One row per selector beside the bar, and the intervals of the defaults' differences from the
    bar and from class-balanced random; ``held``: the default's is to be above 0.
    """
    rows = [
        Row(f"{name}/{where}", 100.0 * float(values.mean()), "%", 100.0 * float(right[BAR].mean()))
        for name, values in right.items()
    ]
    spread = ", ".join(f"{name} {_spread(values)}" for name, values in right.items())
    say(f"selection: {where}: {spread}")
    for name, other in product((DEFAULT, DEFAULT_RETAINED), (BAR, "balanced")):
        difference, low, high = paired_interval(right[name].mean(axis=0), right[other].mean(axis=0))
        unit = f"points, 95% {100 * low:+.1f} to {100 * high:+.1f}"
        rows.append(
            Row(
                f"{name}-{other}/{where}",
                100.0 * difference,
                unit,
                None,
                *((0.0, low > 0) if held and name == DEFAULT else ()),
            )
        )
    return rows


def _spread(values: F64) -> str:
    mean, deviation = mean_and_spread(100.0 * values.mean(axis=1))
    return f"{mean:.1f} +- {deviation:.1f}"


def _streamed(pool: Pool, plan: Plan, penalty: float) -> list[Row]:
    """In bounded memory, class after class, in batches: how much of the selection from all at once
    is left.
    """
    rows, budget = [], plan.replay_budgets[-1]
    for name in ("balanced", BAR, DEFAULT_RETAINED, DEFAULT):
        marks: tuple[list[float], list[float]] = ([], [])
        for seed in range(plan.seeds):
            samples = _damaged(pool, "clean", seed, plan.per_class)  # sorted by class
            memory = SelectedMemory(SELECTORS[name], budget, patience=budget, seed=seed)
            for i in range(0, len(samples), BATCH):
                memory.offer(samples.take(np.arange(i, min(i + BATCH, len(samples)))))
            kept = memory.kept()
            at_once = samples.take(SELECTORS[name].select(samples, budget, seed))
            for part, found in zip((kept, at_once), marks, strict=True):
                found.append(
                    100.0
                    * float(
                        ridge(part.z, part.y, len(pool.classes), penalty)
                        .right(pool.test_z, pool.test_y)
                        .mean()
                    )
                )
        rows.append(
            Row(
                f"{name}/streamed_{budget}/ridge",
                float(np.mean(marks[0])),
                "%",
                float(np.mean(marks[1])),
            )
        )
    return rows


def _elsewhere(plan: Plan, say: Say, quick: bool) -> list[Row]:
    """The mean over budgets on MNIST, clean and with wrong labels."""
    names = [f"{name}/mnist/ridge" for name in SELECTORS]
    try:
        pool = quick_pool("mnist") if quick else load_pool("mnist", None, say)
    except EdgeadaptError as error:
        return [absent(name, str(error)) for name in names]
    penalty = _penalty(pool, plan)
    pools = {
        setting: [_damaged(pool, setting, seed, plan.per_class) for seed in range(plan.seeds)]
        for setting in ("clean", "wrong_labels")
    }
    found = [
        _answers(parts, budget, pool, penalty, by_sgd=False)
        for parts in pools.values()
        for budget in plan.budgets
    ]
    return _compared(
        "mnist/ridge",
        {name: np.mean([answers[name][0] for answers in found], axis=0) for name in SELECTORS},
        say,
    )


def _costs(pool: Pool, plan: Plan) -> list[Row]:
    """Time for the largest budget out of the pool of the settings; bytes of what is kept; time to
    cluster again.
    """
    samples, budget = _damaged(pool, "clean", 0, plan.per_class), plan.budgets[-1]
    rows = []
    for name, selector in SELECTORS.items():
        seconds = _best(lambda s=selector: s.select(samples, budget, 0))  # type: ignore[misc]
        rows.append(
            Row(
                f"{name}/select_{budget}_of_{len(samples)}",
                1e6 * seconds / len(samples),
                "us a sample",
            )
        )
    rows.append(
        Row(
            f"kept/{budget}", budget * (2 * pool.dim + 8) / 1e6, "MB as float16 features and labels"
        )
    )
    part = samples.take(
        np.arange(0, len(samples), max(len(samples) // CLUSTER_ROWS, 1))[:CLUSTER_ROWS]
    )
    p = part.p
    assert p is not None
    rows.append(
        at_most(
            f"clusters/{len(part)}_of_width_{pool.dim}",
            1e3 * _best(lambda: skill_clusters(part, p)),
            "ms",
            CLUSTER_MS,
        )
    )
    return rows


def _best(call: Callable[[], object]) -> float:
    """Seconds, the best of three."""
    spent = []
    for _ in range(3):
        before = time.perf_counter()
        call()
        spent.append(time.perf_counter() - before)
    return min(spent)
