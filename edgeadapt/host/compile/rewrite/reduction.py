"""Reductions: axes are dropped at once instead of in a ``Reshape`` of their own, and an axis of
size 1 is not summed.

The gradient of every bias is a sum over the batch that ends in a reshape; at batch 1 it is no sum
at all.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from edgeadapt.host.compile.rewrite._values import (
    add_constant,
    constant_axes,
    is_private,
    keeps_axes,
    replace,
    replace_by_value,
    shape,
)

# of one element they are that element
_NEUTRAL = {"ReduceSum", "ReduceMean", "ReduceMax", "ReduceMin", "ReduceProd"}


def drop_reduced_axes(graph: ir.Graph) -> bool:
    """``Reshape(Reduce(x, keepdims=1))`` to the shape without the reduced axes becomes ``Reduce(x,
    keepdims=0)``.
    """
    changed = False
    for node in list(graph):
        if (
            node.op_type not in ("Reshape", "Squeeze")
            or node.inputs[0] is None
            or not is_private(node.inputs[0])
        ):
            continue
        reduction = node.inputs[0].producer()
        found = _reduced(reduction) if reduction is not None else None
        if reduction is None or found is None or not keeps_axes(reduction):
            continue
        sizes, axes = found
        left = tuple(size for axis, size in enumerate(sizes) if axis not in axes)
        if shape(node.outputs[0]) == left and None not in left:
            replace(node, ir.node(reduction.op_type, list(reduction.inputs), {"keepdims": 0}))
            changed = True
    return changed


def skip_single_elements(graph: ir.Graph) -> bool:
    """A reduction over axes of size 1 is its input, reshaped."""
    changed = False
    for node in list(graph):
        found = _reduced(node) if node.op_type in _NEUTRAL else None
        if found is None or node.inputs[0] is None or any(found[0][axis] != 1 for axis in found[1]):
            continue
        if keeps_axes(node):
            replace_by_value(node, node.inputs[0])
        else:
            axes = add_constant(
                graph, f"__axes_{node.outputs[0].name}", np.array(sorted(found[1]), np.int64)
            )
            replace(node, ir.node("Squeeze", [node.inputs[0], axes]))
        changed = True
    return changed


def _reduced(node: ir.Node) -> tuple[tuple[int | str | None, ...], set[int]] | None:
    """``(sizes of the input, reduced axes)``."""
    if not node.op_type.startswith("Reduce"):
        return None
    sizes, axes = shape(node.inputs[0]), constant_axes(node)
    return None if sizes is None or axes is None else (sizes, axes)
