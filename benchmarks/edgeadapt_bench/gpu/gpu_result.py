"""What a run of the GPU suite writes: rows, the card, the versions. The committed schema is
``docs/measurements/measurement.schema.json``:

    python -m edgeadapt_bench.gpu.gpu_result > docs/measurements/measurement.schema.json
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from edgeadapt._json_schema import schema_text
from edgeadapt.errors import InputError

TITLE = "edgeadapt GPU measurement"
SCHEMA: Literal["edgeadapt.gpu/1"] = "edgeadapt.gpu/1"
MEASUREMENTS = "measurements"
"""Name of the folder that takes figures of real cards only."""


@dataclass(frozen=True)
class GpuRow:
    """One line of the table.

    Attributes:
        part: ``cudart``, ``step``, ``correction``, ``bundle``, ``story``.
        state: ``passed`` and ``failed`` are checks, ``measured`` is a figure.
        value: in ``unit``; None where nothing was measured.
        low, high: the tenth and ninetieth percentile, in the same unit.
        holds: whether ``target`` is met; None where there is no target or no figure.
        reason: why it did not run or failed, or what was found.
    """

    part: str
    name: str
    state: Literal["passed", "failed", "measured", "not run"]
    value: float | None = None
    unit: str = ""
    low: float | None = None
    high: float | None = None
    target: str = ""
    holds: bool | None = None
    reason: str = ""

    def __post_init__(self) -> None:
        if (self.state == "measured") != (self.value is not None):
            raise ValueError(f"row {self.name!r}: a measured row has a figure, and no other has")
        if self.holds is not None and not (self.target and self.value is not None):
            raise ValueError(f"row {self.name!r}: only a figure beside a target holds or not")
        if self.state in ("not run", "failed") and not self.reason:
            raise ValueError(f"row {self.name!r}: {self.state} without a reason")


def measured(
    part: str,
    name: str,
    value: float,
    unit: str,
    spread: tuple[float, float] | None = None,
    *,
    at_most: float | None = None,
    at_least: float | None = None,
    found: str = "",
) -> GpuRow:
    """A figure, and whether it keeps its bound; one that is not finite is a failure."""
    bound = (
        f"<= {at_most:g}"
        if at_most is not None
        else f">= {at_least:g}"
        if at_least is not None
        else ""
    )
    if not math.isfinite(value):
        return failed(part, name, f"the figure is {value}", bound)
    low, high = spread or (None, None)
    if at_most is not None:
        return GpuRow(
            part, name, "measured", value, unit, low, high, bound, bool(value <= at_most), found
        )
    if at_least is not None:
        return GpuRow(
            part, name, "measured", value, unit, low, high, bound, bool(value >= at_least), found
        )
    return GpuRow(part, name, "measured", value, unit, low, high, reason=found)


def not_run(part: str, name: str, reason: str, target: str = "") -> GpuRow:
    return GpuRow(part, name, "not run", target=target, reason=reason)


def failed(part: str, name: str, reason: str, target: str = "") -> GpuRow:
    return GpuRow(part, name, "failed", target=target, reason=reason)


def checked(part: str, name: str, is_right: bool, found: str) -> GpuRow:
    return GpuRow(part, name, "passed" if is_right else "failed", reason=found)


@dataclass(frozen=True)
class Card:
    """The GPU.

    Attributes:
        name: as the driver gives it.
        board: the module it is part of, on a Jetson.
        capability: ``8.7``.
        driver: the CUDA version that it speaks.
        is_fake: a library of the tests stands for it, so no figure means anything.
    """

    name: str
    board: str
    capability: str
    driver: str
    is_fake: bool


@dataclass(frozen=True)
class Result:
    """The whole file. ``card`` is None where there was none: then no row about a GPU has a figure.
    ``doctor``: what the doctor wrote, self-test included.
    """

    schema: Literal["edgeadapt.gpu/1"]
    date: str
    card: Card | None
    quick: bool
    seconds: float
    machine: dict[str, Any]
    versions: dict[str, str]
    rows: list[GpuRow]
    facts: dict[str, Any] = field(default_factory=dict)
    doctor: dict[str, Any] | None = None


def file_name(result: Result) -> str:
    """``2026-11-26-nvidia-l4``, without an ending."""
    card = result.card
    named = (
        "no gpu" if card is None else f"{'fake ' if card.is_fake else ''}{card.board or card.name}"
    )
    return f"{result.date}-{re.sub(r'[^a-z0-9]+', '-', named.lower()).strip('-')}"


def write(result: Result, folder: Path) -> tuple[Path, Path]:
    """The JSON, and the page that is made from it.

    Raises:
        InputError: the folder takes figures of real cards, and this is none.
    """
    if folder.resolve().name == MEASUREMENTS and (
        result.card is None or result.card.is_fake or result.quick
    ):
        what = (
            "no GPU was here"
            if result.card is None
            else (
                "the GPU was a fake of the tests"
                if result.card.is_fake
                else "a quick run's figures are rough"
            )
        )
        raise InputError(f"{folder} takes measured cards only, and {what}")
    folder.mkdir(parents=True, exist_ok=True)
    stem = folder / file_name(result)
    data, page = stem.with_name(f"{stem.name}.json"), stem.with_name(f"{stem.name}.md")
    data.write_text(
        json.dumps(asdict(result), indent=2, allow_nan=False, ensure_ascii=False) + "\n",
        encoding="utf-8",
    )
    page.write_text(markdown(asdict(result)), encoding="utf-8")
    return data, page


def cells(row: Mapping[str, Any]) -> tuple[str, ...]:
    """Part, name, result, spread, target, remark: for the screen and for the page."""
    result = (
        f"{_number(row['value'])} {row['unit']}".strip()
        if row["value"] is not None
        else row["state"]
        if row["state"] != "not run"
        else f"not run: {row['reason']}"
    )
    spread = f"{_number(row['low'])} to {_number(row['high'])}" if row["low"] is not None else ""
    verdict = {True: "holds", False: "MISSED", None: ""}[row["holds"]]
    target = " ".join(filter(None, (row["target"], verdict)))
    return (
        row["part"],
        row["name"],
        result,
        spread,
        target,
        row["reason"] if row["state"] != "not run" else "",
    )


def table(rows: Sequence[GpuRow]) -> str:
    """For the screen."""
    lines = [
        ("part", "row", "result", "10% to 90%", "target", ""),
        *(cells(asdict(row)) for row in rows),
    ]
    widths = [
        max(len(line[at]) for line in lines if not line[2].startswith("not run")) for at in range(5)
    ]
    return "\n".join(
        "  ".join(
            [*(text.ljust(width) for text, width in zip(line, widths, strict=False)), line[5]]
        ).rstrip()
        for line in lines
    )


def markdown(result: Mapping[str, Any]) -> str:
    """The page of a measurement, from the content of its JSON."""
    card, rows = result["card"], result["rows"]
    title = "No GPU" if card is None else f"{card['board'] or card['name']}"
    lines = [f"# {title}, {result['date']}", ""]
    if card is None:
        lines += ["No GPU was found. Nothing below was measured on one.", ""]
    elif card["is_fake"]:
        lines += [
            (
                "**Of a fake.** Libraries of the tests stood for CUDA and TensorRT. No figure here"
                " says anything about a GPU."
            ),
            "",
        ]
    if result["quick"]:
        lines += ["A quick run: few repetitions, rough figures.", ""]
    about = (
        {}
        if card is None
        else {
            "GPU": card["name"],
            "compute capability": card["capability"],
            "driver": f"for CUDA {card['driver']}",
        }
    )
    about |= {
        "CPU": f"{result['machine']['cpu']}, {result['machine']['cores']} cores",
        "system": f"{result['machine']['system']}, {result['machine']['architecture']}",
    }
    about |= {
        "versions": ", ".join(f"{name} {version}" for name, version in result["versions"].items()),
        "took": f"{result['seconds']:.0f} s",
    }
    lines += [f"- {name}: {value}" for name, value in about.items()]
    lines += [
        "",
        "By `tests/gpu/run_all.sh`. What each row means: [how to read it](README.md).",
        "",
    ]
    lines += ["| part | row | result | 10% to 90% | target | |", "|---|---|---|---|---|---|"]
    lines += [
        "| " + " | ".join(text.replace("|", "\\|").replace("\n", " ") for text in cells(row)) + " |"
        for row in rows
    ]
    return "\n".join(lines) + "\n"


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.4g}"


if __name__ == "__main__":
    print(schema_text(Result, TITLE), end="")
