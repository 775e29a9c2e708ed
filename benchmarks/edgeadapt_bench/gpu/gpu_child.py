"""One check of the GPU suite in a process of its own: a crash, a hang or an error costs the rows of
that check and no others.

A module of checks ends with ``if __name__ == "__main__": answer(CHECKS)``. A check returns rows. It
raises :class:`NotHere` where something that it needs is not there, which is no failure; every other
error is one.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from edgeadapt.doctor.finding import without_places
from edgeadapt.doctor.machine import ask
from edgeadapt.errors import RuntimeUnavailable
from edgeadapt_bench.gpu.gpu_result import GpuRow, failed, not_run
from edgeadapt_bench.harness.measure import ONE_THREAD

Check = Callable[..., list[GpuRow]]
_SHORTEST_S = 3.0  # a check that has less than this left is not begun


class NotHere(RuntimeUnavailable):
    """Something that a check needs is not installed or not there; the message says what, and what
    to do.
    """


@dataclass(frozen=True)
class Task:
    """One child.

    Attributes:
        part, name: of the row that says so if the child gives none.
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


@dataclass(frozen=True)
class Clock:
    """When the whole suite has to be done, and how many times its usual limit a single check may
    take.
    """

    end: float
    patience: float = 1.0

    @classmethod
    def of(cls, seconds: float, patience: float = 1.0) -> Clock:
        return cls(time.monotonic() + seconds, patience)

    def left(self, limit_s: float) -> float:
        """Seconds, at most the limit with the patience that there is."""
        return min(limit_s * self.patience, self.end - time.monotonic())


def run(task: Task, clock: Clock, interpreter: str = sys.executable) -> list[GpuRow]:
    """The rows of one child; never raises for what it does."""
    seconds = clock.left(task.limit_s)
    if seconds < _SHORTEST_S:
        return [
            not_run(
                task.part,
                task.name,
                "the suite's time was up before this began; give it more with --limit",
            )
        ]
    answer = ask(
        interpreter,
        task.module,
        [task.check, json.dumps(dict(task.arguments))],
        ONE_THREAD,
        seconds,
    )
    if answer.failure:
        return [failed(task.part, task.name, without_places(answer.failure))]
    if "not_run" in answer.said:
        return [not_run(task.part, task.name, without_places(str(answer.said["not_run"])))]
    if "failed" in answer.said:
        return [failed(task.part, task.name, without_places(str(answer.said["failed"])))]
    return [
        GpuRow(**{**row, "reason": without_places(row["reason"])}) for row in answer.said["rows"]
    ]


def answer(checks: Mapping[str, Check], arguments: Sequence[str] | None = None) -> None:
    """In the child: run the named check, and print its rows as the last line. What libraries print
    goes to standard error.
    """
    name, given = arguments or sys.argv[1:]
    out = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    try:
        said: dict[str, Any] = {"rows": [asdict(row) for row in checks[name](**json.loads(given))]}
    except NotHere as error:
        said = {"not_run": str(error)}
    except Exception as error:  # the row has to say what happened, whatever it was
        said = {"failed": f"{type(error).__name__}: {' '.join(str(error).split())[:600]}"}
    out.write(json.dumps(said) + "\n")
    out.flush()


@contextmanager
def door(failing: type[RuntimeUnavailable] | None = None) -> Iterator[None]:
    """What is opened inside and is not there becomes :class:`NotHere`, except what is of the kind
    that says that a device failed.
    """
    try:
        yield
    except RuntimeUnavailable as error:
        if failing is not None and isinstance(error, failing):
            raise
        raise NotHere(str(error)) from error


def end(process: subprocess.Popen[str]) -> None:
    """Stop a process that took too long, and those that it started, whatever session they are
    in.
    """
    for pid in [*descendants(process.pid), process.pid]:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


def descendants(pid: int) -> list[int]:
    """Processes that this one started and that live, those of those included; the youngest
    generation first.
    """
    parents: dict[int, list[int]] = {}
    for place in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):  # it has ended
            parents.setdefault(int(place.read_text().rpartition(")")[2].split()[1]), []).append(
                int(place.parent.name)
            )
    found, todo = [], [pid]
    while todo:
        todo = [child for parent in todo for child in parents.get(parent, ())]
        found += todo
    return found[::-1]


__all__ = ["Check", "Clock", "NotHere", "Task", "answer", "descendants", "door", "end", "run"]
