"""Shares in child processes, at most two at a time: watched for hangs, replaced when they die, and
added up.
"""

from __future__ import annotations

import os
import pickle
import shutil
import signal
import tempfile
import time
from collections import Counter, deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from fuzz.findings import Finding, Findings
from fuzz.lines import function_lines, statement_of
from fuzz.scoreboard import Scoreboard
from fuzz.share import Outcome, Share
from fuzz.target import Target

_POLL_S = 0.02
_STARTING_S = 120.0  # until a share has executed its seeds
_DEATHS = 20  # of one share, after which the rest of it is given up


@dataclass
class Total:
    """What became of one target."""

    target: Target
    executions: int = 0
    past_header: int = 0
    accepted: int = 0
    refused: int = 0
    seconds: float = 0.0  # of processor time
    slowest_ms: float = 0.0  # of processor time
    slowest: bytes = b""
    peak_mib: float = 0.0
    refusals: Counter[str] = field(default_factory=Counter)
    reached: dict[str, set[int]] = field(default_factory=dict)

    @property
    def rate(self) -> float:
        return self.executions / self.seconds if self.seconds else 0.0

    @property
    def past_share(self) -> float:
        return self.past_header / self.executions if self.executions else 0.0


@dataclass
class _Running:
    share: Share
    pid: int
    board: Scoreboard
    scratch: Path
    began: float
    deaths: int

    @property
    def is_hanging(self) -> bool:
        started = self.board["started_ns"]
        if not started:
            return self.board["executions"] == 0 and time.monotonic() - self.began > _STARTING_S
        return time.monotonic_ns() - started > self.share.target.seconds * 1e9


class Campaign:
    """Runs targets and adds up. ``findings`` and ``totals`` are complete after :meth:`run`."""

    def __init__(
        self,
        targets: Sequence[Target],
        executions: int,
        seed: int = 0,
        workers: int = 2,
        say: Callable[[str], None] = lambda line: None,
    ) -> None:
        self.totals = {target.name: Total(target) for target in targets}
        self.findings = Findings()
        self._workers, self._say = workers, say
        self._lines = {
            module: function_lines(module) for target in targets for module in target.modules
        }  # as they are now: files may be edited meanwhile
        self._waiting = deque((share, 0) for share in _shares(targets, executions, seed, workers))
        self._running: list[_Running] = []

    def run(self) -> None:
        try:
            while self._waiting or self._running:
                while self._waiting and len(self._running) < self._workers:
                    self._running.append(_start(*self._waiting.popleft()))
                time.sleep(_POLL_S)
                for running in list(self._running):
                    self._look(running)
        finally:
            for running in self._running:
                os.kill(running.pid, signal.SIGKILL)
                os.waitpid(running.pid, 0)
                shutil.rmtree(running.scratch, ignore_errors=True)

    def _look(self, running: _Running) -> None:
        done, status, used = os.wait4(running.pid, os.WNOHANG)
        is_hanging = not done and running.is_hanging
        if is_hanging:
            os.kill(running.pid, signal.SIGKILL)
            _, status, used = os.wait4(running.pid, 0)
        elif not done:
            return
        self.totals[running.share.target.name].seconds += used.ru_utime + used.ru_stime
        self._running.remove(running)
        self._count(running)
        if status:
            self._died(running, is_hanging, status)
        shutil.rmtree(running.scratch, ignore_errors=True)

    def _count(self, running: _Running) -> None:
        board, total = running.board, self.totals[running.share.target.name]
        total.executions += board["executions"]
        total.past_header += board["past_header"]
        total.accepted += board["accepted"]
        total.refused += board["refused"]
        is_slower = board["slowest_ns"] / 1e6 > total.slowest_ms
        total.slowest_ms = max(total.slowest_ms, board["slowest_ns"] / 1e6)
        path = running.scratch / "outcome"
        if path.exists():
            outcome: Outcome = pickle.loads(path.read_bytes())
            total.refusals += outcome.refusals
            total.slowest = outcome.slowest if is_slower else total.slowest
            total.peak_mib = max(total.peak_mib, outcome.peak_mib)
            for module, lines in outcome.reached.items():
                total.reached.setdefault(module, set()).update(lines)
            for found in outcome.findings.by_cause.values():
                self.findings.add(found)

    def _died(self, running: _Running, is_hanging: bool, status: int) -> None:
        """The input in hand is the finding; the share goes on with the next one."""
        share, board = running.share, running.board
        told = (
            (running.scratch / "stderr").read_text(errors="replace")[-4000:]
            if (running.scratch / "stderr").exists()
            else ""
        )
        how = (
            f"signal {signal.Signals(os.WTERMSIG(status)).name}"
            if os.WIFSIGNALED(status)
            else f"exit code {os.WEXITSTATUS(status)}"
        )
        kind, cause = (
            ("hang", f"longer than {share.target.seconds:g} s") if is_hanging else ("crash", how)
        )
        if not board["started_ns"]:
            kind, cause = "crash", f"outside of an execution: {cause}"
        self.findings.add(
            Finding(share.target.name, kind, cause, board.input, share.place(board["index"]), told)
        )
        self.totals[share.target.name].executions += 1
        self._say(f"{share.target.name}: {kind}: {cause}")
        rest = replace(share, start=board["index"] + 1)
        if rest.start < rest.stop and running.deaths < _DEATHS and board["started_ns"]:
            self._waiting.append((rest, running.deaths + 1))

    def coverage(self) -> dict[str, tuple[int, int]]:
        """Module -> (statements of functions reached, statements of functions)."""
        reached: dict[str, set[int]] = {}
        for total in self.totals.values():
            for module, lines in total.reached.items():
                reached.setdefault(module, set()).update(lines)
        counted = {}
        for module, lines in sorted(reached.items()):
            first, all_lines = statement_of(module), self._lines[module]
            seen, there = (
                {first[line] for line in some} for some in (lines & all_lines, all_lines)
            )
            counted[module] = (len(seen), len(there))
        return counted


def _shares(targets: Sequence[Target], executions: int, seed: int, workers: int) -> list[Share]:
    """Executions spread over targets by their share; every target in as many parts as there are
    workers.
    """
    whole = sum(target.share for target in targets)
    shares = []
    for target in targets:
        count = max(1, round(executions * target.share / whole / workers))
        shares += [Share(target, seed, number, 0, count) for number in range(workers)]
    return shares


def _start(share: Share, deaths: int) -> _Running:
    board = Scoreboard()
    scratch = Path(
        tempfile.mkdtemp(prefix="fuzz-", dir="/dev/shm" if os.access("/dev/shm", os.W_OK) else None)
    )
    began = time.monotonic()
    pid = os.fork()
    if pid == 0:
        code = 70
        try:
            share.run(board, scratch)
            code = 0
        except BaseException:
            import traceback

            traceback.print_exc()
        finally:
            os._exit(code)
    return _Running(share, pid, board, scratch, began, deaths)
