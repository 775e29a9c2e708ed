"""ONNX Runtime on the CPU for the compiler's own checks, frozen tensors injected as a loader
would.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import onnxruntime
import torch
from numpy.typing import NDArray
from torch import Tensor

from edgeadapt.errors import CompileError
from edgeadapt.host.compile.emit import Emitted
from edgeadapt.runtime import NEXT

Arrays = dict[str, NDArray[np.generic]]
VERSION: str = onnxruntime.__version__
_LEVELS = {
    False: onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL,
    True: onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL,
}


@dataclass(frozen=True)
class Session:
    """An ONNX model loaded at one optimiser setting: ports and tensors in, outputs and ``.next``
    tensors out.
    """

    name: str
    native: onnxruntime.InferenceSession
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]

    def __call__(
        self, ports: Mapping[str, Tensor], tensors: Mapping[str, Tensor]
    ) -> dict[str, Tensor]:
        given = {**ports, **tensors}
        try:
            values = self.native.run(
                list(self.outputs), {name: array(given[name]) for name in self.inputs}
            )
        except Exception as error:  # the native errors have no common base
            shapes = {name: list(given[name].shape) for name in self.inputs if "." not in name}
            raise CompileError(f"{self.name}: ONNX Runtime failed at {shapes}: {error}") from error
        return {
            name: torch.from_numpy(np.array(value))
            for name, value in zip(self.outputs, values, strict=True)
        }


def open_session(
    name: str, graph: Emitted, tensors: Mapping[str, Tensor], *, optimised: bool
) -> Session:
    """Load a graph.

    The frozen values go in by ``add_external_initializers``, before the optimiser runs.
    ``add_initializer`` must not be used: with the optimiser on it fails, or in some versions gave
    silent zeros.

    Raises:
        CompileError: ONNX Runtime refuses the graph.
    """
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = _LEVELS[optimised]
    options.log_severity_level = 4
    options.intra_op_num_threads = 1
    options.enable_cpu_mem_arena = False  # an arena keeps the activations of the largest case
    if graph.frozen:
        values = [
            onnxruntime.OrtValue.ortvalue_from_numpy(array(tensors[name])) for name in graph.frozen
        ]
        options.add_external_initializers(list(graph.frozen), values)
    try:
        native = onnxruntime.InferenceSession(
            graph.model.SerializeToString(), options, providers=["CPUExecutionProvider"]
        )
    except Exception as error:
        raise CompileError(f"{name}: ONNX Runtime refuses the graph: {error}") from error
    return Session(
        name,
        native,
        (*graph.ports, *graph.reads),
        (*graph.outputs, *(name + NEXT for name in graph.writes)),
    )


def array(value: Tensor) -> NDArray[np.generic]:
    """C-ordered numpy array. ``np.ascontiguousarray`` would turn a 0-d tensor into shape
    ``(1,)``.
    """
    return np.asarray(value.detach().contiguous().numpy(), order="C")
