"""Any ONNX file becomes an encoder: its graph with the input contract in front, a feature and
pooled taps behind.

The model's own operators stay as they are. What changes: the head is cut off, constants are folded,
the batch is freed, and every float weight becomes a frozen tensor of the bundle. The result is
compared with the file as it came.
"""

from __future__ import annotations

import dataclasses
import difflib
import functools
import os
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx.inliner
import onnx.version_converter
import onnx_ir
import onnx_ir.passes.common as passes
import onnxscript.optimizer
import torch
from onnx import GraphProto, ModelProto, NodeProto, TensorProto, numpy_helper
from torch import Tensor

from edgeadapt.bundle.schema import InputSpec, PortSpec
from edgeadapt.errors import CompileError, InputError
from edgeadapt.host.compile import CompiledGraph
from edgeadapt.host.compile.emit import BUNDLE_LOCATION, IR_VERSION, Emitted
from edgeadapt.host.compile.lint import MAX_OPSET, lint
from edgeadapt.host.encoders.base import SIGNATURE_LIMIT, TAP_LIMIT, NormLayer, example_input
from edgeadapt.host.encoders.onnx_input import PixelInput, pixel_input
from edgeadapt.host.encoders.onnx_parity import (
    Door,
    Original,
    compare,
    cut_at,
    first_line,
    leading_to,
)

