"""Pictures of a bench: lines and bars, drawn without a display. Matplotlib is loaded when a picture
is asked for.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from edgeadapt.errors import InputError, RuntimeUnavailable

Points = tuple[Sequence[float], Sequence[float]]
Labels = tuple[str, str, str]
# Okabe and Ito: told apart by everyone
_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#000000", "#999999")
_MARKERS = "osD^vP*X"


def save_lines(
    path: str | os.PathLike[str],
    series: Mapping[str, Points],
    *,
    labels: Labels = ("", "", ""),
    log_x: bool = False,
    spread: Mapping[str, Sequence[float]] | None = None,
    points_only: Sequence[str] = (),
    level: Mapping[str, float] | None = None,
    x_ticks: Sequence[float] | None = None,
) -> Path:
    """One line with markers per series; the suffix of ``path`` says the format (png, svg, pdf).

    Args:
        series: name -> (x values, y values).
        labels: of the picture, the x axis and the y axis.
        spread: name -> half the height of its error bars.
        points_only: series without a line.
        level: name -> height of a dashed horizontal line, for an oracle.
        x_ticks: where the x axis has its numbers.

    Raises:
        RuntimeUnavailable: matplotlib is not installed.
        InputError: nothing to draw, or lengths that differ.
    """
    if not series:
        raise InputError("nothing to draw: series is empty")
    for name, (x, y) in series.items():
        if len(x) != len(y) or not len(x):
            raise InputError(f"series {name!r}: {len(x)} x values and {len(y)} y values")
    figure, axes = _canvas(labels)
    for i, (name, (x, y)) in enumerate(series.items()):
        style = {
            "color": _COLOURS[i % len(_COLOURS)],
            "marker": _MARKERS[(i // len(_COLOURS) + i) % len(_MARKERS)],
            "markersize": 4.5,
        }
        line = "none" if name in points_only else ("-", "--", ":")[i // len(_COLOURS) % 3]
        axes.errorbar(
            x,
            y,
            yerr=None if spread is None else spread.get(name),
            label=name,
            linewidth=1.3,
            linestyle=line,
            capsize=2,
            **style,
        )
    for name, height in (level or {}).items():
        axes.axhline(height, color="#555555", linestyle="--", linewidth=1, label=name)
    if log_x:
        axes.set_xscale("log")
    if x_ticks is not None:
        axes.set_xticks(list(x_ticks), labels=[f"{x:g}" for x in x_ticks], minor=False)
        axes.minorticks_off()
    return _save(figure, axes, path)


def save_bars(
    path: str | os.PathLike[str],
    values: Mapping[str, float],
    *,
    title: str = "",
    x_label: str = "",
    spread: Mapping[str, float] | None = None,
    level: Mapping[str, float] | None = None,
) -> Path:
    """One horizontal bar per name, the first on top.

    Args:
        values: name -> length.
        spread: name -> half the length of its error bar.
        level: name -> place of a dashed vertical line.

    Raises:
        RuntimeUnavailable: matplotlib is not installed.
        InputError: nothing to draw.
    """
    if not values:
        raise InputError("nothing to draw: values is empty")
    figure, axes = _canvas((title, x_label, ""), height=0.3 * len(values) + 1.3)
    names = list(values)[::-1]
    errors = None if spread is None else [spread.get(name, 0.0) for name in names]
    axes.barh(
        names,
        [values[name] for name in names],
        xerr=errors,
        color=_COLOURS[0],
        capsize=2,
        height=0.7,
    )
    for name, place in (level or {}).items():
        axes.axvline(place, color="#555555", linestyle="--", linewidth=1, label=name)
    return _save(figure, axes, path)


def _canvas(labels: Labels, height: float = 4.4) -> tuple[Any, Any]:
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError as error:
        raise RuntimeUnavailable(
            f"{error}: pictures need the extra: pip install 'edgeadapt[bench]'"
        ) from error
    figure = Figure(figsize=(7.4, height), dpi=130, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    title, x_label, y_label = labels
    axes.set_title(title, loc="left", fontsize=10)
    axes.set_xlabel(x_label)
    axes.set_ylabel(y_label)
    axes.grid(alpha=0.3)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    return figure, axes


def _save(figure: Any, axes: Any, path: str | os.PathLike[str]) -> Path:
    if axes.get_legend_handles_labels()[1]:
        axes.legend(fontsize=7, frameon=False, loc="center left", bbox_to_anchor=(1.0, 0.5))
    place = Path(path)
    place.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(place)
    return place
