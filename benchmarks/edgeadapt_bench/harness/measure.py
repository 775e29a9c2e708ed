"""How a bench measures and what it writes: interleaved timings, rows with a bar, one JSON for every
suite.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgeadapt.scenarios.environment import machine, versions

Say = Callable[[str], None]
Seconds = NDArray[np.float64]
ONE_THREAD = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1") | {
    "OMP_WAIT_POLICY": "PASSIVE"
}
"""Environment of a measuring process. Numeric libraries read it when they load, so it is set before
the process starts.
"""


@dataclass(frozen=True)
class Row:
    """One measured number.

    Attributes:
        name: ``what/where``.
        value: None for what could not be measured, and the unit then says why.
        baseline: what it is compared with, in the same unit.
        target: the bar; None if it is only reported.
        holds: whether the bar is met, None without one.
    """

    name: str
    value: float | None
    unit: str
    baseline: float | None = None
    target: float | None = None
    holds: bool | None = None

    def __post_init__(self) -> None:
        if (self.target is None) != (self.holds is None):
            raise ValueError(
                f"row {self.name!r}: a target says whether it holds, and nothing holds without one"
            )


def at_most(
    name: str, value: float, unit: str, target: float | None, baseline: float | None = None
) -> Row:
    """A row that is to stay at or below its target."""
    return Row(
        name, value, unit, baseline, target, None if target is None else bool(value <= target)
    )


def at_least(
    name: str, value: float, unit: str, target: float | None, baseline: float | None = None
) -> Row:
    """A row that is to stay at or above its target."""
    return Row(
        name, value, unit, baseline, target, None if target is None else bool(value >= target)
    )


def absent(name: str, reason: str, target: float | None = None) -> Row:
    """A row that could not be measured. With a target it is missed: what was not shown does not
    hold.
    """
    return Row(name, None, f"absent: {reason}", None, target, None if target is None else False)


def reported(end: str, *found: Sequence[Any]) -> list[Row]:
    """Rows without a target, named ``what/end``: each is what, value, unit and perhaps baseline."""
    return [Row(f"{what}/{end}", float(value), *rest) for what, value, *rest in found]


def near(
    name: str,
    value: float,
    unit: str,
    target: float,
    tolerance: float,
    baseline: float | None = None,
) -> Row:
    """A row that is to lie within ``tolerance`` of its target."""
    return Row(name, value, unit, baseline, target, bool(abs(value - target) <= tolerance))


def report(suite: str, rows: Sequence[Row]) -> dict[str, Any]:
    """``{"suite", "machine", "versions", "rows": [...]}``: what every suite writes."""
    return {
        "suite": suite,
        "machine": machine(),
        "versions": versions(),
        "rows": [asdict(row) for row in rows],
    }


def write_json(path: str | os.PathLike[str], content: dict[str, Any]) -> None:
    Path(path).write_text(json.dumps(content, indent=2, allow_nan=False) + "\n", encoding="utf-8")


def table(rows: Sequence[Row]) -> str:
    """Rows for people: value, baseline, target and whether it holds, in columns."""
    verdict = {True: "holds", False: "MISSED", None: ""}
    cells = [("", "value", "unit", "baseline", "target", "")]
    cells += [
        (r.name, _number(r.value), r.unit, _number(r.baseline), _number(r.target), verdict[r.holds])
        for r in rows
    ]
    # behind a reason nothing stands, so it makes no column wide
    shown = [row for row in cells if any(row[3:])]
    widths = [
        max(len(row[column]) for row in (shown if column == 2 else cells))
        for column in range(len(cells[0]))
    ]
    return "\n".join(
        "  ".join(
            text.rjust(width) if column in (1, 3, 4) else text.ljust(width)
            for column, (text, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in cells
    )


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.4g}"


def paired(
    first: Callable[[int], object],
    second: Callable[[int], object],
    rounds: int,
    *,
    block: int = 16,
    between: Callable[[], object] | None = None,
) -> tuple[Seconds, Seconds]:
    """Seconds per call of two functions that take turns, so that a slower minute of the machine
    slows both.

    Each round runs ``block`` calls of one and then of the other, in alternating order. The first
    call of a block finds the caches as the other left them and is not counted, nor is the first
    round.

    Args:
        first, second: called with a running index. between: runs after each call, untimed.
    """
    spent: tuple[list[float], list[float]] = ([], [])
    for turn in range(rounds + 1):
        for which in (0, 1) if turn % 2 else (1, 0):
            run = (first, second)[which]
            for call in range(block):
                started = time.perf_counter()
                run(turn * block + call)
                took = time.perf_counter() - started
                if between is not None:
                    between()
                if turn and call:
                    spent[which].append(took)
    return np.array(spent[0]), np.array(spent[1])


def median_ms(seconds: Seconds | Sequence[float]) -> float:
    return 1e3 * float(np.median(seconds))


def p95_ms(seconds: Seconds | Sequence[float]) -> float:
    return 1e3 * float(np.quantile(seconds, 0.95))
