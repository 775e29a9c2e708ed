"""One engine build in a process of its own: ``python _build_worker.py FOLDER``.

Runs as a file and imports nothing of the package, so that a build needs neither torch nor its
memory. The folder holds ``order.json`` (written by :mod:`edgeadapt.host.compile.engine`) and
``model.onnx``; the worker leaves ``answer.json`` and ``plan`` there. A builder that dies leaves no
answer, only what it said on standard error.
"""

from __future__ import annotations

import sys

if __name__ == "__main__":
    del sys.path[0]  # this folder, whose trace.py would hide the standard one

import json
import os
import re
import resource
import signal
import time
from pathlib import Path
from typing import Any

import tensorrt_rtx as trt


class _Loud(trt.ILogger):
    """Everything from warnings up goes to standard error at once, where it survives a crash."""

    def __init__(self) -> None:
        trt.ILogger.__init__(self)

    def log(self, severity: Any, message: str) -> None:
        if severity <= trt.ILogger.Severity.WARNING:
            os.write(2, f"{severity.name.lower()}: {message}\n".encode())


class _Refused(Exception):
    """The parser or the builder said no; the message has its words."""


def main(folder: Path) -> None:
    """Do what the order says and write the answer."""
    order = json.loads((folder / "order.json").read_text())
    _confine(order)
    try:
        answer = _build(order, folder)
    except _Refused as refused:
        answer = {"refused": str(refused)}
    (folder / "answer.json").write_text(json.dumps(answer))


def _confine(order: dict[str, Any]) -> None:
    """No core file, and an end of its own should the parent be gone."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    signal.alarm(order["alarm_seconds"])


def _build(order: dict[str, Any], folder: Path) -> dict[str, Any]:
    logger = _Loud()
    builder = trt.Builder(logger)
    network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    parser = trt.OnnxParser(network, logger)
    start = time.perf_counter()
    if not parser.parse((folder / "model.onnx").read_bytes()):
        raise _Refused(
            "; ".join(_parser_error(parser.get_error(i)) for i in range(parser.num_errors))
            or "the parser gave no reason"
        )
    config = builder.create_builder_config()
    config.clear_flag(trt.BuilderFlag.TF32)  # on by default; a learning step wants float32
    config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, order["workspace_bytes"])
    config.num_compute_capabilities = 1
    config.set_compute_capability(getattr(trt.ComputeCapability, order["capability"]), 0)
    inputs = [network.get_input(i) for i in range(network.num_inputs)]
    outputs = [network.get_output(i) for i in range(network.num_outputs)]
    answer = {
        "layers": network.num_layers,
        "inputs": [_port(value) for value in inputs],
        "outputs": [_port(value) for value in outputs],
    }
    _add_profile(builder, config, inputs, order["batches"])
    plan = builder.build_serialized_network(network, config)
    if plan is None:
        raise _Refused("the builder gave no plan")
    seconds = time.perf_counter() - start
    if plan.nbytes <= order["plan_bytes"]:
        with open(folder / "plan", "wb") as file:
            file.write(plan)
    return {
        **answer,
        "seconds": seconds,
        "plan_bytes": plan.nbytes,
        "peak_kib": _peak_kib(),
        "version": trt.__version__,
    }


def _add_profile(builder: Any, config: Any, inputs: list[Any], batches: list[int]) -> None:
    """A free axis is the batch: smallest, usual and largest size."""
    profile = builder.create_optimization_profile()
    for value in inputs:
        if value.is_shape_tensor:
            raise _Refused(
                f"input {value.name} decides a shape, so it would have to live on the host"
            )
        shape = tuple(value.shape)
        if -1 in shape:
            profile.set_shape(
                value.name, *(tuple(size if n == -1 else n for n in shape) for size in batches)
            )
    config.add_optimization_profile(profile)


def _peak_kib() -> int:
    """Peak resident memory. ``ru_maxrss`` would count the parent's, which a child inherits until it
    starts its own program.
    """
    found = re.search(r"^VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text(), re.MULTILINE)
    return int(found[1]) if found else resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def _port(value: Any) -> list[Any]:
    return [value.name, value.dtype.name, list(value.shape)]


def _parser_error(error: Any) -> str:
    return (
        f"{error.node_operator() or 'model'} {error.node_name()!r}: {error.desc()}"
        f" ({error.code().name})"
    )


if __name__ == "__main__":
    main(Path(sys.argv[1]))
