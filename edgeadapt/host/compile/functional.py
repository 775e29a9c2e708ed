"""Writes inside a trace become values, where a look at the graph shows that it makes no difference.

The exporter would trace the whole program once more to do the same, which takes longer than the
rest of the export. What is not plain here, a write to a view or to what has views, is left to it.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import fx

aten = torch.ops.aten


def make_functional(module: fx.GraphModule) -> None:
    """Replace operators that write in place, in a trace in which no input is written to.

    ``relu_(x)`` becomes ``relu(x)``, and what reads x afterwards reads that. ``copy_(x, y)`` of one
    shape and type becomes a copy of y, ``as_strided_(x)`` of the shape that x has becomes x.
    """
    graph = module.graph
    place = {node: index for index, node in enumerate(graph.nodes)}
    for node in list(graph.nodes):
        schema = getattr(node.target, "_schema", None)
        if node.op != "call_function" or schema is None or not schema.is_mutable:
            continue
        written = node.args[0] if node.args else None
        if not isinstance(written, fx.Node) or _has_views(written):
            continue
        value = _value(graph, node, written)
        if value is None:
            continue
        place[value] = min(place.get(value, place[node]), place[node])
        node.replace_all_uses_with(value)
        for user in [user for user in written.users if place[user] > place[node]]:
            user.replace_input_with(written, value)
        graph.erase_node(node)


def _value(graph: fx.Graph, node: fx.Node, written: fx.Node) -> fx.Node | None:
    """What the tensor holds behind this node; None where that is not plain."""
    if node.target is aten.copy_.default:
        source = node.args[1]
        is_same = isinstance(source, fx.Node) and _kind(source) == _kind(written)
        if not is_same or _has_views(source):  # type: ignore[arg-type]
            return None
        with graph.inserting_before(node):  # a copy: either may be written to later
            copy = graph.call_function(aten.clone.default, (source,))
        copy.meta = dict(node.meta)
        return copy
    if node.target is aten.as_strided_.default:
        return written if _sizes(node.args[1]) == _sizes(written.meta["val"].shape) else None
    functional = _functional(node.target)
    if functional is None or _kind(node) != _kind(written) or _promotes(node, written):
        return None
    with graph.inserting_before(node):
        value = graph.call_function(functional, node.args, node.kwargs)
    value.meta = dict(node.meta)
    return value


def _promotes(node: fx.Node, written: fx.Node) -> bool:
    """Whether another argument would make the value wider than the tensor that is written to."""
    held = written.meta["val"]
    values = [arg.meta.get("val") for arg in node.args[1:] if isinstance(arg, fx.Node)]
    tensors = [value for value in values if isinstance(value, torch.Tensor)]
    return any(torch.promote_types(held.dtype, one.dtype) != held.dtype for one in tensors)


def _functional(target: Any) -> Any:
    """``aten.relu.default`` of ``aten.relu_.default``; None if there is none."""
    name, overload = target._schema.name.partition("::")[2], target._overloadname
    if not name.endswith("_") or not hasattr(aten, name[:-1]):
        return None
    packet = getattr(aten, name[:-1])
    found = getattr(packet, overload, None)
    same = found is not None and [a.name for a in found._schema.arguments] == [
        a.name for a in target._schema.arguments
    ]
    return found if same and not found._schema.is_mutable else None


def _sizes(given: Any) -> list[str]:
    """As text: a free batch has no number to compare."""
    return [str(size.meta["val"] if isinstance(size, fx.Node) else size) for size in given]


def _kind(node: fx.Node) -> tuple[Any, ...]:
    value = node.meta["val"]
    return (_sizes(value.shape), value.dtype)


def _has_views(node: fx.Node) -> bool:
    """Whether the tensor may share its memory with another that is read."""
    if any(map(_is_view, node.users)):
        return True
    while _is_view(node) and isinstance(node.args[0], fx.Node) and len(node.args[0].users) == 1:
        node = node.args[0]  # what it was a view of is not read again
    return _is_view(node) or node.op != "call_function"


def _is_view(node: fx.Node) -> bool:
    schema = getattr(node.target, "_schema", None)
    if schema is None:
        return node.op == "call_function"  # a part of several values
    return any(r.alias_info is not None and not r.alias_info.is_write for r in schema.returns)


__all__ = ["make_functional"]
