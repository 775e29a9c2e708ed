"""``edgeadapt doctor --self-test``: everything that a learner does, on every runtime that can run
here, each in a process of its own.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from edgeadapt.doctor.finding import without_places
from edgeadapt.doctor.machine import Machine
from edgeadapt.doctor.report import Latency, Run, Step

CPU = "onnxruntime"
PROVIDERS = ("CUDAExecutionProvider", "TensorrtExecutionProvider")
_ENGINES = ("tensorrt",)  # runtimes that an installation may lack
_LIMIT_S = 600.0  # an engine may be built first
_ONE_THREAD = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE"}


def self_test(machine: Machine) -> Iterator[Run]:
    """The CPU first: the others are held against its numbers."""
    quiet = replace(machine, environment={**machine.environment, **_ONE_THREAD}, child_s=_LIMIT_S)
    with tempfile.TemporaryDirectory(prefix="edgeadapt-doctor-") as folder:
        numbers = str(Path(folder) / "embeddings.npy")
        yield _run(quiet, CPU, "--keep", numbers)
        like = ("--like", numbers) if Path(numbers).exists() else ()
        for provider, reason in _providers(machine):
            name = f"{CPU}:{provider}"
            yield Run(name, "not run", reason) if reason else _run(quiet, name, provider, *like)
        for name, reason in _others(machine):
            yield (
                Run(name, "not run", without_places(reason)) if reason else _run(quiet, name, *like)
            )


def _providers(machine: Machine) -> Iterator[tuple[str, str]]:
    """ONNX Runtime's providers beside the CPU's, and why one cannot run; empty: it can."""
    answer = machine.ask("onnxruntime")
    listed = dict(answer.said.get("providers", {}))
    for provider in sorted(
        {*PROVIDERS, *listed} - {"CPUExecutionProvider", "AzureExecutionProvider"}
    ):
        yield provider, listed.get(provider, "this build of ONNX Runtime does not have it")


def _others(machine: Machine) -> Iterator[tuple[str, str]]:
    answer = machine.ask("runtimes")
    found = {
        str(one["name"]): (
            "" if one["is_available"] else str(one["detail"]).removeprefix("RuntimeUnavailable: ")
        )
        for one in answer.said.get("runtimes", ())
    }
    for name in sorted({*_ENGINES, *found} - {CPU}):
        yield name, found.get(name, answer.failure or "no runtime of that name is installed")


def _run(machine: Machine, name: str, *arguments: str) -> Run:
    """One child; a crash or a hang is a failed run."""
    answer = machine.ask("self-test", name.partition(":")[0], *arguments)
    return (
        _read(dict(answer.said))
        if not answer.failure
        else Run(name, "failed", without_places(answer.failure))
    )


def _read(said: dict[str, Any]) -> Run:
    latency = {name: Latency(**one) for name, one in said["latency"].items()}
    return Run(**{**said, "steps": [Step(**one) for one in said["steps"]], "latency": latency})


def lines(run: Run) -> list[str]:
    """For people: the verdict with latencies, and under it every step, or why it did not run."""
    first = f"  {run.result:<7}  {run.runtime}"
    if run.result == "not run":
        return [f"{first}: {run.reason}"]
    if run.reason:
        return [first, f"{'':11}{run.reason}"]
    times = ", ".join(f"{name} {one.median_ms:.2f} ms" for name, one in run.latency.items())
    steps = [
        f"{'':11}{'ok' if step.ok else 'FAILED':<7} {step.name:<13} {step.found}"
        for step in run.steps
    ]
    return [
        first,
        *steps,
        f"{'':11}{'':<7} {'time':<13} opened in {run.open_ms:.0f} ms; one sample, median: {times}",
    ]


__all__ = ["CPU", "PROVIDERS", "lines", "self_test"]
