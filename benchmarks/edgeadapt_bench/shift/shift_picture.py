"""The picture of ``bench shift``: accuracy per corruption, frozen, ours, the best baseline and the
oracle, shuffled above sorted.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from edgeadapt_bench.shift.shift_runs import ACTING, FROZEN, ORACLE, OURS, Results
from edgeadapt_bench.shift.shift_summary import best_of

_FACES = {FROZEN: "#bdbdbd", OURS: "#0072B2", ACTING: "#56B4E9", "baseline": "#C15300"}


def draw(path: Path, results: Results, severity: int, barred: Sequence[str]) -> Path:
    """Two panels of grouped bars; the oracle is a tick above each group, the mean a group of its
    own on the right.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10.5, 6.4), dpi=130, layout="constrained")
    FigureCanvasAgg(figure)
    panels: list[Any] = list(figure.subplots(2, 1, sharex=True, sharey=True))
    for axes, kind in zip(panels, ("shuffled", "sorted"), strict=True):
        _panel(axes, results, kind, severity, best_of(results, kind, severity, barred))
    panels[-1].tick_params(axis="x", rotation=40)
    for label in panels[-1].get_xticklabels():
        label.set_horizontalalignment("right")
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path)
    return path


def _panel(axes: Any, results: Results, kind: str, severity: int, best: str) -> None:
    conditions = sorted(
        {r.condition for r in results.of(FROZEN, kind, severity)},
        key=lambda c: _accuracy(results, FROZEN, kind, severity, c),
    )
    places = np.append(np.arange(len(conditions)), len(conditions) + 0.4)
    bars = [
        (FROZEN, "frozen", _FACES[FROZEN]),
        (OURS, "edgeadapt, no labels", _FACES[OURS]),
        (best, f"best baseline: {best}", _FACES["baseline"]),
    ]
    if results.of(ACTING, kind, severity):
        bars.insert(2, (ACTING, "made to act", _FACES[ACTING]))
    step = 0.81 / len(bars)
    for k, (name, label, colour) in enumerate(bars):
        at = places + step * (k - (len(bars) - 1) / 2)
        heights = [
            *(_accuracy(results, name, kind, severity, c) for c in conditions),
            100 * results.mean(name, kind, severity),
        ]
        axes.bar(at, heights, width=0.93 * step, color=colour, label=label)
        axes.text(
            at[-1],
            heights[-1] - 2,
            f"{heights[-1]:.0f}",
            ha="center",
            va="top",
            fontsize=7,
            color="black" if name == FROZEN else "white",
        )
    tops = [
        *(_accuracy(results, ORACLE, kind, severity, c) for c in conditions),
        100 * results.mean(ORACLE, kind, severity),
    ]
    axes.hlines(
        tops,
        places - 0.42,
        places + 0.42,
        color="black",
        linewidth=1.4,
        label="oracle: the head refitted with 1,000 labels of the condition",
    )
    axes.axvline(len(conditions) - 0.3, ymax=0.9, color="#999999", linewidth=0.8)
    axes.set_xticks(places, [*(c.replace("_", " ") for c in conditions), "mean"])
    axes.set_ylim(0, 112)
    axes.set_yticks(range(0, 101, 20))
    axes.set_ylabel("accuracy, %")
    title = {"shuffled": "classes in random order", "sorted": "sorted by class"}[kind]
    axes.set_title(
        f"{title}, severity {severity}, online from the first image", loc="left", fontsize=10
    )
    axes.grid(axis="y", alpha=0.3)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(fontsize=7.5, frameon=False, ncols=5, loc="upper left", columnspacing=1.2)


def _accuracy(results: Results, name: str, kind: str, severity: int, condition: str) -> float:
    return 100 * float(
        np.mean([r.accuracy for r in results.of(name, kind, severity) if r.condition == condition])
    )
