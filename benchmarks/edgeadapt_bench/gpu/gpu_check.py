"""One check of the GPU suite in a process of its own: a crash, a hang or an error costs the rows of
that check and no others.

A module of checks ends with ``if __name__ == "__main__": answer(CHECKS)``. A check returns rows. It
raises :class:`NotHere` where something that it needs is not there, which is no failure; every other
error is one.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from functools import partial
from typing import Any

from edgeadapt.doctor.finding import without_places
from edgeadapt.errors import RuntimeUnavailable
from edgeadapt_bench.gpu.gpu_result import GpuRow, failed, not_run
from edgeadapt_bench.harness.child.job_server import serve
from edgeadapt_bench.harness.process import TIME_IS_UP, Clock, MeasuringProcess

Check = Callable[..., list[GpuRow]]
NOT_HERE = "NotHere: "
"""How a reason begins that is no failure."""


class NotHere(RuntimeUnavailable):
    """Something that a check needs is not installed or not there; the message says what, and what
    to do.
    """


@dataclass(frozen=True)
class Task:
    """One check.

    Attributes:
        part, name: of the row that says so if the process gives none.
        module, check: what it runs.
        limit_s: how long it may take.
        arguments: of the check, as JSON can carry them.
    """

    part: str
    name: str
    module: str
    check: str
    limit_s: float
    arguments: Mapping[str, Any] = field(default_factory=dict)


def run(task: Task, clock: Clock) -> list[GpuRow]:
    """The rows of one check; never raises for what it does."""
    if clock.is_up(task.limit_s):
        return [not_run(task.part, task.name, TIME_IS_UP)]
    try:
        with MeasuringProcess.of_module(task.module) as process:
            said = process.ask(task.check, clock.left(task.limit_s), **task.arguments)
    except RuntimeUnavailable as error:
        return [unmeasured(task.part, task.name, str(error).removeprefix(f"{process.name}: "))]
    return [GpuRow(**{**row, "reason": without_places(row["reason"])}) for row in said["rows"]]


def unmeasured(part: str, name: str, reason: str) -> GpuRow:
    """The row of what did not run or failed, whichever the reason says."""
    state = not_run if reason.startswith((NOT_HERE, TIME_IS_UP)) else failed
    return state(part, name, without_places(reason.removeprefix(NOT_HERE)))


def answer(checks: Mapping[str, Check]) -> None:
    """In the process: run the checks that are ordered, or the one that the command line names, with
    its arguments as JSON.
    """
    jobs = {name: partial(_rows_of, check) for name, check in checks.items()}
    if by_hand := sys.argv[1:]:
        print(json.dumps(jobs[by_hand[0]](**json.loads(by_hand[1]))))
    else:
        serve(jobs)


def _rows_of(check: Check, /, **arguments: Any) -> dict[str, Any]:
    return {"rows": [asdict(row) for row in check(**arguments)]}


@contextmanager
def absent_is_no_failure(failing: type[RuntimeUnavailable] | None = None) -> Iterator[None]:
    """What is opened inside and is not there becomes :class:`NotHere`, except what is of the kind
    that says that a device failed.
    """
    try:
        yield
    except RuntimeUnavailable as error:
        if failing is not None and isinstance(error, failing):
            raise
        raise NotHere(str(error)) from error
