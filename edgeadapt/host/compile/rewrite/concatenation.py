"""Concatenations: what is done to every part is done once to the whole.

    Concat(Squeeze(a), Squeeze(b), ..)  ->  Squeeze(Concat(a, b, ..))

The gradient of a flat vector of biases at batch 1 is such a concatenation.
"""

from __future__ import annotations

import onnx_ir as ir

from edgeadapt.host.compile.rewrite._values import (
    constant_axes,
    is_private,
    producer,
    replace,
    shape,
)


def squeeze_after_concat(graph: ir.Graph) -> bool:
    """Drop axes of size 1 behind a concatenation instead of before it, where all parts drop the
    same ones.
    """
    changed = False
    for node in list(graph):
        if node.op_type != "Concat" or len(node.inputs) < 2:
            continue
        parts = [producer(value, "Squeeze") for value in node.inputs]
        dropped = [constant_axes(part) for part in parts if part is not None]
        if (
            None in parts
            or any(axes != dropped[0] for axes in dropped)
            or not all(value is not None and is_private(value) for value in node.inputs)
        ):
            continue
        axes = dropped[0]
        sources = [part.inputs[0] for part in parts if part is not None]
        sizes = shape(sources[0])
        if axes is None or sizes is None:
            continue
        kept = [axis for axis in range(len(sizes)) if axis not in axes]
        axis = kept[node.attributes["axis"].as_int() % len(kept)]
        whole = ir.node("Concat", sources, {"axis": axis})
        total = node.outputs[0].shape
        if total is None:
            continue
        whole.outputs[0].type = node.outputs[0].type
        whole.outputs[0].shape = ir.Shape(
            [1 if at in axes else total[kept.index(at)] for at in range(len(sizes))]
        )
        graph.insert_before(node, whole)
        replace(node, ir.node("Squeeze", [whole.outputs[0], parts[0].inputs[1]]))  # type: ignore[union-attr]
        changed = True
    return changed
