"""Reads which initialisers of an ONNX file are kept outside it, without the ``onnx`` package.

ONNX Runtime reports a missing or misshapen external tensor without its name (1.23) or as a path problem (1.32), and
would follow any other location into the file system. So the few protobuf fields that say it are read here:
``ModelProto.graph = 7``, ``GraphProto.initializer = 5``, and of ``TensorProto`` ``dims = 1, data_type = 2, name = 8,
external_data = 13 (key = 1, value = 2), data_location = 14 (1 is external)``.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgeadapt.errors import BundleError

LOCATION = "bundle:"
_DTYPES = {
    1: "float32", 2: "uint8", 3: "int8", 4: "uint16", 5: "int16", 6: "int32", 7: "int64",
    9: "bool", 10: "float16", 11: "float64", 12: "uint32", 13: "uint64",
}  # fmt: skip


@dataclass(frozen=True)
class External:
    """An initialiser whose value is not in the model file."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    location: str


def external_initializers(graph: str, model: bytes) -> dict[str, External]:
    """The external initialisers of a serialised ``ModelProto``, by name.

    Raises:
        BundleError: the bytes are not a protobuf message, or a tensor points anywhere but ``bundle:``.
    """
    found = {}
    try:
        for field, part in _fields(memoryview(model)):
            if field == 7 and isinstance(part, memoryview):
                for inner, tensor in _fields(part):
                    if inner == 5 and isinstance(tensor, memoryview):
                        external = _external(tensor)
                        if external is not None:
                            found[external.name] = external
    except (IndexError, ValueError, TypeError) as error:
        raise BundleError(f"graph {graph!r} is not a readable ONNX model: {error}") from error
    for external in found.values():
        if external.location != LOCATION:
            raise BundleError(
                f"graph {graph!r}: tensor {external.name!r} points to {external.location!r}; only {LOCATION!r} is accepted"
            )
    return found


def frozen_values(
    graph: str, wanted: Mapping[str, External], given: Mapping[str, NDArray[Any]]
) -> dict[str, NDArray[Any]]:
    """The value of every external initialiser, C-contiguous.

    Raises:
        BundleError: a value is missing, or has another dtype or shape; the message names the tensor.
    """
    values = {}
    for name, external in wanted.items():
        if name not in given:
            known = ", ".join(sorted(given)[:8]) or "none"
            raise BundleError(f"graph {graph!r}: no value for frozen tensor {name!r}; the bundle supplies: {known}")
        value = np.asarray(given[name], order="C")
        if str(value.dtype) != external.dtype or value.shape != external.shape:
            raise BundleError(
                f"graph {graph!r}: frozen tensor {name!r} must be {external.dtype}{list(external.shape)}, "
                f"got {value.dtype}{list(value.shape)}"
            )
        values[name] = value
    return values


def _external(tensor: memoryview) -> External | None:
    name, type_code, location, is_external = "", 0, "", False
    dims: list[int] = []
    for field, part in _fields(tensor):
        if field == 1:
            dims.extend(_varints(part) if isinstance(part, memoryview) else [part])
        elif field == 2 and isinstance(part, int):
            type_code = part
        elif field == 8 and isinstance(part, memoryview):
            name = str(part, "utf-8")
        elif field == 14:
            is_external = part == 1
        elif field == 13 and isinstance(part, memoryview):
            entry = {key: str(value, "utf-8") for key, value in _fields(part) if isinstance(value, memoryview)}
            if entry.get(1) == "location":
                location = entry.get(2, "")
    if not is_external:
        return None
    return External(name, _DTYPES.get(type_code, f"ONNX type {type_code}"), tuple(dims), location)


def _fields(message: memoryview) -> Iterator[tuple[int, int | memoryview]]:
    """(field number, value) of one protobuf message; nested messages are views, nothing is copied."""
    at, end = 0, len(message)
    while at < end:
        key, at = _varint(message, at)
        kind = key & 7
        if kind == 0:
            value, at = _varint(message, at)
            yield key >> 3, value
            continue
        if kind == 2:
            size, at = _varint(message, at)
        elif kind in (1, 5):
            size = 8 if kind == 1 else 4
        else:
            raise ValueError(f"unknown protobuf wire type {kind}")
        if at + size > end:
            raise ValueError("the file is cut short")
        yield key >> 3, message[at : at + size]
        at += size


def _varint(message: memoryview, at: int) -> tuple[int, int]:
    value = 0
    for shift in range(0, 70, 7):
        byte = message[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
    raise ValueError("a protobuf number is too long")


def _varints(packed: memoryview) -> list[int]:
    numbers, at = [], 0
    while at < len(packed):
        number, at = _varint(packed, at)
        numbers.append(number)
    return numbers
