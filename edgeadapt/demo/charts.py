"""The small drawings of the demo's report, written by hand as SVG; `timeline.py` has the large one.
Colour and type come from `report.css`, by class.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import groupby, pairwise
from typing import TYPE_CHECKING

from edgeadapt.demo.elements import (
    Series,
    area,
    escape,
    fit,
    is_number,
    label,
    line,
    number,
    path,
    percent,
    svg,
)

if TYPE_CHECKING:
    from edgeadapt.demo.report import Act, Batch

# standard deviation of the Gaussian that smooths the curves, never across a change of act or
# condition
SMOOTH_BATCHES = 3.5
# these carry no tint: colour means that something is different
CALM = frozenset({"clean", "source"})
TINTS = 7

LANES = ("senses", "asks", "learns", "grows", "guards")


@dataclass(frozen=True)
class Glyph:
    lane: str
    label: str
    path: str  # centred on (0, 0), about 10 wide
    is_open: bool = False  # an outline rather than a filled shape
    is_named: bool = False  # its label stands beside it wherever there is room
    # how far below the middle of its lane it hangs: two kinds that come in pairs share a lane
    drop: float = 0.0


def _circle(radius: float) -> str:
    return (
        f"M{-radius} 0a{radius} {radius} 0 1 1 {2 * radius} 0a{radius} {radius} 0 1 1"
        f" {-2 * radius} 0z"
    )


GLYPHS = {
    "shift_on": Glyph("senses", "shift begins", "M0-5 5 4H-5z", is_named=True),
    "shift_off": Glyph("senses", "shift ends", "M0 4.5 4.5-3.5h-9z", is_open=True, is_named=True),
    "novel": Glyph(
        "senses", "something unknown", "M0-6 1.5-1.5 6 0 1.5 1.5 0 6-1.5 1.5-6 0-1.5-1.5z"
    ),
    "question": Glyph("asks", "question asked", _circle(3.8), is_open=True, drop=-6),
    "answer": Glyph("asks", "answer received", _circle(3.4), drop=6),
    "adapt": Glyph("learns", "corrected without labels", "M-.8-5h1.6v10h-1.6z", drop=-2.5),
    "learned": Glyph("learns", "learned from answers", "M-2-2h4v4h-4z", drop=7),
    "domain_opened": Glyph("grows", "domain opened", "M0-5.5 5.5 0 0 5.5-5.5 0z", is_named=True),
    "domain_found": Glyph(
        "grows", "domain found again", "M0-5 5 0 0 5-5 0z", is_open=True, is_named=True
    ),
    "class_added": Glyph(
        "grows", "class added", "M-1.5-5.5h3v4h4v3h-4v4h-3v-4h-4v-3h4z", is_named=True
    ),
    "vetoed": Glyph(
        "guards", "vetoed", "M-4.5-4.5 4.5 4.5M4.5-4.5-4.5 4.5", is_open=True, is_named=True
    ),
    "held": Glyph("guards", "held back", "M-4-4.5h2.8v9h-2.8zM1.2-4.5h2.8v9H1.2z", is_named=True),
    "forgotten": Glyph(
        "guards", "forgotten", _circle(4.6) + "M3.2-3.2-3.2 3.2", is_open=True, is_named=True
    ),
    "rolled_back": Glyph("guards", "rolled back", "M0-4.5v9L-6 0zM6-4.5v9L0 0z", is_named=True),
    "killed": Glyph("guards", "killed", "M1.5-6.5-4.5 1h3.7l-.7 5.5L4.5-1.5H.8z", is_named=True),
    "resumed": Glyph("guards", "resumed", "M-3.5-5 5 0-3.5 5z", is_named=True),
}
OTHER = Glyph("guards", "other", "M-3-3h6v6h-6z")
LANDMARKS = frozenset(
    {"domain_opened", "domain_found", "class_added", "forgotten", "rolled_back", "killed"}
)


def mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else None


def series(batches: Sequence[Batch], key: str) -> Series:
    return [value if is_number(value := batch.get(key)) else None for batch in batches]  # type: ignore[misc]


def smooth(values: Series, starts: Sequence[int]) -> Series:
    """Gaussian mean of the neighbours inside one run; `starts` are the positions where a run
    begins.
    """
    smoothed: Series = []
    reach = math.ceil(3 * SMOOTH_BATCHES)
    for start, stop in pairwise([*starts, len(values)]):
        for i in range(start, stop):
            near = [
                (j, value)
                for j in range(max(start, i - reach), min(stop, i + reach + 1))
                if (value := values[j]) is not None
            ]
            weights = [math.exp(-0.5 * ((j - i) / SMOOTH_BATCHES) ** 2) for j, _ in near]
            total = sum(weight * value for weight, (_, value) in zip(weights, near, strict=True))
            smoothed.append(total / sum(weights) if near and values[i] is not None else None)
    return smoothed


@dataclass(frozen=True)
class Run:
    start: int
    stop: int
    name: str
    is_sorted: bool = False


class Curves:
    """The stream by position: the three accuracies, raw and smoothed, and the tint of every
    condition and domain.
    """

    def __init__(self, batches: Sequence[Batch], acts: Sequence[Act]) -> None:
        self.batches, self.acts = batches, acts
        self.indices = [batch["index"] for batch in batches]
        self.conditions = self._runs(
            lambda b: (str(b["act"]), b["condition"], b.get("order") == "sorted")
        )
        self.domains = self._runs(lambda b: ("", b.get("domain") or "", False))
        self.raw = {
            name: series(batches, key)
            for name, key in (("learner", "accuracy"), ("frozen", "frozen"), ("oracle", "oracle"))
        }
        starts = [run.start for run in self.conditions]
        self.smooth = {name: smooth(curve, starts) for name, curve in self.raw.items()}
        names = dict.fromkeys(
            run.name for run in [*self.conditions, *self.domains] if run.name.lower() not in CALM
        )
        self.tints = {name: f"t{i % TINTS}" for i, name in enumerate(names)}

    def _runs(self, key: Callable[[Batch], tuple[str, str, bool]]) -> list[Run]:
        runs: list[Run] = []
        for (_, name, is_sorted), group in groupby(
            enumerate(self.batches), key=lambda pair: key(pair[1])
        ):
            positions = [i for i, _ in group]
            runs.append(Run(positions[0], positions[-1] + 1, name, is_sorted))
        return runs

    def position(self, batch: int) -> int:
        """Where batch number `batch` stands on the axis; a number that was not recorded takes the
        next one's place.
        """
        return min(bisect_left(self.indices, batch), len(self.indices) - 1)

    def span(self, act: Act) -> tuple[int, int]:
        return self.position(act["first_batch"]), self.position(act["last_batch"]) + 1

    def tint(self, name: str) -> str:
        return self.tints.get(name, "calm")

    def lines(self, x: Callable[[int], float], y: Callable[[float], float]) -> str:
        """Gain, frozen, oracle and learner, in the order in which they cover each other."""
        drawn = path("gain", area(self.smooth["learner"], self.smooth["frozen"], x, y))
        return drawn + "".join(
            path(f"line {name}", line(self.smooth[name], x, y))
            for name in ("frozen", "oracle", "learner")
        )


def legend_glyph(kind: str) -> str:
    shape = GLYPHS.get(kind, OTHER)
    body = (
        f'<g class="glyph {shape.lane}{" open" if shape.is_open else ""}" transform="translate(8'
        f' 8)"><path d="{shape.path}"/></g>'
    )
    return svg(16, 18, body, "key")


def overview(curves: Curves, name: str) -> str:
    """The three accuracies alone, for a screen as narrow as a phone."""
    width, top, height = 356.0, 34.0, 190.0
    left, step = 26.0, (356.0 - 26.0) / len(curves.batches)

    def x(position: int) -> float:
        return left + (position + 0.5) * step

    def y(value: float) -> float:
        return top + height * (1 - value)

    drawn = [
        f'<rect class="band {curves.tint(run.name)}" x="{number(left + run.start * step)}"'
        f' y="{top}" width="{number((run.stop - run.start) * step)}" height="{height}"/>'
        for run in curves.conditions
    ]
    for tick in (0, 0.5, 1):
        drawn.append(
            f'<path class="grid" d="M{left} {number(y(tick))}H{width}"/>'
            + label(left - 4, y(tick) + 4, f"{100 * tick:.0f}", "tick", "end")
        )
    for order, act in enumerate(curves.acts, 1):
        edge = left + curves.span(act)[0] * step
        drawn.append(
            f'<path class="act-line" d="M{number(edge)} 8V{top + height}"/>'
            + label(edge + 5, 20, str(order), "act-number")
        )
    for run in curves.conditions:
        if fit(run.name, (run.stop - run.start) * step - 2, 11) == [run.name]:
            drawn.append(label(left + run.start * step + 3, top + height + 14, run.name, "tick"))
    return svg(width, top + height + 20, "".join(drawn) + curves.lines(x, y), "overview", name)


def spark(curves: Curves, act: Act) -> str:
    """One act of the stream, on the card that tells it."""
    width, height = 320.0, 76.0
    start, stop = curves.span(act)
    step = width / max(stop - start, 1)

    def x(position: int) -> float:
        return (position + 0.5) * step

    def y(value: float) -> float:
        return 3 + (height - 6) * (1 - value)

    part = Curves(curves.batches[start:stop], ())
    bands = "".join(
        f'<rect class="band {curves.tint(run.name)}" x="{number(run.start * step)}" y="0"'
        f' width="{number((run.stop - run.start) * step)}" height="{height}"/>'
        for run in part.conditions
    )
    base = f'<path class="grid" d="M0 {number(y(0))}H{width}M0 {number(y(1))}H{width}"/>'
    means = {name: percent(mean(part.raw[name])) for name in ("learner", "frozen")}
    told = f"Mean accuracy in this act: learner {means['learner']}, frozen twin {means['frozen']}"
    return svg(width, height, bands + base + part.lines(x, y), "spark", told)


def bars(rows: Sequence[tuple[str, float | None]], name: str, mark: float | None = None) -> str:
    """Thin horizontal bars on one scale from 0 to 1: `rows` are (class of the bar, value). `mark`
    is a hairline across them.
    """
    height = 9.0 * len(rows) + 3
    drawn = []
    for i, (kind, value) in enumerate(rows):
        drawn.append(f'<rect class="track" x="0" y="{number(3 + 9 * i)}" width="240" height="6"/>')
        if value is not None and is_number(value):
            drawn.append(
                f'<rect class="bar {kind}" x="0" y="{number(3 + 9 * i)}"'
                f' width="{number(240 * min(max(value, 0.0), 1.0))}" height="6"/>'
            )
    if mark is not None and is_number(mark):
        drawn.append(
            f'<path class="mark" d="M{number(240 * min(max(mark, 0.0), 1.0))} 0V{number(height)}"/>'
        )
    return svg(240, height, "".join(drawn), "bars", name, is_stretched=True)


def slope(before: float | None, after: float | None) -> str:
    """Two readings of one quantity, before and after, as a line that rises, holds or falls."""

    def y(value: float) -> float:
        return 20 + 120 * (1 - value)

    told = f"Old classes among the old ones: {percent(before)} before, {percent(after)} after"
    drawn = [f'<path class="grid" d="M90 {number(y(tick))}H230"/>' for tick in (0, 0.5, 1)]
    drawn += [label(160, y(tick) - 4, percent(tick), "tick", "middle") for tick in (0, 1)]
    drawn += [
        label(90, 160, "before", "tick", "middle"),
        label(230, 160, "after", "tick", "middle"),
    ]
    if before is not None and after is not None:
        drawn.append(
            f'<path class="line learner" d="M90 {number(y(before))}L230 {number(y(after))}"/>'
        )
    for x, value, anchor, offset in ((90.0, before, "end", -12.0), (230.0, after, "start", 12.0)):
        if value is not None:
            drawn.append(
                f'<circle class="bar learner" cx="{x}" cy="{number(y(value))}" r="5"/>'
                + label(x + offset, y(value) + 7, percent(value), "big", anchor)
            )
    return svg(320, 168, "".join(drawn), "slope", told)


def stacked(parts: Sequence[tuple[str, float]]) -> str:
    """One bar of named parts; every width is a share of the sum."""
    total = sum(value for _, value in parts)
    drawn, x = [], 0.0
    for i, (name, value) in enumerate(parts):
        width = 1000 * value / total if total else 0.0
        drawn.append(
            f'<rect class="part p{i}" x="{number(x)}" y="0" width="{number(max(width - 2, 0.5))}"'
            f' height="34"><title>{escape(name)} {value:.2f} ms</title></rect>'
        )
        x += width
    told = "Median time per batch: " + ", ".join(f"{name} {value:.2f} ms" for name, value in parts)
    return svg(1000, 34, "".join(drawn), "stacked", told, is_stretched=True)
