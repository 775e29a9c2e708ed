"""An engine with what every lane of it shares: names, sizes by shape, and the few calls that an
execution context takes.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from edgeadapt.errors import DeviceError
from edgeadapt.onnx_file import Value
from edgeadapt.runtime import NEXT
from edgeadapt_tensorrt._arena import aligned
from edgeadapt_tensorrt._buffers import DeviceBuffer, Pool
from edgeadapt_tensorrt._cudart import CudaRuntime, OutOfDeviceMemory
from edgeadapt_tensorrt._engine import EngineError
from edgeadapt_tensorrt._logger import last_words, listening

_SIZES = 256  # combinations of shapes remembered per engine
Shapes = tuple[tuple[str, tuple[int, ...]], ...]  # of the inputs with a free axis
Staged = tuple[str, np.dtype[Any], tuple[int, ...], int]  # name, dtype, shape, offset in the stage


@dataclass
class Shared:
    """What all engines of a runtime have in common."""

    cuda: CudaRuntime
    pool: Pool
    trt: Any
    note: Callable[[str], None]
    is_mapped: bool  # ports and outputs lie in host memory that the GPU reads in place
    copy_limit: int
    graph_count: int
    lane_count: int  # calls at once per graph
    lost: list[DeviceBuffer] = field(default_factory=list)


@dataclass(frozen=True)
class Sizes:
    """What one combination of input shapes needs."""

    shapes: Shapes
    ports: tuple[Staged, ...]
    outputs: tuple[Staged, ...]
    writes: tuple[tuple[str, np.dtype[Any], tuple[int, ...]], ...]
    copied_writes: tuple[str, ...]
    stage_bytes: int
    bytes_of: dict[str, int]


class Model:
    """One engine.

    Args:
        name: of the graph, for messages.
        engine: TensorRT's.
        inputs: of the engine: ports, tensors, and weights that became inputs.
        outputs: of the engine.
        shared: of the runtime.
    """

    def __init__(
        self, name: str, engine: Any, inputs: list[Value], outputs: list[Value], shared: Shared
    ) -> None:
        self.name, self.shared, self._engine = name, shared, engine
        self._inputs = {value.name: value for value in inputs}
        self._outputs = {value.name: value for value in outputs}
        self.bound = (*self._inputs, *self._outputs)
        self.reads = tuple(name for name in self._inputs if "." in name)
        self.free = tuple(
            value.name for value in inputs if not all(isinstance(dim, int) for dim in value.shape)
        )
        self.copied = frozenset(
            name
            for name in self.reads
            if name not in self.free and _nbytes(self._inputs[name]) <= shared.copy_limit
        )
        self._lock = threading.Lock()
        self._measure = self.context()
        self._sizes: dict[Any, Sizes] = {}

    def context(self) -> Any:
        """An execution context without memory of its own; it needs :meth:`bind_scratch` before it
        runs.
        """
        strategy = self.shared.trt.ExecutionContextAllocationStrategy.USER_MANAGED
        with listening() as lines:
            context = self._engine.create_execution_context(strategy)
        if context is None:
            words = last_words(lines)
            kind = OutOfDeviceMemory if "memory" in words.lower() else DeviceError
            raise kind(f"graph {self.name!r}: TensorRT gives no execution context.{words}")
        return context

    def scratch(self, context: Any) -> DeviceBuffer:
        """Memory for the activations of one run, given to the context."""
        buffer = self.shared.pool.take(
            np.dtype(np.uint8), (int(self._engine.device_memory_size_v2),)
        )
        self.bind_scratch(context, buffer)
        return buffer

    @staticmethod
    def bind_scratch(context: Any, buffer: DeviceBuffer) -> None:
        context.set_device_memory(buffer.address, buffer.nbytes)

    def bind(self, context: Any, shapes: Shapes, addresses: tuple[int, ...]) -> None:
        """Tell a context its input shapes, if they changed, and its addresses in the order of
        ``bound``.
        """
        with listening() as lines:
            fits = all(context.set_input_shape(name, shape) for name, shape in shapes)
            fits = fits and all(
                context.set_tensor_address(name, address)
                for name, address in zip(self.bound, addresses, strict=True)
            )
            if not fits or context.infer_shapes():
                raise DeviceError(
                    f"graph {self.name!r}: TensorRT does not take shapes {dict(shapes)} or an"
                    f" address.{last_words(lines)}"
                )

    def enqueue(self, context: Any, stream: int) -> None:
        with listening() as lines:
            if not context.execute_async_v3(stream):
                raise DeviceError(
                    f"graph {self.name!r} failed in TensorRT"
                    f" {self.shared.trt.__version__}.{last_words(lines)}"
                )

    def sizes(self, shapes: Shapes, port_shapes: tuple[tuple[str, tuple[int, ...]], ...]) -> Sizes:
        """What these shapes need; remembered.

        Args:
            shapes: of the inputs with a free axis.
            port_shapes: of all ports.

        Raises:
            EngineError: the shape of an output depends on data, so its memory cannot be there
                before the run.
        """
        with self._lock:
            found = self._sizes.get((shapes, port_shapes))
            if found is None:
                if len(self._sizes) >= _SIZES:
                    self._sizes = {}
                found = self._sizes[shapes, port_shapes] = self._settle(shapes, port_shapes)
        return found

    def _settle(
        self, shapes: Shapes, port_shapes: tuple[tuple[str, tuple[int, ...]], ...]
    ) -> Sizes:
        self._shape(shapes)
        at, bytes_of = 0, {}
        ports, outputs, writes = [], [], []
        for name, shape in port_shapes:
            dtype = np.dtype(self._inputs[name].dtype)
            bytes_of[name] = math.prod(shape) * dtype.itemsize
            ports.append((name, dtype, shape, at))
            at += aligned(bytes_of[name])
        for name, value in self._outputs.items():
            shape, dtype = (
                tuple(int(size) for size in self._measure.get_tensor_shape(name)),
                np.dtype(value.dtype),
            )
            if min(shape, default=0) < 0:
                raise EngineError(
                    f"graph {self.name!r}: the shape of {name!r} depends on data ({list(shape)});"
                    " TensorRT needs it before the run"
                )
            bytes_of[name] = math.prod(shape) * dtype.itemsize
            if name.endswith(NEXT):
                writes.append((name.removesuffix(NEXT), dtype, shape))
            else:
                outputs.append((name, dtype, shape, at))
                at += aligned(bytes_of[name])
        copied = tuple(
            name for name, _, _ in writes if bytes_of[name + NEXT] <= self.shared.copy_limit
        )
        return Sizes(shapes, tuple(ports), tuple(outputs), tuple(writes), copied, at, bytes_of)

    def _shape(self, shapes: Shapes) -> None:
        with listening() as lines:
            if not all(self._measure.set_input_shape(name, shape) for name, shape in shapes):
                raise DeviceError(
                    f"graph {self.name!r}: TensorRT does not take shapes"
                    f" {dict(shapes)}.{last_words(lines)}"
                )


def _nbytes(value: Value) -> int:
    return (
        math.prod(dim for dim in value.shape if isinstance(dim, int))
        * np.dtype(value.dtype).itemsize
    )
