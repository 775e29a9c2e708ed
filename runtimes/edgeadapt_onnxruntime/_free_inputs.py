"""Reads which inputs of an ONNX file have free dimensions, without the ``onnx`` package.

``GraphProto.input = 11``, of ``ValueInfoProto`` ``name = 1, type = 2``, ``TypeProto.tensor_type = 1``, its ``shape = 2``,
``TensorShapeProto.dim = 1``, and of a dimension ``dim_value = 1``.
"""

from __future__ import annotations

from collections.abc import Iterator

from edgeadapt_onnxruntime._model import _fields

Dims = tuple[int | None, ...]


def free_inputs(model: bytes) -> dict[str, Dims]:
    """Shapes of the inputs with a free dimension, which is None; the model was read before (``external_initializers``)."""
    inputs = dict(_input(value) for graph in _parts(memoryview(model), 7) for value in _parts(graph, 11))
    return {name: dims for name, dims in inputs.items() if None in dims}


def _input(value: memoryview) -> tuple[str, Dims]:
    name = next(str(part, "utf-8") for part in _parts(value, 1))
    shapes = (shape for kind in _parts(value, 2) for tensor in _parts(kind, 1) for shape in _parts(tensor, 2))
    return name, tuple(_size(dim) for shape in shapes for dim in _parts(shape, 1))


def _size(dim: memoryview) -> int | None:
    return next((part for field, part in _fields(dim) if field == 1 and isinstance(part, int)), None)


def _parts(message: memoryview, number: int) -> Iterator[memoryview]:
    """The nested messages and texts of one field."""
    return (part for field, part in _fields(message) if field == number and isinstance(part, memoryview))


__all__ = ["Dims", "free_inputs"]
