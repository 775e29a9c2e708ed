"""An encoder's graph that computes in float16 wherever that is safe: Cast in front of weights and
at the borders.

Convolutions, products, sums and activations are computed in float16. Softmax, norms, means,
quotients and whatever else is not listed stay in float32, and so does every node that reads or
leaves a value which comes near the largest number of float16, on calibration inputs or on inputs at
the ends of their range. Weights are those of the float32 graph: an engine casts them when it loads
the graph. Scales and shifts behind a convolution stay where they are, so that an engine may take
other ones as inputs; it fuses them as it does in float32.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import ModelProto, NodeProto, TensorProto

from edgeadapt.errors import CompileError
from edgeadapt.host.precision.layers import Layer, Shapes, Writer, layers_of, stored
from edgeadapt.host.precision.ranges import histograms

_FOLLOWS = frozenset(
    {
        "Relu",
        "LeakyRelu",
        "PRelu",
        "Clip",
        "HardSigmoid",
        "HardSwish",
        "Sigmoid",
        "Tanh",
        "Add",
        "Sub",
        "Mul",
        "MaxPool",
        "Concat",
        "Reshape",
        "Transpose",
        "Flatten",
        "Squeeze",
        "Unsqueeze",
        "Identity",
        "Slice",
        "Pad",
        "Min",
        "Max",
        "Neg",
        "Abs",
    }
)
"""Computed in float16 if what they read is in float16 already: alone they are not worth a cast."""
LARGEST = 65504.0
MARGIN = 8.0
"""A value that was seen to reach a MARGIN-th of LARGEST stays in float32."""


def halved(
    name: str,
    model: ModelProto,
    frozen: Mapping[str, NDArray[Any]],
    calibration: Sequence[NDArray[Any]],
) -> ModelProto:
    """The graph in float16, over the same float32 frozen tensors.

    Args:
        name: for messages. model: an encoder's float32 graph. frozen: its external tensors.
        calibration: batches of inputs, extremes among them, on which values are measured.

    Raises:
        CompileError: nothing in it multiplies by a constant weight, or every such value is too
            large for float16.
    """
    shapes = Shapes(model)
    layers = layers_of(model, shapes)
    watched = {
        value
        for node in model.graph.node
        for value in (*node.input, *node.output)
        if value in shapes.makers and shapes.kinds.get(value) == TensorProto.FLOAT
    }
    sizes = {
        value: histogram.largest
        for value, histogram in histograms(model, frozen, watched, calibration).items()
    }
    large = {value for value, size in sizes.items() if not size < LARGEST / MARGIN}
    constants = [
        name for name, tensor in shapes.constants.items() if tensor.data_type == TensorProto.FLOAT
    ]
    large |= {
        name
        for name in constants
        if not float(np.abs(stored(model, frozen, name)).max(initial=0.0)) < LARGEST
    }
    halver = _Halver(model, shapes, layers, large)
    made = halver.run()
    if not halver.is_used:
        raise CompileError(
            f"{name}: no convolution or product stays within a {MARGIN:g}th of the largest float16,"
            f" {LARGEST:g}; leave float16 out of precisions"
        )
    return made


class _Halver:
    def __init__(
        self, model: ModelProto, shapes: Shapes, layers: Sequence[Layer], large: set[str]
    ) -> None:
        self._model, self._shapes, self._large = model, shapes, large
        self._layers = {layer.node.output[0]: layer for layer in layers}
        self._writer = Writer(model)
        self._half: dict[str, str] = {}  # value -> its name in float16
        # values that are made in float16 and have no float32 name yet
        self._only_half: set[str] = set()
        self.is_used = False

    def run(self) -> ModelProto:
        for node in self._model.graph.node:
            output = str(node.output[0])
            if output in self._layers:
                self._layer(self._layers[output])
            elif self._may_follow(node):
                self._in_half(
                    node,
                    [self._as_half(name) if self._is_float(name) else name for name in node.input],
                )
            else:
                self._writer.copy(
                    node, [self._as_float(name) for name in node.input], list(node.output)
                )
        for value in self._model.graph.output:
            self._as_float(value.name)
        return self._writer.finished()

    def _layer(self, layer: Layer) -> None:
        node = layer.node
        if self._large.intersection((*node.input, node.output[0])):
            self._writer.copy(
                node, [self._as_float(name) for name in node.input], list(node.output)
            )
            return
        self.is_used = True
        self._in_half(node, [self._as_half(name) for name in node.input])

    def _may_follow(self, node: NodeProto) -> bool:
        reads = [name for name in node.input if name and self._is_float(name)]
        return (
            node.op_type in _FOLLOWS
            and len(node.output) == 1
            and any(name in self._half for name in reads if name in self._shapes.makers)
            and not self._large.intersection((*reads, *node.output))
        )

    def _is_float(self, name: str) -> bool:
        return self._shapes.kinds.get(name) == TensorProto.FLOAT

    def _in_half(self, node: NodeProto, inputs: list[str]) -> None:
        output = str(node.output[0])
        self._half[output] = self._writer.name()
        self._only_half.add(output)
        self._writer.copy(node, inputs, [self._half[output]])

    def _as_half(self, name: str) -> str:
        if name not in self._half:
            self._half[name] = self._writer.node("Cast", [name], to=TensorProto.FLOAT16)
        return self._half[name]

    def _as_float(self, name: str) -> str:
        if name in self._only_half:
            self._only_half.discard(name)
            self._writer.node("Cast", [self._half[name]], name, to=TensorProto.FLOAT)
        return name


__all__ = ["LARGEST", "MARGIN", "halved"]
