"""A pure torch function becomes a flat graph of core operators, with its gradient and update
inside.

The function is traced with fake tensors: nothing is computed, so no value of an example can be
baked in, and reading a value (``.item()``, ``if t.sum() > 0``) is refused instead of frozen.
"""

from __future__ import annotations

import operator
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
from edgeadapt.host.compile.decompose.linear import LinearAsProduct
from edgeadapt.host.compile.functional import make_functional
from edgeadapt.host.compile.origin import META, Origins, where
from edgeadapt.host.compile.way_out import (
    FACTORISATION,
    MASK,
    ONE_HOT,
    SPLIT_COMPLEX,
    VALUES,
    way_out,
)
from edgeadapt.runtime import NEXT

aten = torch.ops.aten
_ALIASES = (torch.ops.prims.view_of.default, aten.alias.default, aten.detach.default)
# of an axis that is not 1 they do nothing
_SQUEEZES = (aten.squeeze.default, aten.squeeze.dim, aten.squeeze.dims)
_PARTS = (
    aten.slice.Tensor,
    aten.select.int,
    aten.diagonal.default,
    aten.split.Tensor,
    aten.unbind.int,
)
_INDEXED_WRITES = (aten.index_put.default, aten._unsafe_index_put.default, aten.index_put_.default)
_FACTORISATIONS = re.compile(
    r"linalg_(eig|svd|qr|lu|inv|solve|cholesky|ldl|lstsq|det|slogdet|householder)|cholesky|triangular_solve|geqrf|ormqr"
)
Step = Callable[[dict[str, Tensor], dict[str, Tensor]], tuple[dict[str, Tensor], dict[str, Tensor]]]
"""``(ports, tensors) -> (outputs, new tensors)``: pure, torch in and torch out."""

_PORT = re.compile(r"[A-Za-z][A-Za-z0-9_]*")
_TENSOR = re.compile(r"[A-Za-z0-9_]+(\.[A-Za-z0-9_]+)+")


@dataclass(frozen=True)
class Traced:
    """A traced function: ``module(*arguments)`` returns the tensors named by ``outputs``, in
    order.
    """

    name: str
    module: fx.GraphModule
    inputs: tuple[str, ...]  # ports, then tensors
    arguments: tuple[Tensor, ...]
    outputs: tuple[str, ...]
    shapes: Mapping[str, tuple[int | None, ...]]  # of inputs and outputs; None is the batch
    batched: frozenset[str]  # ports whose leading axis is symbolic


def trace(
    name: str,
    fn: Step,
    ports: Mapping[str, Tensor],
    tensors: Mapping[str, Tensor],
    batched: Iterable[str] = (),
) -> Traced:
    """Trace ``fn`` at the shapes of the examples.

    Args:
        name: of the graph, for messages.
        fn: the function; its outputs keep their names, a new tensor ``a.b`` becomes the output
            ``a.b.next``.
        ports: example ports, names without a dot.
        tensors: example tensors (state and frozen), names with a dot.
        batched: ports whose leading axis stays symbolic; they share one symbol. Empty for a fixed
            batch.

    Raises:
        CompileError: an in-place write to an input, a random operator, a value read by Python, an
            unsupported operator, or a bad name.
    """
    _check_names(name, ports, tensors)
    inputs = (*ports, *tensors)
    arguments = tuple(value.detach().clone() for value in (*ports.values(), *tensors.values()))
    outputs: list[str] = []
    origins = Origins(fn)

    def flat(*values: Tensor) -> tuple[Tensor, ...]:
        given = dict(zip(inputs, values, strict=True))
        with origins, LinearAsProduct():
            out, new = fn({key: given[key] for key in ports}, {key: given[key] for key in tensors})
        outputs[:] = [*out, *(key + NEXT for key in new)]
        return (*out.values(), *new.values())

    symbolic = frozenset(batched)
    mode = FakeTensorMode(
        allow_non_fake_inputs=True, shape_env=ShapeEnv(duck_shape=True, specialize_zero_one=True)
    )
    fakes = tuple(
        _fake(mode, value, key in symbolic) for key, value in zip(inputs, arguments, strict=True)
    )
    try:
        # else composite C++ kernels read sizes as numbers and fix the batch
        with mode, enable_python_dispatcher():
            module = make_fx(
                flat,
                tracing_mode="real",
                decomposition_table=decompositions(),
                _allow_non_fake_inputs=True,
            )(*fakes)
    except CompileError:
        raise
    except Exception as error:
        place = where(origins.operator, origins.path)
        raise CompileError(
            f"{name}: {place}cannot be traced: {_first_line(error)}."
            f" {way_out(origins.operator or origins.kind, error)}"
        ) from error
    _check_outputs(name, outputs, inputs, tensors)
    _refuse_operators(name, module)
    _refuse_writes(name, module, inputs)
    make_functional(module)
    _drop_aliases(module)
    module.graph.eliminate_dead_code()
    _separate_outputs(module)
    results = module.graph.output_node().args[0]
    batch = next(
        (str(value.shape[0]) for key, value in zip(inputs, fakes, strict=True) if key in symbolic),
        None,
    )
    shapes = {
        key: _shape(name, key, value.shape, batch) for key, value in zip(inputs, fakes, strict=True)
    }
    shapes |= {
        key: _shape(name, key, node.meta["val"].shape, batch)
        for key, node in zip(outputs, results, strict=True)
    }
    return Traced(name, module, inputs, arguments, tuple(outputs), shapes, symbolic)


