"""Buffers that return to a pool when the last holder lets go.

The pool holds raw ``OrtValue`` objects, by (dtype, shape). A ``PooledBuffer`` is the one owner of such a value;
``Tensors`` and running calls hold buffers, so a value can be handed out again only when nobody can read it any more.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnxruntime.capi import _pybind_state as ort

CPU = ort.OrtDevice(ort.OrtDevice.cpu(), ort.OrtDevice.default_memory(), 0)


class Layout:
    """One (dtype, shape), and the idle values that have it."""

    __slots__ = ("dtype", "idle", "nbytes", "shape")

    def __init__(self, dtype: np.dtype[Any], shape: tuple[int, ...]) -> None:
        self.dtype = dtype
        self.shape = shape
        self.nbytes = int(np.prod(shape, dtype=np.int64)) * dtype.itemsize
        self.idle: list[Any] = []


class Pool:
    """Idle values, at most ``idle_limit`` bytes of them; what exceeds it is freed."""

    def __init__(self, idle_limit: int) -> None:
        self.idle_limit = idle_limit
        self.idle_bytes = 0
        self.allocation_count = 0
        self._layouts: dict[tuple[np.dtype[Any], tuple[int, ...]], Layout] = {}
        self._lock = threading.Lock()

    def layout(self, dtype: np.dtype[Any], shape: tuple[int, ...]) -> Layout:
        """The one layout object of this dtype and shape."""
        with self._lock:
            if len(self._layouts) > 1024:  # shapes that come and go must not pile up
                self._layouts = {key: kept for key, kept in self._layouts.items() if kept.idle}
            return self._layouts.setdefault((dtype, shape), Layout(dtype, shape))

    def take(self, layout: Layout) -> PooledBuffer:
        """A buffer that nobody else holds; its content is undefined."""
        value = None
        with self._lock:
            if layout.idle:
                value = layout.idle.pop()
                self.idle_bytes -= layout.nbytes
            else:
                self.allocation_count += 1
        if value is None:
            value = ort.OrtValue.ortvalue_from_shape_and_type(list(layout.shape), layout.dtype, CPU)
        return PooledBuffer(value, layout, self)

    def take_all(self, layouts: Sequence[Layout]) -> list[PooledBuffer]:
        """One buffer of each layout, as :meth:`take`, for the price of one lock."""
        buffers: list[Any] = []
        fresh = []
        with self._lock:
            for layout in layouts:
                if layout.idle:
                    buffers.append(PooledBuffer(layout.idle.pop(), layout, self))
                    self.idle_bytes -= layout.nbytes
                else:
                    fresh.append((len(buffers), layout))
                    buffers.append(None)
        for place, layout in fresh:
            buffers[place] = self.take(layout)
        return buffers


class PooledBuffer:
    """An immutable block of host memory; see ``edgeadapt.runtime.Buffer``."""

    __slots__ = ("_layout", "_pool", "value")

    def __init__(self, value: Any, layout: Layout, pool: Pool) -> None:
        self.value = value
        self._layout = layout
        self._pool = pool

    @property
    def dtype(self) -> np.dtype[Any]:
        return self._layout.dtype

    @property
    def shape(self) -> tuple[int, ...]:
        return self._layout.shape

    @property
    def nbytes(self) -> int:
        return self._layout.nbytes

    def numpy(self) -> NDArray[Any]:
        """A copy that the caller owns."""
        return np.array(self.value.numpy(), dtype=self._layout.dtype, copy=True)

    def __del__(self) -> None:
        """Runs at any point, in any thread, even inside ``take``. It must not wait, so when the lock is held the value is freed."""
        pool = self._pool
        if pool._lock.acquire(False):
            layout = self._layout
            idle_bytes = pool.idle_bytes + layout.nbytes
            if idle_bytes <= pool.idle_limit:
                layout.idle.append(self.value)
                pool.idle_bytes = idle_bytes
            pool._lock.release()

    def __repr__(self) -> str:
        return f"PooledBuffer({self.dtype}{list(self.shape)})"
