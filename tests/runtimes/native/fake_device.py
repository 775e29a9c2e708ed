"""``fake_cudart.c`` as Python sees it: what it counts, how it is made to fail, and device arrays
that are not ours.
"""

from __future__ import annotations

import ctypes
from typing import Any

import numpy as np
from numpy.typing import NDArray

LAZY, LATE = 0, 1  # a query runs one operation; a query runs nothing


class FakeDevice:
    """The library behind the paths in ``EDGEADAPT_CUDART`` and ``EDGEADAPT_LIBCUDA``."""

    def __init__(self, path: str) -> None:
        self.path = path
        self.library = ctypes.CDLL(path)
        self.library.fake_view.restype = ctypes.c_void_p
        self.library.fake_view.argtypes = (ctypes.c_void_p, ctypes.c_size_t)
        self.library.fake_count.restype = ctypes.c_long
        self.library.fake_capacity.argtypes = (ctypes.c_size_t,)
        self.library.fake_is_capturing.argtypes = self.library.fake_priority.argtypes = (
            ctypes.c_void_p,
        )

    def reset(self) -> None:
        self.library.fake_reset()

    def mode(self, value: int) -> None:
        self.library.fake_mode(value)

    def without_driver(self) -> None:
        self.library.fake_driver(100)

    def fail(self, function: str, nth: int = 1, code: int = 700) -> None:
        """The nth call from now on returns this code, once."""
        self.library.fake_fail(function.encode(), nth, code)

    def broken(self, code: int = 700) -> None:
        """Every call returns this code from now on, as after an illegal access."""
        self.library.fake_break(code)

    def capacity(self, nbytes: int) -> None:
        self.library.fake_capacity(nbytes)

    def integrated(self) -> None:
        self.library.fake_integrated(1)

    def count(self, what: str) -> int:
        return int(self.library.fake_count(what.encode()))

    def counts(self, *what: str) -> dict[str, int]:
        return {name: self.count(name) for name in what}

    def violations(self) -> tuple[int, str]:
        text = ctypes.create_string_buffer(4096)
        return int(self.library.fake_violations(text, len(text))), text.value.decode()

    def violate(self, text: str) -> None:
        self.library.fake_say(text.encode().replace(b"%", b"%%"))

    def is_idle(self) -> bool:
        return bool(self.library.fake_is_idle())

    def view(self, address: int, nbytes: int) -> NDArray[np.uint8] | None:
        """The host's window on device memory, which only kernels may have; None, and a violation,
        where there is none.
        """
        at = self.library.fake_view(address, nbytes)
        return (
            None if not at else np.frombuffer((ctypes.c_uint8 * nbytes).from_address(at), np.uint8)
        )

    def allocate(self, values: NDArray[Any], shift: int = 0) -> int:
        """Device memory of somebody else with these values; ``shift`` bytes into its allocation."""
        out = ctypes.c_void_p()
        assert (
            self.library.cudaMalloc(ctypes.byref(out), ctypes.c_size_t(values.nbytes + shift)) == 0
        )
        address = int(out.value or 0) + shift
        window = self.view(address, values.nbytes)
        assert window is not None
        window[:] = np.ascontiguousarray(values).reshape(-1).view(np.uint8)
        return address


class Interface:
    """An array on the device by Numba's protocol."""

    def __init__(
        self, device: FakeDevice, values: NDArray[Any], shift: int = 0, **more: Any
    ) -> None:
        self.address = device.allocate(values, shift)
        self.__cuda_array_interface__ = {
            "shape": values.shape,
            "typestr": values.dtype.str,
            "data": (self.address, False),
            "version": 3,
            **more,
        }


class _Tensor(ctypes.Structure):
    _fields_ = (
        ("data", ctypes.c_void_p),
        ("device_type", ctypes.c_int32),
        ("device_id", ctypes.c_int32),
        ("ndim", ctypes.c_int32),
        ("code", ctypes.c_uint8),
        ("bits", ctypes.c_uint8),
        ("lanes", ctypes.c_uint16),
        ("shape", ctypes.POINTER(ctypes.c_int64)),
        ("strides", ctypes.POINTER(ctypes.c_int64)),
        ("byte_offset", ctypes.c_uint64),
    )


class Exported:
    """An array on the device by DLPack; remembers the stream that it was asked for."""

    def __init__(
        self,
        device: FakeDevice,
        values: NDArray[Any],
        ordinal: int = 0,
        strides: tuple[int, ...] | None = None,
    ) -> None:
        self.address, self.ordinal, self.stream = device.allocate(values), ordinal, 0
        kinds = {"i": 0, "u": 1, "f": 2, "b": 6}
        count = values.ndim
        self._shape = (ctypes.c_int64 * count)(*values.shape)
        self._strides = (ctypes.c_int64 * count)(*strides) if strides else None
        self._tensor = _Tensor(
            self.address,
            2,
            ordinal,
            count,
            kinds[values.dtype.kind],
            values.dtype.itemsize * 8,
            1,
            ctypes.cast(self._shape, ctypes.POINTER(ctypes.c_int64)),
            ctypes.cast(self._strides, ctypes.POINTER(ctypes.c_int64)) if strides else None,
            0,
        )

    def __dlpack_device__(self) -> tuple[int, int]:
        return 2, self.ordinal

    def __dlpack__(self, stream: int | None = None) -> Any:
        self.stream = stream or 0
        make = ctypes.pythonapi.PyCapsule_New
        make.restype = ctypes.py_object
        make.argtypes = (ctypes.c_void_p, ctypes.c_char_p, ctypes.c_void_p)
        return make(ctypes.addressof(self._tensor), b"dltensor", None)
