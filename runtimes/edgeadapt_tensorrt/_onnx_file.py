"""Reads and rewrites the few parts of an ONNX file that matter here, without the ``onnx`` package.

TensorRT's parser takes one self-contained message, so initialisers at location ``bundle:`` get their values, or become inputs: a weight that
is replaced later is not worth a build. Everything else is copied byte for byte. The protobuf fields: ``ModelProto.graph = 7``;
``GraphProto.initializer = 5, input = 11, output = 12``; ``TensorProto.dims = 1, data_type = 2, name = 8, raw_data = 9, external_data = 13
(key = 1, value = 2), data_location = 14``; ``ValueInfoProto.name = 1, type = 2``; ``TypeProto.tensor_type = 1 (elem_type = 1, shape = 2)``;
``TensorShapeProto.dim = 1 (dim_value = 1, dim_param = 2)``.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgeadapt.errors import BundleError

LOCATION = "bundle:"
_DTYPES = {
    1: "float32", 2: "uint8", 3: "int8", 4: "uint16", 5: "int16", 6: "int32", 7: "int64",
    9: "bool", 10: "float16", 11: "float64", 12: "uint32", 13: "uint64",
}  # fmt: skip
_NUMBERS = {name: number for number, name in _DTYPES.items()}


@dataclass(frozen=True)
class Value:
    """An input, an output or an initialiser. A free dimension has a name, or is None."""

    name: str
    dtype: str
    shape: tuple[int | str | None, ...]

    def __str__(self) -> str:
        return f"{self.dtype}[{', '.join('any' if dim is None else str(dim) for dim in self.shape)}]"


@dataclass
class OnnxFile:
    """What a serialised ``ModelProto`` says about its boundary.

    Raises:
        BundleError: the bytes are not a protobuf message, or a tensor points anywhere but ``bundle:``.
    """

    name: str
    model: bytes
    inputs: list[Value] = field(init=False, default_factory=list)
    outputs: list[Value] = field(init=False, default_factory=list)
    external: dict[str, Value] = field(init=False, default_factory=dict)

    def __post_init__(self) -> None:
        try:
            for number, part in _fields(memoryview(self.model)):
                if number == 7:
                    self._read_graph(_message(part))
        except (IndexError, ValueError, TypeError) as error:
            raise BundleError(f"graph {self.name!r} is not a readable ONNX model: {error}") from error
        if not self.outputs:
            raise BundleError(f"graph {self.name!r} is not a readable ONNX model: it has no outputs")

    def _read_graph(self, graph: memoryview) -> None:
        inside = set()
        for number, part in _fields(graph):
            if number == 5:
                tensor, location = _tensor(_message(part))
                inside.add(tensor.name)
                if location is not None:
                    if location != LOCATION:
                        raise BundleError(f"graph {self.name!r}: tensor {tensor.name!r} points to {location!r}; only {LOCATION!r} is accepted")
                    self.external[tensor.name] = tensor
            elif number in (11, 12):
                (self.inputs if number == 11 else self.outputs).append(_value(_message(part)))
        self.inputs = [value for value in self.inputs if value.name not in inside]

    def frozen(self, given: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        """The value of every external initialiser, C-contiguous.

        Raises:
            BundleError: a value is missing, or has another dtype or shape; the message names the tensor.
        """
        values = {}
        for name, wanted in self.external.items():
            if name not in given:
                raise BundleError(f"graph {self.name!r}: no value for frozen tensor {name!r}; the bundle supplies: {', '.join(sorted(given)[:8]) or 'none'}")
            value = np.asarray(given[name], order="C")
            if str(value.dtype) != wanted.dtype or value.shape != wanted.shape:
                raise BundleError(f"graph {self.name!r}: frozen tensor {name!r} must be {wanted}, got {value.dtype}{list(value.shape)}")
            values[name] = value
        return values

    def complete(self, values: Mapping[str, NDArray[Any]], as_inputs: Collection[str] = ()) -> bytes:
        """The model with these values inside it, except for the initialisers that become inputs."""
        parts = []
        for number, part, raw in _raw_fields(memoryview(self.model)):
            parts.append(_enclose(7, self._complete_graph(_message(part), values, as_inputs)) if number == 7 else bytes(raw))
        return b"".join(parts)

    def _complete_graph(self, graph: memoryview, values: Mapping[str, NDArray[Any]], as_inputs: Collection[str]) -> bytes:
        parts = []
        for number, part, raw in _raw_fields(graph):
            tensor = _tensor(_message(part))[0] if number == 5 else None
            if tensor is None or tensor.name not in self.external:
                parts.append(bytes(raw))
            elif tensor.name not in as_inputs:
                parts.append(_enclose(5, _encode_tensor(tensor, values[tensor.name])))
        parts += [_enclose(11, _encode_value(self.external[name])) for name in as_inputs]
        return b"".join(parts)


def _tensor(message: memoryview) -> tuple[Value, str | None]:
    """A ``TensorProto`` without its values, and where they are if outside the file."""
    name, kind, location, is_external = "", 0, "", False
    dims: list[int | str | None] = []
    for number, part in _fields(message):
        if number == 1:
            dims.extend(_varints(part) if isinstance(part, memoryview) else [part])
        elif number == 2 and isinstance(part, int):
            kind = part
        elif number == 8:
            name = str(_message(part), "utf-8")
        elif number == 14:
            is_external = part == 1
        elif number == 13:
            entry = {key: str(_message(value), "utf-8") for key, value in _fields(_message(part))}
            location = entry.get(2, "") if entry.get(1) == "location" else location
    return Value(name, _DTYPES.get(kind, f"ONNX type {kind}"), tuple(dims)), location if is_external else None


def _value(message: memoryview) -> Value:
    name, kind, dims = "", 0, []
    for number, part in _fields(message):
        if number == 1:
            name = str(_message(part), "utf-8")
        elif number == 2:
            for is_tensor, tensor in _fields(_message(part)):
                for inner, content in _fields(_message(tensor)) if is_tensor == 1 else ():
                    if inner == 1 and isinstance(content, int):
                        kind = content
                    elif inner == 2:
                        dims = [_dimension(_message(dim)) for is_dim, dim in _fields(_message(content)) if is_dim == 1]
    return Value(name, _DTYPES.get(kind, f"ONNX type {kind}"), tuple(dims))


def _dimension(message: memoryview) -> int | str | None:
    for number, part in _fields(message):
        if number == 1 and isinstance(part, int):
            return part
        if number == 2:
            return str(_message(part), "utf-8") or None
    return None


def _encode_tensor(tensor: Value, value: NDArray[Any]) -> bytes:
    dims = b"".join(b"\x08" + _encode_varint(size) for size in value.shape)
    kind = b"\x10" + _encode_varint(_NUMBERS[tensor.dtype])
    return dims + kind + _enclose(8, tensor.name.encode()) + _enclose(9, value.tobytes())


def _encode_value(value: Value) -> bytes:
    dims = b"".join(_enclose(1, b"\x08" + _encode_varint(size)) for size in value.shape if isinstance(size, int))
    tensor_type = b"\x08" + _encode_varint(_NUMBERS[value.dtype]) + _enclose(2, dims)
    return _enclose(1, value.name.encode()) + _enclose(2, _enclose(1, tensor_type))


def _enclose(number: int, content: bytes) -> bytes:
    return _encode_varint(number << 3 | 2) + _encode_varint(len(content)) + content


def _encode_varint(value: int) -> bytes:
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*out, value])


def _message(part: int | memoryview) -> memoryview:
    if isinstance(part, int):
        raise ValueError("a number where a message is expected")
    return part


def _fields(message: memoryview) -> Iterator[tuple[int, int | memoryview]]:
    """(field number, value); nested messages are views, nothing is copied."""
    for number, part, _ in _raw_fields(message):
        yield number, part


def _raw_fields(message: memoryview) -> Iterator[tuple[int, int | memoryview, memoryview]]:
    """(field number, value, the field's own bytes) of one protobuf message."""
    at, end = 0, len(message)
    while at < end:
        start = at
        key, at = _varint(message, at)
        kind = key & 7
        part: int | memoryview
        if kind == 0:
            part, at = _varint(message, at)
        else:
            if kind == 2:
                size, at = _varint(message, at)
            elif kind in (1, 5):
                size = 8 if kind == 1 else 4
            else:
                raise ValueError(f"unknown protobuf wire type {kind}")
            if at + size > end:
                raise ValueError("the file is cut short")
            part = message[at : at + size]
            at += size
        yield key >> 3, part, message[start:at]


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
