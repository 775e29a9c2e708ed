"""A written-out normalisation whose parts nobody else reads becomes one ``LayerNormalization``, of
the centred value.

    c * (1 / sqrt(mean(c^2) + eps))   ->   LayerNormalization(c),   c = x - mean(x)

The centring stays outside. ONNX Runtime 1.23 computes the variance as ``mean(x^2) - mean(x)^2``,
which is off by 5% where the mean is 100 standard deviations and not a number where it is 1000; of a
centred value it is right in every version.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from edgeadapt.host.compile.rewrite._values import (
    add_constant,
    constant_axes,
    is_private,
    keeps_axes,
    producer,
    replace,
    scalar,
    shape,
)


def fuse_layer_norm(graph: ir.Graph) -> bool:
    """Replace the six operators between a centred value and its normalised form by one."""
    changed = False
    for node in list(graph):
        if node.op_type != "Mul":
            continue
        for place in (0, 1):
            centred, rstd = node.inputs[place], node.inputs[1 - place]
            found = _variance(rstd, centred)
            if centred is None or found is None:
                continue
            axis, eps = found
            sizes = shape(centred)
            assert sizes is not None
            ones = add_constant(
                graph, f"__ones_{node.outputs[0].name}", np.ones(sizes[axis:], np.float32)
            )
            replace(
                node,
                ir.node(
                    "LayerNormalization",
                    [centred, ones],
                    {"axis": axis - len(sizes), "epsilon": eps},
                ),
            )
            changed = True
            break
    return changed


def _variance(rstd: ir.Value | None, centred: ir.Value | None) -> tuple[int, float] | None:
    """``(first normalised axis, eps)`` if ``rstd`` is one over the standard deviation of
    ``centred``, read only here.
    """
    if centred is None:
        return None
    reciprocal = producer(rstd, "Reciprocal")
    root = producer(reciprocal.inputs[0], "Sqrt") if reciprocal is not None else None
    added = producer(root.inputs[0], "Add") if root is not None else None
    if reciprocal is None or root is None or added is None:
        return None
    for place in (0, 1):
        eps, mean = scalar(added.inputs[place]), producer(added.inputs[1 - place], "ReduceMean")
        square = producer(mean.inputs[0], "Mul") if mean is not None else None
        if (
            eps is None
            or mean is None
            or square is None
            or list(square.inputs) != [centred, centred]
        ):
            continue
        chain = (reciprocal, root, added, mean, square)
        first = _first_axis(mean)
        if (
            first is not None
            and first == _centred_from(centred)
            and all(is_private(part.outputs[0]) for part in chain)
        ):
            return first, eps
    return None


def _centred_from(value: ir.Value) -> int | None:
    """The first axis of the mean that was subtracted to give ``value``."""
    node = producer(value, "Sub")
    mean = producer(node.inputs[1], "ReduceMean") if node is not None else None
    return (
        _first_axis(mean)
        if node is not None and mean is not None and mean.inputs[0] is node.inputs[0]
        else None
    )


def _first_axis(mean: ir.Node) -> int | None:
    """The first of the reduced axes if they are the last ones, their sizes are fixed, and they are
    kept with size 1.
    """
    sizes, axes = shape(mean.inputs[0]), constant_axes(mean)
    if sizes is None or axes is None or not keeps_axes(mean):
        return None
    first = len(sizes) - len(axes)
    is_last = axes == set(range(first, len(sizes)))
    return first if is_last and all(isinstance(size, int) for size in sizes[first:]) else None