_OLDEST_OPSET, _MODERN_OPSET = 13, 18
_LARGEST_FOLDED = 1 << 26  # elements: a transposed classifier or embedding is folded too
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
_X, _Z, _TAPS, _PROJECTION = (
    "edgeadapt::x",
    "edgeadapt::z",
    "edgeadapt::taps",
    "edgeadapt::projection",
)

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
        original = _load(file)
        door = Door.of(file, original.graph, spec, pixels.layout if pixels is not None else "")
        pixels = pixel_input(file, original, door.name, pixels)
        if pixels is not None and (
            spec.dtype != "uint8" or (door.is_uint8 and not pixels.changes_nothing)
        ):
            raise InputError(
                f"{file}: an input of its own is for uint8 images and a model that takes float32;"
                " leave out encoder.input"
            )
        door = dataclasses.replace(
            door, pixels=None if pixels is None or pixels.changes_nothing else pixels
        )
        chosen = _feature(file, original.graph, door.name, feature)
        reference = Original(file, original, door, spec, chosen)
        self.dim = int(reference(example_input(spec, 2)).shape[1])
        model = _prepared(file, original, door, chosen)
        maps, self.signature = _choose_taps(model.graph, door)
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
        _attach(model.graph, door, spec, [name for name, _ in maps], self.dim, self.tap_dim)
        _check(file, model)
        self.frozen = _freeze(model.graph)
        parity = compare(
            file,
            Emitted(model, ("x",), (), tuple(self.frozen), ("z", "taps"), ()),
            self.frozen,
            reference,
            spec,
            door,
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


def _load(file: Path) -> ModelProto:
    try:
        model = onnx.load(str(file))
        model = onnx.inliner.inline_local_functions(model) if model.functions else model
    except Exception as error:  # protobuf, file system and checker errors
        raise InputError(f"{file}: not a readable ONNX model: {first_line(error)}") from error
    if not model.graph.node or not model.graph.output:
        raise InputError(f"{file}: not an ONNX model that computes something")
    return model


def _feature(file: Path, graph: GraphProto, door: str, wanted: str | None) -> str:
    """The name of the feature, which must depend on the input."""
    data = {door}
    for node in graph.node:
        if node.op_type not in ("Shape", "Size") and data.intersection(node.input):
            data.update(filter(None, node.output))
    if wanted is not None:
        if wanted not in data:
            names = difflib.get_close_matches(wanted, data, n=5, cutoff=0.3) or [
                node.output[0] for node in graph.node[-5:]
            ]
            raise InputError(
                f"{file}: no tensor {wanted!r} that depends on the input; there are"
                f" {', '.join(names)}"
            )
        return wanted
    output = graph.output[0].name
    for node in reversed(leading_to(graph, output)):
        if (
            node.op_type in ("Gemm", "MatMul")
            and node.input[0] in data
            and node.input[1] not in data
        ):
            return str(node.input[0])
    if output not in data:
        raise InputError(
            f"{file}: the output {output!r} does not depend on the input; name the feature:"
            " feature='...'"
        )
    return str(output)


def _prepared(file: Path, original: ModelProto, door: Door, feature: str) -> ModelProto:
    """A copy up to the feature, which is its only output: inference only, folded, of a known opset,
    with a free batch and shapes.
    """
    model = ModelProto()
    model.CopyFrom(original)
    graph = model.graph
    cut_at(graph, feature)
    _drop_dropout(file, graph)
    if graph.sparse_initializer:
        raise InputError(
            f"{file}: sparse weights; store {graph.sparse_initializer[0].values.name!r} densely"
        )
    value = next(v for v in graph.input if v.name == door.name)
    # the contract's cast comes first, so that the model's own has nothing to do
    value.type.tensor_type.elem_type = TensorProto.FLOAT
    del graph.input[:], graph.value_info[:], model.training_info[:]
    graph.input.append(value)
    for dim, size in zip(value.type.tensor_type.shape.dim, (door.batch, *door.shape), strict=True):
        if size is not None:
            dim.dim_value = size
        else:
            dim.dim_param = "batch"
    model.ir_version = max(model.ir_version, 4)  # from 4 on a constant need not be an input
    model = _of_known_opset(file, model)
    model.ir_version = IR_VERSION
    model = _simplified(model)
    if door.batch is not None:
        _free_batch(model.graph, door.batch)
    del model.graph.value_info[:]
    model.graph.output[0].ClearField("type")
    return onnx.shape_inference.infer_shapes(model, data_prop=True)


def _drop_dropout(file: Path, graph: GraphProto) -> None:
    """In inference a Dropout passes its input on.

    Raises:
        InputError: a node that trains.
    """
    constants = {t.name: t for t in graph.initializer}
    constants |= {
        n.output[0]: n.attribute[0].t
        for n in graph.node
        if n.op_type == "Constant" and n.attribute[0].name == "value"
    }
    renamed: dict[str, str] = {}
    kept = []
    for node in graph.node:
        node.input[:] = [renamed.get(name, name) for name in node.input]
        attributes = {a.name: a.i for a in node.attribute}
        mode = node.input[2] if node.op_type == "Dropout" and len(node.input) > 2 else ""
        is_training = bool(mode) and (
            mode not in constants or bool(numpy_helper.to_array(constants[mode]).any())
        )
        if node.op_type == "BatchNormalization":
            is_training = (
                bool(attributes.get("training_mode"))
                or len([name for name in node.output if name]) > 1
            )
        if is_training:
            label = f"{node.op_type} {node.name or node.output[0]!r}"
            raise InputError(
                f"{file}: {label} is in training mode; export the model in evaluation mode"
                " (module.eval())"
            )
        if node.op_type == "Dropout":
            renamed[node.output[0]] = node.input[0]
        else:
            kept.append(node)
    del graph.node[:]
    graph.node.extend(kept)
    graph.output[0].name = renamed.get(graph.output[0].name, graph.output[0].name)


def _of_known_opset(file: Path, model: ModelProto) -> ModelProto:
    version = next(
        (opset.version for opset in model.opset_import if opset.domain in ("", "ai.onnx")),
        _MODERN_OPSET,
    )
    if _OLDEST_OPSET <= version <= MAX_OPSET:
        return model
    target = MAX_OPSET if version > MAX_OPSET else _MODERN_OPSET
    try:
        converted = onnx.version_converter.convert_version(model, target)
        onnx.checker.check_model(converted)
    except Exception as error:
        reason = f"opset {version} cannot be converted to {target}: {first_line(error)}"
        raise InputError(f"{file}: {reason}. Export with opset_version={_MODERN_OPSET}") from error
    return converted


def _simplified(model: ModelProto) -> ModelProto:
    inner = onnx_ir.serde.deserialize_model(model)
    onnxscript.optimizer.fold_constants(
        inner,
        onnx_shape_inference=True,
        input_size_limit=_LARGEST_FOLDED,
        output_size_limit=_LARGEST_FOLDED,
    )
    passes.LiftConstantsToInitializersPass(lift_all_constants=True, size_limit=0)(inner)
    passes.RemoveUnusedNodesPass()(inner)
    passes.RemoveUnusedOpsetsPass()(inner)
    passes.ClearMetadataAndDocStringPass()(inner)
    return onnx_ir.serde.serialize_model(inner)


def _free_batch(graph: GraphProto, batch: int) -> None:
    """The leading axis becomes symbolic, also where a constant of a Reshape repeats it."""
    constants = {t.name: t for t in graph.initializer}
    for index, node in enumerate(graph.node):
        if (
            node.op_type != "Reshape"
            or node.input[1] not in constants
            or any(a.name == "allowzero" and a.i for a in node.attribute)
        ):
            continue
        shape = numpy_helper.to_array(constants[node.input[1]]).copy()
        if len(shape) and shape[0] == batch:
            shape[0] = 0  # as long as the data's leading axis
            graph.initializer.append(numpy_helper.from_array(shape, f"free_batch_{index}"))
            node.input[1] = f"free_batch_{index}"
    graph.input[0].type.tensor_type.shape.dim[0].dim_param = "batch"


def _choose_taps(graph: GraphProto, door: Door) -> tuple[list[tuple[str, int]], tuple[int, int]]:
    """(name, channels) of the last feature map at every resolution but the final one, and the
    columns of the early ones.
    """
    shapes = {v.name: v.type.tensor_type for v in (*graph.value_info, *graph.input, *graph.output)}
    maps = set() if door.is_channels_last else {door.name}
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
    graph: GraphProto, door: Door, spec: InputSpec, maps: Sequence[str], dim: int, tap_dim: int
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
        current = then(front, "Reshape", [current, constant(0, *door.shape)])
    elif (spec.layout, door.is_channels_last) in (("NHWC", False), ("NCHW", True)):
        current = then(
            front,
            "Transpose",
            [current],
            perm=[0, 2, 3, 1] if door.is_channels_last else [0, 3, 1, 2],
        )
    if door.pixels is not None:
        current = _normalised(graph, door, current, functools.partial(then, front))
    then(front, "Identity", [current], door.name)

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


def _normalised(graph: GraphProto, door: Door, images: str, then: Callable[..., str]) -> str:
    """Pixel values as the model takes them, in its layout."""
    assert door.pixels is not None
    axis = len(door.shape) if door.is_channels_last else 1
    channels = door.shape[axis - 1]
    mean, std = door.pixels.moments(channels)
    shape = [channels if place == axis else 1 for place in range(len(door.shape) + 1)]
    constants = {_MEAN: mean.reshape(shape), _STD: std.reshape(shape)}
    if door.pixels.colour == "bgr":
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
