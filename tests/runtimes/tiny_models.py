"""Small ONNX models for the tests of this folder, made with ``onnx``, which no runtime imports."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from edgeadapt.runtime import GraphFile

Arrays = dict[str, NDArray[Any]]
FLOAT = TensorProto.FLOAT


def external(name: str, value: NDArray[Any], location: str = "bundle:") -> TensorProto:
    tensor = TensorProto(
        name=name,
        data_type=helper.np_dtype_to_tensor_dtype(value.dtype),
        dims=value.shape,
        data_location=TensorProto.EXTERNAL,
    )
    tensor.external_data.add(key="location", value=location)
    return tensor


def build(
    nodes: list[Any],
    inputs: Mapping[str, Any],
    outputs: Mapping[str, Any],
    initializers: Iterable[TensorProto] = (),
) -> bytes:
    """A model; a shape is a list, or (element type, list)."""

    def value(name: str, spec: Any) -> Any:
        element, shape = spec if isinstance(spec, tuple) else (FLOAT, spec)
        return helper.make_tensor_value_info(name, element, shape)

    graph = helper.make_graph(
        nodes,
        "test",
        [value(*item) for item in inputs.items()],
        [value(*item) for item in outputs.items()],
        list(initializers),
    )
    model: bytes = helper.make_model(
        graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9
    ).SerializeToString()
    return model


def step_graph(shape: list[int]) -> GraphFile:
    one = numpy_helper.from_array(np.array(1, np.float32), "one")
    return GraphFile(
        "step",
        build(
            [helper.make_node("Add", ["W.w", "one"], ["W.w.next"])],
            {"W.w": shape},
            {"W.w.next": shape},
            [one],
        ),
    )


def predict_graph(rows: int, columns: int) -> GraphFile:
    nodes = [helper.make_node("MatMul", ["x", "W.w"], ["y"])]
    return GraphFile(
        "predict", build(nodes, {"x": ["B", rows], "W.w": [rows, columns]}, {"y": ["B", columns]})
    )
