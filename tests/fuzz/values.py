"""Any Python value from a description in JSON, so that a call with odd arguments is an input like
any other.

``{"array": {"dtype": "<f4", "shape": [3, 4], "fill": "nan", "order": "F"}}``, ``{"float": "nan"}``,
``{"bytes": "x"}``, ``{"tuple": [...]}``, ...; a plain JSON value is itself. Every description gives
a value: what cannot be made is given as its description.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

import numpy as np

_LARGEST = 1 << 18  # elements
FILLS = ("zeros", "ones", "nan", "inf", "large", "ramp", "noise", "one nan")
DTYPES = (
    "<f4",
    "<f8",
    "<f2",
    ">f4",
    "|u1",
    "|i1",
    "<i4",
    "<i8",
    "<u8",
    "|b1",
    "<c8",
    "<U3",
    "|S3",
    "|O",
    "<M8[s]",
    "|V4",
    "<f16",
)
ORDERS = ("C", "F", "strided", "reversed", "read-only", "broadcast", "unaligned")
KINDS = (
    "array",
    "float",
    "bytes",
    "tuple",
    "set",
    "object",
    "dlpack",
    "scalar",
    "generator",
    "masked",
    "matrix",
    "range",
    "int",
    "repeat",
    "surrogate",
    "subclass",
)
WORDS = (
    *FILLS,
    *DTYPES,
    *ORDERS,
    *KINDS,
    "nan",
    "inf",
    "-inf",
    "z",
    "taps",
    "Coat",
    "Bag",
    "gpu",
    "float32",
)


class _Foreign:
    """Something with ``__dlpack__`` that works, lies on a GPU, or fails."""

    def __init__(self, how: Any) -> None:
        self._how, self._array = how, np.zeros((2, 4), np.float32)

    def __dlpack__(self, **settings: Any) -> Any:
        if self._how == "gpu":
            raise BufferError("it lies on a GPU")
        return self._array.__dlpack__(**settings)

    def __dlpack_device__(self) -> Any:
        return (2, 0) if self._how == "gpu" else self._array.__dlpack_device__()


class _Text(str):
    """A subclass, as a configuration library would give."""


def build(described: Any, more: Mapping[str, Callable[[Any], Any]] = MappingProxyType({})) -> Any:
    """The value of a description; ``more`` kinds belong to one target."""
    if isinstance(described, list):
        return [build(inner, more) for inner in described]
    if not isinstance(described, dict):
        return described
    if len(described) == 1:
        ((kind, given),) = described.items()
        maker = more.get(kind) or _MAKERS.get(kind)
        if maker is not None:
            try:
                return maker(given)
            except (TypeError, ValueError, LookupError, OverflowError, AttributeError, MemoryError):
                return described
    return {key: build(inner, more) for key, inner in described.items()}


def _array(given: dict[str, Any]) -> Any:
    shape = tuple(min(int(size), _LARGEST) for size in given.get("shape", [2]))
    if math.prod(shape) > _LARGEST or len(shape) > 8:
        shape = (2, 2)
    dtype, fill = np.dtype(given.get("dtype", "<f4")), given.get("fill", "zeros")
    values: Any = np.zeros(shape, np.float64)
    if fill in ("nan", "inf"):
        values = np.full(shape, float(fill))
    elif fill == "large":
        values = np.full(shape, 1e30)
    elif fill == "ones":
        values = np.ones(shape)
    elif fill == "ramp":
        values = np.arange(math.prod(shape)).reshape(shape) % 255
    elif fill == "noise":
        values = np.random.default_rng(0).standard_normal(shape)
    elif fill == "one nan" and values.size:
        values.flat[values.size // 2] = np.nan
    with np.errstate(all="ignore"):
        return _laid_out(values.astype(dtype), given.get("order", "C"))


def _laid_out(array: Any, order: Any) -> Any:
    if order == "F":
        return np.asfortranarray(array)
    if order == "strided" and array.ndim:
        return np.repeat(array, 2, axis=0)[::2]
    if order == "reversed":
        return array[::-1] if array.ndim else array
    if order == "read-only":
        array.flags.writeable = False
    if order == "broadcast":
        return np.broadcast_to(array[:1], array.shape) if array.ndim and len(array) else array
    if order == "unaligned" and array.dtype.kind in "iuf":
        return np.frombuffer(b"\0" + array.tobytes(), array.dtype, offset=1).reshape(array.shape)
    return array


def _scalar(given: Any) -> Any:
    return np.dtype(given[0]).type(given[1])


_MAKERS: dict[str, Callable[[Any], Any]] = {
    "array": _array,
    "float": float,
    "int": lambda given: int(str(given)[:60]),
    "bytes": lambda given: str(given).encode(),
    "tuple": lambda given: tuple(build(inner) for inner in given),
    "set": lambda given: {build(inner) for inner in given},
    "object": lambda given: object,
    "dlpack": _Foreign,
    "scalar": _scalar,
    "generator": lambda given: (build(inner) for inner in given),
    "masked": lambda given: np.ma.masked_all(3),
    "matrix": lambda given: np.matrix([[1.0, 2.0]]),
    "range": lambda given: range(min(int(given), 1000)),
    "repeat": lambda given: [build(given[0])] * min(int(given[1]), 3000),
    "surrogate": lambda given: "\ud800" + str(given),
    "subclass": _Text,
}
