"""Buffers on the device: values that return to the pool when the last holder lets go and every
stream has done with them.

A buffer knows the mark of the run that writes it; runs that the host did not wait for leave a mark
on what they read. Whoever uses a buffer on another stream makes that stream wait for the writer. A
finaliser may run at any point, in any thread: it appends to a deque and no more.
"""

from __future__ import annotations

import contextlib
import math
import threading
import weakref
from collections import deque
from collections.abc import Sequence
from itertools import count
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from edgeadapt.errors import DeviceError
from edgeadapt_tensorrt._arena import Arena, Block
from edgeadapt_tensorrt._cudart import CudaRuntime, OutOfDeviceMemory

_serials = count(1)


class Events:
    """Events that no mark holds. Marks hold this object, so it goes after the last of them, and the
    events with it.
    """

    def __init__(self, cuda: CudaRuntime) -> None:
        self.cuda, self.idle = cuda, deque[int]()
        weakref.finalize(self, _destroy, cuda, self.idle).atexit = False

    def take(self) -> int:
        try:
            return self.idle.pop()
        except IndexError:
            return self.cuda.event()


class Mark:
    """A point in a stream: what was enqueued there before it. Its event is used again when nobody
    holds the mark.
    """

    __slots__ = ("_cuda", "_events", "_is_done", "doing", "event", "stream")

    def __init__(self, events: Events, stream: int, doing: str) -> None:
        self._is_done = False
        self._cuda, self._events, self.stream, self.doing = events.cuda, events, stream, doing
        self.event = events.take()
        self._cuda.record(self.event, stream)

    def is_done(self) -> bool:
        """Raises: DeviceError where what came before failed."""
        if not self._is_done:
            try:
                self._is_done = self._cuda.is_done(self.event)
            except DeviceError as error:
                raise type(error)(f"{self.doing}: {error}", error.code) from error
        return self._is_done

    def wait(self) -> None:
        """The host waits. Raises: DeviceError where what came before failed."""
        if not self._is_done:
            try:
                self._cuda.wait_for(self.event)
            except DeviceError as error:
                raise type(error)(f"{self.doing}: {error}", error.code) from error
            self._is_done = True

    def before(self, stream: int) -> None:
        """What is enqueued on this stream from now on runs after the mark."""
        if not self._is_done and stream != self.stream:
            self._cuda.wait(stream, self.event)

    def __del__(self) -> None:
        if hasattr(self, "event"):
            self._events.idle.append(self.event)


class Downloads(Protocol):
    """Copies from the device to the host."""

    def download(self, buffers: Sequence[DeviceBuffer]) -> list[NDArray[Any]]: ...


class DeviceBuffer:
    """An immutable block of device memory; see ``edgeadapt.runtime.Buffer``."""

    __slots__ = (
        "_block",
        "_pool",
        "address",
        "dtype",
        "nbytes",
        "serial",
        "shape",
        "uses",
        "written",
    )

    def __init__(
        self, pool: Pool, block: Block, dtype: np.dtype[Any], shape: tuple[int, ...], nbytes: int
    ) -> None:
        self._pool, self._block = pool, block
        self.address, self.dtype, self.shape, self.nbytes = block.address, dtype, shape, nbytes
        self.serial = next(_serials)  # no other buffer has it, at the same address neither
        self.written: Mark | None = None
        self.uses: tuple[Mark, ...] = ()

    def numpy(self) -> NDArray[Any]:
        """A copy that the caller owns."""
        return self._pool.transfers.download([self])[0]

    def used(self, mark: Mark) -> None:
        """A run that the host does not wait for reads it until this mark."""
        with self._pool.uses_lock:
            self.uses = (*(held for held in self.uses if not held.is_done()), mark)

    def belongs_to(self, pool: Pool) -> bool:
        return self._pool is pool

    def __del__(self) -> None:
        marks = self.uses if self.written is None else (*self.uses, self.written)
        self._pool.returned.append((self._block, marks))

    def __repr__(self) -> str:
        return f"DeviceBuffer({self.dtype}{list(self.shape)})"


