"""Which nodes of an encoder multiply by a constant weight, and what stands behind them per channel.

    y = conv(x, W) * g + t   is one layer with weight W g and bias t   (a batch-norm after training)

The product is not computed here: it stays an expression over the frozen tensors, which an engine
folds when it loads the graph. So no weight is stored twice, and a graph whose g and t are replaced
by name is another encoder over the same W.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import GraphProto, ModelProto, NodeProto, TensorProto, helper, numpy_helper

# axis of the weight; a Gemm with transB has them first
_OUTPUT_CHANNELS = {"Conv": 0, "Gemm": 1, "MatMul": 1}


@dataclass(frozen=True, eq=False)
class Layer:
    """A convolution or product with a constant weight, up to the shift per channel behind it.

    Attributes:
        node: Conv, Gemm or MatMul.
        weight: its frozen or stored tensor.
        axis: of the weight, where the output channels are.
        scale, shift: names of what multiplies and is added per channel behind it; empty for none.
        absorbed: the nodes that did.
        padding: a Pad with zeros in front of a convolution, which the convolution can do itself.
            data: what is read, in front of it.
        output: what the layer leaves, behind all of them.
    """

    node: NodeProto
    weight: str
    axis: int
    channels: int
    scale: str = ""
    shift: str = ""
    absorbed: tuple[NodeProto, ...] = ()
    padding: NodeProto | None = None

    @property
    def data(self) -> str:
        return str((self.padding or self.node).input[0])

    @property
    def output(self) -> str:
        return str((self.absorbed[-1] if self.absorbed else self.node).output[0])


class Shapes:
    """Who makes and who reads a value, its rank, and which values are constant."""

    def __init__(self, model: ModelProto) -> None:
        graph = model.graph
        self.constants: dict[str, TensorProto] = {
            tensor.name: tensor for tensor in graph.initializer
        }
        self.readers: dict[str, list[NodeProto]] = {}
        self.makers: dict[str, NodeProto] = {
            output: node for node in graph.node for output in node.output
        }
        for node in graph.node:
            for name in node.input:
                self.readers.setdefault(name, []).append(node)
        self.outputs = {value.name for value in graph.output}
        known = onnx.shape_inference.infer_shapes(model).graph
        typed = [
            value
            for value in (*known.value_info, *known.input, *known.output)
            if value.type.tensor_type.HasField("shape")
        ]
        self.ranks = {value.name: len(value.type.tensor_type.shape.dim) for value in typed}
        self.kinds = {value.name: value.type.tensor_type.elem_type for value in typed} | {
            t.name: t.data_type for t in graph.initializer
        }

    def only_reader(self, name: str) -> NodeProto | None:
        """The one node that reads a value; None if there are more, or the graph gives it away."""
        readers = self.readers.get(name, [])
        return readers[0] if len(readers) == 1 and name not in self.outputs else None

    def is_per_channel(self, name: str, channels: int, rank: int) -> bool:
        """Whether a constant has one number per channel, lying on the channel axis of a value of
        this rank.
        """
        if name not in self.constants:
            return False
        dims = [1] * (rank - len(self.constants[name].dims)) + list(self.constants[name].dims)
        axis = 1 if rank > 2 else rank - 1
        return len(dims) == rank and all(
            size == (channels if place == axis else 1) for place, size in enumerate(dims)
        )


def layers_of(model: ModelProto, shapes: Shapes | None = None) -> list[Layer]:
    """The layers of an encoder's graph, in order."""
    known = shapes or Shapes(model)
    return [layer for node in model.graph.node if (layer := _layer(node, known)) is not None]


def _layer(node: NodeProto, shapes: Shapes) -> Layer | None:
    if node.op_type not in _OUTPUT_CHANNELS or node.input[1] not in shapes.constants:
        return None
    attributes = {a.name: helper.get_attribute_value(a) for a in node.attribute}
    weight = shapes.constants[node.input[1]]
    if weight.data_type != TensorProto.FLOAT or (
        node.op_type == "MatMul" and len(weight.dims) != 2
    ):
        return None
    if node.op_type == "Gemm" and (
        attributes.get("alpha", 1.0),
        attributes.get("beta", 1.0),
        attributes.get("transA", 0),
    ) != (1.0, 1.0, 0):
        return None
    axis = 0 if attributes.get("transB", 0) else _OUTPUT_CHANNELS[node.op_type]
    channels = int(weight.dims[axis])
    rank = shapes.ranks.get(node.output[0], 0)
    if node.op_type != "Conv" or not rank:
        return Layer(node, weight.name, axis, channels)
    scale, at, absorbed, padding = "", node, [], _padding(node, attributes, shapes)
    multiplied = shapes.only_reader(at.output[0])
    if (
        multiplied is not None
        and multiplied.op_type == "Mul"
        and (other := _other(multiplied, at.output[0]))
        and shapes.is_per_channel(other, channels, rank)
    ):
        scale, at = other, multiplied
        absorbed.append(at)
    added = shapes.only_reader(at.output[0])
    if (
        added is None
        or added.op_type != "Add"
        or not (other := _other(added, at.output[0]))
        or not shapes.is_per_channel(other, channels, rank)
    ):
        return Layer(node, weight.name, axis, channels, scale, "", tuple(absorbed), padding)
    return Layer(node, weight.name, axis, channels, scale, other, (*absorbed, added), padding)


