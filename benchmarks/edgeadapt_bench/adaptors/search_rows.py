"""What the trials of the search say, as rows: correlation, regret, accuracy by family of streams,
differences with intervals, time.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import numpy as np

from edgeadapt.device.adaptors.scores import SCORES
from edgeadapt_bench.adaptors.search_summary import (
    BOTH,
    DRAWS,
    NONE,
    REFITTED,
    SHARED,
    UPDATED,
    Trial,
    by_stream,
    correlation,
    kendall,
    left_out,
    spearman,
)
from edgeadapt_bench.harness.measure import Row, at_most
from edgeadapt_bench.harness.resampling import paired_interval

SCORING_SECONDS = 2.0
_DIFFERENCES = ("difference", "difference_low", "difference_high")


def summary(trials: Sequence[Trial]) -> list[Row]:
    """All rows of the trials."""
    if not trials:
        return []
    fixed = left_out(trials, common(trials), lambda t, name: t.regret(name))
    score_for = left_out(trials, list(SCORES), lambda t, score: t.regret(t.best_by(score)))
    ways: dict[str, Callable[[Trial], str]] = {
        f"best by {score}": lambda t, s=score: t.best_by(s) for score in SCORES
    }  # type: ignore[misc]
    ways |= {
        "score of the other streams": lambda t: t.best_by(score_for[t.stream]),
        "one candidate for all": lambda t: fixed[t.stream],
    }
    rows: list[Row] = []
    for name, measure in (("spearman", spearman), ("kendall", kendall)):
        size = _over(trials, lambda t, m=measure: correlation(t, "parameters", m))  # type: ignore[misc]
        for score in SCORES:
            values = by_stream(trials, lambda t, s=score, m=measure: correlation(t, s, m))  # type: ignore[misc]
            rows.append(
                Row(
                    f"{name}/{score}",
                    float(np.mean(list(values.values()))),
                    "mean over streams",
                    size,
                )
            )
            rows.append(
                Row(
                    f"{name}_spread/{score}",
                    float(np.std(list(values.values()))),
                    "deviation over streams",
                )
            )
    always = 100 * _over(trials, lambda t: t.regret(fixed[t.stream]))
    rows += [
        Row(
            f"regret/{way}",
            100 * _over(trials, lambda t, p=pick: t.regret(p(t))),
            "points below the best candidate",
            always,
        )
        for way, pick in ways.items()
    ]  # type: ignore[misc]
    rows.append(
        Row(
            "regret/a candidate at random",
            100 * _over(trials, lambda t: float(np.mean([t.regret(n) for n in t.trained]))),
            "points below the best candidate",
            always,
        )
    )
    for kind, chosen in (("one candidate for all", fixed), ("score", score_for)):
        names = list(chosen.values())
        rows += [
            Row(f"chosen/{kind}/{name}", 100 * names.count(name) / len(names), "% of streams")
            for name in dict.fromkeys(names)
        ]
    rows += _accuracies(trials, fixed)
    rows += _differences(trials, fixed)
    rows += _times(trials)
    return rows


def common(trials: Sequence[Trial]) -> list[str]:
    """Candidates that every stream has, in the order of the first."""
    return [name for name in trials[0].trained if all(name in t.trained for t in trials)]


def _accuracies(trials: Sequence[Trial], fixed: dict[str, str]) -> list[Row]:
    rows = []
    for family in dict.fromkeys(t.family for t in trials):
        mine = [t for t in trials if t.family == family]
        updated = 100 * _over(mine, lambda t: t.others[UPDATED])
        values: dict[str, Callable[[Trial], float]] = {
            name: lambda t, n=name: t.others[n] for name in (NONE, UPDATED, SHARED, REFITTED, BOTH)
        }  # type: ignore[misc]
        values |= {
            "adaptor picked by ridge": lambda t: t.trained[t.best_by("ridge")],
            "one adaptor for all": lambda t: t.trained[fixed[t.stream]],
            "ridge or no adaptor": lambda t: t.accuracy_of(t.picked["ridge"]),
            "best adaptor afterwards": lambda t: max(t.trained.values()),
        }
        rows += [
            Row(f"accuracy/{family}/{name}", 100 * _over(mine, value), "%", updated)
            for name, value in values.items()
        ]
        kept = 100 * _over(mine, lambda t: t.at_source[NONE])
        rows += [
            Row(
                f"source accuracy/{family}/{name}",
                100 * _over(mine, lambda t, n=name: t.at_source[n]),
                "%",
                kept,
            )
            for name in (UPDATED, SHARED)
        ]  # type: ignore[misc]
        for labels in sorted({t.labels for t in mine} & {labels for labels, _ in DRAWS}):
            some = [t for t in mine if t.labels == labels]
            rows.append(
                Row(
                    f"accuracy/{family}/picked by ridge, {labels} labels",
                    100 * _over(some, values["adaptor picked by ridge"]),
                    "%",
                    100 * _over(some, values[UPDATED]),
                )
            )
    return rows


def _differences(trials: Sequence[Trial], fixed: dict[str, str]) -> list[Row]:
    """Points between two ways, with the interval of a bootstrap over streams."""
    ways: dict[str, Callable[[Trial], float]] = {
        "picked by ridge": lambda t: t.trained[t.best_by("ridge")],
        "ridge or no adaptor": lambda t: t.accuracy_of(t.picked["ridge"]),
        "one adaptor for all": lambda t: t.trained[fixed[t.stream]],
        "no adaptor": lambda t: t.others[NONE],
        "updated head": lambda t: t.others[UPDATED],
        "head of these labels alone": lambda t: t.others[REFITTED],
        "head of all conditions' labels": lambda t: t.others[SHARED],
        "pick on the updated head": lambda t: t.others[BOTH],
    }
    picked = "picked by ridge"
    pairs = [
        (picked, "updated head"),
        (picked, "head of these labels alone"),
        (picked, "head of all conditions' labels"),
        (picked, "one adaptor for all"),
        (picked, "no adaptor"),
        ("ridge or no adaptor", picked),
        ("pick on the updated head", "updated head"),
    ]
    rows = []
    for pair in pairs:
        interval = paired_interval(*(list(by_stream(trials, ways[way]).values()) for way in pair))
        for what, value in zip(_DIFFERENCES, interval, strict=True):
            rows.append(Row(f"{what}/{' - '.join(pair)}", 100 * value, "points"))
    rows.append(
        Row(
            "gain/promised by ridge against won by training",
            spearman(
                [t.gain for t in trials],
                [t.trained[t.best_by("ridge")] - t.others[NONE] for t in trials],
            ),
            "spearman over trials",
        )
    )
    picks = {
        "no adaptor picked": "ridge",
        "no adaptor picked, labels already in the head": "ridge, labels in the head",
    }
    return rows + [
        Row(f"share/{name}", 100 * float(np.mean([not t.picked[key] for t in trials])), "%")
        for name, key in picks.items()
    ]


def _times(trials: Sequence[Trial]) -> list[Row]:
    worst = max(max(t.seconds[score] for score in SCORES) for t in trials)
    return [
        at_most("seconds/ranking all candidates", worst, "s, the slowest", SCORING_SECONDS),
        Row(
            "seconds/training all over ranking all",
            _over(trials, lambda t: t.seconds["training"] / max(t.seconds["ridge"], 1e-9)),
            "times",
        ),
        Row("streams", float(len({t.stream for t in trials})), "conditions"),
    ]


def _over(trials: Iterable[Trial], value: Callable[[Trial], float]) -> float:
    """Mean over streams of the mean over draws."""
    return float(np.mean(list(by_stream(list(trials), value).values())))


def means(trials: Sequence[Trial], stream: str) -> dict[str, float]:
    mine = [t for t in trials if t.stream == stream]
    return {
        NONE: _over(mine, lambda t: t.others[NONE]),
        UPDATED: _over(mine, lambda t: t.others[UPDATED]),
        "picked by ridge": _over(mine, lambda t: t.trained[t.best_by("ridge")]),
        "best": _over(mine, lambda t: max(t.trained.values())),
    }


def draw(trials: Sequence[Trial], folder: Path) -> None:
    from edgeadapt_bench.harness.plots import save_bars, save_lines

    values = {
        score: by_stream(trials, lambda t, s=score: correlation(t, s, spearman)) for score in SCORES
    }  # type: ignore[misc]
    means = {score: float(np.mean(list(v.values()))) for score, v in values.items()}
    deviations = {score: float(np.std(list(v.values()))) for score, v in values.items()}
    save_bars(
        folder / "search_correlation.png",
        means,
        spread=deviations,
        title="rank correlation with trained accuracy",
        x_label="Spearman, mean and deviation over streams",
    )
    series = {}
    for stream in dict.fromkeys(t.stream for t in trials):
        mine = [t for t in trials if t.stream == stream]
        x = [float(np.mean([t.scores["ridge"][name] for t in mine])) for name in mine[0].trained]
        series[stream] = (
            x,
            [100 * float(np.mean([t.trained[name] for t in mine])) for name in mine[0].trained],
        )
    save_lines(
        folder / "search_ridge.png",
        series,
        points_only=list(series),
        labels=("score without training, accuracy after it", "ridge score", "accuracy, %"),
    )