def _fake(mode: FakeTensorMode, value: Tensor, symbolic: bool) -> Tensor:
    sizes = [DimDynamic.STATIC] * value.dim()
    if symbolic:
        sizes[0] = DimDynamic.DUCK  # equal hints share a symbol, and only batch axes are symbolic
    return mode.from_tensor(value, symbolic_context=StatelessSymbolicContext(dynamic_sizes=sizes))


def _shape(name: str, key: str, sizes: Iterable[Any], batch: str | None) -> tuple[int | None, ...]:
    """Sizes, None for the batch. A runtime allocates outputs by it, so an axis that depends on the
    batch otherwise has no place.
    """
    found = tuple(size if isinstance(size, int) else str(size) for size in sizes)
    if other := next((size for size in found if isinstance(size, str) and size != batch), None):
        raise CompileError(
            f"{name}: an axis of {key} has {other.replace(str(batch), 'batch')} elements; only the"
            " batch itself may be free. Return what has one row for each sample, or compile with"
            " dynamic_batch=False"
        )
    return tuple(size if isinstance(size, int) else None for size in found)


def _check_names(name: str, ports: Mapping[str, Tensor], tensors: Mapping[str, Tensor]) -> None:
    for key in ports:
        if not _PORT.fullmatch(key):
            raise CompileError(
                f"{name}: port {key!r} must be letters, digits and underscores, without a dot"
            )
    for key in tensors:
        if not _TENSOR.fullmatch(key) or key.endswith(NEXT):
            raise CompileError(
                f"{name}: tensor {key!r} must have a dot in its name and not end in {NEXT!r}"
            )
    for key, value in {**ports, **tensors}.items():
        if not isinstance(value, Tensor):
            raise CompileError(
                f"{name}: the example of {key!r} is a {type(value).__name__}, not a torch tensor"
            )


def _check_outputs(
    name: str, outputs: list[str], inputs: tuple[str, ...], tensors: Mapping[str, Tensor]
) -> None:
    if not outputs:
        raise CompileError(f"{name}: the function returns nothing")
    for key in outputs:
        if key.endswith(NEXT):
            if key.removesuffix(NEXT) not in tensors:
                raise CompileError(
                    f"{name}: writes {key.removesuffix(NEXT)!r}, which is not among its tensors"
                    f" {sorted(tensors)}"
                )
        elif not _PORT.fullmatch(key):
            raise CompileError(
                f"{name}: output {key!r} must be letters, digits and underscores, without a dot"
            )
        elif key in inputs:
            raise CompileError(
                f"{name}: {key!r} is both a port and an output; give the output a name of its own"
            )
    if len(set(outputs)) != len(outputs):
        raise CompileError(
            f"{name}: two outputs are called {next(k for k in outputs if outputs.count(k) > 1)!r}"
        )


