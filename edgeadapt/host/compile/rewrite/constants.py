"""Large constants that hold one number are not stored: ``zeros (8, 96, 48, 24, 1)`` becomes
``Expand(0, shape)``.

An engine folds it again when it loads the graph; the file of a step through a convolutional network
is 60 times smaller.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from edgeadapt.host.compile.rewrite._values import add_constant, constant

_STORED = 4096  # numbers up to which a constant stays as it is


def expand_uniform_constants(graph: ir.Graph) -> bool:
    """Replace each constant of more than 4,096 equal numbers."""
    changed = False
    for value in list(graph.initializers.values()):
        array = constant(value)
        if (
            array is None
            or array.size <= _STORED
            or value.is_graph_output()
            or not (array == array.flat[0]).all()
        ):
            continue
        number = add_constant(graph, f"__number_{value.name}", array.reshape(-1)[:1].reshape(()))
        sizes = add_constant(graph, f"__sizes_{value.name}", np.array(array.shape, np.int64))
        node = ir.node("Expand", [number, sizes])
        node.outputs[0].type, node.outputs[0].shape = value.type, value.shape
        first = next(node_ for node_ in graph if value in node_.inputs)
        graph.insert_before(first, node)
        ir.convenience.replace_all_uses_with(value, node.outputs[0])
        del graph.initializers[str(value.name)]
        changed = True
    return changed
