"""Measuring processes, seen from the suite: a fresh Python with one thread that answers orders, one
JSON object a line each way. One that dies, hangs or fails says why.

A module offers its jobs by ``if __name__ == "__main__": serve(JOBS)``
(:mod:`edgeadapt_bench.harness.child.job_server`).
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

from edgeadapt.errors import RuntimeUnavailable
from edgeadapt_bench.harness.measure import ONE_THREAD

_GRACE_S = 10.0  # until a process whose standard input has ended is killed


class MeasuringProcess:
    """A running process; a context manager that ends it.

    Args:
        name: what errors begin with.
        environment: variables beyond those that keep numeric libraries at one thread.
    """

    def __init__(
        self, name: str, command: Sequence[str], environment: Mapping[str, str] | None = None
    ) -> None:
        self.name = name
        self.started = time.monotonic()
        self._overdue_s = 0.0
        self._log = tempfile.TemporaryFile("w+b")  # noqa: SIM115  closed with the process
        self._process = subprocess.Popen(
            command,
            env={**os.environ, **ONE_THREAD, **(environment or {})},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log,
            text=True,
        )

    @classmethod
    def of_module(
        cls, module: str, environment: Mapping[str, str] | None = None
    ) -> MeasuringProcess:
        command = (sys.executable, "-m", module)
        return cls("a measuring process failed", command, environment)

    def ask(self, job: str, limit_s: float = math.inf, /, **arguments: Any) -> dict[str, Any]:
        """Order a job and wait for its answer.

        Raises:
            RuntimeUnavailable: the process has ended, took longer than ``limit_s`` seconds and was
                killed, or answers with an error.
        """
        self.order(job, **arguments)
        return self.answer(limit_s)

    def order(self, job: str, /, **arguments: Any) -> None:
        """Without waiting. A process that has ended says so when it is asked for the answer."""
        assert self._process.stdin is not None
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.write(json.dumps({"do": job, **arguments}) + "\n")
            self._process.stdin.flush()

    def answer(self, limit_s: float = math.inf) -> dict[str, Any]:
        """The next line that it prints; raises as :meth:`ask`."""
        assert self._process.stdout is not None
        watch = threading.Timer(min(limit_s, threading.TIMEOUT_MAX), self._stop_late, (limit_s,))
        watch.start()
        try:
            line = self._process.stdout.readline()
        finally:
            watch.cancel()
        if not line:
            raise RuntimeUnavailable(f"{self.name}: {self._last_words()}")
        said: dict[str, Any] = json.loads(line)
        if "error" in said:
            raise RuntimeUnavailable(f"{self.name}: {said['error']}")
        return said

    @contextlib.contextmanager
    def running(self) -> Iterator[None]:
        """It runs inside and is stopped afterwards, so that others have the machine."""
        self._process.send_signal(signal.SIGCONT)
        try:
            yield
        finally:
            self._process.send_signal(signal.SIGSTOP)

    def kill(self) -> None:
        end(self._process)
        self._process.wait()

    def close(self) -> None:
        """Let it end by itself; after ten seconds it is killed."""
        assert self._process.stdin is not None and self._process.stdout is not None
        self._process.send_signal(signal.SIGCONT)
        with contextlib.suppress(BrokenPipeError):  # it has ended already
            self._process.stdin.close()
        try:
            self._process.wait(_GRACE_S)
        except subprocess.TimeoutExpired:
            self.kill()
        self._process.stdout.close()
        self._log.close()

    def __enter__(self) -> MeasuringProcess:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def _stop_late(self, limit_s: float) -> None:
        self._overdue_s = limit_s
        end(self._process)

    def _last_words(self) -> str:
        code = self._process.wait(_GRACE_S)
        if self._overdue_s:
            return f"no answer within {self._overdue_s:.0f} s"
        if code < 0:
            return f"killed by {signal.Signals(-code).name}"
        self._log.seek(0)
        lines = self._log.read().decode(errors="replace").strip().splitlines()
        return f"ended with {code}: {lines[-1] if lines else 'no message'}"


def in_child(
    module: str, job: str, /, *, environment: Mapping[str, str] | None = None, **arguments: Any
) -> dict[str, Any]:
    """The answer of one job in a process of its own.

    Raises:
        RuntimeUnavailable: it failed; the message says what it said last.
    """
    with MeasuringProcess.of_module(module, environment) as process:
        return process.ask(job, **arguments)


@dataclass(frozen=True)
class Clock:
    """When a whole suite has to be done, and how many times its usual limit one part may take."""

    end: float = math.inf
    patience: float = 1.0

    @classmethod
    def of(cls, seconds: float, patience: float = 1.0) -> Clock:
        return cls(time.monotonic() + seconds, patience)

    def left(self, limit_s: float) -> float:
        """Seconds, at most the limit with the patience that there is."""
        return min(limit_s * self.patience, self.end - time.monotonic())

    def is_up(self, limit_s: float) -> bool:
        """Whether so little is left that a part is not begun."""
        return self.left(limit_s) < SHORTEST_S


SHORTEST_S = 3.0
TIME_IS_UP = "the suite's time was up before this began; give it more with --limit"


def end(process: subprocess.Popen[str]) -> None:
    """Kill a process, and those that it started, whatever session they are in."""
    for pid in [*descendants(process.pid), process.pid]:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


def descendants(pid: int) -> list[int]:
    """Processes that this one started and that live, those of those included; the youngest
    generation first.
    """
    parents: dict[int, list[int]] = {}
    for place in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):  # it has ended
            parents.setdefault(int(place.read_text().rpartition(")")[2].split()[1]), []).append(
                int(place.parent.name)
            )
    found, todo = [], [pid]
    while todo:
        todo = [child for parent in todo for child in parents.get(parent, ())]
        found += todo
    return found[::-1]