def _padding(node: NodeProto, attributes: Mapping[str, Any], shapes: Shapes) -> NodeProto | None:
    """The Pad that a convolution reads, if it is one with zeros over space alone, and nothing else
    reads it.
    """
    pad = shapes.makers.get(node.input[0])
    if (
        pad is None
        or pad.op_type != "Pad"
        or shapes.only_reader(node.input[0]) is None
        or attributes.get("auto_pad", b"NOTSET") != b"NOTSET"
    ):
        return None
    mode = next(
        (helper.get_attribute_value(a) for a in pad.attribute if a.name == "mode"), b"constant"
    )
    constants = [shapes.constants.get(name) for name in pad.input[1:] if name]
    if (
        mode != b"constant"
        or len(pad.input) > 3
        or any(c is None or c.data_location == TensorProto.EXTERNAL for c in constants)
    ):
        return None
    widths, *value = (numpy_helper.to_array(c) for c in constants if c is not None)
    around = widths.reshape(2, -1)
    return (
        pad
        if not around[:, :2].any() and around.min() >= 0 and not any(v.any() for v in value)
        else None
    )


def padded(layer: Layer, shapes: Shapes) -> NodeProto:
    """The node of a layer, with the padding in front of it done by itself."""
    made = NodeProto()
    made.CopyFrom(layer.node)
    if layer.padding is None:
        return made
    around = (
        numpy_helper.to_array(shapes.constants[layer.padding.input[1]])
        .reshape(2, -1)[:, 2:]
        .ravel()
    )
    own = next((list(a.ints) for a in layer.node.attribute if a.name == "pads"), [0] * len(around))
    kept = [a for a in layer.node.attribute if a.name != "pads"]
    del made.attribute[:]
    made.attribute.extend(
        [
            *kept,
            helper.make_attribute("pads", [int(a + b) for a, b in zip(own, around, strict=True)]),
        ]
    )
    return made


def _other(node: NodeProto, name: str) -> str:
    """The second operand of a sum or product; empty if both are the same."""
    return next((str(operand) for operand in node.input if operand != name), "")


class Writer:
    """New nodes and constants of a graph that is written anew, with names that nothing else has."""

    def __init__(self, model: ModelProto) -> None:
        self.model = ModelProto()
        self.model.CopyFrom(model)
        self.nodes: list[NodeProto] = []
        self._taken = {
            name for node in model.graph.node for name in (*node.input, *node.output)
        } | {t.name for t in model.graph.initializer}
        self._count = 0
        self._known: dict[tuple[str, bytes, tuple[int, ...]], str] = {}

    def name(self) -> str:
        while (name := f"_v{self._count}") in self._taken:
            self._count += 1
        self._taken.add(name)
        return name

    def constant(self, value: NDArray[Any]) -> str:
        """A small constant that is stored in the graph; equal ones are one."""
        key = (str(value.dtype), value.tobytes(), value.shape)
        if key not in self._known:
            self._known[key] = self.name()
            self.model.graph.initializer.append(numpy_helper.from_array(value, self._known[key]))
        return self._known[key]

    def node(self, kind: str, inputs: list[str], output: str = "", **attributes: Any) -> str:
        output = output or self.name()
        self.nodes.append(helper.make_node(kind, inputs, [output], **attributes))
        return output

    def copy(self, node: NodeProto, inputs: list[str], outputs: list[str]) -> None:
        made = helper.make_node(node.op_type, inputs, outputs, domain=node.domain)
        made.attribute.extend(node.attribute)
        self.nodes.append(made)

    def finished(self) -> ModelProto:
        """The graph with the new nodes, and without the constants that none of them reads."""
        graph: GraphProto = self.model.graph
        del graph.node[:]
        graph.node.extend(self.nodes)
        del graph.value_info[:]
        read = {name for node in self.nodes for name in node.input}
        kept = [tensor for tensor in graph.initializer if tensor.name in read]
        del graph.initializer[:]
        graph.initializer.extend(kept)
        return self.model

    # -- expressions over frozen tensors that an engine folds --------------------------------------
    def folded_weight(self, layer: Layer, rank: int) -> str:
        """W g: the weight with the scale of its output channels."""
        if not layer.scale:
            return layer.weight
        gain = self.node(
            "Reshape",
            [layer.scale, self.constant(np.array([layer.channels] + [1] * (rank - 1), np.int64))],
        )
        return self.node("Mul", [layer.weight, gain])

    def folded_bias(self, layer: Layer) -> str:
        """b g + t as (C,); empty without any of them."""
        flat = self.constant(np.array([layer.channels], np.int64))
        bias = str(layer.node.input[2]) if len(layer.node.input) > 2 else ""
        if bias and layer.scale:
            bias = self.node("Mul", [bias, self.node("Reshape", [layer.scale, flat])])
        if not layer.shift:
            return bias
        shift = self.node("Reshape", [layer.shift, flat])
        return self.node("Add", [bias, shift]) if bias else shift


def stored(model: ModelProto, values: Mapping[str, NDArray[Any]], name: str) -> NDArray[np.float32]:
    """The value of a constant, wherever it lies."""
    tensor = next(tensor for tensor in model.graph.initializer if tensor.name == name)
    return np.asarray(
        (
            values[name]
            if tensor.data_location == TensorProto.EXTERNAL
            else numpy_helper.to_array(tensor)
        ),
        np.float32,
    )
