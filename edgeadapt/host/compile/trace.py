"""A pure torch function becomes a flat graph of core operators, with its gradient and update inside.

The function is traced with fake tensors: nothing is computed, so no value of an example can be baked in, and
reading a value (``.item()``, ``if t.sum() > 0``) is refused instead of frozen.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx
from torch._dispatch.python import enable_python_dispatcher
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.fx.experimental.proxy_tensor import make_fx
from torch.fx.experimental.symbolic_shapes import DimDynamic, ShapeEnv, StatelessSymbolicContext

from edgeadapt.errors import CompileError
from edgeadapt.host.compile.decompose import decompositions
from edgeadapt.runtime import NEXT

aten = torch.ops.aten
_ALIASES = (torch.ops.prims.view_of.default, aten.alias.default, aten.detach.default)
_PARTS = (aten.slice.Tensor, aten.select.int, aten.diagonal.default, aten.split.Tensor, aten.unbind.int)
Step = Callable[[dict[str, Tensor], dict[str, Tensor]], tuple[dict[str, Tensor], dict[str, Tensor]]]
"""``(ports, tensors) -> (outputs, new tensors)``: pure, torch in and torch out."""

_PORT = re.compile(r"[A-Za-z][A-Za-z0-9_]*")
_TENSOR = re.compile(r"[A-Za-z0-9_]+(\.[A-Za-z0-9_]+)+")


@dataclass(frozen=True)
class Traced:
    """A traced function: ``module(*arguments)`` returns the tensors named by ``outputs``, in order."""

    name: str
    module: fx.GraphModule
    inputs: tuple[str, ...]  # ports, then tensors
    arguments: tuple[Tensor, ...]
    outputs: tuple[str, ...]
    shapes: Mapping[str, tuple[int | None, ...]]  # of inputs and outputs; None is the batch
    batched: frozenset[str]  # ports whose leading axis is symbolic


def trace(name: str, fn: Step, ports: Mapping[str, Tensor], tensors: Mapping[str, Tensor], batched: Iterable[str] = ()) -> Traced:
    """Trace ``fn`` at the shapes of the examples.

    Args:
        name: of the graph, for messages.
        fn: the function; its outputs keep their names, a new tensor ``a.b`` becomes the output ``a.b.next``.
        ports: example ports, names without a dot.
        tensors: example tensors (state and frozen), names with a dot.
        batched: ports whose leading axis stays symbolic; they share one symbol. Empty for a fixed batch.

    Raises:
        CompileError: an in-place write to an input, a random operator, a value read by Python, an unsupported operator, or a bad name.
    """
    _check_names(name, ports, tensors)
    inputs = (*ports, *tensors)
    arguments = tuple(value.detach().clone() for value in (*ports.values(), *tensors.values()))
    outputs: list[str] = []

    def flat(*values: Tensor) -> tuple[Tensor, ...]:
        given = dict(zip(inputs, values, strict=True))
        out, new = fn({key: given[key] for key in ports}, {key: given[key] for key in tensors})
        outputs[:] = [*out, *(key + NEXT for key in new)]
        return (*out.values(), *new.values())

    symbolic = frozenset(batched)
    mode = FakeTensorMode(allow_non_fake_inputs=True, shape_env=ShapeEnv(duck_shape=True, specialize_zero_one=True))
    fakes = tuple(_fake(mode, value, key in symbolic) for key, value in zip(inputs, arguments, strict=True))
    try:
        with mode, enable_python_dispatcher():  # else composite C++ kernels read sizes as numbers and fix the batch
            module = make_fx(flat, tracing_mode="real", decomposition_table=decompositions(), _allow_non_fake_inputs=True)(*fakes)
    except CompileError:
        raise
    except Exception as error:
        raise CompileError(f"{name}: cannot be traced: {_first_line(error)}. {_way_out(error)}") from error
    _check_outputs(name, outputs, inputs, tensors)
    _refuse_writes(name, module, inputs)
    _refuse_random(name, module)
    _drop_aliases(module)
    module.graph.eliminate_dead_code()
    _separate_outputs(module)
    results = module.graph.output_node().args[0]
    shapes = {key: _shape(value.shape) for key, value in zip(inputs, fakes, strict=True)}
    shapes.update({key: _shape(node.meta["val"].shape) for key, node in zip(outputs, results, strict=True)})
    return Traced(name, module, inputs, arguments, tuple(outputs), shapes, symbolic)


def _fake(mode: FakeTensorMode, value: Tensor, symbolic: bool) -> Tensor:
    sizes = [DimDynamic.STATIC] * value.dim()
    if symbolic:
        sizes[0] = DimDynamic.DUCK  # equal hints share a symbol, and only batch axes are symbolic
    return mode.from_tensor(value, symbolic_context=StatelessSymbolicContext(dynamic_sizes=sizes))


def _shape(sizes: Iterable[Any]) -> tuple[int | None, ...]:
    return tuple(size if isinstance(size, int) else None for size in sizes)


def _check_names(name: str, ports: Mapping[str, Tensor], tensors: Mapping[str, Tensor]) -> None:
    for key in ports:
        if not _PORT.fullmatch(key):
            raise CompileError(f"{name}: port {key!r} must be letters, digits and underscores, without a dot")
    for key in tensors:
        if not _TENSOR.fullmatch(key) or key.endswith(NEXT):
            raise CompileError(f"{name}: tensor {key!r} must have a dot in its name and not end in {NEXT!r}")
    for key, value in {**ports, **tensors}.items():
        if not isinstance(value, Tensor):
            raise CompileError(f"{name}: the example of {key!r} is a {type(value).__name__}, not a torch tensor")


def _check_outputs(name: str, outputs: list[str], inputs: tuple[str, ...], tensors: Mapping[str, Tensor]) -> None:
    if not outputs:
        raise CompileError(f"{name}: the function returns nothing")
    for key in outputs:
        if key.endswith(NEXT):
            if key.removesuffix(NEXT) not in tensors:
                raise CompileError(f"{name}: writes {key.removesuffix(NEXT)!r}, which is not among its tensors {sorted(tensors)}")
        elif not _PORT.fullmatch(key):
            raise CompileError(f"{name}: output {key!r} must be letters, digits and underscores, without a dot")
        elif key in inputs:
            raise CompileError(f"{name}: {key!r} is both a port and an output; give the output a name of its own")
    if len(set(outputs)) != len(outputs):
        raise CompileError(f"{name}: two outputs are called {next(k for k in outputs if outputs.count(k) > 1)!r}")


def _refuse_writes(name: str, module: fx.GraphModule, inputs: tuple[str, ...]) -> None:
    """In-place operators whose target is an input, a view of one, or a part of any tensor (exported as an invalid scatter)."""
    owner: dict[fx.Node, str] = {}
    parts: set[fx.Node] = set()
    placeholders = iter(inputs)
    for node in module.graph.nodes:
        if node.op == "placeholder":
            owner[node] = next(placeholders)
            continue
        schema = getattr(node.target, "_schema", None)
        if node.op != "call_function" or schema is None:
            continue
        for declared, given in zip(schema.arguments, node.args, strict=False):
            if not isinstance(given, fx.Node) or declared.alias_info is None:
                continue
            is_write = declared.alias_info.is_write
            if not is_write and (node.target in _PARTS or given in parts):
                parts.add(node)
            if is_write and given in owner:
                raise CompileError(
                    f"{name}: {node.target} writes in place to the input {owner[given]!r}; "
                    "inputs are values: return a new tensor (torch.where, torch.cat, x + y instead of x += y)"
                )
            if is_write and given in parts:
                raise CompileError(f"{name}: {node.target} writes to a part of a tensor; build the result with torch.where or torch.cat")
            if given in owner:
                owner[node] = owner[given]


def _refuse_random(name: str, module: fx.GraphModule) -> None:
    for node in module.graph.nodes:
        if node.op == "call_function" and torch.Tag.nondeterministic_seeded in getattr(node.target, "tags", ()):
            raise CompileError(f"{name}: {node.target} draws random numbers; a graph has none: make the noise or the mask a port")


def _drop_aliases(module: fx.GraphModule) -> None:
    """Operators that only rename a tensor have no ONNX translation and no effect."""
    for node in list(module.graph.nodes):
        if node.op == "call_function" and node.target in _ALIASES:
            node.replace_all_uses_with(node.args[0])
            module.graph.erase_node(node)


def _separate_outputs(module: fx.GraphModule) -> None:
    """Give every output a tensor of its own: an exporter renames the input behind a pass-through output."""
    tail = module.graph.output_node()
    seen: set[fx.Node] = set()
    results = []
    for node in tail.args[0]:
        if node.op != "call_function" or node in seen:
            with module.graph.inserting_before(tail):
                copy = module.graph.call_function(aten.clone.default, (node,))
            copy.meta["val"] = node.meta["val"] if "val" in node.meta else getattr(module, str(node.target))
            node = copy
        seen.add(node)
        results.append(node)
    tail.args = (tuple(results),)
    module.recompile()


def _first_line(error: Exception) -> str:
    text = str(error).strip()
    return f"{type(error).__name__}: {text.splitlines()[0] if text else ''}"[:400].rstrip(".")


def _way_out(error: Exception) -> str:
    text = f"{type(error).__name__} {error}"
    if "DataDependent" in text or "local_scalar_dense" in text or "GuardOnData" in text or "numpy" in text:
        return "Python reads data: use torch.where and fixed shapes (y[:, None] == torch.arange(K), not one_hot)"
    if isinstance(error, NotImplementedError):
        return "Write the operation out with supported operators, or add it to edgeadapt/host/compile/decompose.py"
    return "Keep the function pure and its shapes fixed"
