"""Any ONNX file becomes an encoder: its graph with the input contract in front, a feature and
pooled taps behind.

The model's own operators stay as they are. What changes: the head is cut off, constants are folded,
the batch is freed, and every float weight becomes a frozen tensor of the bundle. The result is
compared with the file as it came.
"""

from __future__ import annotations

import dataclasses
import functools
import os
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from onnx import GraphProto, ModelProto, NodeProto, TensorProto, numpy_helper
from torch import Tensor

from edgeadapt.bundle.schema import InputSpec, PortSpec
from edgeadapt.errors import CompileError, InputError
from edgeadapt.host.compile import CompiledGraph
from edgeadapt.host.compile.emit import BUNDLE_LOCATION, Emitted
from edgeadapt.host.compile.lint import lint
from edgeadapt.host.encoders.base import SIGNATURE_LIMIT, TAP_LIMIT, NormLayer, example_input
from edgeadapt.host.encoders.onnx_input import PixelInput, pixel_input
from edgeadapt.host.encoders.onnx_parity import ModelInput, Original, compare, first_line
from edgeadapt.host.encoders.onnx_preparation import feature_of, load_model, prepared

_MAP_MAKERS = {"Conv", "ConvTranspose"}
_MAP_BREAKERS = {
    "Reshape",
    "Transpose",
    "MatMul",
    "Gemm",
    "Einsum",
    "Flatten",
    "Squeeze",
    "Unsqueeze",
    "Gather",
    "GatherElements",
    "GatherND",
    "Expand",
    "Tile",
    "Shape",
    "Softmax",
    "LogSoftmax",
}
_FLOAT_SHAPE_OPERANDS = {"Resize": (1, 2), "Range": (0, 1, 2)}
# until inner values are renamed
_X, _Z, _TAPS, _PROJECTION = (f"edgeadapt::{name}" for name in ("x", "z", "taps", "projection"))
_MEAN, _STD, _ORDER = "edgeadapt::input.mean", "edgeadapt::input.std", "edgeadapt::input.order"