def _refuse_writes(name: str, module: fx.GraphModule, inputs: tuple[str, ...]) -> None:
    """In-place operators whose target is an input, a view of one, or a part of any tensor (exported
    as an invalid scatter).
    """
    owner: dict[fx.Node, str] = {}
    parts: set[fx.Node] = set()
    placeholders = iter(inputs)
    for node in module.graph.nodes:
        place = where(node.target, node.meta.get(META))
        if node.op == "placeholder":
            owner[node] = f"the input {next(placeholders)!r}"
            continue
        if node.op == "get_attr":
            owner[node] = "a tensor outside of the function"
            continue
        if node.target is operator.getitem and node.args[0] in owner:
            owner[node] = owner[node.args[0]]  # one of several views
        schema = getattr(node.target, "_schema", None)
        if node.op != "call_function" or schema is None:
            continue
        for declared, given in [
            *zip(schema.arguments, node.args, strict=False),
            *((d, node.kwargs.get(d.name)) for d in schema.arguments),
        ]:
            if not isinstance(given, fx.Node) or declared.alias_info is None:
                continue
            is_write = declared.alias_info.is_write
            if not is_write and (node.target in _PARTS or given in parts):
                parts.add(node)
            if is_write and given in owner:
                raise CompileError(
                    f"{name}: {place}writes in place to {owner[given]}. {VALUES} "
                    "(torch.where, torch.cat, x + y instead of x += y)"
                )
            if is_write and given in parts:
                raise CompileError(
                    f"{name}: {place}writes to a part of a tensor; build the result with"
                    " torch.where or torch.cat"
                )
            if given in owner:
                owner[node] = owner[given]


def _refuse_operators(name: str, module: fx.GraphModule) -> None:
    """What no engine takes, named here with its module, which the exported graph no longer
    knows.
    """
    for node in module.graph.nodes:
        reason = _reason(node) if node.op == "call_function" else None
        if reason:
            raise CompileError(f"{name}: {where(node.target, node.meta.get(META))}{reason}")


def _reason(node: fx.Node) -> str | None:
    tags, value = getattr(node.target, "tags", ()), node.meta.get("val")
    called = str(node.target)
    if torch.Tag.nondeterministic_seeded in tags:
        return (
            "draws random numbers; a graph has none: make the noise or the mask a port, or call"
            " .eval()"
        )
    if any(
        isinstance(part, Tensor) and part.is_complex()
        for part in (value if isinstance(value, tuple | list) else (value,))
    ):
        return f"is complex, which engines do not know. {SPLIT_COMPLEX}"
    if _FACTORISATIONS.search(called):
        return f"is a matrix factorisation, which engines do not have. {FACTORISATION}"
    if torch.Tag.dynamic_output_shape in tags and (
        node.target is not aten.index.Tensor or _has_mask(node.args[1])
    ):
        return f"has a shape that depends on data. {MASK}"
    if node.target is aten.scatter_add.default or (
        node.target in _INDEXED_WRITES and len(node.args) > 3 and node.args[3]
    ):
        return (
            "adds at places given by an index: a Scatter with a reduction is refused by TensorRT;"
            f" {ONE_HOT}"
        )
    return None


def _has_mask(indices: Any) -> bool:
    return any(
        isinstance(index, fx.Node) and index.meta["val"].dtype in (torch.bool, torch.uint8)
        for index in indices
    )


def _drop_aliases(module: fx.GraphModule) -> None:
    """Operators that only rename a tensor have no ONNX translation and no effect."""
    for node in list(module.graph.nodes):
        if node.op == "call_function" and (
            node.target in _ALIASES or (node.target in _SQUEEZES and _keeps_shape(node))
        ):
            node.replace_all_uses_with(node.args[0])
            module.graph.erase_node(node)


def _keeps_shape(node: fx.Node) -> bool:
    return node.meta["val"].dim() == node.args[0].meta["val"].dim()  # type: ignore[union-attr]


def _separate_outputs(module: fx.GraphModule) -> None:
    """Give every output a tensor of its own: an exporter renames the input behind a pass-through
    output.
    """
    tail = module.graph.output_node()
    seen: set[fx.Node] = set()
    results = []
    for node in tail.args[0]:
        if node.op != "call_function" or node in seen:
            with module.graph.inserting_before(tail):
                copy = module.graph.call_function(aten.clone.default, (node,))
            copy.meta["val"] = (
                node.meta["val"] if "val" in node.meta else getattr(module, str(node.target))
            )
            node = copy
        seen.add(node)
        results.append(node)
    tail.args = (tuple(results),)
    module.recompile()


def _first_line(error: Exception) -> str:
    text = str(error).strip()
    return f"{type(error).__name__}: {text.splitlines()[0] if text else ''}"[:400].rstrip(".")
