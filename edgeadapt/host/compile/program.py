"""A trace as the exported program that the exporter takes, without tracing it a second time.

``torch.export.export`` traces what :mod:`edgeadapt.host.compile.trace` has traced already. What it
would find is known here: the inputs, the constants, the outputs, and that nothing was assumed of
the batch.
"""

from __future__ import annotations

import operator
from typing import Any

import torch
from torch import fx
from torch.export import ExportedProgram
from torch.export.exported_program import ModuleCallEntry, ModuleCallSignature
from torch.export.graph_signature import (
    ExportGraphSignature,
    InputKind,
    InputSpec,
    OutputKind,
    OutputSpec,
    TensorArgument,
)
from torch.fx.experimental.symbolic_shapes import ShapeEnv
from torch.utils import _pytree as pytree

_CONSTANT = "constant_{}"


def as_program(
    module: fx.GraphModule, arguments: tuple[torch.Tensor, ...]
) -> ExportedProgram | None:
    """The program of a trace; None where torch has to look at it again.

    That is where an operator writes, works on Python's objects or has a graph inside, where
    tracing assumed something of the batch (which ``torch.export`` explains), or where this release
    of torch wants its program put together in another way.

    Args:
        module: flat, of one tuple of tensors, every node with its ``val``. It is left as it is.
        arguments: examples, one for each placeholder.
    """
    if not all(map(_is_plain, module.graph.nodes)):
        return None
    environment = _environment(module)
    if environment is not None and not _is_free(environment):
        return None
    try:
        return _assembled(module, arguments, environment)
    except (AttributeError, TypeError):  # torch promises nothing of these constructors
        return None


def _assembled(
    module: fx.GraphModule, arguments: tuple[torch.Tensor, ...], environment: ShapeEnv | None
) -> ExportedProgram:
    graph = fx.Graph()
    copies: dict[fx.Node, fx.Node] = {}
    constants: dict[str, torch.Tensor] = {}
    mode = next(
        node.meta["val"].fake_mode for node in module.graph.nodes if node.op == "placeholder"
    )
    for node in module.graph.find_nodes(op="get_attr"):  # constants come before the inputs
        name = _CONSTANT.format(len(constants))
        constants[name] = getattr(module, str(node.target)).detach()
        copies[node] = graph.placeholder(name)
        copies[node].meta["val"] = mode.from_tensor(constants[name], static_shapes=True)
    for node in module.graph.nodes:
        if node.op == "get_attr":
            continue
        copies[node] = graph.node_copy(node, copies.__getitem__)
        copies[node].meta = dict(node.meta)
    placeholders = graph.find_nodes(op="placeholder")
    inputs = [
        InputSpec(InputKind.CONSTANT_TENSOR, TensorArgument(node.name), name)
        for node, name in zip(placeholders, constants, strict=False)
    ]
    inputs += [
        InputSpec(InputKind.USER_INPUT, TensorArgument(node.name), None)
        for node in placeholders[len(constants) :]
    ]
    results = graph.output_node().args[0]
    outputs = [
        OutputSpec(OutputKind.USER_OUTPUT, TensorArgument(node.name), None) for node in results
    ]  # type: ignore[union-attr]
    _, given = pytree.tree_flatten((arguments, {}))
    _, returned = pytree.tree_flatten(tuple(range(len(outputs))))
    call = ModuleCallSignature(
        inputs=[spec.arg for spec in inputs[len(constants) :]],
        outputs=[spec.arg for spec in outputs],
        in_spec=given,
        out_spec=returned,
    )
    ranges = {} if environment is None else dict(environment.var_to_range)
    return ExportedProgram(
        root={},
        graph=graph,
        graph_signature=ExportGraphSignature(inputs, outputs),
        state_dict={},
        range_constraints=ranges,
        module_call_graph=[ModuleCallEntry("", call)],
        example_inputs=(arguments, {}),
        constants=constants,
    )


def _is_plain(node: fx.Node) -> bool:
    if node.op == "output":
        return True
    if node.op == "get_attr":
        return isinstance(getattr(node.graph.owning_module, str(node.target), None), torch.Tensor)
    schema = getattr(node.target, "_schema", None)
    if node.op == "call_function" and (schema is None or schema.is_mutable):
        return node.target is operator.getitem and "val" in node.meta
    return "val" in node.meta


def _environment(module: fx.GraphModule) -> ShapeEnv | None:
    return next(
        (
            node.meta["val"].fake_mode.shape_env
            for node in module.graph.nodes
            if node.op == "placeholder"
        ),
        None,
    )


def _is_free(environment: Any) -> bool:
    """Whether tracing took nothing for granted of any symbol."""
    return not (
        environment.guards or environment.replacements or environment.deferred_runtime_asserts
    )


__all__ = ["as_program"]
