"""One life under one fault, in a process of its own: what it acknowledged, what it was refused, how
it ended.
"""

from __future__ import annotations

import mmap
import os
import pickle
import signal
import struct
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from io_shim import Mode, Shim
from stored import Stored, difference, stored_in

from edgeadapt.errors import StateError

HANGS_AFTER_S = 60


class Life(Protocol):
    """What is put under faults: it opens, takes its steps, closes, and can say what it knows."""

    name: str
    steps: Sequence[tuple[str, Callable[[Any], object]]]

    def open(self, folder: Path) -> Any: ...
    def journal_of(self, subject: Any) -> Any: ...
    def close(self, subject: Any) -> None: ...
    def look(self, subject: Any) -> bytes: ...
    def recall(self, folder: Path) -> tuple[bytes, str]: ...
    def go_on(self, folder: Path, done: int, final: Stored) -> str: ...


@dataclass
class Golden:
    """The life without a fault.

    Attributes:
        calls, reads: of the whole life.
        states: content after opening and after each transaction.
        reached: which of them each step, opening first, had come to when it returned.
        recalled: what is seen in a reopened folder, and its digest, per state.
    """

    calls: int
    reads: int
    states: list[Stored] = field(default_factory=list)
    reached: list[int] = field(default_factory=list)
    recalled: list[tuple[bytes, str]] = field(default_factory=list)


@dataclass
class End:
    """How a life ended. ``acknowledged`` counts steps, opening among them; ``problem`` is empty if
    all was as promised.
    """

    status: int
    acknowledged: int
    fired: int = 0
    where: str = ""
    refusals: list[str] = field(default_factory=list)
    problem: str = ""


def in_child(act: Callable[[], Any]) -> tuple[int, Any]:
    """(exit status, what ``act`` returned) of a forked child; None if it died, what was raised if
    it failed.
    """
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        signal.alarm(HANGS_AFTER_S)
        os.close(reading)
        try:
            result, status = act(), 0
        except BaseException as error:
            result, status = _in_short(error), 1
        with os.fdopen(writing, "wb") as pipe:
            pickle.dump(result, pipe)
        os._exit(status)
    os.close(writing)
    with os.fdopen(reading, "rb") as pipe:
        said = pipe.read()
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    return status, pickle.loads(said) if said else None


def _in_short(error: BaseException) -> str:
    """What was raised, and the last places on the way that are not in a library."""
    here = [
        f
        for f in traceback.extract_tb(error.__traceback__)
        if "site-packages" not in f.filename and "lib/python" not in f.filename
    ]
    places = " < ".join(f"{Path(f.filename).name}:{f.lineno} {f.name}" for f in reversed(here[-4:]))
    return f"{type(error).__name__}: {error} ({places})"


def end_of(act: Callable[[Callable[[int], None]], dict[str, Any]]) -> End:
    """The end of ``act(acknowledge)`` in a child; what it acknowledged is known even if it dies."""
    shared = mmap.mmap(-1, 8)
    status, said = in_child(lambda: act(lambda steps: struct.pack_into("q", shared, 0, steps)))
    end = End(status, struct.unpack_from("q", shared, 0)[0])
    if isinstance(said, dict):
        end.__dict__.update(said)
    elif status == 1:
        end.problem = f"an error without a name: {said}"
    elif status == -signal.SIGALRM:
        end.problem = f"nothing happened for {HANGS_AFTER_S} s"
    elif status != -signal.SIGKILL:
        end.problem = f"ended with {status}"
    return end


def live(
    life: Life,
    shim: Shim,
    folder: Path,
    fault: tuple[Mode, int, int],
    golden: Golden,
    acknowledge: Callable[[int], None],
) -> dict[str, Any]:
    """Live under a fault. After a refusal the subject is looked at, the fault is lifted, and the
    step is tried again without reopening.
    """
    shim.watch(folder)
    shim.arm(*fault)
    refusals: list[str] = []

    def report(problem: str = "") -> dict[str, Any]:
        return {"problem": problem, "refusals": refusals, "fired": shim.fired, "where": shim.where}

    def refused(name: str, error: StateError) -> None:
        refusals.append(f"{name}: {type(error).__name__}: {error}")

    try:
        subject = life.open(folder)
    except StateError as error:
        refused("open", error)
        shim.lift()
        subject = life.open(folder)
    acknowledge(1)
    for number, (name, step) in enumerate(life.steps, 1):
        try:
            step(subject)
        except StateError as error:
            refused(name, error)
            # a step of several transactions may have come to any of them
            within = slice(golden.reached[number - 1], golden.reached[number] + 1)
            if life.look(subject) not in [seen for seen, _ in golden.recalled[within]]:
                return report(
                    f"{name} was refused, and what is seen then belongs to no state in between"
                )
            shim.lift()
            if stored_in(folder) not in golden.states[within]:
                return report(
                    f"{name} was refused, and left something behind:"
                    f" {difference(stored_in(folder), golden.states[within.start])}"
                )
            step(subject)
        acknowledge(number + 1)
    try:
        life.close(subject)
    except StateError as error:
        refused("close", error)
    shim.lift()
    return report()
