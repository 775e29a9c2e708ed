"""A loaded graph: a check of ports and tensors, an engine per range of batches, and a bounded
number of lanes for each.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgeadapt.errors import InputError
from edgeadapt.onnx_file import OnnxFile, Value
from edgeadapt.runtime import NEXT, ArrayLike, Port, Signature, Tensors
from edgeadapt_tensorrt._arrays import DeviceArray, admit
from edgeadapt_tensorrt._buffers import DeviceBuffer, Mark
from edgeadapt_tensorrt._engine import Compiler, Profile
from edgeadapt_tensorrt._lane import Lane
from edgeadapt_tensorrt._model import Model, Shapes, Shared

# and its shape where no axis is free
_Expected = tuple[Value, np.dtype[Any], tuple[int, ...] | None]


class Lanes:
    """The lanes of one engine: made when they are needed, at most so many, the one used last
    first.
    """

    def __init__(self, model: Model, is_urgent: bool, limit: int, is_rare: bool) -> None:
        self.model, self._is_urgent, self._is_rare, self._left = model, is_urgent, is_rare, limit
        self.idle: list[Lane] = []
        self._change = threading.Condition()

    @contextmanager
    def one(self) -> Iterator[Lane]:
        """A lane for this thread alone; waits while all are in use. A graph that runs rarely lets
        go of it afterwards.
        """
        lane = self._take()
        try:
            yield lane
        finally:
            with self._change:
                if self._is_rare:
                    lane.close()
                    self._left += 1
                else:
                    self.idle.append(lane)
                self._change.notify()

    def _take(self) -> Lane:
        with self._change:
            self._change.wait_for(lambda: bool(self.idle) or self._left > 0)
            if self.idle:
                return self.idle.pop()
            self._left -= 1
        try:
            return Lane(self.model, self._is_urgent)
        except BaseException:
            with self._change:
                self._left += 1
                self._change.notify()
            raise


class Engines:
    """A graph as engines: one for the batches that are usual, others built when a larger one comes.

    Args:
        file: the graph.
        model: self-contained.
        constants: names of the initialisers that became inputs.
        compiler, shared: of the runtime.
        batches: sizes that a free axis usually has.
        largest: that it may have.
        is_rare: free the memory after each run; one call at once.

    Raises:
        EngineError: TensorRT does not take the graph.
    """

    def __init__(
        self,
        file: OnnxFile,
        model: bytes,
        constants: Sequence[str],
        compiler: Compiler,
        shared: Shared,
        *,
        batches: Sequence[int],
        largest: int,
        is_rare: bool,
    ) -> None:
        self.file, self.constants, self.shared = file, tuple(constants), shared
        self.inputs = [*file.inputs, *(file.external[name] for name in constants)]
        self._model = model
        self._compiler = compiler
        self._is_rare = is_rare
        self._usual, self._largest = Profile.of(batches), max(largest, *batches)
        self.is_learning = any(value.name.endswith(NEXT) for value in file.outputs)
        self.lanes: dict[Profile, Lanes] = {}
        self._lock = threading.Lock()
        self.for_size(1)

    def for_size(self, size: int) -> Lanes:
        """The lanes whose engine takes this size on a free axis.

        Raises:
            InputError: it is less than 1, or more than the runtime's largest batch.
        """
        if not 1 <= size <= self._largest:
            raise InputError(
                f"graph {self.file.name!r} takes batches of 1 to {self._largest}, got {size}; a"
                " larger one needs TensorRT(largest_batch=...)"
            )
        profile = self._usual
        if size > profile.largest:
            above = min(1 << (size - 1).bit_length(), self._largest)
            profile = Profile(above, above)
        found = self.lanes.get(profile)
        if found is not None:  # not behind a lock under which a larger engine may be building
            return found
        with self._lock:
            found = self.lanes.get(profile)
            if found is None:
                if profile != self._usual:
                    self.shared.note(
                        f"graph {self.file.name!r}: batch {size} is above {self._usual.largest}, so"
                        f" an engine up to {profile.largest} is built"
                    )
                engine = self._compiler.engine(
                    self.file.name, self._model, self.inputs, self.file.outputs, profile
                )
                model = Model(self.file.name, engine, self.inputs, self.file.outputs, self.shared)
                lane_count = 1 if self._is_rare else self.shared.lane_count
                found = self.lanes[profile] = Lanes(
                    model, not (self.is_learning or self._is_rare), lane_count, self._is_rare
                )
        return found


class TensorRTExecutable:
    """See ``edgeadapt.runtime.Executable``.

    A graph that writes tensors is learning and runs at the lowest priority of the device, the
    others at the highest. One without outputs returns while it is under way; whoever reads what it
    writes waits then, on the device if possible.

    Args:
        engines: of the graph.
        constants: values of the weights that became inputs, in their order.
        guest: a stream on which arrays of others are made ready.
    """

    def __init__(self, engines: Engines, constants: Sequence[DeviceBuffer], guest: int) -> None:
        self.engines = engines
        self._name = engines.file.name
        self._constants = tuple(constants)
        self._shared = engines.shared
        self._guest = guest
        inputs, outputs = engines.file.inputs, engines.file.outputs
        self._ports = {value.name: _expected(value) for value in inputs if "." not in value.name}
        self._reads = {value.name: _expected(value) for value in inputs if "." in value.name}
        self._signature = Signature(
            ports=tuple(_port(value) for value in inputs if "." not in value.name),
            reads=tuple(_port(value) for value in inputs if "." in value.name),
            outputs=tuple(_port(value) for value in outputs if not value.name.endswith(NEXT)),
            writes=tuple(_port(value) for value in outputs if value.name.endswith(NEXT)),
        )

    @property
    def signature(self) -> Signature:
        return self._signature

    def __call__(
        self, ports: Mapping[str, ArrayLike], tensors: Tensors
    ) -> tuple[dict[str, NDArray[Any]], Tensors]:
        """Run once; thread-safe.

        Args:
            ports: exactly one array per port, of its dtype and shape: numpy, a Python number, or
                anything with ``__dlpack__`` or ``__cuda_array_interface__``. What is on this GPU
                and C-contiguous is read there.
            tensors: at least what the graph reads, from this runtime.

        Returns:
            The outputs as arrays the caller owns, and only the tensors that were written.

        Raises:
            InputError: a port or tensor is missing, unknown, or of another dtype or shape.
            OutOfDeviceMemory: there was no room for the results; nothing was changed.
            DeviceError: TensorRT or CUDA failed; the inputs are what they were. Of a graph without
                outputs, whoever reads its tensors is told.
        """
        self._shared.cuda.use()
        sizes: dict[str, int] = {}
        reads = self._admit_tensors(tensors, sizes)
        admitted = self._admit_ports(ports, sizes)
        lanes = self.engines.for_size(max(sizes.values(), default=1))
        shapes: Shapes = tuple(
            (name, self._shape_of(name, admitted, tensors)) for name in lanes.model.free
        )
        settled = lanes.model.sizes(
            shapes, tuple((name, array.shape) for name, array in admitted.items())
        )
        with lanes.one() as lane:
            outputs, written = lane.run(
                settled, list(admitted.values()), [*reads, *self._constants]
            )
        return outputs, Tensors(written)

    def _shape_of(
        self, name: str, admitted: Mapping[str, NDArray[Any] | DeviceArray], tensors: Tensors
    ) -> tuple[int, ...]:
        return admitted[name].shape if name in admitted else tensors[name].shape

    def _admit_ports(
        self, ports: Mapping[str, ArrayLike], sizes: dict[str, int]
    ) -> dict[str, NDArray[Any] | DeviceArray]:
        if len(ports) > len(self._ports) or not ports.keys() <= self._ports.keys():
            unknown = sorted(ports.keys() - self._ports.keys())
            raise InputError(
                f"graph {self._name!r} has no port {unknown[0]!r}; its ports:"
                f" {', '.join(self._ports) or 'none'}"
            )
        admitted: dict[str, NDArray[Any] | DeviceArray] = {}
        for name, (wanted, dtype, fixed) in self._ports.items():
            array = ports.get(name)
            if type(array) is not np.ndarray:
                array = self._admit(name, wanted, dtype, array)
            if array.dtype != dtype or (
                array.shape != fixed
                if fixed is not None
                else not _agrees(wanted, array.shape, sizes)
            ):
                known = "".join(
                    f", {key} = {size}" for key, size in sizes.items() if not key.startswith("(")
                )
                raise InputError(
                    f"graph {self._name!r}: port {name!r} takes {wanted}, got"
                    f" {array.dtype}{list(array.shape)}{known}"
                )
            admitted[name] = array
        return admitted

    def _admit(
        self, name: str, wanted: Value, dtype: np.dtype[Any], value: ArrayLike
    ) -> NDArray[Any] | DeviceArray:
        """Check what is seldom given: what is not a numpy array."""
        if value is None:
            raise InputError(f"graph {self._name!r}: port {name!r} is missing; it takes {wanted}")
        where = f"graph {self._name!r}: port {name!r} takes {wanted}, and what was given"
        return admit(where, value, dtype, self._shared.cuda, self._guest, self._mark)

    def _mark(self, stream: int) -> Mark:
        return self._shared.pool.mark(stream, f"an array given to graph {self._name!r}")

    def _admit_tensors(self, tensors: Tensors, sizes: dict[str, int]) -> list[DeviceBuffer]:
        buffers = []
        for name, (wanted, dtype, fixed) in self._reads.items():
            if name not in tensors:
                held = ", ".join(sorted(tensors)[:8]) or "none"
                raise InputError(
                    f"graph {self._name!r} reads tensor {name!r}, which was not given; given:"
                    f" {held}"
                )
            buffer = tensors[name]
            if not isinstance(buffer, DeviceBuffer) or not buffer.belongs_to(self._shared.pool):
                raise InputError(
                    f"graph {self._name!r}: tensor {name!r} is a {type(buffer).__name__} of another"
                    " runtime; upload it here first"
                )
            if buffer.dtype != dtype or (
                buffer.shape != fixed
                if fixed is not None
                else not _agrees(wanted, buffer.shape, sizes)
            ):
                raise InputError(
                    f"graph {self._name!r}: tensor {name!r} must be {wanted}, got"
                    f" {buffer.dtype}{list(buffer.shape)}"
                )
            buffers.append(buffer)
        return buffers


def _expected(value: Value) -> _Expected:
    fixed = tuple(dim for dim in value.shape if isinstance(dim, int))
    return value, np.dtype(value.dtype), fixed if len(fixed) == len(value.shape) else None


def _agrees(wanted: Value, shape: tuple[int, ...], sizes: dict[str, int]) -> bool:
    """Whether a shape is as the graph says; a dimension with a name has one size in the whole
    call.
    """
    if len(shape) != len(wanted.shape):
        return False
    for axis, (dim, size) in enumerate(zip(wanted.shape, shape, strict=True)):
        if (
            dim
            if isinstance(dim, int)
            else sizes.setdefault(dim or f"({wanted.name} {axis})", size)
        ) != size:
            return False
    return True


def _port(value: Value) -> Port:
    return Port(
        value.name.removesuffix(NEXT),
        value.dtype,
        tuple(dim if isinstance(dim, int) else None for dim in value.shape),
    )
