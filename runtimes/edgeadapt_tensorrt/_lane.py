"""One stream with what a run needs on it: contexts, scratch memory, staging, and the CUDA graphs
recorded there. One call at a time.

A run is: ports into their slots, the engine, outputs to the host. Tensors above ``copy_limit`` are
bound where they lie. Smaller ones are copied into slots of the lane, and only when the slot holds
another value: that is what a domain switch is. So the addresses that a graph is recorded for depend
on shapes and large tensors alone, and these recur, as the pool hands out the lowest free place.

TensorRT says of a context that a graph was captured from that it must not be changed any more. So
the first run of a tuple of addresses goes through the lane's own context, the second through one
made for this tuple, which warms it, and the third records it. All contexts of a lane share its
scratch memory; the stream keeps them apart. What cannot be recorded runs plainly, on its own
context.
"""

from __future__ import annotations

import contextlib
import weakref
from collections import OrderedDict, deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgeadapt.errors import DeviceError
from edgeadapt.runtime import NEXT
from edgeadapt_tensorrt._arena import ALIGNMENT
from edgeadapt_tensorrt._arrays import DeviceArray
from edgeadapt_tensorrt._buffers import DeviceBuffer, Mark
from edgeadapt_tensorrt._cudart import ON_DEVICE, TO_DEVICE, TO_HOST, CudaRuntime
from edgeadapt_tensorrt._model import Model, Shapes, Sizes
from edgeadapt_tensorrt._transfers import Pinned

_DEPTH = 8  # runs that may be under way in a lane
_Port = NDArray[Any] | DeviceArray
_SEEN = 256  # tuples of addresses of which it is remembered that they ran once


@dataclass
class _Recorded:
    """A context of one tuple of addresses, never changed again, and its graph: 0 before it is
    recorded, None where it cannot be.
    """

    context: Any
    graph: int | None = 0


