"""What a runtime has to know of an ONNX file before an engine sees it, without the ``onnx``
package.

Engines report a missing or misshapen external tensor without its name, or as a path problem, and
would follow a location into the file system: here the one location is ``bundle:``. Some want one
self-contained message: the initialisers there get their values, or become inputs, and everything
else is copied byte for byte. The protobuf fields: ``ModelProto.graph = 7``;
``GraphProto.initializer = 5, input = 11, output = 12``; ``TensorProto.dims = 1, data_type = 2, name
= 8, raw_data = 9, external_data = 13 (key = 1, value = 2), data_location = 14``;
``ValueInfoProto.name = 1, type = 2``; ``TypeProto.tensor_type = 1 (elem_type = 1, shape = 2)``;
``TensorShapeProto.dim = 1 (dim_value = 1, dim_param = 2)``.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgeadapt._protobuf import enclose, fields, integer, nested, packed, raw_fields
from edgeadapt.errors import BundleError

LOCATION = "bundle:"
_DTYPES = {
    1: "float32",
    2: "uint8",
    3: "int8",
    4: "uint16",
    5: "int16",
    6: "int32",
    7: "int64",
    9: "bool",
    10: "float16",
    11: "float64",
    12: "uint32",
    13: "uint64",
}
_NUMBERS = {name: number for number, name in _DTYPES.items()}


@dataclass(frozen=True)
class Value:
    """An input, an output or an initialiser. A free dimension has a name, or is None."""

    name: str
    dtype: str
    shape: tuple[int | str | None, ...]

    def __str__(self) -> str:
        return (
            f"{self.dtype}[{', '.join('any' if dim is None else str(dim) for dim in self.shape)}]"
        )


@dataclass
class OnnxFile:
    """What a serialised ``ModelProto`` says about its boundary.

    Raises:
        BundleError: the bytes are not a protobuf message, or a tensor points anywhere but
            ``bundle:``.
    """

    name: str
    model: bytes
    inputs: list[Value] = field(init=False, default_factory=list)
    outputs: list[Value] = field(init=False, default_factory=list)
    external: dict[str, Value] = field(init=False, default_factory=dict)

    def __post_init__(self) -> None:
        try:
            for number, part in fields(memoryview(self.model)):
                if number == 7:
                    self._read_graph(nested(part))
        except ValueError as error:  # not protobuf, or a name that is no text
            raise BundleError(
                f"graph {self.name!r} is not a readable ONNX model: {error}"
            ) from error
        if not self.outputs:
            raise BundleError(
                f"graph {self.name!r} is not a readable ONNX model: it has no outputs"
            )

    def _read_graph(self, graph: memoryview) -> None:
        inside = set()
        for number, part in fields(graph):
            if number == 5:
                tensor, location = _tensor(nested(part))
                inside.add(tensor.name)
                if location is not None:
                    if location != LOCATION:
                        raise BundleError(
                            f"graph {self.name!r}: tensor {tensor.name!r} points to {location!r};"
                            f" only {LOCATION!r} is accepted"
                        )
                    self.external[tensor.name] = tensor
            elif number in (11, 12):
                (self.inputs if number == 11 else self.outputs).append(_value(nested(part)))
        self.inputs = [value for value in self.inputs if value.name not in inside]

    @property
    def free_inputs(self) -> dict[str, tuple[int | None, ...]]:
        """Shapes of the inputs that have a free dimension, which is None."""
        shapes = {
            value.name: tuple(dim if isinstance(dim, int) else None for dim in value.shape)
            for value in self.inputs
        }
        return {name: shape for name, shape in shapes.items() if None in shape}

    def frozen(self, given: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        """The value of every external initialiser, C-contiguous.

        Raises:
            BundleError: a value is missing, or has another dtype or shape; the message names the
                tensor.
        """
        values = {}
        for name, wanted in self.external.items():
            if name not in given:
                raise BundleError(
                    f"graph {self.name!r}: no value for frozen tensor {name!r}; the bundle"
                    f" supplies: {', '.join(sorted(given)[:8]) or 'none'}"
                )
            value = np.asarray(given[name], order="C")
            if str(value.dtype) != wanted.dtype or value.shape != wanted.shape:
                raise BundleError(
                    f"graph {self.name!r}: frozen tensor {name!r} must be {wanted}, got"
                    f" {value.dtype}{list(value.shape)}"
                )
            values[name] = value
        return values

    def complete(
        self, values: Mapping[str, NDArray[Any]], as_inputs: Collection[str] = ()
    ) -> bytes:
        """The model with these values inside it, except for the initialisers that become inputs."""
        parts = []
        for number, part, raw in raw_fields(memoryview(self.model)):
            parts.append(
                enclose(7, self._complete_graph(nested(part), values, as_inputs))
                if number == 7
                else bytes(raw)
            )
        return b"".join(parts)

    def _complete_graph(
        self, graph: memoryview, values: Mapping[str, NDArray[Any]], as_inputs: Collection[str]
    ) -> bytes:
        parts = []
        for number, part, raw in raw_fields(graph):
            tensor = _tensor(nested(part))[0] if number == 5 else None
            if tensor is None or tensor.name not in self.external:
                parts.append(bytes(raw))
            elif tensor.name not in as_inputs:
                parts.append(enclose(5, _encode_tensor(tensor, values[tensor.name])))
        parts += [enclose(11, _encode_value(self.external[name])) for name in as_inputs]
        return b"".join(parts)


def _tensor(message: memoryview) -> tuple[Value, str | None]:
    """A ``TensorProto`` without its values, and where they are if outside the file."""
    name, kind, location, is_external = "", 0, "", False
    dims: list[int | str | None] = []
    for number, part in fields(message):
        if number == 1:
            dims.extend(packed(part))
        elif number == 2 and isinstance(part, int):
            kind = part
        elif number == 8:
            name = str(nested(part), "utf-8")
        elif number == 14:
            is_external = part == 1
        elif number == 13:
            entry = {key: str(nested(value), "utf-8") for key, value in fields(nested(part))}
            location = entry.get(2, "") if entry.get(1) == "location" else location
    return Value(name, _DTYPES.get(kind, f"ONNX type {kind}"), tuple(dims)), (
        location if is_external else None
    )


def _value(message: memoryview) -> Value:
    name, kind, dims = "", 0, []
    for number, part in fields(message):
        if number == 1:
            name = str(nested(part), "utf-8")
        elif number == 2:
            for is_tensor, tensor in fields(nested(part)):
                for inner, content in fields(nested(tensor)) if is_tensor == 1 else ():
                    if inner == 1 and isinstance(content, int):
                        kind = content
                    elif inner == 2:
                        dims = [
                            _dimension(nested(dim))
                            for is_dim, dim in fields(nested(content))
                            if is_dim == 1
                        ]
    return Value(name, _DTYPES.get(kind, f"ONNX type {kind}"), tuple(dims))


def _dimension(message: memoryview) -> int | str | None:
    for number, part in fields(message):
        if number == 1 and isinstance(part, int):
            return part
        if number == 2:
            return str(nested(part), "utf-8") or None
    return None


def _encode_tensor(tensor: Value, value: NDArray[Any]) -> bytes:
    dims = b"".join(integer(1, size) for size in value.shape)
    kind = integer(2, _NUMBERS[tensor.dtype])
    return dims + kind + enclose(8, tensor.name.encode()) + enclose(9, value.tobytes())


def _encode_value(value: Value) -> bytes:
    dims = b"".join(enclose(1, integer(1, size)) for size in value.shape if isinstance(size, int))
    tensor_type = integer(1, _NUMBERS[value.dtype]) + enclose(2, dims)
    return enclose(1, value.name.encode()) + enclose(2, enclose(1, tensor_type))


__all__ = ["LOCATION", "OnnxFile", "Value"]