class Pool:
    """Where buffers come from and go to.

    Args:
        cuda: of one device.
        chunk_size: bytes that are allocated at once.
        limit: bytes that this pool may hold; 0 is as many as the device has.
    """

    transfers: Downloads  # set by the runtime

    def __init__(self, cuda: CudaRuntime, chunk_size: int, limit: int = 0) -> None:
        self._cuda = cuda
        self.arena = Arena(cuda.malloc, cuda.free, chunk_size, limit)
        self.returned: deque[tuple[Block, Sequence[Mark]]] = deque()
        self._waiting: list[tuple[Block, Sequence[Mark]]] = []
        self._events = Events(cuda)
        self._lock = threading.Lock()
        # two runs may read one buffer at once; never taken by a finaliser
        self.uses_lock = threading.Lock()
        weakref.finalize(self, _release, cuda, self.arena).atexit = False

    def mark(self, stream: int, doing: str) -> Mark:
        """A mark after all that is enqueued on the stream now."""
        return Mark(self._events, stream, doing)

    def take(self, dtype: np.dtype[Any], shape: tuple[int, ...]) -> DeviceBuffer:
        """A buffer that nobody else holds and no stream uses; its content is undefined.

        Raises:
            OutOfDeviceMemory: there is no room, even after waiting for what is still in use.
                Nothing was changed.
        """
        nbytes = math.prod(shape) * dtype.itemsize
        with self._lock:
            block = self._place(nbytes)
        return DeviceBuffer(self, block, dtype, shape, nbytes)

    def reclaim(self) -> None:
        """Wait for what nobody holds, and give chunks without use back to the device."""
        with self._lock:
            self._collect(is_patient=True)
            self.arena.trim()

    def _place(self, nbytes: int) -> Block:
        self._collect(is_patient=False)
        block = self.arena.take(nbytes)
        if block is None and self._grow(nbytes, is_tight=False) is None:
            block = self.arena.take(nbytes)
        if block is not None:
            return block
        self._collect(is_patient=True)  # memory is short: wait for what is on its way back
        block = self.arena.take(nbytes)
        if block is None:
            self.arena.trim()
            refusal = self._grow(nbytes, is_tight=True)
            block = self.arena.take(nbytes)
            if block is None:
                raise OutOfDeviceMemory(
                    self._shortage(nbytes), refusal.code if refusal else 0
                ) from refusal
        return block

    def _grow(self, nbytes: int, is_tight: bool) -> OutOfDeviceMemory | None:
        """None if there is a chunk more; the device's refusal, or our own at the limit,
        otherwise.
        """
        try:
            return (
                None
                if self.arena.grow(nbytes, is_tight)
                else OutOfDeviceMemory("the limit of the pool")
            )
        except OutOfDeviceMemory as refusal:
            return refusal

    def _shortage(self, nbytes: int) -> str:
        free, total = self._cuda.memory()
        limit = f", its limit is {self.arena.limit >> 10} KiB" if self.arena.limit else ""
        return (
            f"no room for {nbytes} bytes on the device: the pool holds {self.arena.reserved >> 10}"
            f" KiB, {self.arena.used >> 10} KiB of them in use{limit}; the device has {free >> 20}"
            f" of {total >> 20} MiB free. Let states go, use smaller batches, or raise memory_mib"
        )

    def _collect(self, is_patient: bool) -> None:
        """Put back what no stream uses any more. What a failed device used stays out: its memory is
        not trusted again.
        """
        while self.returned:
            self._waiting.append(self.returned.popleft())
        still = []
        for block, marks in self._waiting:
            try:
                if is_patient:
                    for mark in marks:
                        mark.wait()
                if all(mark.is_done() for mark in marks):
                    self.arena.put(block)
                else:
                    still.append((block, marks))
            except DeviceError:
                # whoever runs next on this device is told; here only memory is lost
                still.append((block, marks))
        self._waiting = still


def _release(cuda: CudaRuntime, arena: Arena) -> None:
    """The pool is gone, so no buffer of it is held."""
    # a device that failed has nothing left to give back, and a finaliser nobody to tell
    with contextlib.suppress(DeviceError):
        cuda.use()
        for chunk in arena.chunks:
            cuda.free(chunk.base)


def _destroy(cuda: CudaRuntime, events: deque[int]) -> None:
    with contextlib.suppress(DeviceError):
        cuda.use()
        for event in events:
            cuda.destroy_event(event)
