"""A traced graph becomes a small ONNX model: opset 18, folded constants, frozen tensors by
reference.

The exporter's own optimiser stays off: it takes ``x + 1e-8`` for ``x`` (an Adam step then divides
by zero). What runs instead is constant folding, common-subexpression elimination and the removal of
duplicates, none of which changes a number, and then the package's own
:mod:`edgeadapt.host.compile.rewrite`.
"""

from __future__ import annotations

import logging
import re
import warnings
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import onnx
import onnx_ir
import onnx_ir.passes.common as passes
import onnxscript.optimizer
import torch
from onnx import TensorProto

from edgeadapt.errors import CompileError
from edgeadapt.host.compile.exporter import to_onnx
from edgeadapt.host.compile.origin import META, where
from edgeadapt.host.compile.program import as_program
from edgeadapt.host.compile.rewrite import rewrite
from edgeadapt.host.compile.trace import Traced
from edgeadapt.host.compile.way_out import way_out
from edgeadapt.runtime import NEXT

IR_VERSION = 10
BUNDLE_LOCATION = "bundle:"
"""The one external-data location a loader accepts: the value comes from the bundle's weights, by
the initialiser's name.
"""

_LARGEST_FOLDED = 1 << 20  # elements; larger constant expressions stay expressions
_SHORT = "_{}"  # names of inner values; ports start with a letter and tensors have a dot


@dataclass(frozen=True)
class Emitted:
    """An ONNX model and the names it really uses."""

    model: onnx.ModelProto
    ports: tuple[str, ...]
    reads: tuple[str, ...]
    frozen: tuple[str, ...]
    outputs: tuple[str, ...]  # without ``.next`` tensors
    writes: tuple[str, ...]  # named without ``.next``


def emit(traced: Traced, frozen: Iterable[str] = ()) -> Emitted:
    """Export a trace.

    Args:
        traced: from :func:`edgeadapt.host.compile.trace.trace`.
        frozen: tensors that become external initialisers with location ``bundle:`` instead of
            inputs.

    Raises:
        CompileError: an operator has no ONNX translation, or a batch axis did not stay symbolic.
    """
    with _quiet():
        proto = onnx_ir.serde.serialize_model(_simplify(_export(traced)))
    _declare_shapes(traced, proto)
    _complete_pads(proto)
    _reduce_all_without_axes(proto)
    _shorten(proto, {*traced.inputs, *traced.outputs})
    proto.ir_version = IR_VERSION
    used = _drop_unused(proto)
    externals = tuple(name for name in frozen if name in used)
    _check_model(traced.name, proto)
    _refer_to_bundle(traced.name, proto, externals)
    inputs = [value.name for value in proto.graph.input]
    return Emitted(
        model=proto,
        ports=tuple(name for name in inputs if "." not in name),
        reads=tuple(name for name in inputs if "." in name),
        frozen=externals,
        outputs=tuple(name for name in traced.outputs if not name.endswith(NEXT)),
        writes=tuple(name.removesuffix(NEXT) for name in traced.outputs if name.endswith(NEXT)),
    )


class _Shell(torch.nn.Module):
    """A module with no parameters around the trace, because the exporter wants a module."""

    def __init__(self, module: torch.fx.GraphModule) -> None:
        super().__init__()
        self.module = module

    def forward(self, *values: torch.Tensor) -> tuple[torch.Tensor, ...]:
        return self.module(*values)


@contextmanager
def _quiet() -> Iterator[None]:
    """Progress notes and advice of the exporter, which its callers cannot act on; errors are raised
    all the same.
    """
    loggers = [
        logging.getLogger(name) for name in ("torch.onnx", "torch.export", "onnxscript", "onnx_ir")
    ]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.CRITICAL)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


def _export(traced: Traced) -> onnx_ir.Model:
    batch = torch.export.Dim("batch")
    shapes = (
        (tuple({0: batch} if name in traced.batched else {} for name in traced.inputs),)
        if traced.batched
        else None
    )
    try:
        captured = as_program(traced.module, traced.arguments)
        if captured is None:
            captured = torch.export.export(
                _Shell(traced.module), traced.arguments, dynamic_shapes=shapes, strict=False
            )
        return to_onnx(captured, traced.inputs, traced.outputs)
    except Exception as error:
        raise CompileError(f"{traced.name}: {_reason(traced, error)}") from error


