"""Buffers that lie on a device, and the count of every copy that crosses to it or back.

A run has ended when it returns, on a GPU too: ONNX Runtime waits for its stream then, and its
copies from and to numpy wait as well. So a buffer that nobody holds can be handed out again
at once, as on the host.
"""

from __future__ import annotations

import re
import threading
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnxruntime
from numpy.typing import NDArray
from onnxruntime.capi import _pybind_state as ort

from edgeadapt.errors import InputError, RuntimeUnavailable
from edgeadapt_onnxruntime._pool import Layout, Pool, PooledBuffer


class Tally:
    """Copies of one kind: how many, and their bytes."""

    __slots__ = ("_lock", "count", "nbytes")

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self.count = self.nbytes = 0

    def add(self, nbytes: int) -> None:
        with self._lock:
            self.count += 1
            self.nbytes += nbytes

    def __repr__(self) -> str:
        return f"{self.count} copies, {self.nbytes} bytes"


@dataclass(frozen=True)
class Transfers:
    """Ports and outputs cross at every call. Tensors cross when somebody uploads or reads them, and
    never between steps.
    """

    ports: Tally = field(default_factory=Tally)
    outputs: Tally = field(default_factory=Tally)
    uploads: Tally = field(default_factory=Tally)
    downloads: Tally = field(default_factory=Tally)


def ort_device(name: str) -> Any:
    """ONNX Runtime's device of ``cpu``, ``cuda`` or ``cuda:N``.

    Raises:
        InputError: another name.
    """
    named = re.fullmatch(r"cpu|cuda(?::([0-9]{1,3}))?", name)
    if named is None:
        raise InputError(f"no device {name!r}; a device is cpu, cuda or cuda:N")
    return onnxruntime.OrtDevice.make(name.partition(":")[0], int(named[1] or 0))._get_c_device()


class DevicePool(Pool):
    """See ``Pool``; its values lie on one device.

    Args:
        idle_limit: bytes of idle values kept.
        device: ``cpu``, ``cuda`` or ``cuda:N``. On ``cpu`` everything happens as on a GPU, copies
            included: what a GPU would do is tested so.

    Raises:
        InputError: ``device`` is none of these.
    """

    def __init__(self, idle_limit: int, device: str) -> None:
        super().__init__(idle_limit)
        self.device = device
        self.transfers = Transfers()
        self._ort_device = ort_device(device)

    def take(self, layout: Layout) -> DeviceBuffer:
        """A buffer that nobody else holds; its content is undefined.

        Raises:
            RuntimeUnavailable: the device has no room, or cannot be reached.
        """
        try:
            return DeviceBuffer(layout.idle.pop(), layout, self)
        except IndexError:
            return DeviceBuffer(self._allocate(layout), layout, self)

    def put(self, array: NDArray[Any], tally: Tally) -> DeviceBuffer:
        """A copy of a C-contiguous array on the device. Raises: RuntimeUnavailable where ``take``
        does, or the copy fails.
        """
        buffer = self.take(self.layout(array.dtype, array.shape))
        try:
            buffer.value.update_inplace(array)
        except Exception as error:
            raise self.failure(f"takes no {array.dtype}{list(array.shape)}", error) from error
        tally.add(buffer.nbytes)
        return buffer

    def _allocate(self, layout: Layout) -> Any:
        self._make_room()
        try:
            return ort.OrtValue.ortvalue_from_shape_and_type(
                list(layout.shape), layout.dtype, self._ort_device
            )
        except Exception as error:
            raise self.failure(
                f"gives no {layout.nbytes} bytes for {layout.dtype}{list(layout.shape)}", error
            ) from error

    def failure(self, what: str, error: Exception) -> RuntimeUnavailable:
        """Our own error for what the device did not do; pybind11 raises kinds of its own."""
        return RuntimeUnavailable(f"{self.device} {what}: {error}")


class DeviceBuffer(PooledBuffer):
    """An immutable block of a device's memory; see ``edgeadapt.runtime.Buffer``."""

    __slots__ = ("pool",)

    def __init__(self, value: Any, layout: Layout, pool: DevicePool) -> None:
        super().__init__(value, layout)
        self.pool = pool

    def numpy(self) -> NDArray[Any]:
        """A copy on the host that the caller owns; it is counted as a download."""
        return self.read(self.pool.transfers.downloads)

    def read(self, tally: Tally) -> NDArray[Any]:
        """A copy on the host that the caller owns, counted in ``tally``. Raises:
        RuntimeUnavailable: the device failed.
        """
        try:
            array: NDArray[Any] = self.value.numpy()
        except Exception as error:
            raise self.pool.failure(
                f"gives no {self.dtype}{list(self.shape)} back", error
            ) from error
        tally.add(self.nbytes)
        # of host memory ONNX Runtime gives a view
        return array if array.flags.owndata else np.array(array)

    def __repr__(self) -> str:
        return f"DeviceBuffer({self.dtype}{list(self.shape)} on {self.pool.device})"


__all__ = ["DeviceBuffer", "DevicePool", "Tally", "Transfers", "ort_device"]
