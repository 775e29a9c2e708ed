"""A process that takes learning steps when it is told to: one JSON command per line in, one JSON
answer per line out.

    load    folder               make the system, take one step
                                 -> done_at (monotonic clock), facts
    follow  first, steps, file   from the start, on inputs from ``first`` on
                                 -> losses; the parameters are in the file
    time    steps                from the start
                                 -> seconds of each step
    peak                         -> peak resident MiB
    quit

A folder holds ``start.npz`` (parameters by name), ``inputs.npz`` (each input with a leading axis of
steps) and ``settings.json``. Standard library and numpy alone: this file also runs where edgeadapt
is not installed.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

import numpy as np


class System(Protocol):
    """One way to take the step."""

    facts: dict[str, Any]
    """What it says about itself: versions, sizes, seconds."""

    def step(self, index: int) -> float:
        """Take one step on input ``index`` and return its loss; the parameters have been written
        when this returns.
        """
        ...

    def reset(self) -> None:
        """Back to the starting parameters, with no velocity."""
        ...

    def parameters(self) -> dict[str, np.ndarray]:
        """Copies of the trained tensors, by the names and in the layout of ``start.npz``."""
        ...


class Material:
    """What a system is given: ``start`` (name -> float32), ``inputs`` (name -> one array per step)
    and ``settings``.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.settings: dict[str, Any] = json.loads((folder / "settings.json").read_text())
        with np.load(folder / "start.npz") as given:
            self.start = {name: given[name] for name in given.files}
        with np.load(folder / "inputs.npz") as given:
            self.inputs = {
                name: [np.array(part, order="C") for part in given[name]] for name in given.files
            }
        self.count = len(next(iter(self.inputs.values())))

    def at(self, index: int) -> dict[str, np.ndarray]:
        return {name: parts[index % self.count] for name, parts in self.inputs.items()}


def peak_mib() -> float:
    """VmHWM of this process: the most that was resident at once."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) / 1024
    raise OSError("/proc/self/status has no VmHWM")


def serve(make: Callable[[Material], System]) -> None:
    """Answer commands until ``quit`` or the end of standard input. What libraries print goes to
    standard error.
    """
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    system: System | None = None
    for line in sys.stdin:
        command = json.loads(line)
        if command["do"] == "quit":
            return
        try:
            if command["do"] == "load":
                system = make(Material(Path(command["folder"])))
                system.step(0)
                answer = {"done_at": time.monotonic(), "facts": system.facts}
            elif system is None:
                raise RuntimeError("nothing is loaded")
            else:
                answer = _DOES[command["do"]](system, command)
        # the other side decides what a failure means; it must get its text, not a broken pipe
        except Exception as error:
            answer = {"error": f"{type(error).__name__}: {str(error).strip()[:600]}"}
        answers.write(json.dumps(answer) + "\n")
        answers.flush()


def _follow(system: System, command: dict[str, Any]) -> dict[str, Any]:
    system.reset()
    losses = [
        system.step(index) for index in range(command["first"], command["first"] + command["steps"])
    ]
    np.savez(command["file"], **system.parameters())
    return {"losses": losses}


def _time(system: System, command: dict[str, Any]) -> dict[str, Any]:
    system.reset()
    seconds = []
    for index in range(command["steps"]):
        started = time.perf_counter()
        system.step(index)
        seconds.append(time.perf_counter() - started)
    return {"seconds": seconds}


_DOES: dict[str, Callable[[System, dict[str, Any]], dict[str, Any]]] = {
    "follow": _follow,
    "time": _time,
    "peak": lambda system, command: {"mib": peak_mib()},
}
