"""Build a graph with a real TensorRT compiler, without a GPU, in a process that may hang, grow or
die.

TensorRT for RTX (``pip install 'edgeadapt[rtx]'``, proprietary, optional) compiles for a GPU that
is not there. A plan that comes out says that parser and compiler took the graph and kept its ports;
it was not run, so it says nothing about numbers. Parsing is not enough: some graphs parse and then
do not build, and unrolled eliminations make the builder grow without end.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import ModelProto, TensorProto

from edgeadapt.errors import CompileError, InputError, RuntimeUnavailable

ENGINE = "tensorrt-rtx"
TARGETS = {"sm_80": "SM80", "sm_86": "SM86", "sm_89": "SM89", "sm_120": "SM120", "sm_121": "SM121"}
"""Compute capabilities it compiles for. It knows sm_75 too, and refuses float32 matrix products
there.
"""
DEFAULT_TARGETS = ("sm_86", "sm_120")
"""The sm_86 compiler is the nearest to Orin's sm_87, which TensorRT itself serves with its sm_86
resources; sm_120 is the newest family.
"""
BATCHES = (1, 8, 32)
"""Smallest, usual and largest batch of the optimisation profile of a graph whose batch is free."""
WORKER = (sys.executable, str(Path(__file__).with_name("_build_worker.py")))
"""The command that builds; the folder with the order is appended."""

_PACKAGE = "tensorrt_rtx"
_POLL_SECONDS = 0.02
_LAST_WORDS = 1200  # characters of a builder's messages that an error repeats
_DTYPES = {
    TensorProto.FLOAT: "FLOAT",
    TensorProto.UINT8: "UINT8",
    TensorProto.INT8: "INT8",
    TensorProto.INT32: "INT32",
    TensorProto.INT64: "INT64",
    TensorProto.BOOL: "BOOL",
}


@dataclass(frozen=True)
class Limits:
    """What one build may take. The defaults are far above what a step or a small encoder needs."""

    seconds: float = 60.0
    memory_mib: int = 4096  # resident, of the whole build process
    plan_mib: int = 50  # beyond the weights of the graph
    workspace_mib: int = 256  # scratch memory that the engine may ask for on the GPU


@dataclass(frozen=True)
class Built:
    """A graph that the compiler took."""

    name: str
    target: str
    plan: bytes = field(repr=False)
    seconds: float  # parse and build, without the start of the process
    layers: int  # of the network before the compiler fuses them
    peak_memory_mib: float  # resident, of the build process
    engine: str  # "tensorrt-rtx 1.7.1.116"


def is_installed() -> bool:
    """Whether the optional compiler is there."""
    return find_spec(_PACKAGE) is not None


def check_available(targets: Iterable[str]) -> None:
    """Say at once what :func:`build` would say graph by graph.

    Raises:
        InputError: a target is not one of :data:`TARGETS`.
        RuntimeUnavailable: the compiler is not installed.
    """
    for target in targets:
        if target not in TARGETS:
            raise InputError(
                f"no target {target!r}: {ENGINE} compiles for {', '.join(TARGETS)}; other GPUs need"
                " TensorRT on the device"
            )
    if not is_installed():
        raise RuntimeUnavailable(
            f"{ENGINE} is not installed; pip install 'edgeadapt[rtx]' adds it (about 100 MB,"
            " NVIDIA's proprietary licence, no GPU needed)"
        )


def build(
    name: str,
    model: bytes,
    frozen: Mapping[str, NDArray[Any]],
    *,
    target: str = DEFAULT_TARGETS[0],
    batches: Sequence[int] = BATCHES,
    limits: Limits | None = None,
) -> Built:
    """Compile a graph for one GPU family.

    Args:
        name: of the graph, for messages.
        model: serialised ONNX model; its external initialisers have the location ``bundle:``.
        frozen: values of those initialisers by name.
        target: one of :data:`TARGETS`.
        batches: sizes that a free batch axis must take; smallest, middle and largest become the
            optimisation profile.
        limits: of time, memory and plan size.

    Raises:
        InputError: the target is not known, or there are no batches.
        RuntimeUnavailable: the compiler is not installed.
        CompileError: a frozen value is missing, the compiler refused the graph, crashed, passed a
            limit, or changed a port; with its last messages.
    """
    limits = limits or Limits()
    check_available([target])
    if not batches or min(batches) < 1:
        raise InputError(f"batches {list(batches)}: at least one size, each at least 1")
    proto = ModelProto.FromString(model)
    weight_bytes = _inline(name, proto, frozen)
    sizes = sorted(batches)
    with tempfile.TemporaryDirectory(prefix="edgeadapt-build-") as place:
        folder = Path(place)
        (folder / "model.onnx").write_bytes(proto.SerializeToString())
        order: dict[str, Any] = {
            "capability": TARGETS[target],
            "batches": [sizes[0], sizes[len(sizes) // 2], sizes[-1]],
            "workspace_bytes": limits.workspace_mib << 20,
            "plan_bytes": (limits.plan_mib << 20) + weight_bytes,
            "alarm_seconds": int(limits.seconds) + 10,
        }
        (folder / "order.json").write_text(json.dumps(order))
        title = f"{name}: {ENGINE} for {target}"
        answer = _run(title, [*WORKER, place], folder, limits, order["plan_bytes"])
        if "refused" in answer:
            raise CompileError(
                f"{title} refuses the graph: {answer['refused']}.{_last_words(folder)}"
            )
        if answer["plan_bytes"] > order["plan_bytes"]:
            raise CompileError(
                f"{title} makes a plan of {answer['plan_bytes'] >> 20} MiB, over the limit of"
                f" {order['plan_bytes'] >> 20} MiB; unrolled loops grow so: take fewer steps or"
                " matrix products over the whole batch"
            )
        if changes := list(_changed_ports(proto, answer)):
            raise CompileError(f"{title} changes the ports: {'; '.join(changes)}")
        plan = (folder / "plan").read_bytes()
    return Built(
        name=name,
        target=target,
        plan=plan,
        seconds=answer["seconds"],
        layers=answer["layers"],
        peak_memory_mib=answer["peak_kib"] / 1024,
        engine=f"{ENGINE} {answer['version']}",
    )


def _inline(name: str, proto: ModelProto, frozen: Mapping[str, NDArray[Any]]) -> int:
    """Put the frozen values into the model; bytes of all weights."""
    total = 0
    for tensor in proto.graph.initializer:
        if tensor.data_location == TensorProto.EXTERNAL:
            if tensor.name not in frozen:
                raise CompileError(f"{name}: the frozen tensor {tensor.name!r} has no value")
            value = np.asarray(frozen[tensor.name])
            if value.dtype != onnx.helper.tensor_dtype_to_np_dtype(
                tensor.data_type
            ) or value.shape != tuple(tensor.dims):
                raise CompileError(
                    f"{name}: the frozen tensor {tensor.name!r} is"
                    f" {value.dtype}{list(value.shape)}, not as the graph says"
                )
            tensor.CopyFrom(onnx.numpy_helper.from_array(value, tensor.name))
        total += tensor.ByteSize()
    return total


def _run(
    title: str, command: list[str], folder: Path, limits: Limits, file_bytes: int
) -> dict[str, Any]:
    """Start the worker, watch it, and take its answer."""
    with open(folder / "messages", "wb") as messages:
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=messages,
            stderr=messages,
            start_new_session=True,
        )
        try:
            excess = _watch(process, folder, limits, 2 * file_bytes)
        finally:
            _end(process)
    if excess:
        raise CompileError(f"{title} was stopped: {excess}.{_last_words(folder)}")
    if process.returncode < 0:
        raise CompileError(
            f"{title} crashed with {signal.Signals(-process.returncode).name}.{_last_words(folder)}"
        )
    if process.returncode:
        raise CompileError(
            f"{title} failed with exit code {process.returncode}.{_last_words(folder)}"
        )
    try:
        answer: dict[str, Any] = json.loads((folder / "answer.json").read_text())
    except (OSError, ValueError) as error:
        raise CompileError(f"{title} left no answer ({error}).{_last_words(folder)}") from error
    return answer


def _watch(process: subprocess.Popen[bytes], folder: Path, limits: Limits, file_bytes: int) -> str:
    """Wait for the end of the process; the limit that it passed, or an empty string."""
    start = time.monotonic()
    while True:
        try:
            process.wait(_POLL_SECONDS)
            return ""
        except subprocess.TimeoutExpired:
            pass
        if time.monotonic() - start > limits.seconds:
            return (
                f"no result after {limits.seconds:g} s; unrolled loops grow so: take fewer steps,"
                " or fewer layers in one graph"
            )
        if (resident := _resident_mib(process.pid)) > limits.memory_mib:
            return (
                f"{resident} MiB of memory, over the limit of {limits.memory_mib} MiB; unrolled"
                " loops grow so: take fewer steps"
            )
        if (
            written := sum(
                file.stat().st_size
                for file in (folder / "messages", folder / "plan")
                if file.exists()
            )
        ) > file_bytes:
            return (
                f"{written >> 20} MiB of files and messages, over the limit of"
                f" {file_bytes >> 20} MiB"
            )


def _resident_mib(pid: int) -> int:
    """Peak resident memory of a running process, 0 once it has ended."""
    try:
        status = Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return 0
    return next(
        (int(line.split()[1]) // 1024 for line in status.splitlines() if line.startswith("VmHWM:")),
        0,
    )


def _end(process: subprocess.Popen[bytes]) -> None:
    """Nothing of the worker is left, whatever happens here; the session has its own process
    group.
    """
    if process.poll() is None:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def _last_words(folder: Path) -> str:
    """The end of what the worker said, as part of a message."""
    with open(folder / "messages", "rb") as file:
        file.seek(max(0, os.fstat(file.fileno()).st_size - 2 * _LAST_WORDS))
        text = file.read().decode("utf-8", "replace").strip()
    return f" Last messages: {text[-_LAST_WORDS:]}" if text else " It said nothing."


def _changed_ports(proto: ModelProto, answer: Mapping[str, Any]) -> Iterator[str]:
    """Where the engine's inputs and outputs differ from the graph's: parsers rename aliased ports
    and narrow float64 silently.
    """
    for kind, values in (("inputs", proto.graph.input), ("outputs", proto.graph.output)):
        wanted = {
            value.name: _DTYPES.get(value.type.tensor_type.elem_type, "?") for value in values
        }
        found = {port[0]: port[1] for port in answer[kind]}
        if wanted != found:
            yield f"{kind} {found} where the graph has {wanted}"