def _reason(traced: Traced, error: BaseException) -> str:
    """The innermost cause, which names the operator; the outer ones only say that the export
    failed.
    """
    root = error
    while root.__cause__ is not None:
        root = root.__cause__
    lines = [line.strip() for line in str(root).splitlines() if line.strip()]
    text = " ".join(lines)[:500]
    if "batch" in text and ("Constraint" in text or "specialized" in text):
        return (
            f"cannot be exported: the batch axis is not free: {text}. Trace with"
            " dynamic_batch=False, or avoid shapes that depend on the batch"
        )
    found = re.search(r"op='(\w+\.\w+)', overload='(\w+)'|((?:aten|prims)\.\w+)\.(\w+)", text)
    if found is None:
        return f"cannot be exported: {type(root).__name__}: {text}. {way_out(None, root)}"
    operator = ".".join(part for part in found.groups() if part)
    kind = operator.split(".")[1]
    nodes = [
        node for node in traced.module.graph.nodes if str(node.target).split(".")[1:2] == [kind]
    ]
    path = next((node.meta[META] for node in nodes if META in node.meta), None)
    return (
        f"{where(operator, path)}cannot be exported: {type(root).__name__}: {text}."
        f" {way_out(operator, root)}"
    )


def _simplify(model: onnx_ir.Model) -> onnx_ir.Model:
    passes.InlinePass()(model)
    onnxscript.optimizer.fold_constants(
        model,
        onnx_shape_inference=True,
        input_size_limit=_LARGEST_FOLDED,
        output_size_limit=_LARGEST_FOLDED,
    )
    passes.RemoveUnusedNodesPass()(model)
    passes.LiftConstantsToInitializersPass(lift_all_constants=True, size_limit=0)(model)
    # first: equal constants make equal expressions
    passes.DeduplicateInitializersPass(size_limit=1 << 24)(model)
    passes.CommonSubexpressionEliminationPass()(model)
    rewrite(model)
    passes.RemoveUnusedNodesPass()(model)
    passes.RemoveUnusedFunctionsPass()(model)
    passes.RemoveUnusedOpsetsPass()(model)
    passes.ClearMetadataAndDocStringPass()(model)
    _separate_outputs(model.graph)
    passes.TopologicalSortPass()(model)
    return model


def _separate_outputs(graph: onnx_ir.Graph) -> None:
    """Elimination can merge outputs, and folding can turn one into a constant: each gets its own
    Identity again.
    """
    taken: set[onnx_ir.Value] = set()
    for index, value in enumerate(graph.outputs):
        if value.producer() is None or value in taken:
            node = onnx_ir.node("Identity", [value])
            graph.append(node)
            copy = node.outputs[0]
            copy.name, copy.type, copy.shape = f"__output_{index}", value.type, value.shape
            graph.outputs[index] = copy
        else:
            taken.add(value)


def _declare_shapes(traced: Traced, proto: onnx.ModelProto) -> None:
    """Names, and shapes as traced: ``batch`` for a symbolic leading axis, numbers elsewhere."""
    graph = proto.graph
    constants = {
        tensor.name: f"__constant_{tensor.name}"
        for tensor in graph.initializer
        if tensor.name in traced.outputs
    }
    for tensor in graph.initializer:
        tensor.name = constants.get(tensor.name, tensor.name)
    renamed: dict[str, str] = {}
    for value, name in zip(graph.output, traced.outputs, strict=True):
        if value.name != name:
            renamed[value.name] = name
            value.name = name
    for node in graph.node:
        for names in (node.input, node.output):
            for index, old in enumerate(names):
                names[index] = constants.get(old) or renamed.get(old, old)
    given = tuple(value.name for value in graph.input)
    if given != traced.inputs:
        raise CompileError(
            f"{traced.name}: the exporter changed the inputs from {traced.inputs} to {given}"
        )
    for value in (*graph.input, *graph.output):
        shape = traced.shapes[value.name]
        if any(size is None for size in shape[1:]):
            raise CompileError(
                f"{traced.name}: {value.name} depends on the batch in another axis than the first:"
                f" {shape}"
            )
        if value.name in traced.batched and shape[0] is not None:
            raise CompileError(
                f"{traced.name}: the function fixes the batch of {value.name} to {shape[0]}; use"
                " dynamic_batch=False"
            )
        dims = value.type.tensor_type.shape.dim
        if len(dims) != len(shape):
            raise CompileError(
                f"{traced.name}: {value.name} has rank {len(dims)} in ONNX and {len(shape)} in"
                " torch"
            )
        for dim, size in zip(dims, shape, strict=True):
            if size is None and dim.HasField("dim_value"):
                raise CompileError(
                    f"{traced.name}: the exporter fixed the batch of {value.name}; use"
                    " dynamic_batch=False"
                )
            if size is None:
                dim.dim_param = "batch"
            else:
                dim.dim_value = size


