"""An ONNX model up to its feature: inference only, folded, of a known opset, with a free batch."""

from __future__ import annotations

import difflib
from pathlib import Path

import onnx
import onnx.inliner
import onnx.version_converter
import onnx_ir
import onnx_ir.passes.common as passes
import onnxscript.optimizer
from onnx import GraphProto, ModelProto, TensorProto, numpy_helper

from edgeadapt.errors import InputError
from edgeadapt.host.compile.emit import IR_VERSION
from edgeadapt.host.compile.lint import MAX_OPSET
from edgeadapt.host.encoders.onnx_parity import ModelInput, cut_at, first_line, leading_to

_OLDEST_OPSET, _MODERN_OPSET = 13, 18
_LARGEST_FOLDED = 1 << 26  # elements: a transposed classifier or embedding is folded too


def load_model(file: Path) -> ModelProto:
    try:
        model = onnx.load(str(file))
        model = onnx.inliner.inline_local_functions(model) if model.functions else model
    except Exception as error:  # protobuf, file system and checker errors
        raise InputError(f"{file}: not a readable ONNX model: {first_line(error)}") from error
    if not model.graph.node or not model.graph.output:
        raise InputError(f"{file}: not an ONNX model that computes something")
    return model


def feature_of(file: Path, graph: GraphProto, port: str, wanted: str | None) -> str:
    """The name of the feature, which must depend on the input."""
    data = {port}
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


def prepared(file: Path, original: ModelProto, port: ModelInput, feature: str) -> ModelProto:
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
    value = next(v for v in graph.input if v.name == port.name)
    # the contract's cast comes first, so that the model's own has nothing to do
    value.type.tensor_type.elem_type = TensorProto.FLOAT
    del graph.input[:], graph.value_info[:], model.training_info[:]
    graph.input.append(value)
    for dim, size in zip(value.type.tensor_type.shape.dim, (port.batch, *port.shape), strict=True):
        if size is not None:
            dim.dim_value = size
        else:
            dim.dim_param = "batch"
    model.ir_version = max(model.ir_version, 4)  # from 4 on a constant need not be an input
    model = _of_known_opset(file, model)
    model.ir_version = IR_VERSION
    model = _simplified(model)
    if port.batch is not None:
        _free_batch(model.graph, port.batch)
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


__all__ = ["feature_of", "load_model", "prepared"]
