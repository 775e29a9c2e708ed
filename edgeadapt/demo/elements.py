"""Pieces of the demo's report as text: HTML, SVG, and numbers in them. All words are escaped."""

from __future__ import annotations

import html
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import groupby
from typing import Any, cast

Series = list[float | None]


def escape(value: object) -> str:
    """`value` as text that is safe in HTML and in XML, between tags and inside quotes."""
    known = str(value).encode("utf-8", "replace").decode("utf-8")
    return html.escape(
        "".join(
            c
            for c in known
            if c in "\t\n"
            or (ord(c) >= 32 and not 127 <= ord(c) < 160 and ord(c) not in (0xFFFE, 0xFFFF))
        )
    )


def is_number(value: object) -> bool:
    return isinstance(value, int | float) and math.isfinite(value)


def percent(value: float | None) -> str:
    return f"{100 * value:.0f}%" if value is not None and is_number(value) else "–"


def number(value: float) -> str:
    """A coordinate, to a tenth of a pixel."""
    return f"{value:.1f}".removesuffix(".0")


def figure(table: object, key: str) -> float | None:
    value = cast("dict[str, Any]", table).get(key)
    return value if is_number(value) else None


def decimal(value: float | None, unit: str = "") -> str:
    """Three figures at most, because nobody reads a fourth."""
    if value is None:
        return "–"
    digits = 0 if abs(value) >= 100 or float(value).is_integer() else 1 if abs(value) >= 10 else 2
    return f"{value:,.{digits}f}{unit}"


def swatch(name: str, words: str) -> str:
    return f'<span class="swatch {name}">{words}</span>'


def section(name: str, title: str, lede: str, body: str) -> str:
    head = f'<h2 id="{name}-title">{title}</h2><p class="lede">{lede}</p>'
    return f'<section id="{name}" aria-labelledby="{name}-title">{head}{body}</section>\n'


def table(heads: Sequence[str], rows: Iterable[Sequence[str]], kind: str) -> str:
    """A table whose rows become blocks on a phone; the roles keep it a table for assistive
    technology. Cells are HTML already.
    """
    head = "".join(f'<th role="columnheader" scope="col">{name}</th>' for name in heads)
    body = "".join(
        '<tr role="row">'
        + f'<th role="rowheader" scope="row">{first}</th>'
        + "".join(
            f'<td role="cell" data-head="{name}">{cell}</td>'
            for name, cell in zip(heads[1:], rest, strict=True)
        )
        + "</tr>"
        for first, *rest in rows
    )
    return (
        f'<table role="table" class="{kind}"><thead role="rowgroup"><tr'
        f' role="row">{head}</tr></thead><tbody role="rowgroup">{body}</tbody></table>'
    )


def fit(words: str, width: float, size: float, lines: int = 1) -> list[str]:
    """Breaks `words` into at most `lines` lines of about `width` pixels; what does not fit ends in
    an ellipsis, or is left out.
    """
    room = int(width / (0.55 * size))
    if room < 3:
        return []
    fitted: list[str] = []
    for word in words.split():
        if fitted and len(fitted[-1]) + 1 + len(word) <= room:
            fitted[-1] += " " + word
        else:
            fitted.append(word)
    is_cut = len(fitted) > lines
    fitted = [line if len(line) <= room else line[: room - 1] + "…" for line in fitted[:lines]]
    if is_cut and not fitted[-1].endswith("…"):
        fitted[-1] = fitted[-1][: room - 1].rstrip(" ,.;:") + "…"
    return fitted


def _unbroken(*curves: Series) -> Iterator[list[int]]:
    """Positions in unbroken runs where every curve has a value."""
    known = [i for i, row in enumerate(zip(*curves, strict=True)) if None not in row]
    for _, run in groupby(enumerate(known), key=lambda pair: pair[1] - pair[0]):
        yield [i for _, i in run]


def line(curve: Series, x: Callable[[int], float], y: Callable[[float], float]) -> str:
    points = [
        [f"{number(x(i))} {number(y(curve[i] or 0.0))}" for i in run] for run in _unbroken(curve)
    ]
    return "".join("M" + "L".join(run if len(run) > 1 else run * 2) for run in points)


def dots(curve: Series, x: Callable[[int], float], y: Callable[[float], float]) -> str:
    return "".join(
        f"M{number(x(i))} {number(y(value))}h0"
        for i, value in enumerate(curve)
        if value is not None
    )


def area(
    upper: Series, lower: Series, x: Callable[[int], float], y: Callable[[float], float]
) -> str:
    """The surface between two curves, where `upper` is the higher one."""
    shapes = []
    for run in _unbroken(upper, lower):
        top = [f"{number(x(i))} {number(y(max(upper[i] or 0.0, lower[i] or 0.0)))}" for i in run]
        bottom = [f"{number(x(i))} {number(y(lower[i] or 0.0))}" for i in reversed(run)]
        shapes.append("M" + "L".join(top + bottom) + "z")
    return "".join(shapes)


def path(kind: str, d: str) -> str:
    return f'<path class="{kind}" d="{d}"/>' if d else ""


def label(x: float, y: float, words: str, kind: str = "", anchor: str = "") -> str:
    where = f' text-anchor="{anchor}"' if anchor else ""
    return f'<text x="{number(x)}" y="{number(y)}" class="{kind}"{where}>{escape(words)}</text>'


def svg(
    width: float, height: float, body: str, kind: str, name: str = "", is_stretched: bool = False
) -> str:
    """An SVG element; one with a `name` is an image to assistive technology, one without is
    decoration.
    """
    stretch = ' preserveAspectRatio="none"' if is_stretched else ""
    role = (
        f'role="img" aria-label="{escape(name)}"'
        if name
        else 'aria-hidden="true" focusable="false"'
    )
    box = f'viewBox="0 0 {number(width)} {number(height)}"{stretch}'
    return f'<svg xmlns="http://www.w3.org/2000/svg" class="{kind}" {box} {role}>{body}</svg>'
