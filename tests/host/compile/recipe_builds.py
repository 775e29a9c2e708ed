"""The graphs that a device loads of a bundle, built as the TensorRT runtime builds them, with
TensorRT for RTX in the place of TensorRT.

Parser, flags, profile and the injection of frozen values are those of
``runtimes/edgeadapt_tensorrt``. What has no place here is everything after the plan: loading and
running it takes a GPU.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
from edgeadapt_onnxruntime import OnnxRuntime
from edgeadapt_tensorrt import EngineError, Flags
from edgeadapt_tensorrt._driver import Device
from edgeadapt_tensorrt._engine import Compiler, Profile
from edgeadapt_tensorrt._logger import listening
from edgeadapt_tensorrt._store import Store
from numpy.typing import NDArray

from edgeadapt.bundle import Bundle
from edgeadapt.device.inference.program import Program
from edgeadapt.onnx_file import OnnxFile, Value
from edgeadapt.runtime import Executable, GraphFile

PROFILE = Profile(8, 32)
AS_INPUTS = ", weights as inputs"
_DTYPES = {
    "FLOAT": "float32",
    "INT64": "int64",
    "INT32": "int32",
    "INT8": "int8",
    "UINT8": "uint8",
    "BOOL": "bool",
}


@dataclass(frozen=True)
class Loaded:
    """A graph as a device loads it; ``replaced`` are frozen tensors that become inputs of the
    engine.
    """

    name: str
    model: bytes
    frozen: Mapping[str, NDArray[Any]]
    replaced: tuple[str, ...] = ()

    @property
    def sha256(self) -> str:
        """Of what decides whether it builds: frozen tensors count with their shapes, which are in
        the model, and not with their values.
        """
        return hashlib.sha256(b"\0".join([self.model, *map(str.encode, self.replaced)])).hexdigest()


@dataclass(frozen=True)
class Built:
    """What became of a graph; ``error`` is empty if it was built. Layers are counted before fusion,
    seconds are for parsing and building.
    """

    layers: int
    plan_kib: float
    seconds: float
    error: str = ""


class Recorder(OnnxRuntime):
    """ONNX Runtime that remembers what it was asked to load."""

    def __init__(self) -> None:
        super().__init__()
        self.asked: list[tuple[GraphFile, tuple[str, ...]]] = []

    def load(
        self, graph: GraphFile, constants: Mapping[str, NDArray[Any]] | None = None
    ) -> Executable:
        self.asked.append((graph, tuple(sorted(constants or ()))))
        return super().load(graph, constants)


def loaded_by_device(bundle: Bundle) -> list[Loaded]:
    """What opening a bundle, re-folding its encoder, and a step with each of its adaptors load."""
    recorder = Recorder()
    program = Program(bundle, recorder)
    program.load_all()
    tensors = program.factory_domain().over(program.factory())
    z = np.zeros((2, bundle.manifest.feature_dim), np.float32)
    for candidate in program.adaptors.candidates:
        grown = program.adaptors.fresh(candidate).over(tensors)
        program.adaptors.read(candidate)
        program.adaptors.probe(candidate, z)
        program.adaptors.fit(
            candidate, grown, z, np.zeros(2, np.int64), np.ones(2, np.float32), 0.0
        )
    program.refold(tensors)
    found = {}
    for graph, replaced in recorder.asked:
        name = Path(graph.name).stem + (AS_INPUTS if replaced else "")
        found[name] = Loaded(
            name,
            graph.model,
            {key: np.asarray(value) for key, value in graph.frozen.items()},
            replaced,
        )
    return list(found.values())


class Builder:
    """The runtime's compiler with a TensorRT that builds without a GPU.

    Args:
        trt: the imported ``tensorrt_rtx``.
        folder: of the timings that it keeps.
    """

    def __init__(self, trt: Any, folder: Path) -> None:
        networks: list[Any] = []

        class Parser(trt.OnnxParser):  # type: ignore[misc]
            """The compiler's parser; it leaves the network where its layers can be counted."""

            def __init__(self, network: Any, logger: Any) -> None:
                super().__init__(network, logger)
                networks[:] = [network]

        watched = ModuleType(trt.__name__)
        vars(watched).update(vars(trt), OnnxParser=Parser)
        self._networks = networks
        self._compiler = Compiler(
            watched, Device("none", (8, 6), "0"), Flags(), Store(folder, 1 << 28, print), print
        )
        self.version = self._compiler.version

    def build(self, graph: Loaded) -> Built:
        """Parse, check the ports, build."""
        file = OnnxFile(graph.name, graph.model)
        model = file.complete(file.frozen(graph.frozen), graph.replaced)
        self._networks.clear()
        start, size, error = time.perf_counter(), 0, ""
        with listening() as lines:
            try:
                size = len(self._compiler._build(graph.name, model, PROFILE, lines))
            except EngineError as refused:
                error = str(refused)
        seconds = time.perf_counter() - start
        (network,) = self._networks
        if not error:
            inputs = [network.get_input(at) for at in range(network.num_inputs)]
            outputs = [network.get_output(at) for at in range(network.num_outputs)]
            error = changed(
                [*file.inputs, *(file.external[name] for name in graph.replaced)], inputs
            ) or changed(file.outputs, outputs)
        return Built(network.num_layers, size / 1024, seconds, error)


def changed(wanted: Iterable[Value], found: Iterable[Any]) -> str:
    """How the ports of a network differ from those of the graph, if they do: what the runtime asks
    of a loaded engine.
    """
    want = {value.name: value.dtype for value in wanted}
    have = {value.name: _DTYPES.get(value.dtype.name, value.dtype.name) for value in found}
    return "" if want == have else f"ports {have} where the graph has {want}"