class Lane:
    """Not thread-safe: whoever holds a lane is alone on it.

    Args:
        model: what is run.
        is_urgent: of the highest priority that the device has, or of the lowest.
    """

    def __init__(self, model: Model, is_urgent: bool) -> None:
        self._model, self._shared = model, model.shared
        self._cuda = model.shared.cuda
        self.stream = self._cuda.stream(is_urgent)
        self._recorded: OrderedDict[Any, _Recorded] = OrderedDict()
        self._end = weakref.finalize(self, _close, self._cuda, self.stream, self._recorded)
        self._end.atexit = False
        self._context = model.context()
        self._shapes: Shapes | None = None  # that the context was told last
        self._scratch = model.scratch(self._context)
        self._slots: dict[str, DeviceBuffer] = {}
        self._held: dict[str, int] = {}  # serial of the buffer whose value a slot has
        self._seen: OrderedDict[Any, None] = OrderedDict()
        self._stage: Pinned | None = None
        self._under_way: deque[Mark] = deque()  # runs that the host did not wait for

    def run(
        self, sizes: Sizes, ports: Sequence[_Port], reads: Sequence[DeviceBuffer]
    ) -> tuple[dict[str, NDArray[Any]], dict[str, DeviceBuffer]]:
        """Once. Returns with the outputs; a run that has none is under way then, and marks what it
        reads and writes.

        Raises:
            DeviceError: nothing of the inputs was changed, and nothing is under way any more.
        """
        # ports of a run under way are still in the stage
        self._settle(0 if sizes.ports else _DEPTH - 1)
        # before anything is enqueued
        written = {
            name: self._shared.pool.take(dtype, shape) for name, dtype, shape in sizes.writes
        }
        stage = self._staged(sizes)
        try:
            addresses = self._place(sizes, stage, ports, reads, written)
            self._launch(sizes, stage, ports, addresses)
            for name in sizes.copied_writes:
                self._cuda.copy(
                    written[name].address,
                    self._slots[name + NEXT].address,
                    written[name].nbytes,
                    ON_DEVICE,
                    self.stream,
                )
            mark = self._shared.pool.mark(self.stream, f"graph {self._model.name!r}")
            if sizes.outputs or any(isinstance(port, DeviceArray) for port in ports):
                mark.wait()
            else:
                self._under_way.append(mark)
                for buffer in reads:
                    buffer.used(mark)
                for buffer in written.values():
                    buffer.written = mark
        except BaseException:
            self._abandon([*reads, *written.values()])
            raise
        return {
            name: stage.view(at, dtype, shape).copy() for name, dtype, shape, at in sizes.outputs
        }, written

    def _settle(self, left: int) -> None:
        """The host waits until at most so many runs of this lane are under way."""
        while len(self._under_way) > left:
            self._under_way[0].wait()
            self._under_way.popleft()

    def _abandon(self, buffers: list[DeviceBuffer]) -> None:
        """A run failed half way, which the caller is told: wait until the stream is empty, so that
        its buffers may go back.
        """
        self._held.clear()
        self._under_way.clear()
        try:
            self._cuda.synchronize(self.stream)
        except DeviceError:
            # nobody knows who writes there: this memory is not handed out again
            self._shared.lost += buffers

    def _staged(self, sizes: Sizes) -> Pinned:
        if self._stage is None or self._stage.nbytes < sizes.stage_bytes:
            self._settle(0)
            self._forget_graphs()  # they read the old one
            self._stage = Pinned(self._cuda, max(sizes.stage_bytes, ALIGNMENT))
        return self._stage

    def _slot(
        self, name: str, dtype: np.dtype[Any], shape: tuple[int, ...], nbytes: int
    ) -> DeviceBuffer:
        """Memory of the lane for a port, an output or a small tensor; larger shapes get a larger
        one.
        """
        slot = self._slots.get(name)
        if slot is None or slot.nbytes < nbytes:
            self._settle(0)
            self._forget_graphs()
            self._held.pop(name, None)
            slot = self._slots[name] = self._shared.pool.take(dtype, shape)
        return slot

    def _place(
        self,
        sizes: Sizes,
        stage: Pinned,
        ports: Sequence[_Port],
        reads: Sequence[DeviceBuffer],
        written: dict[str, DeviceBuffer],
    ) -> tuple[int, ...]:
        """Ports into the stage, small tensors into slots; the address of every input and output, in
        the order of ``model.bound``.
        """
        places: dict[str, int] = {}
        for (name, dtype, shape, at), port in zip(sizes.ports, ports, strict=True):
            places[name] = self._place_port(name, dtype, shape, at, stage, port)
        for name, buffer in zip(self._model.reads, reads, strict=True):
            if buffer.written is not None:
                buffer.written.before(self.stream)
            places[name] = (
                self._place_tensor(name, buffer) if name in self._model.copied else buffer.address
            )
        for name, dtype, shape, at in sizes.outputs:
            is_mapped = self._shared.is_mapped
            places[name] = (
                stage.device_address + at
                if is_mapped
                else self._slot(name, dtype, shape, sizes.bytes_of[name]).address
            )
        for name, dtype, shape in sizes.writes:
            key, buffer = name + NEXT, written[name]
            places[key] = (
                self._slot(key, dtype, shape, buffer.nbytes).address
                if name in sizes.copied_writes
                else buffer.address
            )
        return tuple(places[name] for name in self._model.bound)

    def _place_port(
        self,
        name: str,
        dtype: np.dtype[Any],
        shape: tuple[int, ...],
        at: int,
        stage: Pinned,
        port: _Port,
    ) -> int:
        if isinstance(port, DeviceArray):
            if port.ready is not None:
                port.ready.before(self.stream)
            if port.address % ALIGNMENT == 0 and port.nbytes:
                return port.address
            slot = self._slot(name, dtype, shape, port.nbytes)
            self._cuda.copy(slot.address, port.address, port.nbytes, ON_DEVICE, self.stream)
            return slot.address
        stage.view(at, dtype, shape)[...] = port
        return (
            stage.device_address + at
            if self._shared.is_mapped
            else self._slot(name, dtype, shape, port.nbytes).address
        )

    def _place_tensor(self, name: str, buffer: DeviceBuffer) -> int:
        slot = self._slot(name, buffer.dtype, buffer.shape, buffer.nbytes)
        if self._held.get(name) != buffer.serial:
            self._held.pop(name, None)
            self._cuda.copy(slot.address, buffer.address, buffer.nbytes, ON_DEVICE, self.stream)
            self._held[name] = buffer.serial
        return slot.address

    def _launch(
        self, sizes: Sizes, stage: Pinned, ports: Sequence[_Port], addresses: tuple[int, ...]
    ) -> None:
        is_ours = tuple(not isinstance(port, DeviceArray) for port in ports)
        key = (sizes.shapes, is_ours, addresses)
        found = self._recorded.get(key)
        if found is None:
            self._launch_first(key, sizes, stage, is_ours, addresses)
            return
        self._recorded.move_to_end(key)
        if found.graph == 0:
            found.graph = self._record(found.context, sizes, stage, is_ours)
        if found.graph:
            self._cuda.launch(found.graph, self.stream)
        else:
            self._enqueue(found.context, sizes, stage, is_ours)

    def _launch_first(
        self,
        key: Any,
        sizes: Sizes,
        stage: Pinned,
        is_ours: tuple[bool, ...],
        addresses: tuple[int, ...],
    ) -> None:
        """Without a graph: on the lane's context the first time, on one for this key the second
        time.
        """
        if self._shared.graph_count and key in self._seen:
            del self._seen[key]
            while len(self._recorded) >= self._shared.graph_count:
                self._drop(self._recorded.popitem(last=False)[1])
            context = self._model.context()
            self._model.bind_scratch(context, self._scratch)
            self._model.bind(context, sizes.shapes, addresses)
            self._recorded[key] = _Recorded(context)
        else:
            self._seen[key] = None
            if len(self._seen) > _SEEN:
                self._seen.popitem(last=False)
            context = self._context
            changed = sizes.shapes if sizes.shapes != self._shapes else ()
            self._shapes = None
            self._model.bind(context, changed, addresses)
            self._shapes = sizes.shapes
        self._enqueue(context, sizes, stage, is_ours)

    def _enqueue(
        self, context: Any, sizes: Sizes, stage: Pinned, is_ours: tuple[bool, ...]
    ) -> None:
        if not self._shared.is_mapped:
            for (name, _, _, at), ours in zip(sizes.ports, is_ours, strict=True):
                if ours:
                    self._cuda.copy(
                        self._slots[name].address,
                        stage.address + at,
                        sizes.bytes_of[name],
                        TO_DEVICE,
                        self.stream,
                    )
        self._model.enqueue(context, self.stream)
        if not self._shared.is_mapped:
            for name, _, _, at in sizes.outputs:
                self._cuda.copy(
                    stage.address + at,
                    self._slots[name].address,
                    sizes.bytes_of[name],
                    TO_HOST,
                    self.stream,
                )

    def _record(
        self, context: Any, sizes: Sizes, stage: Pinned, is_ours: tuple[bool, ...]
    ) -> int | None:
        """The graph of this run, or None where something in it cannot be recorded; that is said
        once and costs speed only.
        """
        try:
            self._cuda.begin_capture(self.stream)
            try:
                self._enqueue(context, sizes, stage, is_ours)
            finally:
                template = self._cuda.end_capture(self.stream)
            return self._cuda.instantiate(template)
        except DeviceError as error:
            self._shared.note(f"graph {self._model.name!r} runs without a CUDA graph: {error}")
            return None

    def _drop(self, recorded: _Recorded) -> None:
        if recorded.graph:
            self._cuda.synchronize(self.stream)
            self._cuda.destroy_graph(recorded.graph)
            recorded.graph = None

    def _forget_graphs(self) -> None:
        while self._recorded:
            self._drop(self._recorded.popitem()[1])
        self._seen.clear()

    def close(self) -> None:
        """Wait for what is under way and let the stream and the graphs go; the lane is not used
        again.
        """
        self._end()

    @property
    def graph_count(self) -> int:
        """CUDA graphs that can be launched now."""
        return sum(bool(recorded.graph) for recorded in self._recorded.values())


def _close(cuda: CudaRuntime, stream: int, recorded: OrderedDict[Any, _Recorded]) -> None:
    # a device that failed has nothing left to give back, and a finaliser nobody to tell
    with contextlib.suppress(DeviceError):
        cuda.use()
        cuda.synchronize(stream)
        for held in recorded.values():
            if held.graph:
                cuda.destroy_graph(held.graph)
        recorded.clear()
        cuda.destroy_stream(stream)
