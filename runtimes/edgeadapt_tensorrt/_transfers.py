"""Copies between numpy arrays and device buffers, through pinned memory and a stream of their own.
The host waits for each.
"""

from __future__ import annotations

import contextlib
import ctypes
import math
import threading
import weakref
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgeadapt.errors import DeviceError
from edgeadapt_tensorrt._arena import aligned
from edgeadapt_tensorrt._buffers import DeviceBuffer
from edgeadapt_tensorrt._cudart import TO_DEVICE, TO_HOST, CudaRuntime

# piece, device address, offset in the stage
_Move = Callable[[NDArray[np.uint8], int, int], Callable[[], None] | None]
_STAGE = 4 << 20  # bytes of pinned memory; larger arrays go in pieces


class Pinned:
    """Pinned host memory, as bytes of numpy.

    Args:
        nbytes: its size.
    """

    def __init__(self, cuda: CudaRuntime, nbytes: int) -> None:
        self.address, self.nbytes = cuda.host_alloc(nbytes), nbytes
        self.bytes: NDArray[np.uint8] = np.ctypeslib.as_array(
            (ctypes.c_uint8 * nbytes).from_address(self.address)
        )
        self.device_address = cuda.device_address(self.address)
        weakref.finalize(self, _free_pinned, cuda, self.address).atexit = False

    def view(self, offset: int, dtype: np.dtype[Any], shape: tuple[int, ...]) -> NDArray[Any]:
        """A window on it."""
        nbytes = math.prod(shape) * dtype.itemsize
        return self.bytes[offset : offset + nbytes].view(dtype).reshape(shape)


def _free_pinned(cuda: CudaRuntime, address: int) -> None:
    # a device that failed has nothing left to give back, and a finaliser nobody to tell
    with contextlib.suppress(DeviceError):
        cuda.use()
        cuda.host_free(address)


class Tally:
    """Tensors that crossed in one direction: how many, and their bytes. Whoever counts holds the
    lock of the transfers.
    """

    __slots__ = ("count", "nbytes")

    def __init__(self) -> None:
        self.count = self.nbytes = 0

    def __repr__(self) -> str:
        return f"{self.count} copies, {self.nbytes} bytes"


class Transfers:
    """Thread-safe; one copy at a time.

    Attributes:
        uploads, downloads: of tensors, until now. Ports and outputs cross at every call and are not
            counted.
    """

    def __init__(self, cuda: CudaRuntime) -> None:
        self._cuda, self._lock = cuda, threading.Lock()
        self.uploads, self.downloads = Tally(), Tally()
        self._stream = cuda.stream(is_urgent=True)
        self._stage = Pinned(cuda, _STAGE)
        weakref.finalize(self, _destroy_stream, cuda, self._stream).atexit = False

    def upload(self, pairs: Sequence[tuple[NDArray[Any], DeviceBuffer]]) -> None:
        """Fill buffers; C-contiguous arrays of their size."""
        with self._lock:
            self._in_pieces(pairs, self._push)
            _count(self.uploads, pairs)

    def download(self, buffers: Sequence[DeviceBuffer]) -> list[NDArray[Any]]:
        """Copies that the caller owns. Raises: DeviceError where the run that writes a buffer
        failed.
        """
        arrays = [np.empty(buffer.shape, buffer.dtype) for buffer in buffers]
        self._cuda.use()
        with self._lock:
            for buffer in buffers:
                if buffer.written is not None:
                    buffer.written.wait()
            pairs = list(zip(arrays, buffers, strict=True))
            self._in_pieces(pairs, self._pull)
            _count(self.downloads, pairs)
        return arrays

    def _in_pieces(self, pairs: Sequence[tuple[NDArray[Any], DeviceBuffer]], move: _Move) -> None:
        """Fill the stage, wait, empty it, until all is moved. After a failure nothing of it is
        under way any more.
        """
        self._cuda.use()
        at = 0
        after: list[Callable[[], None]] = []
        try:
            for array, buffer in pairs:
                raw = array.reshape(-1).view(np.uint8)
                for start in range(0, raw.size, _STAGE):
                    piece = raw[start : start + _STAGE]
                    if at + piece.size > _STAGE:
                        self._finish(after)
                        at = 0
                    then = move(piece, buffer.address + start, at)
                    if then is not None:
                        after.append(then)
                    at += aligned(piece.size)
            self._finish(after)
        except BaseException:
            self._cuda.synchronize(self._stream)
            raise

    def _finish(self, after: list[Callable[[], None]]) -> None:
        self._cuda.synchronize(self._stream)
        for then in after:
            then()
        after.clear()

    def _push(self, piece: NDArray[np.uint8], address: int, at: int) -> None:
        self._stage.bytes[at : at + piece.size] = piece
        self._cuda.copy(address, self._stage.address + at, piece.size, TO_DEVICE, self._stream)

    def _pull(self, piece: NDArray[np.uint8], address: int, at: int) -> Callable[[], None]:
        self._cuda.copy(self._stage.address + at, address, piece.size, TO_HOST, self._stream)

        def arrived() -> None:
            piece[:] = self._stage.bytes[at : at + piece.size]

        return arrived


def _count(tally: Tally, pairs: Sequence[tuple[NDArray[Any], DeviceBuffer]]) -> None:
    tally.count += len(pairs)
    tally.nbytes += sum(array.nbytes for array, _ in pairs)


def _destroy_stream(cuda: CudaRuntime, stream: int) -> None:
    # a device that failed has nothing left to give back, and a finaliser nobody to tell
    with contextlib.suppress(DeviceError):
        cuda.use()
        cuda.destroy_stream(stream)
