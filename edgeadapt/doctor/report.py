"""What ``edgeadapt doctor --json`` writes. The committed schema is
``docs/format/doctor.schema.json``:

    python -m edgeadapt.doctor.report > docs/format/doctor.schema.json
"""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Literal

import edgeadapt
from edgeadapt._json_schema import schema_text
from edgeadapt.doctor.board import read_board
from edgeadapt.doctor.finding import Section, State, is_well, without_places
from edgeadapt.doctor.machine import Machine
from edgeadapt.doctor.packages import installed

TITLE = "edgeadapt doctor"
SCHEMA: Literal["edgeadapt.doctor/1"] = "edgeadapt.doctor/1"
_PACKAGES = ("numpy", "onnxruntime", "onnxruntime-gpu", "tensorrt", "torch")


@dataclass(frozen=True)
class Check:
    """One finding; ``ok`` is False if nothing works before it is mended."""

    group: str
    name: str
    state: State
    ok: bool
    is_needed: bool
    found: str
    why: str
    todo: str


@dataclass(frozen=True)
class BoardFacts:
    """What is looked at; empty: not known. Numbers that tell one machine from another of its kind
    are not read.
    """

    model: str
    module: str
    part: str
    l4t: str
    jetpack: str
    architecture: str
    kernel: str
    cores: int


@dataclass(frozen=True)
class Step:
    """One step of the self-test and what it found."""

    name: Literal["open", "predict", "learn", "roll back", "restart", "same numbers"]
    ok: bool
    found: str


@dataclass(frozen=True)
class Latency:
    """Median milliseconds, and of how many calls."""

    median_ms: float
    calls: int
    batch: int


@dataclass(frozen=True)
class Run:
    """The self-test on one runtime.

    Attributes:
        result: ``not run`` has its reason in ``reason``.
        latency: ``encode``, ``predict``, ``observe``, ``label``.
        probs: of the first samples (N, classes), to compare machines by.
    """

    runtime: str
    result: Literal["passed", "failed", "not run"]
    reason: str = ""
    open_ms: float | None = None
    steps: list[Step] = field(default_factory=list)
    latency: dict[str, Latency] = field(default_factory=dict)
    probs: list[list[float]] = field(default_factory=list)


@dataclass(frozen=True)
class Report:
    """The whole file. ``ok``: nothing that is needed is missing, and no run of the self-test
    failed.
    """

    schema: Literal["edgeadapt.doctor/1"]
    ok: bool
    date: str
    versions: dict[str, str]
    board: BoardFacts
    checks: list[Check]
    self_test: list[Run] | None = None


def report(
    machine: Machine, sections: Sequence[Section], runs: Sequence[Run] | None = None
) -> Report:
    """Findings and, if it ran, the self-test; without the places where things lie."""
    checks = [
        Check(
            section.title,
            one.name,
            one.state,
            not one.stops,
            one.is_needed,
            *map(without_places, (one.found, one.why, one.todo)),
        )
        for section in sections
        for one in section.findings
    ]
    has_passed = all(run.result != "failed" for run in runs or ())
    found, versions = read_board(machine), {name: installed(name) for name in _PACKAGES}
    return Report(
        schema=SCHEMA,
        ok=has_passed and is_well(one for section in sections for one in section.findings),
        date=time.strftime("%Y-%m-%d", time.gmtime(machine.now())),
        versions={
            "edgeadapt": edgeadapt.__version__,
            "python": ".".join(map(str, machine.python)),
            **{name: number for name, number in versions.items() if number},
        },
        board=BoardFacts(
            found.model,
            found.module.name if found.module else "",
            found.module.part if found.module else "",
            found.l4t,
            found.jetpack.name if found.jetpack and found.l4t in found.jetpack.l4t else "",
            machine.architecture,
            machine.kernel,
            machine.cores,
        ),
        checks=checks,
        self_test=None if runs is None else list(runs),
    )


def to_json(made: Report) -> str:
    return json.dumps(asdict(made), indent=2, allow_nan=False, ensure_ascii=False) + "\n"


if __name__ == "__main__":
    print(schema_text(Report, TITLE), end="")


__all__ = ["SCHEMA", "BoardFacts", "Check", "Latency", "Report", "Run", "Step", "report", "to_json"]
