"""The large picture: accuracy over time, and beneath it what was sensed, believed and done, on one
axis.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import groupby

from edgeadapt.demo.charts import GLYPHS, LANDMARKS, LANES, OTHER, Curves, Run, series
from edgeadapt.demo.elements import (
    Series,
    area,
    dots,
    escape,
    fit,
    label,
    line,
    number,
    path,
    percent,
    svg,
)
from edgeadapt.demo.report import Event

# the plot, the names left of it, the names of the lines right of it
WIDTH, GUTTER, END = 944.0, 96.0, 120.0
ACTS_Y, RIBBON_Y, ACCURACY_Y, ACCURACY_H = 12.0, 58.0, 88.0, 302.0
SHIFT_Y, SHIFT_H, NOVEL_Y, NOVEL_H, DOMAIN_Y = 420.0, 66.0, 510.0, 36.0, 570.0
LANES_Y, LANE_H = 604.0, 28.0
RIBBON_H = 17.0
SHIFT_LOW = 0.25  # below a quarter of the threshold the stream is simply quiet


class Timeline:
    """The picture. `gutter` holds the names of the rows and stays in view while `plot` scrolls on a
    narrow screen.
    """

    def __init__(self, curves: Curves, events: Sequence[Event]) -> None:
        self.curves = curves
        self.step = WIDTH / len(curves.batches)
        self.bottom = LANES_Y + LANE_H * len(LANES)
        self.height = self.bottom + 36
        self.marks = [
            (self.curves.position(at), kind, list(group))
            for (at, kind), group in groupby(
                sorted(events, key=lambda e: (e["batch"], _rank(e["kind"]), e["kind"])),
                key=lambda e: (e["batch"], e["kind"]),
            )
        ]
        self.shifts = series(curves.batches, "shift")
        highest = max((value for value in self.shifts if value is not None), default=1.0)
        self.shift_high = min(32.0, max(4.0, 2.0 ** math.ceil(math.log2(max(highest, 1.0)))))

    def x(self, position: float) -> float:
        return (position + 0.5) * self.step

    def edge(self, position: int) -> float:
        return position * self.step

    @staticmethod
    def accuracy_y(value: float) -> float:
        return ACCURACY_Y + ACCURACY_H * (1 - value)

    def shift_y(self, value: float) -> float:
        share = math.log(min(max(value, SHIFT_LOW), self.shift_high) / SHIFT_LOW) / math.log(
            self.shift_high / SHIFT_LOW
        )
        return SHIFT_Y + SHIFT_H * (1 - share)

    def plot(self, name: str) -> str:
        parts = [
            self._hatch(),
            self._bands(),
            self._acts(),
            self._accuracy(),
            self._shift(),
            self._novel(),
            self._domains(),
            self._axis(),
            self._lanes(),
        ]
        cursor = f'<line class="cursor" x1="0" x2="0" y1="{RIBBON_Y}" y2="{self.bottom}"/>'
        return svg(WIDTH + END, self.height, "".join(parts) + cursor, "plot", name)

    def gutter(self) -> str:
        right = GUTTER - 10
        rows = [
            label(right, self.accuracy_y(tick) + 4, percent(tick), "tick", "end")
            for tick in (0, 0.25, 0.5, 0.75, 1)
        ]
        rows += [
            label(0, y, words, "row")
            for y, words in (
                (RIBBON_Y + 13, "condition"),
                (ACCURACY_Y + 18, "accuracy"),
                (SHIFT_Y + 12, "shift"),
                (NOVEL_Y + 12, "novel"),
                (DOMAIN_Y + 13, "domain"),
            )
        ]
        rows += [
            label(right, self.shift_y(1) + 4, "threshold", "tick", "end"),
            label(right, SHIFT_Y + 4, f"{self.shift_high:.0f}×", "tick", "end"),
        ]
        rows += [
            label(right, NOVEL_Y + 4, "100%", "tick", "end"),
            label(right, NOVEL_Y + NOVEL_H + 4, "0", "tick", "end"),
        ]
        rows += [
            label(0, LANES_Y + LANE_H * (i + 0.5) + 4, lane, f"row {lane}")
            for i, lane in enumerate(LANES)
        ]
        rows.append(label(0, self.bottom + 22, "batch", "row"))
        return svg(GUTTER, self.height, "".join(rows), "gutter")

    @staticmethod
    def _hatch() -> str:
        return (
            '<defs><pattern id="hatch" width="5" height="5" patternUnits="userSpaceOnUse"'
            ' patternTransform="rotate(45)"><path class="hatch" d="M0 0V5"/></pattern></defs>'
        )

    def _rect(self, run: Run, y: float, height: float, kind: str, title: str = "") -> str:
        inner = f"<title>{escape(title)}</title>" if title else ""
        return (
            f'<rect class="{kind}" x="{number(self.edge(run.start))}" y="{number(y)}"'
            f' width="{number(self.edge(run.stop) - self.edge(run.start))}"'
            f' height="{number(height)}">{inner}</rect>'
        )

    def _ribbon(self, run: Run, y: float, words: str) -> str:
        drawn = self._rect(run, y, RIBBON_H, f"ribbon {self.curves.tint(run.name)}", words)
        drawn += self._rect(run, y, RIBBON_H, "sorted") if run.is_sorted else ""
        shown = fit(words, self.edge(run.stop) - self.edge(run.start) - 8, 11)
        return drawn + (
            label(self.edge(run.start) + 6, y + 12.5, shown[0], "ribbon-name") if shown else ""
        )

    def _bands(self) -> str:
        tall = self.bottom - RIBBON_Y - RIBBON_H
        bands = "".join(
            self._rect(run, RIBBON_Y + RIBBON_H, tall, f"band {self.curves.tint(run.name)}")
            for run in self.curves.conditions
        )
        return bands + "".join(
            self._ribbon(run, RIBBON_Y, run.name + (" · sorted" if run.is_sorted else ""))
            for run in self.curves.conditions
        )

    def _acts(self) -> str:
        drawn = []
        for order, act in enumerate(self.curves.acts, 1):
            start, stop = self.curves.span(act)
            left, room = self.edge(start), self.edge(stop) - self.edge(start)
            drawn.append(
                f'<g class="act"><title>{escape(act["title"])}</title>'
                + path("act-line", f"M{number(left)} {ACTS_Y - 9}V{self.bottom}")
            )
            drawn.append(label(left + 7, ACTS_Y + 4, str(order), "act-number"))
            drawn += [
                label(left + 20, ACTS_Y + 4 + 15 * i, words, "act-title")
                for i, words in enumerate(fit(act["title"], room - 26, 13, lines=3))
            ]
            drawn.append("</g>")
        return "".join(drawn)

    def _accuracy(self) -> str:
        grid = "".join(
            f'<path class="grid" d="M0 {number(self.accuracy_y(tick))}H{WIDTH}"/>'
            for tick in (0, 0.25, 0.5, 0.75, 1)
        )
        raw = "".join(
            path(f"dots {name}", dots(self.curves.raw[name], self.x, self.accuracy_y))
            for name in ("oracle", "frozen", "learner")
        )
        lines = self.curves.lines(self.x, self.accuracy_y)
        return f'<g id="accuracy">{grid}{raw}{lines}{self._line_names()}</g>'

    def _line_names(self) -> str:
        ends = []
        for name, words in (
            ("learner", "learner"),
            ("frozen", "frozen twin"),
            ("oracle", "labelled oracle"),
        ):
            last = next(
                (
                    i
                    for i in reversed(range(len(self.curves.batches)))
                    if self.curves.smooth[name][i] is not None
                ),
                None,
            )
            if last is not None:
                value = self.curves.smooth[name][last] or 0.0
                ends.append((self.accuracy_y(value), name, f"{words} {percent(value)}"))
        ends.sort()
        spread: list[float] = []
        for y, _, _ in ends:
            spread.append(max(y, spread[-1] + 16) if spread else y)
        overrun = max(0.0, spread[-1] - ACCURACY_Y - ACCURACY_H) if spread else 0.0
        return "".join(
            label(WIDTH + 8, y - overrun + 4, words, f"end {name}")
            for y, (_, name, words) in zip(spread, ends, strict=True)
        )

    def _shift(self) -> str:
        threshold = self.shift_y(1)
        above: Series = [None if value is None else max(value, 1.0) for value in self.shifts]
        ones: Series = [1.0] * len(above)
        flags = "".join(
            f"M{number(self.edge(i))} {SHIFT_Y + SHIFT_H + 4}h{number(self.step + 0.2)}"
            for i, b in enumerate(self.curves.batches)
            if b["is_shifted"]
        )
        note = label(WIDTH + 8, SHIFT_Y + SHIFT_H + 8, "reads “shifted”", "note senses")
        return (
            f'<g id="shift">{path("excess", area(above, ones, self.x, self.shift_y))}'
            f"{path('threshold', f'M0 {number(threshold)}H{WIDTH}')}"
            f"{path('line shift', line(self.shifts, self.x, self.shift_y))}{path('flag', flags)}"
            f"{note if flags else ''}</g>"
        )

    def _novel(self) -> str:
        shares = series(self.curves.batches, "novel_share")
        zeros: Series = [0.0] * len(shares)
        unknown = [i for i, share in enumerate(shares) if share is None]

        def y(share: float) -> float:
            return NOVEL_Y + NOVEL_H * (1 - share)

        drawn = [f'<path class="grid" d="M0 {NOVEL_Y}H{WIDTH}M0 {NOVEL_Y + NOVEL_H}H{WIDTH}"/>']
        for _, group in groupby(enumerate(unknown), key=lambda pair: pair[1] - pair[0]):
            where = [i for _, i in group]
            run = Run(where[0], where[-1] + 1, "unknown")
            drawn.append(
                self._rect(
                    run,
                    NOVEL_Y,
                    NOVEL_H,
                    "unknown",
                    "under shift everything looks novel: the share reads unknown",
                )
            )
            if shown := fit("unknown", self.edge(run.stop) - self.edge(run.start) - 10, 11):
                drawn.append(
                    label(
                        self.edge(run.start) + 6, NOVEL_Y + NOVEL_H / 2 + 4, shown[0], "note haloed"
                    )
                )
        drawn.append(
            path("novel-area", area(shares, zeros, self.x, y))
            + path("line novel", line(shares, self.x, y))
        )
        return f'<g id="novel">{"".join(drawn)}</g>'

    def _domains(self) -> str:
        ribbons = [self._ribbon(run, DOMAIN_Y, run.name) for run in self.curves.domains if run.name]
        return f'<g id="domains">{"".join(ribbons)}</g>'

    def _axis(self) -> str:
        count = len(self.curves.batches)
        every = next(
            step for step in (1, 2, 5, 10, 25, 50, 100, 250, 500, 1000, count) if count / step <= 12
        )
        ticks = [i for i in range(count) if i % every == 0]
        return "".join(
            label(
                self.x(i),
                self.bottom + 22,
                str(self.curves.indices[i]),
                "tick",
                "middle" if i else "start",
            )
            for i in ticks
        )

    def _lanes(self) -> str:
        rules = "".join(
            f'<path class="grid" d="M0 {number(LANES_Y + LANE_H * i)}H{WIDTH}"/>'
            for i in range(len(LANES) + 1)
        )
        landmarks = "".join(
            f"M{number(self.x(at))} {ACCURACY_Y}V{self.bottom}"
            for at, kind, _ in self.marks
            if kind in LANDMARKS
        )
        lanes = "".join(self._lane(i, lane) for i, lane in enumerate(LANES))
        return f'{path("landmark", landmarks)}<g id="events">{rules}{lanes}</g>'

    def _lane(self, order: int, lane: str) -> str:
        marks = [mark for mark in self.marks if GLYPHS.get(mark[1], OTHER).lane == lane]
        y = LANES_Y + LANE_H * (order + 0.5)
        drawn = []
        for place, (at, kind, events) in enumerate(marks):
            shape = GLYPHS.get(kind, OTHER)
            count = sum(event.get("count") or 1 for event in events)
            size = min(1.5, 1 + 0.16 * math.log2(max(count, 1)))
            grown = f" scale({size:.2f})" if size > 1 else ""
            told = escape(
                f"{shape.label}{f' ×{count}' if count > 1 else ''}: "
                + "; ".join(dict.fromkeys(e["text"] for e in events if e.get("text")))
            )
            place_at = f"translate({number(self.x(at))} {number(y + shape.drop)}){grown}"
            drawn.append(
                f'<g class="glyph {lane}{" open" if shape.is_open else ""}"'
                f' data-kind="{escape(kind)}" data-at="{at}"'
                f' transform="{place_at}"><title>{told}</title><path d="{shape.path}"/></g>'
            )
            following = self.x(marks[place + 1][0]) - 8 if place + 1 < len(marks) else WIDTH + END
            if shape.is_named and self.x(at) + 11 + 6 * len(shape.label) < following:
                drawn.append(label(self.x(at) + 10, y + 4, shape.label, f"note haloed {lane}"))
        return "".join(drawn)


def _rank(kind: str) -> int:
    return list(GLYPHS).index(kind) if kind in GLYPHS else len(GLYPHS)
