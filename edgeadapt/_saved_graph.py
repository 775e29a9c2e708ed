"""A graph outside a bundle: two files, and an object that runs one and holds its state. No torch,
no onnx.

``NAME.onnx`` is the model. ``NAME.safetensors`` has the first value of every tensor the graph reads
or writes and of every frozen one; its header describes the graph as JSON under the key
``edgeadapt.graph`` and names the model by its SHA-256.
"""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load, save

from edgeadapt._durable import replace_file
from edgeadapt.bundle.schema import Parity, PortSpec
from edgeadapt.errors import BundleError, InputError, StateError
from edgeadapt.runtime import (
    ArrayLike,
    Executable,
    GraphFile,
    Port,
    Runtime,
    Signature,
    Tensors,
    open_runtime,
)

Arrays = dict[str, NDArray[Any]]
FORMAT = 1
KEY = "edgeadapt.graph"
_MAX_HEADER_BYTES = 16 << 20


class Description(msgspec.Struct, frozen=True, kw_only=True):
    """What the header of ``NAME.safetensors`` says."""

    format: int = FORMAT
    name: str
    model_sha256: str
    ports: tuple[PortSpec, ...]
    outputs: tuple[PortSpec, ...]
    reads: tuple[str, ...]
    writes: tuple[str, ...]
    frozen: tuple[str, ...]
    parity: Parity

    @property
    def state(self) -> tuple[str, ...]:
        """The tensors that a device holds."""
        return tuple(dict.fromkeys((*self.reads, *self.writes)))


class StatefulGraph:
    """A graph and the tensors it learns. Calls are thread-safe: steps take turns, and a graph that
    writes nothing waits for no one.

    Not made directly; see :func:`edgeadapt.runtime.read_graph`.
    """

    def __init__(self, description: Description, executable: Executable, held: _Held) -> None:
        self.description = description
        self._executable = executable
        self._held = held

    @property
    def name(self) -> str:
        return self.description.name

    @property
    def signature(self) -> Signature:
        return self._executable.signature

    @property
    def state(self) -> Arrays:
        """Copies of the tensors that the graph reads and writes, as they are now."""
        tensors = self._held.tensors
        return {name: tensors[name].numpy() for name in self.description.state}

    def __call__(self, **ports: ArrayLike) -> Arrays:
        """Run once; what is written is the state of the next call.

        Args:
            ports: an array for each port, of its dtype and shape; a Python number where the port is
                one.

        Returns:
            The outputs, as arrays the caller owns.

        Raises:
            InputError: a port is missing, unknown, of another dtype or shape, or not finite. The
                state is then as before.
        """
        for name, value in ports.items():
            array = np.asarray(value)
            if array.dtype.kind == "f" and not np.isfinite(array).all():
                raise InputError(
                    f"graph {self.name!r}: port {name!r} has values that are not finite"
                )
        if not self.description.writes:
            return self._executable(ports, self._held.tensors)[0]
        with self._held.turn:
            outputs, written = self._executable(ports, self._held.tensors)
            self._held.tensors = written.over(self._held.tensors)
        return outputs

    def save_state(self, path: str | Path) -> None:
        """Write the state to a safetensors file; whatever happens meanwhile, the file is the old
        one or the new one.

        Raises:
            StateError: a tensor is not finite (the step diverged), or the file cannot be written.
                The old file is untouched.
        """
        state = self.state
        for name, value in state.items():
            if not _is_finite(value):
                raise StateError(
                    f"{path}: not written: {name} has values that are not finite; a step of"
                    f" {self.name!r} diverged"
                )
        try:
            replace_file(Path(path), save(dict(sorted(state.items())), {KEY: self.name}))
        except OSError as error:
            why = error.strerror or error
            raise StateError(f"{path}: the state cannot be written: {why}") from error

    def __repr__(self) -> str:
        ports = ", ".join(_label(p.name, p.dtype, p.shape) for p in self.signature.ports)
        written = len(self.description.writes)
        return f"StatefulGraph({self.name}: {ports}; {written} tensors written)"


class _Held:
    """The tensors of one or several graphs, and whose turn it is to write them."""

    def __init__(self, tensors: Tensors, runtime: Runtime) -> None:
        self.tensors = tensors
        self.runtime = runtime
        self.turn = threading.Lock()


