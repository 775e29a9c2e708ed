"""What the passes ask about values of a graph."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir


def constant(value: ir.Value | None) -> np.ndarray | None:
    """The constant behind a value; None for what is computed, given at run time, or kept outside
    the model.
    """
    if value is None or value.const_value is None or value.is_graph_input():
        return None
    return value.const_value.numpy()


def scalar(value: ir.Value | None) -> float | None:
    """A constant with one element."""
    array = constant(value)
    return (
        float(array.reshape(-1)[0])
        if array is not None and array.size == 1 and array.ndim <= 1 and array.dtype == np.float32
        else None
    )


def shape(value: ir.Value | None) -> tuple[int | str | None, ...] | None:
    """Sizes; a free axis by name, None where nothing is known about it."""
    if value is None or value.shape is None:
        return None
    return tuple(size if isinstance(size, int) else size.value for size in value.shape)


def constant_axes(node: ir.Node) -> set[int] | None:
    """The axes in the second input of a reduction or squeeze, counted from the front; None where
    they are not constant, or none are named.
    """
    sizes, axes = shape(node.inputs[0]), constant(node.inputs[1]) if len(node.inputs) > 1 else None
    return (
        None
        if sizes is None or axes is None or axes.size == 0
        else {int(axis) % len(sizes) for axis in axes.reshape(-1)}
    )


def keeps_axes(reduction: ir.Node) -> bool:
    """Whether reduced axes stay, with size 1."""
    return (
        bool(reduction.attributes["keepdims"].as_int())
        if "keepdims" in reduction.attributes
        else True
    )


def is_matrix(value: ir.Value | None) -> bool:
    return value is not None and value.shape is not None and len(value.shape) == 2


def is_private(value: ir.Value) -> bool:
    """Read once, and not a result of the graph."""
    return len(value.uses()) == 1 and not value.is_graph_output()


def producer(value: ir.Value | None, op_type: str) -> ir.Node | None:
    """The node that computes ``value``, if it is of this type."""
    node = value.producer() if value is not None else None
    return (
        node
        if node is not None and node.op_type == op_type and node.domain in ("", "ai.onnx")
        else None
    )


def add_constant(graph: ir.Graph, name: str, array: np.ndarray) -> ir.Value:
    """A new initialiser of the graph."""
    value = ir.Value(name=name, const_value=ir.tensor(array))
    value.shape = ir.Shape(array.shape)
    value.type = ir.TensorType(ir.DataType.from_numpy(array.dtype))
    graph.register_initializer(value)
    return value


def replace(node: ir.Node, new: ir.Node) -> None:
    """Put ``new`` in the place of ``node``; both have one output."""
    old, fresh = node.outputs[0], new.outputs[0]
    fresh.type, fresh.shape = old.type, old.shape
    assert node.graph is not None
    node.graph.insert_before(node, new)
    ir.convenience.replace_all_uses_with(old, fresh, replace_graph_outputs=True)
    node.graph.remove(node, safe=True)


def replace_by_value(node: ir.Node, value: ir.Value) -> None:
    """Let everyone who reads ``node`` read ``value``; a result of the graph keeps a node of its
    own.
    """
    if node.outputs[0].is_graph_output():
        replace(node, ir.node("Identity", [value]))
        return
    ir.convenience.replace_all_uses_with(node.outputs[0], value)
    assert node.graph is not None
    node.graph.remove(node, safe=True)
