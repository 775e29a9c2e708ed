"""A process that takes learning steps when it is told to; its orders:

    load    folder               make the system, take one step
                                 -> done_at (monotonic clock), facts
    follow  first, steps, file   from the start, on inputs from ``first`` on
                                 -> losses; the parameters are in the file
    time    steps                from the start
                                 -> seconds of each step, peak_mib (resident, until now)

A folder holds ``start.npz`` (parameters by name), ``inputs.npz`` (each input with a leading axis of
steps) and ``settings.json``.
"""

from __future__ import annotations

import json
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


class StepInputs:
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


def steps_of(make: Callable[[StepInputs], System]) -> dict[str, Callable[..., dict[str, Any]]]:
    """The jobs of a process that takes the steps of one system at a time."""
    loaded: list[System] = []

    def system() -> System:
        if not loaded:
            raise RuntimeError("nothing is loaded")
        loaded[0].reset()
        return loaded[0]

    def load(folder: str) -> dict[str, Any]:
        loaded[:] = [make(StepInputs(Path(folder)))]
        loaded[0].step(0)
        return {"done_at": time.monotonic(), "facts": loaded[0].facts}

    def follow(first: int, steps: int, file: str) -> dict[str, Any]:
        followed = system()
        losses = [followed.step(index) for index in range(first, first + steps)]
        np.savez(file, **followed.parameters())
        return {"losses": losses}

    def timed(steps: int) -> dict[str, Any]:
        measured = system()
        seconds = []
        for index in range(steps):
            started = time.perf_counter()
            measured.step(index)
            seconds.append(time.perf_counter() - started)
        return {"seconds": seconds, "peak_mib": peak_mib()}

    return {"load": load, "follow": follow, "time": timed}