def _complete_pads(proto: onnx.ModelProto) -> None:
    """The padding value, which is optional in ONNX, is written out: TensorRT wants it for some
    types.
    """
    graph = proto.graph
    zeros = {t.name: t.data_type for t in graph.initializer}
    kinds = {
        v.name: v.type.tensor_type.elem_type for v in (*graph.value_info, *graph.input)
    } | zeros
    for node in graph.node:
        if node.op_type != "Pad" or (len(node.input) > 2 and node.input[2]):
            continue
        kind = kinds.get(node.input[0], TensorProto.FLOAT)
        name = f"_pad_{kind}"
        if name not in zeros:
            graph.initializer.append(onnx.helper.make_tensor(name, kind, [], [0]))
            zeros[name] = kind
        while len(node.input) < 3:
            node.input.append("")
        node.input[2] = name


def _reduce_all_without_axes(proto: onnx.ModelProto) -> None:
    """An empty list of axes and no list mean the same; only the second is common enough to be well
    tested in engines.
    """
    empty = {t.name for t in proto.graph.initializer if list(t.dims) == [0]}
    for node in proto.graph.node:
        if node.op_type.startswith("Reduce") and len(node.input) == 2 and node.input[1] in empty:
            del node.input[1]


def _shorten(proto: onnx.ModelProto, kept: set[str]) -> None:
    """Short names for inner values, none for nodes, no inner shapes: files of adaptor steps shrink
    by half.
    """
    graph = proto.graph
    short: dict[str, str] = {}

    def rename(name: str) -> str:
        if not name or name in kept:
            return name
        return short.setdefault(name, _SHORT.format(len(short)))

    for tensor in graph.initializer:
        tensor.name = rename(tensor.name)
    for node in graph.node:
        node.name = ""
        node.doc_string = ""
        del node.metadata_props[:]
        for names in (node.input, node.output):
            for index, name in enumerate(names):
                names[index] = rename(name)
    graph.name = "graph"
    graph.doc_string = ""
    del graph.value_info[:]
    del graph.metadata_props[:]
    del proto.metadata_props[:]
    for value in (*graph.input, *graph.output):
        del value.metadata_props[:]
        value.doc_string = ""


def _drop_unused(proto: onnx.ModelProto) -> set[str]:
    """Take inputs that no node reads out of the signature; returns the names that stay."""
    used = {name for node in proto.graph.node for name in node.input}
    keep = [value for value in proto.graph.input if value.name in used]
    del proto.graph.input[:]
    proto.graph.input.extend(keep)
    constants = [tensor for tensor in proto.graph.initializer if tensor.name in used]
    del proto.graph.initializer[:]
    proto.graph.initializer.extend(constants)
    return {value.name for value in keep}


def _check_model(name: str, proto: onnx.ModelProto) -> None:
    try:
        onnx.checker.check_model(proto)
    except onnx.checker.ValidationError as error:
        raise CompileError(
            f"{name}: the exporter wrote an invalid model: {str(error).splitlines()[0]}"
        ) from error


def _refer_to_bundle(name: str, proto: onnx.ModelProto, frozen: tuple[str, ...]) -> None:
    """Frozen inputs become external initialisers, which the loader fills from the bundle and then
    folds.
    """
    graph = proto.graph
    declared = {value.name: value for value in graph.input}
    for key in frozen:
        tensor = graph.initializer.add()
        tensor.name = key
        tensor.data_type = declared[key].type.tensor_type.elem_type
        tensor.dims.extend(dim.dim_value for dim in declared[key].type.tensor_type.shape.dim)
        tensor.data_location = TensorProto.EXTERNAL
        tensor.external_data.add(key="location", value=BUNDLE_LOCATION)
    keep = [value for value in graph.input if value.name not in frozen]
    del graph.input[:]
    graph.input.extend(keep)
    if not graph.node:
        raise CompileError(f"{name}: the graph computes nothing")
