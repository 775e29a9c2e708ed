"""Arrays of others as ports: numpy and what is on the host, or what is on the device already and is
read there.

``__dlpack__`` is asked for a stream to be ready on, ``__cuda_array_interface__`` names one to wait
for. An array on the device has to be C-contiguous: making it so would be work on somebody else's
memory.
"""

from __future__ import annotations

import ctypes
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgeadapt.errors import InputError
from edgeadapt.runtime import ArrayLike
from edgeadapt_tensorrt._buffers import Mark
from edgeadapt_tensorrt._cudart import CudaRuntime

_ON_HOST, _ON_DEVICE = (1, 3), (2, 13)  # DLDeviceType: CPU and pinned; CUDA and managed
_KINDS: dict[int, tuple[Any, ...]] = {  # DLDataTypeCode: numpy's name and the bits that it has
    0: ("int", 8, 16, 32, 64),
    1: ("uint", 8, 16, 32, 64),
    2: ("float", 16, 32, 64),
    6: ("bool", 8),
}


@dataclass(frozen=True)
class DeviceArray:
    """Device memory of somebody else, C-contiguous; ``owner`` keeps it alive, ``ready`` is when it
    may be read.
    """

    address: int
    dtype: np.dtype[Any]
    shape: tuple[int, ...]
    owner: Any
    ready: Mark | None

    @property
    def nbytes(self) -> int:
        return math.prod(self.shape) * self.dtype.itemsize


class _DLTensor(ctypes.Structure):
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


_capsule_pointer = ctypes.PYFUNCTYPE(ctypes.c_void_p, ctypes.py_object, ctypes.c_char_p)(
    ("PyCapsule_GetPointer", ctypes.pythonapi)
)


def admit(
    where: str,
    value: ArrayLike,
    dtype: np.dtype[Any],
    cuda: CudaRuntime,
    stream: int,
    mark: Callable[[int], Mark],
) -> NDArray[Any] | DeviceArray:
    """A port's value as numpy or as device memory; dtype and shape are not judged here.

    Args:
        where: the graph and port, for messages.
        value: numpy, a Python number, or anything with ``__dlpack__`` or
            ``__cuda_array_interface__``.
        dtype: that a Python number is taken in.
        cuda: of the device that device memory must be on.
        stream: on which a producer makes its memory ready.
        mark: after what a stream holds now.

    Raises:
        InputError: a number the dtype cannot hold, memory of another device, or device memory that
            is not C-contiguous.
    """
    if isinstance(value, np.ndarray):
        return np.asarray(value, order="C")
    if isinstance(value, (bool, int, float)):
        return _number(where, value, dtype)
    if hasattr(value, "__dlpack_device__") and hasattr(value, "__dlpack__"):
        kind, ordinal = (int(part) for part in value.__dlpack_device__())
        if kind in _ON_DEVICE:
            if ordinal != cuda.device:
                raise InputError(
                    f"{where} is on GPU {ordinal}, and this runtime on GPU {cuda.device}"
                )
            return _checked(
                where, _from_capsule(where, value.__dlpack__(stream=stream), stream, mark), cuda
            )
        if kind in _ON_HOST:
            return np.asarray(np.from_dlpack(value), order="C")
        raise InputError(
            f"{where} is on a device of DLPack kind {kind}; the host and CUDA are known"
        )
    if hasattr(value, "__cuda_array_interface__"):
        return _checked(where, _from_interface(where, value, mark), cuda)
    return np.asarray(value, order="C")


def _number(where: str, value: float, dtype: np.dtype[Any]) -> NDArray[Any]:
    """A Python number that the dtype can hold; floats are rounded, integers must be exact."""
    try:
        array = np.asarray(value, dtype)
        fits = dtype.kind == "f" or array == value
    except (ValueError, OverflowError):
        fits = False
    if not fits:
        raise InputError(f"{where} cannot hold {value!r}")
    return array


def _from_capsule(
    where: str, capsule: Any, stream: int, mark: Callable[[int], Mark]
) -> DeviceArray:
    """The tensor in a DLPack capsule. The capsule is kept, not consumed: it lets go of the memory
    when it goes.
    """
    tensor = _DLTensor.from_address(_capsule_pointer(capsule, b"dltensor"))
    if tensor.lanes != 1 or tensor.bits not in _KINDS.get(tensor.code, ("",))[1:]:
        raise InputError(
            f"{where} has DLPack type {tensor.code} of {tensor.bits} bits, which numpy cannot hold"
        )
    kind = _KINDS[tensor.code][0]
    dtype = np.dtype(kind if kind == "bool" else f"{kind}{tensor.bits}")
    shape = tuple(tensor.shape[: tensor.ndim])
    if tensor.strides:
        _contiguous(
            where,
            shape,
            tuple(stride * dtype.itemsize for stride in tensor.strides[: tensor.ndim]),
            dtype,
        )
    return DeviceArray(
        int(tensor.data or 0) + tensor.byte_offset, dtype, shape, capsule, mark(stream)
    )


def _from_interface(where: str, value: Any, mark: Callable[[int], Mark]) -> DeviceArray:
    """Numba's protocol, version 3: a stream is 1 (the default one), 2 (the thread's own) or an
    address; without one it is ready.
    """
    interface = value.__cuda_array_interface__
    dtype = np.dtype(interface["typestr"])
    shape = tuple(interface["shape"])
    stream = interface.get("stream")
    if interface.get("mask") is not None:
        raise InputError(f"{where} has a mask, which no port takes")
    if interface.get("strides") is not None:
        _contiguous(where, shape, tuple(interface["strides"]), dtype)
    return DeviceArray(
        int(interface["data"][0]), dtype, shape, value, mark(int(stream)) if stream else None
    )


def _checked(where: str, array: DeviceArray, cuda: CudaRuntime) -> DeviceArray:
    """What the producer says is asked of CUDA as well: a host address would end in a fault of the
    whole device.
    """
    if array.nbytes and (found := cuda.device_of(array.address)) != cuda.device:
        place = "no memory of a GPU" if found is None else f"on GPU {found}"
        raise InputError(
            f"{where} is {place} (address {array.address:#x}), and this runtime on GPU"
            f" {cuda.device}"
        )
    return array


def _contiguous(
    where: str, shape: tuple[int, ...], strides: tuple[int, ...], dtype: np.dtype[Any]
) -> None:
    step = dtype.itemsize
    for size, stride in zip(reversed(shape), reversed(strides), strict=True):
        if size > 1 and stride != step:
            raise InputError(
                f"{where} is on the device and not C-contiguous (shape {list(shape)}, strides"
                f" {list(strides)} bytes); make it so there"
            )
        step *= size
