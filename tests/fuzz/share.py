"""One share of a target: what the child process does. The same seed gives the same inputs."""

from __future__ import annotations

import faulthandler
import logging
import os
import pickle
import resource
import time
import traceback
import warnings
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Any

from fuzz.findings import Finding, Findings, cause_of
from fuzz.lines import SAMPLED_EVERY, Lines
from fuzz.scoreboard import Scoreboard
from fuzz.target import Target

_CORPUS = 200  # inputs that reached new lines, beside the seeds
_LARGEST = 256 << 10  # bytes of an input that joins them
_SAVED_EVERY = 500


@dataclass
class Outcome:
    """What a share found out; the counts are on the scoreboard."""

    findings: Findings = field(default_factory=Findings)
    reached: dict[str, set[int]] = field(default_factory=dict)
    refusals: Counter[str] = field(default_factory=Counter)
    peak_mib: float = 0.0
    slowest: bytes = b""


@dataclass(frozen=True)
class Share:
    target: Target
    seed: int
    number: int
    start: int
    stop: int

    def place(self, index: int) -> str:
        return f"--seed {self.seed}, share {self.number}, execution {index}"

    def rng(self, index: int) -> Random:
        return Random(f"{self.seed} {self.target.name} {self.number} {index}")

    def run(self, board: Scoreboard, scratch: Path) -> None:
        """Execute; the outcome is left in ``scratch/outcome``."""
        _quieten(scratch)
        target = self.target
        execute, seeds = target.prepare(scratch), target.seeds()
        for seed in seeds:
            # what is sound is accepted, and what is made once is made before memory counts
            execute(seed)
        lines, outcome, corpus = Lines(target.modules), Outcome(), []
        allowed_mib = _limit_memory(target.memory_mib)
        for index in range(self.start, self.stop):
            rng = self.rng(index)
            data = (
                seeds[index]
                if index < len(seeds)
                else target.mutate(rng, _pick(rng, seeds, corpus), _pick(rng, seeds, corpus))
            )
            board.input = data
            board["index"] = index
            is_watched = index % SAMPLED_EVERY == 0 or index < len(seeds)
            board["started_ns"] = time.monotonic_ns()
            started = time.process_time_ns()
            if is_watched:
                with lines.watching():
                    error = _attempt(execute, data)
            else:
                error = _attempt(execute, data)
            board["started_ns"] = 0
            spent = time.process_time_ns() - started
            if spent > board["slowest_ns"] and (SAMPLED_EVERY == 1 or not is_watched):
                board["slowest_ns"], outcome.slowest = spent, data
            is_new_cause = self._judge(error, data, index, board, outcome)
            if (
                is_watched
                and lines.has_new()
                and index >= len(seeds)
                and len(data) <= _LARGEST
                and len(corpus) < _CORPUS
            ):
                corpus.append(data)
            if is_new_cause or index % _SAVED_EVERY == _SAVED_EVERY - 1 or index == self.stop - 1:
                outcome.reached, outcome.peak_mib = lines.reached, _peak_mib() - allowed_mib
                # what a share knew outlives it
                (scratch / "outcome").write_bytes(pickle.dumps(outcome))

    def _judge(
        self,
        error: BaseException | None,
        data: bytes,
        index: int,
        board: Scoreboard,
        outcome: Outcome,
    ) -> bool:
        """Count; True if it is a finding of a new cause."""
        board.add("executions")
        if error is None:
            board.add("accepted")
            board.add("past_header")
        elif isinstance(error, self.target.named):
            board.add("refused")
            outcome.refusals[type(error).__name__] += 1
            board.add("past_header", int(self.target.is_past_header(error)))
        else:
            board.add("past_header")
            report = "".join(traceback.format_exception(type(error), error, error.__traceback__))
            known = len(outcome.findings.by_cause)
            outcome.findings.add(
                Finding(
                    self.target.name, "raised", cause_of(error), data, self.place(index), report
                )
            )
            return len(outcome.findings.by_cause) > known
        return False


def _attempt(execute: Any, data: bytes) -> BaseException | None:
    try:
        execute(data)
    except KeyboardInterrupt:
        raise
    except BaseException as error:  # a panic of a library in Rust is no Exception
        return error
    return None


def _pick(rng: Random, seeds: list[bytes], corpus: list[bytes]) -> bytes:
    return rng.choice(corpus if corpus and rng.random() < 0.5 else seeds)


def _quieten(scratch: Path) -> None:
    """Nothing of ours is printed; what a dying library prints goes into a file."""
    warnings.simplefilter("ignore")
    logging.disable(logging.CRITICAL)
    told = os.open(scratch / "stderr", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(told, 2)
    os.close(told)
    faulthandler.enable()
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def _limit_memory(spare_mib: int) -> float:
    """Bound the address space to what it is now and ``spare_mib``; returns the resident MiB now,
    and starts the peak from there.
    """
    size = next(
        int(line.split()[1])
        for line in Path("/proc/self/status").read_text().splitlines()
        if line.startswith("VmSize:")
    )
    limit = (size << 10) + (spare_mib << 20)
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    Path("/proc/self/clear_refs").write_text("5")  # VmHWM counts from now
    return _peak_mib()


def _peak_mib() -> float:
    return (
        next(
            int(line.split()[1])
            for line in Path("/proc/self/status").read_text().splitlines()
            if line.startswith("VmHWM:")
        )
        / 1024
    )
