"""Vectors of a graph that are many small tensors, taken apart for a comparison.

An error is judged as a share of the change of its tensor. In a vector that a graph splits, a part
that moves far would hide the parts that hardly move, so each part is judged by itself:
``small.vector`` becomes ``small.vector[0]``, ``small.vector[1]`` and so on, and so does what goes
with it element by element, such as ``momentum.small.vector``.
"""

from __future__ import annotations

from collections.abc import Mapping

import onnx
from torch import Tensor

from edgeadapt.runtime import NEXT

Sizes = Mapping[str, tuple[int, ...]]


def packed_vectors(model: onnx.ModelProto, tensors: Mapping[str, Tensor]) -> Sizes:
    """By name, the sizes of the parts into which the graph splits a vector it is given."""
    constants = {tensor.name: tensor for tensor in model.graph.initializer}
    split: dict[str, tuple[int, ...]] = {}
    for node in model.graph.node:
        name = node.input[0] if node.op_type == "Split" and len(node.input) == 2 else ""
        if name in tensors and tensors[name].dim() == 1 and node.input[1] in constants:
            split[name] = tuple(
                int(size) for size in onnx.numpy_helper.to_array(constants[node.input[1]])
            )
    return {
        name: sizes
        for key, sizes in split.items()
        for name, value in tensors.items()
        if value.shape == tensors[key].shape and (name == key or name.endswith(f".{key}"))
    }


def apart(values: Mapping[str, Tensor], vectors: Sizes) -> dict[str, Tensor]:
    """The same values with the parts in place of the vectors, old and new."""
    found: dict[str, Tensor] = {}
    for key, value in values.items():
        name = key.removesuffix(NEXT)
        if name not in vectors or value.dim() != 1 or value.numel() != sum(vectors[name]):
            found[key] = value
            continue
        tail = key[len(name) :]
        found |= {
            f"{name}[{index}]{tail}": part for index, part in enumerate(value.split(vectors[name]))
        }
    return found
