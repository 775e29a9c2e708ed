"""Refuse a graph that some engine would reject, or would accept and compute wrongly.

The table ``trt_ops.json`` records what TensorRT 10.1 to 11.1 and TensorRT-RTX 1.7 document and what
was measured with them. A graph that passes runs in ONNX Runtime too.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from functools import cache
from importlib.resources import files
from typing import Any

import onnx
from onnx import NodeProto, TensorProto

from edgeadapt.errors import CompileError

MAX_OPSET = 20
DTYPES = {
    TensorProto.FLOAT: "float32",
    TensorProto.UINT8: "uint8",
    TensorProto.INT8: "int8",
    TensorProto.INT32: "int32",
    TensorProto.INT64: "int64",
    TensorProto.BOOL: "bool",
}
"""What may cross the border of a graph or be stored in it."""

_FORBIDDEN = {
    **dict.fromkeys(
        (
            "RandomNormal",
            "RandomNormalLike",
            "RandomUniform",
            "RandomUniformLike",
            "Bernoulli",
            "Multinomial",
            "Dropout",
        ),
        "draws random numbers, which no engine reproduces; make the noise or the mask a port",
    ),
    **dict.fromkeys(
        ("NonZero", "Unique", "Compress", "NonMaxSuppression"),
        "has a shape that depends on data; use masks and fixed sizes",
    ),
    **dict.fromkeys(
        ("If", "Loop", "Scan"),
        "is control flow, which cannot be captured on a GPU; use Where, or unroll",
    ),
    **dict.fromkeys(
        ("SoftmaxCrossEntropyLoss", "NegativeLogLikelihoodLoss"),
        "is a fused loss; write log_softmax and a one-hot product",
    ),
    "Det": "is exported as an invalid model; write the determinant out",
}
_TABLE_NAMES = {
    "float32": "FP32",
    "int32": "INT32",
    "int64": "INT64",
    "int8": "INT8",
    "bool": "BOOL",
    "uint8": "UINT8",
}
# built, though not in the table
_MEASURED = {("Cast", "INT8"), ("Identity", "INT8"), ("CumSum", "INT64"), ("CumSum", "INT32")}
_ANY_DTYPE = {"Shape", "Size", "Constant", "ConstantOfShape", "Range"}
_UINT8_READERS = {"Cast", "Identity", "Shape", "DequantizeLinear"}
_MAX_TOPK = 3840
_SHAPE_OPERANDS = {
    "Reshape": (1,),
    "Expand": (1,),
    "Tile": (1,),
    "Slice": (1, 2),
    "TopK": (1,),
    "OneHot": (1,),
    "Pad": (1,),
    "ConstantOfShape": (0,),
    "Range": (0, 1, 2),
    "Resize": (2, 3),
}


@cache
def operator_table() -> dict[str, dict[str, Any]]:
    """``{operator: {supported, dtypes, notes, ...}}``; keys that start with an underscore are not
    operators.
    """
    table: dict[str, dict[str, Any]] = json.loads(
        files(__package__).joinpath("trt_ops.json").read_text(encoding="utf-8")
    )
    return table


def lint(name: str, model: onnx.ModelProto, *, precision: str = "float32") -> None:
    """Check a graph against the table and against the contracts of a step.

    Args:
        precision: ``float16`` allows inner values of that type, between casts; ports and constants
            never have it.

    Raises:
        CompileError: lists every finding with the operator, the reason and a way out.
    """
    inner = (*DTYPES, TensorProto.FLOAT16) if precision == "float16" else tuple(DTYPES)
    findings = list(dict.fromkeys((*_model(model), *_border(model), *_nodes(model, inner))))
    if findings:
        raise CompileError(f"{name}: " + "; ".join(findings))


def _model(model: onnx.ModelProto) -> Iterator[str]:
    for opset in model.opset_import:
        if opset.domain in ("", "ai.onnx") and opset.version > MAX_OPSET:
            yield f"opset {opset.version} is newer than {MAX_OPSET}"
    if model.functions:
        yield f"local function {model.functions[0].name}: inline it"


def _border(model: onnx.ModelProto) -> Iterator[str]:
    graph = model.graph
    inputs, outputs = [v.name for v in graph.input], [v.name for v in graph.output]
    for overlap in sorted(set(outputs) & ({t.name for t in graph.initializer} | set(inputs))):
        yield f"output {overlap} is also an input or a constant: an engine would rename or alias it"
    for repeated in sorted({v for v in outputs if outputs.count(v) > 1}):
        yield f"output {repeated} appears twice"
    for value in (*graph.input, *graph.output):
        kind = value.type.tensor_type.elem_type
        if kind not in DTYPES:
            yield (
                f"{value.name}: {_dtype(kind)} is not one of {', '.join(DTYPES.values())}; cast it"
                " in torch before the graph"
            )
    for tensor in graph.initializer:
        if tensor.data_type not in DTYPES:
            yield (
                f"constant {tensor.name}: {_dtype(tensor.data_type)}; a numpy or Python value in a"
                " closure kept its dtype, use .float()"
            )


def _nodes(model: onnx.ModelProto, inner: tuple[int, ...]) -> Iterator[str]:
    graph = onnx.shape_inference.infer_shapes(model).graph
    constants = {t.name: t for t in graph.initializer}
    kinds: dict[str, int] = {t.name: t.data_type for t in graph.initializer}
    ranks: dict[str, int] = {t.name: len(t.dims) for t in graph.initializer}
    for value in (*graph.value_info, *graph.input, *graph.output):
        kinds[value.name] = value.type.tensor_type.elem_type
        if value.type.tensor_type.HasField("shape"):
            ranks[value.name] = len(value.type.tensor_type.shape.dim)
    read = {name for node in graph.node for name in node.input} | {
        value.name for value in graph.output
    }
    # what depends on the values, not only on the shapes, of inputs
    valued = {value.name for value in graph.input}
    for node in graph.node:
        for place in _SHAPE_OPERANDS.get(node.op_type, ()):
            if place < len(node.input) and node.input[place] in valued:
                yield (
                    f"{node.op_type} takes a shape from the values of an input, so they must live"
                    " on the host; use masks"
                )
        if node.op_type not in ("Shape", "Size") and valued.intersection(node.input):
            valued.update(node.output)
        for name in node.output:
            if kinds.get(name, TensorProto.FLOAT) not in (*inner, TensorProto.UNDEFINED):
                yield (
                    f"{node.op_type} computes in {_dtype(kinds[name])}; keep inner values in"
                    f" {', '.join(DTYPES.values())}"
                )
        yield from _operator(node)
        yield from _attributes(node, read)
        yield from _operands(node, constants, ranks)
        yield from _operand_dtypes(node, kinds)


def _operator(node: NodeProto) -> Iterator[str]:
    if node.domain not in ("", "ai.onnx"):
        yield (
            f"{node.domain}::{node.op_type} is of a foreign domain, which engines look up as a"
            " plugin"
        )
    elif node.op_type in _FORBIDDEN:
        yield f"{node.op_type} {_FORBIDDEN[node.op_type]}"
    else:
        row = operator_table().get(node.op_type)
        if row is None:
            yield (
                f"{node.op_type} is not in the operator table trt_ops.json; write it with other"
                " operators"
            )
        elif not (row["supported"] and row["supported_10_1"] and row["trt_rtx_1_7_parser"]):
            yield (
                f"{node.op_type} is not supported by every engine."
                f" {row['notes'] or 'Write it with other operators'}"
            )


def _attributes(node: NodeProto, read: set[str]) -> Iterator[str]:
    attributes = {a.name: onnx.helper.get_attribute_value(a) for a in node.attribute}
    kind = node.op_type
    extra = [name for name in node.output[1:] if name in read]
    if kind.startswith("Scatter") and attributes.get("reduction", b"none") not in (b"none", b""):
        yield (
            f"{kind} with a reduction is refused by TensorRT; use a one-hot matmul (segment sum ="
            " onehot(index)^T @ values)"
        )
    if kind == "LayerNormalization" and extra:
        yield (
            "LayerNormalization with more than one output is refused; let the decomposition table"
            " write it out"
        )
    if kind == "MaxPool" and extra:
        yield (
            "MaxPool with indices is refused (max-pool gradient); use reshape or strided slices and"
            " amax"
        )
    if kind == "BatchNormalization" and (attributes.get("training_mode", 0) or extra):
        yield "BatchNormalization in training mode is refused; write mean, variance and x * s + t"
    if (
        kind == "AveragePool"
        and attributes.get("ceil_mode", 0)
        and attributes.get("count_include_pad", 0)
    ):
        yield (
            "AveragePool with ceil_mode that counts padding is wrong at the border in ONNX Runtime"
            " 1.23; pad the input and leave ceil_mode off"
        )
    if kind == "Resize" and attributes.get("antialias", 0):
        yield "Resize with antialias is refused"
    if kind == "ConvTranspose" and all(
        any(step != 1 for step in attributes.get(key, ())) for key in ("strides", "dilations")
    ):
        yield (
            "ConvTranspose with both a stride and a dilation is parsed and then not built; write it"
            " as a convolution of the input with gaps"
        )
    if kind in ("MaxPool", "AveragePool", "LpPool") and any(
        step != 1 for step in attributes.get("dilations", ())
    ):
        yield f"{kind} with dilations is refused"


def _operands(
    node: NodeProto, constants: dict[str, TensorProto], ranks: dict[str, int]
) -> Iterator[str]:
    kind, given = node.op_type, [*node.input, "", "", "", ""]
    fixed = {
        "OneHot": 1,
        "CumSum": 1,
        "Squeeze": 1,
        "Unsqueeze": 1,
        "Slice": 3,
        "TopK": 1,
        "Pad": 3,
    }
    fixed.update(dict.fromkeys((key for key in operator_table() if key.startswith("Reduce")), 1))
    place = fixed.get(kind)
    if place is not None and given[place] and given[place] not in constants:
        yield (
            f"{kind} takes operand {place} from a computation, where engines need a constant; keep"
            " shapes and axes fixed"
        )
    if (
        kind == "TopK"
        and given[1] in constants
        and onnx.numpy_helper.to_array(constants[given[1]]).max() > _MAX_TOPK
    ):
        yield f"TopK of more than {_MAX_TOPK} is refused"
    if (
        kind in ("QuantizeLinear", "DequantizeLinear")
        and given[2]
        and not _is_zero(constants.get(given[2]))
    ):
        yield f"{kind} with a zero point other than a constant 0 is refused; quantise symmetrically"
    if kind in ("ArgMin", "ArgMax", "TopK") and ranks.get(given[0]) == 1:
        yield f"{kind} of a rank-1 tensor is refused; unsqueeze it first"


def _is_zero(tensor: TensorProto | None) -> bool:
    return (
        tensor is not None
        and tensor.data_location != TensorProto.EXTERNAL
        and not onnx.numpy_helper.to_array(tensor).any()
    )


def _operand_dtypes(node: NodeProto, kinds: dict[str, int]) -> Iterator[str]:
    row = operator_table().get(node.op_type)
    if row is None or not node.input or node.op_type in _ANY_DTYPE:
        return
    kind = kinds.get(node.input[0], TensorProto.UNDEFINED)
    if kind == TensorProto.UNDEFINED:
        return
    label = (
        "FP16"
        if kind == TensorProto.FLOAT16
        else _TABLE_NAMES.get(DTYPES.get(kind, ""), _dtype(kind))
    )
    if kind == TensorProto.UINT8:
        if node.op_type not in _UINT8_READERS:
            yield f"{node.op_type} of uint8 is refused; cast it to float first"
    elif row["dtypes"] and label not in row["dtypes"] and (node.op_type, label) not in _MEASURED:
        yield (
            f"{node.op_type} of {label} is refused (it takes {', '.join(row['dtypes'])}); cast it"
            " first"
        )


def _dtype(kind: int) -> str:
    return str(TensorProto.DataType.Name(kind))