class OnnxEncoder:
    """An ONNX file with the attributes of an ``Encoder`` and, in place of ``encode``, its finished
    graph.

    Args:
        path: the file; weights in external files beside it are loaded.
        spec: the input contract. Images reach the model as float32 in the units of ``spec`` (0..255
            for uint8 input), channels first, or channels last where the model's input shape says
            so.
        feature: name of the tensor that is the feature; by default the data input of the last
            ``Gemm`` or ``MatMul`` with a constant weight that leads to the first output, or that
            output. Feature maps are averaged over space.
        pixels: what happens to pixel values in front of the model; by default what the file's
            metadata say, or nothing. It becomes part of the graph.

    Raises:
        InputError: not a readable model, more than one input, an input of another rank, shape or
            dtype, an opset that cannot be converted, a node in training mode, or a feature that
            does not exist.
        CompileError: an operator that some engine refuses, or a graph that differs from the
            original.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        spec: InputSpec,
        *,
        feature: str | None = None,
        pixels: PixelInput | None = None,
    ) -> None:
        file = Path(path)
        self.name = file.stem
        self.input = spec
        self.norms: tuple[NormLayer, ...] = ()
        original = load_model(file)
        port = ModelInput.of(
            file, original.graph, spec, pixels.layout if pixels is not None else ""
        )
        pixels = pixel_input(file, original, port.name, pixels)
        if pixels is not None and (
            spec.dtype != "uint8" or (port.is_uint8 and not pixels.changes_nothing)
        ):
            raise InputError(
                f"{file}: an input of its own is for uint8 images and a model that takes float32;"
                " leave out encoder.input"
            )
        port = dataclasses.replace(
            port, pixels=None if pixels is None or pixels.changes_nothing else pixels
        )
        chosen = feature_of(file, original.graph, port.name, feature)
        reference = Original(file, original, port, spec, chosen)
        self.dim = int(reference(example_input(spec, 2)).shape[1])
        model = prepared(file, original, port, chosen)
        maps, self.signature = _choose_taps(model.graph, port)
        width = sum(channels for _, channels in maps)
        self.tap_dim = min(width, TAP_LIMIT)
        if width > TAP_LIMIT:
            self.signature = (0, TAP_LIMIT)
            # the same projection as for a torch module
            generator = torch.Generator().manual_seed(0)
            projection = torch.linalg.qr(torch.randn(width, TAP_LIMIT, generator=generator))[0]
            model.graph.initializer.append(numpy_helper.from_array(projection.numpy(), _PROJECTION))
        if not width:
            self.signature = (0, min(self.dim, SIGNATURE_LIMIT))
        _attach(model.graph, port, spec, [name for name, _ in maps], self.dim, self.tap_dim)
        _check(file, model)
        self.frozen = _freeze(model.graph)
        parity = compare(
            file,
            Emitted(model, ("x",), (), tuple(self.frozen), ("z", "taps"), ()),
            self.frozen,
            reference,
            spec,
            port,
        )
        self._graph = CompiledGraph(
            name="encode",
            model=model.SerializeToString(),
            reads=(),
            writes=(),
            frozen=tuple(self.frozen),
            nodes=len(model.graph.node),
            ports=(PortSpec(name="x", dtype=spec.dtype, shape=(None, *spec.shape)),),
            outputs=tuple(
                PortSpec(name=n, dtype="float32", shape=(None, d))
                for n, d in (("z", self.dim), ("taps", self.tap_dim))
            ),
            parity=parity,
        )

    def graph(self) -> CompiledGraph:
        """The checked graph of role ``encode``: port ``x``, outputs ``z`` (B, D) and ``taps`` (B,
        T), weights at ``bundle:``.
        """
        return self._graph


def _choose_taps(
    graph: GraphProto, port: ModelInput
) -> tuple[list[tuple[str, int]], tuple[int, int]]:
    """(name, channels) of the last feature map at every resolution but the final one, and the
    columns of the early ones.
    """
    shapes = {v.name: v.type.tensor_type for v in (*graph.value_info, *graph.input, *graph.output)}
    maps = set() if port.is_channels_last else {port.name}
    last_at: dict[tuple[int, int], tuple[str, int]] = {}
    for node in graph.node:
        name = node.output[0]
        kind = shapes.get(name)
        if (
            kind is None
            or kind.elem_type != TensorProto.FLOAT
            or len(kind.shape.dim) != 4
            or node.op_type in _MAP_BREAKERS
        ):
            continue
        if node.op_type in _MAP_MAKERS or maps.intersection(node.input):
            maps.add(name)
            channels, height, width = (dim.dim_value for dim in kind.shape.dim[1:])
            if channels and min(height, width) > 1:
                last_at.pop((height, width), None)  # the order is that of the last ones
                last_at[height, width] = (name, channels)
    chosen = list(last_at.values())[:-1] or list(last_at.values())
    early = [channels for _, channels in chosen[: max(1, len(chosen) - 1)]]
    return chosen, (0, sum(early))


def _attach(
    graph: GraphProto,
    port: ModelInput,
    spec: InputSpec,
    maps: Sequence[str],
    dim: int,
    tap_dim: int,
) -> None:
    """The input contract in front, the pooled feature and taps behind."""
    front: list[NodeProto] = []
    back: list[NodeProto] = []

    def then(
        nodes: list[NodeProto], op: str, inputs: Sequence[str], output: str = "", **attributes: Any
    ) -> str:
        name = output or f"edgeadapt::{id(nodes)}_{len(nodes)}"
        nodes.append(onnx.helper.make_node(op, inputs, [name], **attributes))
        return name

    def constant(*values: int) -> str:
        name = "edgeadapt::" + "_".join(map(str, values))
        if all(t.name != name for t in graph.initializer):
            graph.initializer.append(numpy_helper.from_array(np.array(values, np.int64), name))
        return name

    def pooled(name: str, output: str = "") -> str:
        return then(back, "Flatten", [then(back, "GlobalAveragePool", [name])], output, axis=1)

    current = then(front, "Cast", [_X], to=TensorProto.FLOAT) if spec.dtype == "uint8" else _X
    if spec.layout == "NHW":
        current = then(front, "Reshape", [current, constant(0, *port.shape)])
    elif (spec.layout, port.is_channels_last) in (("NHWC", False), ("NCHW", True)):
        current = then(
            front,
            "Transpose",
            [current],
            perm=[0, 2, 3, 1] if port.is_channels_last else [0, 3, 1, 2],
        )
    if port.pixels is not None:
        current = _normalised(graph, port, current, functools.partial(then, front))
    then(front, "Identity", [current], port.name)

    feature = graph.output[0]
    rank = len(feature.type.tensor_type.shape.dim)
    if rank == 4:
        pooled(feature.name, _Z)
    else:
        (
            then(back, "Identity", [feature.name], _Z)
            if rank == 2
            else then(back, "Flatten", [feature.name], _Z, axis=1)
        )
    columns = [pooled(name) for name in maps]
    if not columns:
        then(back, "Slice", [_Z, constant(0), constant(0), constant(1)], _TAPS)
    elif any(t.name == _PROJECTION for t in graph.initializer):
        then(back, "MatMul", [then(back, "Concat", columns, axis=1), _PROJECTION], _TAPS)
    else:
        then(back, "Concat", columns, _TAPS, axis=1)
    nodes = [*front, *graph.node, *back]
    del graph.node[:], graph.input[:], graph.output[:]
    graph.node.extend(nodes)
    kind = TensorProto.UINT8 if spec.dtype == "uint8" else TensorProto.FLOAT
    graph.input.append(onnx.helper.make_tensor_value_info(_X, kind, ["batch", *spec.shape]))
    for name, width in ((_Z, dim), (_TAPS, tap_dim)):
        graph.output.append(
            onnx.helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", width])
        )


def _normalised(graph: GraphProto, port: ModelInput, images: str, then: Callable[..., str]) -> str:
    """Pixel values as the model takes them, in its layout."""
    assert port.pixels is not None
    axis = len(port.shape) if port.is_channels_last else 1
    channels = port.shape[axis - 1]
    mean, std = port.pixels.moments(channels)
    shape = [channels if place == axis else 1 for place in range(len(port.shape) + 1)]
    constants = {_MEAN: mean.reshape(shape), _STD: std.reshape(shape)}
    if port.pixels.colour == "bgr":
        constants[_ORDER] = np.array([2, 1, 0], np.int64)
        images = then("Gather", [images, _ORDER], axis=axis)
    graph.initializer.extend(
        numpy_helper.from_array(value, name) for name, value in constants.items()
    )
    return then("Div", [then("Sub", [images, _MEAN]), _STD])


def _check(file: Path, model: ModelProto) -> None:
    del model.graph.value_info[:]
    lint(file.name, model)
    try:
        onnx.checker.check_model(model)
    except onnx.checker.ValidationError as error:
        raise CompileError(
            f"{file}: the encoder would be an invalid model: {first_line(error)}"
        ) from error


def _freeze(graph: GraphProto) -> dict[str, Tensor]:
    """Float weights become external initialisers at ``bundle:``; returns their values. Inner values
    get short names.

    What stays in the graph: integers, operands that fix a shape, scalars (bounds, epsilons), and
    masks that are not finite.
    """
    shapes = {
        node.input[p]
        for node in graph.node
        for p in _FLOAT_SHAPE_OPERANDS.get(node.op_type, ())
        if p < len(node.input)
    }
    names = {"": "", _X: "x", _Z: "z", _TAPS: "taps"}
    frozen: dict[str, Tensor] = {}
    used = {name for node in graph.node for name in node.input}
    kept = [tensor for tensor in graph.initializer if tensor.name in used]
    for tensor in kept:
        value = numpy_helper.to_array(tensor)
        if (
            value.dtype == np.float32
            and value.ndim
            and value.size
            and tensor.name not in shapes
            and bool(np.isfinite(value).all())
        ):
            name = (
                "taps.projection"
                if tensor.name == _PROJECTION
                else _tensor_name(tensor.name, frozen)
            )
            frozen[name], names[tensor.name] = torch.from_numpy(value.copy()), name
            tensor.CopyFrom(
                TensorProto(
                    name=name,
                    data_type=tensor.data_type,
                    dims=tensor.dims,
                    data_location=TensorProto.EXTERNAL,
                )
            )
            tensor.external_data.add(key="location", value=BUNDLE_LOCATION)
        else:
            tensor.name = names.setdefault(tensor.name, f"_{len(names)}")
    kept = [TensorProto.FromString(tensor.SerializeToString()) for tensor in kept]
    del graph.initializer[:]
    graph.initializer.extend(kept)
    for node in graph.node:
        node.name = ""
        for values in (node.input, node.output):
            values[:] = [names.setdefault(name, f"_{len(names)}") for name in values]
    for port in (*graph.input, *graph.output):
        port.name = names[port.name]
    graph.name = "graph"
    return frozen


def _tensor_name(name: str, taken: dict[str, Tensor]) -> str:
    parts = [re.sub(r"\W", "_", part, flags=re.ASCII) for part in name.split(".") if part]
    wanted = ".".join(["encoder", *(part if part != "next" else "next_" for part in parts)])
    return (
        wanted
        if wanted not in taken
        else next(n for i in range(2, len(taken) + 3) if (n := f"{wanted}_{i}") not in taken)
    )
