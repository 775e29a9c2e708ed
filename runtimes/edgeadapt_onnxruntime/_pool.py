"""Buffers that return to a pool when nobody holds them any more.

The pool holds raw ``OrtValue`` objects, by (dtype, shape). A ``PooledBuffer`` is the one owner of
such a value; ``Tensors`` and running calls hold buffers, so a value can be handed out again only
when nobody can read it any more.

Taking an idle value and putting one back are one operation on a list, which is atomic, so neither
takes a lock: a step takes and returns every tensor it writes, and a finaliser may run at any point,
in any thread, even inside ``take``. Only an allocation does.
"""

from __future__ import annotations

import contextlib
import threading
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnxruntime.capi import _pybind_state as ort

CPU = ort.OrtDevice(ort.OrtDevice.cpu(), ort.OrtDevice.default_memory(), 0)


class Layout:
    """One (dtype, shape), the idle values that have it, and how many of them are kept."""

    __slots__ = ("dtype", "idle", "keep", "nbytes", "shape")

    def __init__(self, dtype: np.dtype[Any], shape: tuple[int, ...], idle_limit: int) -> None:
        self.dtype = dtype
        self.shape = shape
        self.nbytes = int(np.prod(shape, dtype=np.int64)) * dtype.itemsize
        self.idle: list[Any] = []
        self.keep = idle_limit // max(self.nbytes, 1)


class Pool:
    """Idle values: of each layout at most ``idle_limit`` bytes, and at most so many in all after an
    allocation; the others are freed.
    """

    def __init__(self, idle_limit: int) -> None:
        self.idle_limit = idle_limit
        self.allocation_count = 0
        self._layouts: dict[tuple[np.dtype[Any], tuple[int, ...]], Layout] = {}
        self._lock = threading.Lock()

    @property
    def idle_bytes(self) -> int:
        """Bytes kept for reuse."""
        return sum(len(layout.idle) * layout.nbytes for layout in list(self._layouts.values()))

    def layout(self, dtype: np.dtype[Any], shape: tuple[int, ...]) -> Layout:
        """The one layout object of this dtype and shape."""
        with self._lock:
            if len(self._layouts) > 1024:  # shapes that come and go must not pile up
                self._layouts = {key: kept for key, kept in self._layouts.items() if kept.idle}
            return self._layouts.setdefault((dtype, shape), Layout(dtype, shape, self.idle_limit))

    def take(self, layout: Layout) -> PooledBuffer:
        """A buffer that nobody else holds; its content is undefined."""
        try:
            return PooledBuffer(layout.idle.pop(), layout)
        except IndexError:
            return PooledBuffer(self._allocate(layout), layout)

    def _allocate(self, layout: Layout) -> Any:
        self._make_room()
        return ort.OrtValue.ortvalue_from_shape_and_type(list(layout.shape), layout.dtype, CPU)

    def _make_room(self) -> None:
        """Count an allocation, and free what lies idle beyond the limit."""
        with self._lock:
            self.allocation_count += 1
            excess = self.idle_bytes - self.idle_limit
            for kept in sorted(self._layouts.values(), key=lambda kept: -kept.nbytes):
                # empty, perhaps because others take meanwhile
                with contextlib.suppress(IndexError):
                    while excess > 0:
                        kept.idle.pop()
                        excess -= kept.nbytes


class PooledBuffer:
    """An immutable block of host memory; see ``edgeadapt.runtime.Buffer``."""

    __slots__ = ("_layout", "value")

    def __init__(self, value: Any, layout: Layout) -> None:
        self.value = value
        self._layout = layout

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
        layout = self._layout
        if len(layout.idle) < layout.keep:
            layout.idle.append(self.value)

    def __repr__(self) -> str:
        return f"PooledBuffer({self.dtype}{list(self.shape)})"
