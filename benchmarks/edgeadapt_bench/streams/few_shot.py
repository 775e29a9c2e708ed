"""Fashion-MNIST from 1, 5 and 20 labels a class: every head beside what a user could pick instead,
over many draws of the labels.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgeadapt.errors import InputError, RuntimeUnavailable
from edgeadapt_bench.baselines.stream_baselines import NeighbourBank, SoftmaxLayer
from edgeadapt_bench.baselines.stream_plan import by_class
from edgeadapt_bench.datasets.pool import Pool
from edgeadapt_bench.datasets.pools import load_pool, quick_pool
from edgeadapt_bench.harness.measure import Row, Say, absent
from edgeadapt_bench.harness.plots import Points, save_lines
from edgeadapt_bench.harness.resampling import mean_and_spread, paired_interval

F32 = NDArray[np.float32]
I64 = NDArray[np.int64]
# labelled features, labels, test features -> predicted classes
Answer = Callable[[F32, I64, F32], I64]
SHOTS = (1, 5, 20)
DRAWS, TUNING_DRAWS = 30, 5
RATES = (3e-4, 1e-3, 3e-3, 1e-2, 3e-2)
PASSES = 50
JUDGED = 2000  # test rows; the spread over draws is larger than what more of them would take away


def few_shot_rows(data: str | None, say: Say, quick: bool, plots: str | None) -> list[Row]:
    """Accuracy over draws, and the paired difference of each head to the best baseline at that many
    labels.
    """
    try:
        pool = quick_pool("fashion") if quick else load_pool("fashion", data, say)
    except (InputError, RuntimeUnavailable) as error:
        return [absent("fashion_few_shot", str(error))]
    rows: list[Row] = []
    lines: dict[str, dict[int, tuple[float, float]]] = {}
    for shots in SHOTS[1:2] if quick else SHOTS:
        say(f"fashion, {shots} labels a class")
        marks = compare(pool, shots, 3 if quick else DRAWS, 2 if quick else TUNING_DRAWS, quick)
        baseline = max(
            (label for label, (kind, _) in marks.items() if kind == "rival"),
            key=lambda label: marks[label][1].mean(),
        )
        for label, (kind, accuracy) in marks.items():
            mean, deviation = (100.0 * v for v in mean_and_spread(accuracy))
            unit = f"% (sd {deviation:.1f} over {len(accuracy)} draws)"
            if kind == "head":
                gain, low, high = (100.0 * v for v in paired_interval(accuracy, marks[baseline][1]))
                unit += f", {gain:+.1f} points ({low:+.1f} to {high:+.1f}) against {baseline}"
            rows.append(
                Row(
                    f"fashion_{shots}_shot/{label}",
                    mean,
                    unit,
                    100.0 * float(marks[baseline][1].mean()) if kind == "head" else None,
                )
            )
            lines.setdefault(label, {})[shots] = (mean, deviation)
    if plots is not None:
        series: dict[str, Points] = {
            label: (list(at), [mean for mean, _ in at.values()]) for label, at in lines.items()
        }
        spread = {label: [deviation for _, deviation in at.values()] for label, at in lines.items()}
        save_lines(
            Path(plots) / "fashion_few_shot.png",
            series,
            labels=("Fashion-MNIST from few labels", "labels a class", "%"),
            log_x=True,
            spread=spread,
            x_ticks=SHOTS,
        )
    return rows


def compare(
    pool: Pool, shots: int, draws: int, tuning_draws: int, quick: bool = False
) -> dict[str, tuple[str, NDArray[np.float64]]]:
    """Label -> (kind, (draws,) accuracies). What there is to choose is chosen on draws from
    training rows, judged on other training rows.
    """
    import edgeadapt_bench.baselines.stream_heads as heads
    from edgeadapt_bench.streams.stream_methods import few_shot_methods

    fitted = pool.validation()
    factory = heads.factory_of(by_class(pool, 2, 0))
    marks: dict[str, tuple[str, NDArray[np.float64]]] = {}

    def measure(label: str, kind: str, choices: dict[str, Answer]) -> None:
        names = list(choices)
        chosen = names[0]
        if len(names) > 1:
            chosen = max(
                names,
                key=lambda name: float(
                    np.mean(_accuracies(fitted, shots, tuning_draws, choices[name], seed=1))
                ),
            )
        marks[label] = (kind, _accuracies(pool, shots, draws, choices[chosen], seed=0))

    for method in few_shot_methods(pool.dim, quick):
        start = heads.empty(method.shipped, factory)[0]
        measure(method.label, "head", {"as it ships": _head(heads, method.shipped, start)})
        if len(method.variants) > 1:
            measure(
                f"{method.label}, tuned",
                "head",
                {str(v): _head(heads, v, start) for v in method.variants},
            )
    measure(
        f"softmax SGD, {PASSES} passes",
        "rival",
        {f"{rate:g}": _softmax(len(pool.classes), rate) for rate in RATES},
    )
    measure(
        "neighbours",
        "rival",
        {f"{k} {cosine}": _neighbours(k, cosine) for k in (1, 5) for cosine in (True, False)},
    )
    return marks


def _accuracies(
    pool: Pool, shots: int, draws: int, answer: Answer, seed: int
) -> NDArray[np.float64]:
    found = np.zeros(draws)
    judged = np.random.default_rng(seed).permutation(len(pool.test_y))[:JUDGED]
    test_z, test_y = pool.test_z[judged], pool.test_y[judged]
    for draw in range(draws):
        rng = np.random.default_rng([seed, draw, shots])
        rows = np.concatenate(
            [rng.permutation(np.flatnonzero(pool.y == k))[:shots] for k in range(len(pool.classes))]
        )
        found[draw] = (answer(pool.z[rows], pool.y[rows], test_z) == test_y).mean()
    return found


def _head(heads: Any, method: Any, start: Any) -> Answer:
    return lambda z, y, test_z: heads.predict(
        method, heads.derive(method, heads.learn(method, start, z, y)), test_z
    )


def _softmax(classes: int, rate: float) -> Answer:
    def answer(z: F32, y: I64, test_z: F32) -> I64:
        layer = SoftmaxLayer(z.shape[1], classes, rate, passes=PASSES)
        order = np.random.default_rng(0).permutation(len(y))
        layer.learn(z[order], y[order])
        return layer.predict(test_z)

    return answer


def _neighbours(count: int, is_cosine: bool) -> Answer:
    def answer(z: F32, y: I64, test_z: F32) -> I64:
        bank = NeighbourBank(
            z.shape[1], len(y), min(count, len(y) // max(len(np.unique(y)), 1)), is_cosine
        )
        bank.learn(z, y)
        return bank.predict(test_z)

    return answer
