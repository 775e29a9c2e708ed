"""Systems in processes of their own that take turns, so that a slower minute of the machine slows
all of them.

Before a system is timed it follows the reference: the same steps from the same start on the same
inputs must end at the same parameters.
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from edgeadapt.errors import InputError, RuntimeUnavailable
from edgeadapt_bench.harness.measure import ONE_THREAD, Say

Arrays = Mapping[str, NDArray[Any]]
_ANSWER_SECONDS = 600.0
_ULP = 4 * float(np.finfo(np.float32).eps)


@dataclass(frozen=True)
class Reference:
    """Where every system must arrive, in float64: the parameters at the end of several walks of
    ``steps`` steps, all from ``start``.

    Walk ``i`` begins at input ``i * steps``. A system is judged by its median :func:`distance` over
    the walks, so that a walk on which float32 is unstable decides nothing.
    """

    start: Arrays
    ends: Sequence[Arrays]
    steps: int
    tolerance: float


@dataclass(frozen=True)
class Entrant:
    """A system and the command that starts its process.

    Attributes:
        named: from the tensors it holds to those of the reference.
        reference: its own, if it cannot take the same step; the name says so.
        is_checked: False only for what learns nothing.
    """

    name: str
    command: tuple[str, ...]
    environment: Mapping[str, str] = field(default_factory=dict)
    named: Callable[[Arrays], Arrays] = dict
    reference: Reference | None = None
    is_checked: bool = True


@dataclass(frozen=True)
class Result:
    """What one system showed.

    Attributes:
        medians: seconds per step, one per round.
        cold_s: process start to the end of the first step.
        peak_mib: most resident at once.
        distance: from the reference. facts: what the process says about itself.
    """

    medians: NDArray[np.float64]
    p95_s: float
    cold_s: float
    peak_mib: float
    distance: float
    facts: Mapping[str, Any]


class Process:
    """A running system.

    Raises:
        RuntimeUnavailable: it cannot start, or it answers with an error.
    """

    def __init__(self, entrant: Entrant, folder: Path, log: Path) -> None:
        self.name = entrant.name
        self._log: IO[bytes] = open(log, "w+b")  # noqa: SIM115 (closed with the process)
        started = time.monotonic()
        self._process = subprocess.Popen(
            entrant.command,
            env={**os.environ, **ONE_THREAD, **entrant.environment},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log,
            text=True,
        )
        try:
            answer = self.ask("load", folder=str(folder))
        except RuntimeUnavailable:
            self.close()
            raise
        self.cold_s = float(answer["done_at"]) - started
        self.facts: dict[str, Any] = answer["facts"]

    def ask(self, do: str, **arguments: Any) -> dict[str, Any]:
        """One command, one answer.

        Raises:
            RuntimeUnavailable: the process has ended, or answers with an error, or not at all.
        """
        assert self._process.stdin is not None and self._process.stdout is not None
        watch = threading.Timer(_ANSWER_SECONDS, self._process.kill)
        watch.start()
        try:
            self._process.stdin.write(json.dumps({"do": do, **arguments}) + "\n")
            self._process.stdin.flush()
            line = self._process.stdout.readline()
        except BrokenPipeError:
            line = ""
        finally:
            watch.cancel()
        if not line:
            raise RuntimeUnavailable(f"{self.name}: {self._last_words()}")
        answer: dict[str, Any] = json.loads(line)
        if "error" in answer:
            raise RuntimeUnavailable(f"{self.name}: {answer['error']}")
        return answer

    def close(self) -> None:
        """Let it end by itself; after ten seconds it is stopped."""
        assert self._process.stdin is not None and self._process.stdout is not None
        with contextlib.suppress(BrokenPipeError):  # it has ended already
            self._process.stdin.close()
        try:
            self._process.wait(10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._process.stdout.close()
        self._log.close()

    def _last_words(self) -> str:
        code = self._process.wait(10)
        self._log.seek(0)
        lines = self._log.read().decode(errors="replace").strip().splitlines()
        return f"ended with {code}: {lines[-1] if lines else 'no message'}"


def distance(start: Arrays, end: Arrays, got: Arrays) -> float:
    """The largest ``|got - end| / |end - start|`` of any tensor, Euclidean; what float32 cannot
    hold of the values is not counted.

    Raises:
        InputError: ``got`` has other tensors or shapes, or is not finite.
    """
    if sorted(got) != sorted(end):
        raise InputError(
            f"has the tensors {', '.join(sorted(got)) or 'none'} instead of"
            f" {', '.join(sorted(end))}"
        )
    worst = 0.0
    for name, want in end.items():
        if got[name].shape != want.shape:
            raise InputError(
                f"{name} has shape {list(got[name].shape)} instead of {list(want.shape)}"
            )
        if not np.isfinite(got[name]).all():
            raise InputError(f"{name} is not finite")
        error = np.maximum(np.abs(got[name].astype(np.float64) - want) - _ULP * np.abs(want), 0.0)
        worst = max(worst, float(np.linalg.norm(error) / np.linalg.norm(want - start[name])))
    return worst


def check(
    process: Process, reference: Reference, named: Callable[[Arrays], Arrays] = dict
) -> float:
    """The system's median distance from the reference.

    Raises:
        InputError: it is larger than the tolerance: the system takes another step, and its time
            would say nothing.
    """
    found = []
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "end.npz"
        for walk, end in enumerate(reference.ends):
            process.ask(
                "follow", first=walk * reference.steps, steps=reference.steps, file=str(file)
            )
            with np.load(file) as read:
                got = named({name: read[name] for name in read.files})
            try:
                found.append(distance(reference.start, end, got))
            except InputError as error:
                raise InputError(f"{process.name} is not timed: {error}") from None
    median = float(np.median(found))
    if not median <= reference.tolerance:
        raise InputError(
            f"{process.name} is not timed: after {reference.steps} steps its parameters are"
            f" {median:.1e} of the way off the reference, tolerance {reference.tolerance:.0e}; it"
            " does not take the same step"
        )
    return median


def race(
    entrants: Sequence[Entrant],
    folder: Path,
    reference: Reference,
    *,
    rounds: int,
    block: int,
    say: Say,
    needed: Sequence[str] = (),
) -> tuple[dict[str, Result], dict[str, str]]:
    """Start, check and time systems.

    Each round gives every system one block of steps from the starting parameters, in an order that
    rotates. The first eighth of a block finds the caches as the others left them and is not
    counted, nor is the first round.

    Args:
        needed: systems without which there is nothing to report.

    Returns:
        What each system showed, and for each that was left out the reason.

    Raises:
        InputError, RuntimeUnavailable: a needed system takes another step, or failed.
    """
    running: dict[str, Process] = {}
    distances: dict[str, float] = {}
    absent: dict[str, str] = {}

    def drop(name: str, error: Exception) -> None:
        if (process := running.pop(name, None)) is not None:
            process.close()
        if name in needed:
            raise error
        absent[name] = str(error)
        say(f"absent: {error}")

    with tempfile.TemporaryDirectory() as logs:
        try:
            for index, entrant in enumerate(entrants):
                try:
                    running[entrant.name] = process = Process(
                        entrant, folder, Path(logs) / str(index)
                    )
                    distances[entrant.name] = (
                        check(process, entrant.reference or reference, entrant.named)
                        if entrant.is_checked
                        else 0.0
                    )
                except (InputError, RuntimeUnavailable) as error:
                    drop(entrant.name, error)
            spent: dict[str, list[list[float]]] = {name: [] for name in running}
            for turn in range(rounds + 1):
                names = list(running)
                for name in (
                    names[turn % len(names) :] + names[: turn % len(names)] if names else ()
                ):
                    try:
                        seconds = running[name].ask("time", steps=block)["seconds"][
                            max(1, block // 8) :
                        ]
                    except RuntimeUnavailable as error:
                        drop(name, error)
                        continue
                    if turn:
                        spent[name].append(seconds)
            return {
                name: _result(process, spent[name], distances[name])
                for name, process in running.items()
            }, absent
        finally:
            for process in running.values():
                process.close()


def _result(process: Process, spent: list[list[float]], distance: float) -> Result:
    seconds = np.array(spent)
    return Result(
        medians=np.median(seconds, axis=1),
        p95_s=float(np.quantile(seconds, 0.95)),
        cold_s=process.cold_s,
        peak_mib=float(process.ask("peak")["mib"]),
        distance=distance,
        facts=process.facts,
    )


__all__ = ["Entrant", "Process", "Reference", "Result", "check", "distance", "race"]