def open_graph(
    path: Path, state: str | Path | StatefulGraph | None, runtime: Runtime | None
) -> StatefulGraph:
    """See :func:`edgeadapt.runtime.read_graph`."""
    model, description, values = _read(path)
    shared = state._held if isinstance(state, StatefulGraph) else None
    engine = shared.runtime if shared else runtime or open_runtime()
    frozen = {name: values[name] for name in description.frozen}
    executable = engine.load(GraphFile(description.name, model, frozen))
    signature = executable.signature
    specs = {port.name: port for port in (*signature.writes, *signature.reads)}
    if different := sorted(set(specs) ^ set(description.state)):
        raise BundleError(
            f"{path}: the model and the description beside it differ about the tensor"
            f" {different[0]!r}"
        )
    mine = {name: values[name] for name in description.state}
    if shared is None:
        if isinstance(state, (str, Path)):
            mine = _read_state(Path(state), specs)
        for name, value in mine.items():
            if fault := _fault(specs[name], value):
                raise BundleError(f"{path.with_suffix('.safetensors')}: {fault}")
        return StatefulGraph(description, executable, _Held(engine.upload(mine), engine))
    with shared.turn:
        for name, port in specs.items():
            if name in shared.tensors and (fault := _fault(port, shared.tensors[name])):
                raise InputError(f"{path}: cannot share the state of the other graph: {fault}")
        new = {name: value for name, value in mine.items() if name not in shared.tensors}
        shared.tensors = shared.tensors.over(engine.upload(new))
    return StatefulGraph(description, executable, shared)


def _read(path: Path) -> tuple[bytes, Description, Arrays]:
    if path.suffix != ".onnx":
        raise InputError(
            f"{path}: a saved graph is opened by its NAME.onnx; NAME.safetensors lies beside it"
        )
    weights = path.with_suffix(".safetensors")
    model, data = _bytes(path), _bytes(weights)
    values, metadata = _safetensors(weights, data)
    try:
        description = msgspec.json.decode(metadata.get(KEY, ""), type=Description)
    except (ValueError, RecursionError) as error:
        raise BundleError(f"{weights}: its header does not describe a graph: {error}") from None
    if description.format != FORMAT:
        raise BundleError(
            f"{weights}: format {description.format}; this version reads format {FORMAT}"
        )
    if hashlib.sha256(model).hexdigest() != description.model_sha256:
        raise BundleError(
            f"{path}: is not the model that {weights.name} belongs to; copy both files of one"
            " compilation"
        )
    for name in (*description.state, *description.frozen):
        if name not in values:
            raise BundleError(f"{weights}: has no value for {name}")
        if not _is_finite(values[name]):
            raise BundleError(f"{weights}: {name} has values that are not finite")
    return model, description, values


def _read_state(path: Path, specs: Mapping[str, Port]) -> Arrays:
    try:
        values, _ = _safetensors(path, _bytes(path))
    except BundleError as error:
        raise StateError(str(error)) from None
    if different := sorted(set(values) ^ set(specs)):
        has = "has a tensor" if different[0] in values else "has no tensor"
        raise StateError(f"{path}: is the state of another graph: it {has} {different[0]!r}")
    for name, value in values.items():
        if fault := _fault(specs[name], value):
            raise StateError(f"{path}: is the state of another graph: {fault}")
        if not _is_finite(value):
            raise StateError(f"{path}: {name} has values that are not finite")
    return values


def _bytes(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise BundleError(f"{path}: {error.strerror}") from None


def _safetensors(path: Path, data: bytes) -> tuple[Arrays, dict[str, str]]:
    """Values and metadata; the package gives either the one or the other."""
    try:
        values: Arrays = load(data)
        length = int.from_bytes(data[:8], "little")
        header = msgspec.json.decode(
            data[8 : 8 + min(length, _MAX_HEADER_BYTES)], type=dict[str, msgspec.Raw]
        )
        metadata = msgspec.json.decode(
            header.get("__metadata__", msgspec.Raw(b"{}")), type=dict[str, str]
        )
    except (SafetensorError, KeyError, ValueError, TypeError, RecursionError) as error:
        raise BundleError(f"{path}: not a safetensors file: {error}") from None
    return values, metadata


def _fault(port: Port, value: Any) -> str | None:
    """What is wrong with the dtype or shape of a tensor."""
    if str(value.dtype) == port.dtype and tuple(value.shape) == port.shape:
        return None
    return (
        f"{port.name} is {_label('', str(value.dtype), value.shape)}, the graph takes"
        f" {_label('', port.dtype, port.shape)}"
    )


def _is_finite(value: NDArray[Any]) -> bool:
    return value.dtype.kind != "f" or bool(np.isfinite(value).all())


def _label(name: str, dtype: str, shape: tuple[int | None, ...]) -> str:
    dims = ", ".join("batch" if size is None else str(size) for size in shape)
    return f"{name} {dtype}[{dims}]".strip()
