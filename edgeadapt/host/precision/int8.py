"""An encoder's graph with explicit quantisation: QuantizeLinear and DequantizeLinear around every
convolution and product with a weight.

    x -> Q(s_x) -> DQ \\
                       Conv -> Q(s_y) -> DQ -> Relu -> ...
                               s_W = max |W| over a channel / 127, times |g| where g is folded
    W g -> Q(s_W) -> DQ /

int8, symmetric, zero point 0: per channel on weights, per tensor on activations, biases in float32.
It is what TensorRT takes as explicit quantisation, and what ONNX Runtime turns into int8 kernels.

- A residual sum reads quantised values, so that it is computed in int8 too.
- Q and DQ stand before an activation and not behind it: ``max(0, DQ(Q(y))) = DQ(Q(max(0, y)))``
  where s comes from what the activation leaves, and ONNX Runtime has a kernel for ``Conv, Q`` and
  none for ``Conv, Relu, Q`` with a zero point of 0.
- Each reader has a pair of its own: ONNX Runtime on x86 has no int8 kernel for what is quantised
  once and read twice.
- ``Q(W g, s |g|) = sign(g) round(W / s)``: another g is no reason for other scales. A re-folded
  encoder stays quantised as well as the first.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import ModelProto, NodeProto, TensorProto, numpy_helper

from edgeadapt.errors import CompileError
from edgeadapt.host.precision.layers import Layer, Shapes, Writer, layers_of, padded, stored
from edgeadapt.host.precision.ranges import LEVELS, histograms

_SMALLEST = np.float32(1e-10)  # of a channel's scale: a channel of zeros has one too


def quantised(
    name: str,
    model: ModelProto,
    frozen: Mapping[str, NDArray[Any]],
    calibration: Sequence[NDArray[Any]],
) -> ModelProto:
    """The graph with Q and DQ, over the same frozen tensors.

    Args:
        name: for messages. model: an encoder's float32 graph. frozen: its external tensors.
        calibration: batches of inputs, from which the scales of activations are taken.

    Raises:
        CompileError: nothing in it multiplies by a constant weight.
    """
    plan = _Plan.of(model)
    if not plan.layers:
        raise CompileError(
            f"{name}: no convolution or product with a constant weight, so there is nothing to"
            " compute in int8; leave int8 out of precisions"
        )
    found = histograms(model, frozen, plan.observed(), calibration)
    scales = {value: np.float32(histogram.clip() / LEVELS) for value, histogram in found.items()}
    return _Quantiser(model, frozen, plan, scales).run()


_FEATURE_READERS = {"ReduceMean", "GlobalAveragePool"}


@dataclass(eq=False)
class _Plan:
    """Where Q and DQ go.

    Attributes:
        layers: by the name of their first node's output.
        sums: residual sums.
        closed: values that are quantised where they are made, with the value from which their scale
            is taken (what the activation behind leaves, or themselves).
    """

    shapes: Shapes
    layers: dict[str, Layer] = field(default_factory=dict)
    sums: set[str] = field(default_factory=set)
    closed: dict[str, str] = field(default_factory=dict)

    @classmethod
    def of(cls, model: ModelProto) -> _Plan:
        shapes = Shapes(model)
        plan = cls(shapes, {layer.node.output[0]: layer for layer in layers_of(model, shapes)})
        convolved = {layer.output for layer in plan.layers.values() if layer.node.op_type == "Conv"}
        absorbed = {
            output
            for layer in plan.layers.values()
            for node in layer.absorbed
            for output in node.output
        }
        for node in model.graph.node:
            if (
                node.op_type == "Add"
                and node.output[0] not in absorbed
                and plan._is_residual(node, convolved)
            ):
                plan.sums.add(node.output[0])
                convolved.add(node.output[0])  # a sum of sums is one as well
        for value in convolved:
            readers = shapes.readers.get(value, [])
            if value in shapes.outputs or (
                readers and all(node.op_type in _FEATURE_READERS for node in readers)
            ):
                continue  # what becomes a feature is not rounded once more
            activation = shapes.only_reader(value)
            plan.closed[value] = (
                activation.output[0]
                if activation is not None and plan._commutes(activation)
                else value
            )
        return plan

    def _is_residual(self, node: NodeProto, convolved: set[str]) -> bool:
        ranks = {self.shapes.ranks.get(name) for name in node.input}
        return (
            len(ranks) == 1
            and not any(name in self.shapes.constants for name in node.input)
            and any(name in convolved for name in node.input)
        )

    def _commutes(self, node: NodeProto) -> bool:
        """Whether an activation may be computed behind the rounding of what it reads, with the
        scale of what it leaves.
        """
        if node.op_type == "Relu":
            return True
        low = (
            self.shapes.constants.get(node.input[1])
            if node.op_type == "Clip" and len(node.input) > 1
            else None
        )
        return low is not None and low.data_location != TensorProto.EXTERNAL and _number(low) == 0.0

    def observed(self) -> set[str]:
        read = {layer.data for layer in self.layers.values()} | {
            name for total in self.sums for name in self.shapes.makers[total].input
        }
        return read | set(self.closed.values())


def _number(tensor: TensorProto) -> float:
    return float(numpy_helper.to_array(tensor))


class _Quantiser:
    def __init__(
        self,
        model: ModelProto,
        frozen: Mapping[str, NDArray[Any]],
        plan: _Plan,
        scales: Mapping[str, np.float32],
    ) -> None:
        self._model, self._frozen, self._plan, self._scales = model, frozen, plan, scales
        self._writer = Writer(model)
        self._held: dict[str, str] = {}  # value -> what stands for it behind its own Q and DQ
        self._zero = self._writer.constant(np.array(0, np.int8))

    def run(self) -> ModelProto:
        absorbed = {
            node.output[0]
            for layer in self._plan.layers.values()
            for node in (*layer.absorbed, layer.padding)
            if node is not None
        }
        for node in self._model.graph.node:
            output = str(node.output[0])
            if output in self._plan.layers:
                self._layer(self._plan.layers[output])
            elif output not in absorbed:
                inputs = [
                    (
                        self._quantised(name)
                        if output in self._plan.sums
                        else self._held.get(name, name)
                    )
                    for name in node.input
                ]
                self._writer.copy(node, inputs, list(node.output))
                self._close(output)
        return self._writer.finished()

    def _layer(self, layer: Layer) -> None:
        rank = len(self._plan.shapes.constants[layer.weight].dims)
        inputs = [self._quantised(layer.data), self._weight(layer, rank)]
        bias = self._writer.folded_bias(layer)
        self._writer.copy(
            padded(layer, self._plan.shapes), [*inputs, bias] if bias else inputs, [layer.output]
        )
        self._close(layer.output)

    def _weight(self, layer: Layer, rank: int) -> str:
        """W g in int8, with a scale per output channel that follows g."""
        writer = self._writer
        value = stored(self._model, self._frozen, layer.weight)
        others = tuple(axis for axis in range(value.ndim) if axis != layer.axis)
        scale = writer.constant(
            np.maximum(np.abs(value).max(axis=others), _SMALLEST * LEVELS).astype(np.float32)
            / np.float32(LEVELS)
        )
        if layer.scale:
            flat = writer.node(
                "Reshape", [layer.scale, writer.constant(np.array([layer.channels], np.int64))]
            )
            size = writer.node(
                "Max", [writer.node("Abs", [flat]), writer.constant(np.array(_SMALLEST))]
            )
            scale = writer.node("Mul", [size, scale])
        zero = writer.constant(np.zeros(layer.channels, np.int8))
        small = writer.node(
            "QuantizeLinear", [writer.folded_weight(layer, rank), scale, zero], axis=layer.axis
        )
        return writer.node("DequantizeLinear", [small, scale, zero], axis=layer.axis)

    def _pair(self, name: str, scale: np.float32) -> str:
        step = self._writer.constant(np.array(scale, np.float32))
        return self._writer.node(
            "DequantizeLinear",
            [self._writer.node("QuantizeLinear", [name, step, self._zero]), step, self._zero],
        )

    def _quantised(self, name: str) -> str:
        """A value as a quantised reader takes it: through a pair of its own, unless it is the only
        reader of one that is there.
        """
        if (
            name in self._held
            and self._plan.closed.get(name) == name
            and self._plan.shapes.only_reader(name) is not None
        ):
            return self._held[name]
        return self._pair(self._held.get(name, name), self._scales[name])

    def _close(self, name: str) -> None:
        if name in self._plan.closed:
            self._held[name] = self._pair(name, self._scales[self._plan.closed[name]])


__all__ = ["quantised"]
