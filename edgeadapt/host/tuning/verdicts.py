"""Verdicts on methods, computed from the committed measurement, so that no page says otherwise.

Every figure is against the cheapest contender that is not significantly worse than the best, at
equal bytes of the delta file.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import msgspec
from msgspec import Struct

from edgeadapt.errors import InputError
from edgeadapt.host.tuning.registry import Entry, Verdict

WORSE_BY = 0.5  # points that a default may lose at a task
CHEAPER = 0.75  # of time or memory, from where on it counts as won
DEFAULT_TASKS = 2


class Difference(Struct, frozen=True, forbid_unknown_fields=True):
    """Points of accuracy, and the interval of a paired bootstrap over test samples."""

    mean: float
    low: float
    high: float


class TaskFigures(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A method at one task; ``seconds`` and ``peak_mib`` as shares of the cheapest's."""

    accuracy: Difference
    control: Difference | None = None
    seconds: float = 1.0
    peak_mib: float = 1.0


class Row(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A method. ``stand_in`` says why it cannot be compared, where it cannot."""

    tasks: dict[str, TaskFigures]
    stand_in: str = ""


class Measurement(Struct, frozen=True, kw_only=True):
    """What ``docs/measurements/tuning.json`` holds of verdicts; its other fields are not read.

    ``rows`` are by the ``row`` of an entry.
    """

    rows: dict[str, Row]


def read_measurement(path: Path) -> Measurement | None:
    """The committed measurement; None where there is none yet.

    Raises:
        InputError: it is no measurement of ours.
    """
    if not path.exists():
        return None
    try:
        return msgspec.json.decode(path.read_bytes(), type=Measurement)
    except ValueError as error:  # msgspec's errors are ValueErrors
        raise InputError(f"{path.name}: {error}") from None


def verdict_of(entry: Entry, measurement: Measurement | None) -> Verdict:
    """What measuring the method came to.

    ``default``: better at two tasks or more, by intervals, and at none worse by more than half a
    point. ``useful``: better at a task or at what must not be lost, or cheaper by a quarter in time
    or memory, and nowhere worse beyond noise. ``loses``: neither. ``mechanism``: its stand-in is
    not the published model. ``planned``: not measured. A method whose page has the figures keeps
    the verdict of its entry.
    """
    if not entry.row:
        return entry.verdict
    row = measurement.rows.get(entry.row) if measurement else None
    if row is None:
        return "planned"
    if row.stand_in:
        return "mechanism"
    tasks = list(row.tasks.values())
    accuracies = [task.accuracy for task in tasks]
    everywhere = [*accuracies, *(task.control for task in tasks if task.control is not None)]
    if _wins(accuracies) >= DEFAULT_TASKS and all(one.mean >= -WORSE_BY for one in accuracies):
        return "default"
    is_cheaper = any(min(task.seconds, task.peak_mib) <= CHEAPER for task in tasks)
    is_worse = any(one.high < 0 for one in everywhere)
    return "useful" if (_wins(everywhere) or is_cheaper) and not is_worse else "loses"


def _wins(differences: Iterable[Difference]) -> int:
    return sum(one.low > 0 for one in differences)


def measurement_schema() -> dict[str, Any]:
    """JSON schema of what :func:`read_measurement` reads."""
    return msgspec.json.schema(Measurement)


__all__ = [
    "Difference",
    "Measurement",
    "Row",
    "TaskFigures",
    "measurement_schema",
    "read_measurement",
    "verdict_of",
]
