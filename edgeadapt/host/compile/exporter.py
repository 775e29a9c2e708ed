"""Torch's ONNX exporter without what it does again for every graph.

Before a program is translated, torch builds its table of about 500 operators anew, and traces the
program once more to take composite operators apart. The table is the same for all exports of a
process. The second trace changes nothing in a program in which every operator has a translation
and none writes in place, which a program of :mod:`edgeadapt.host.compile.trace` is, as a rule.
Two thirds of the time of a compilation went there.
"""

from __future__ import annotations

import functools
import importlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import onnx_ir
import torch

OPSET = 18
_REGISTRATION = "torch.onnx._internal.exporter._registration"
_DECOMPOSITION = "torch.onnx._internal.exporter._decomp"
_PARTS = "create_onnx_friendly_decomposition_table"


def to_onnx(
    captured: torch.export.ExportedProgram, inputs: Sequence[str], outputs: Sequence[str]
) -> onnx_ir.Model:
    """Translate a captured program, the exporter's own optimiser off.

    Args:
        captured: from ``torch.export.export``. inputs, outputs: the names they get.
    """
    decompose = captured.run_decompositions

    def where_needed(table: Any = None, **options: Any) -> torch.export.ExportedProgram:
        is_final = table is not None and not any(
            _needs_it(node, table) for node in captured.graph.nodes
        )
        return captured if is_final else decompose(table, **options)

    captured.run_decompositions = where_needed  # type: ignore[method-assign]
    with _one_table():
        program = torch.onnx.export(
            captured,
            dynamo=True,
            verbose=False,
            optimize=False,
            opset_version=OPSET,
            input_names=list(inputs),
            output_names=list(outputs),
        )
    assert program is not None
    return program.model


def _needs_it(node: torch.fx.Node, table: dict[Any, Callable[..., Any]]) -> bool:
    """Whether the exporter would take this operator apart, or turn a write into a value."""
    if node.op != "call_function":
        return node.op not in ("placeholder", "output")
    schema = getattr(node.target, "_schema", None)
    return schema is not None and (schema.is_mutable or node.target in table)


@contextmanager
def _one_table() -> Iterator[None]:
    """While active, torch gets the tables that were built first: of operators, for each opset, and
    of what the exporter takes apart, for each set of operators.

    Where a version of torch keeps one elsewhere, it builds its own, which costs time alone.
    """
    registry = getattr(importlib.import_module(_REGISTRATION), "ONNXRegistry", None)
    with (
        _built_once(registry, "from_torchlib", _operators),
        _built_once(importlib.import_module(_DECOMPOSITION), _PARTS, _parts),
    ):
        yield


@contextmanager
def _built_once(owner: Any, name: str, kept: Callable[..., Any]) -> Iterator[None]:
    """While active, ``owner.name(...)`` is ``kept(owner.name, ...)``; nothing where there is no
    such.
    """
    build = getattr(owner, name, None)
    if build is None:
        yield
        return
    original = vars(owner)[name]
    setattr(owner, name, functools.partial(kept, build))
    try:
        yield
    finally:
        setattr(owner, name, original)


@functools.cache
def _operators(build: Callable[..., Any], *arguments: Any, **options: Any) -> Any:
    return build(*arguments, **options)


def _parts(build: Callable[..., Any], operators: Iterable[Any]) -> dict[Any, Any]:
    return dict(_parts_of(build, frozenset(operators)))  # a copy: torch takes entries out


@functools.cache
def _parts_of(build: Callable[..., Any], operators: frozenset[Any]) -> dict[Any, Any]:
    return build(set(operators))


__all__ = ["OPSET", "to_onnx"]
