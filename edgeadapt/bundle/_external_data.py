"""Where an ONNX model keeps its tensors, read without the ``onnx`` package.

An initialiser may name a file of the device (``external_data`` with ``location: /etc/passwd``) or,
in ONNX Runtime, an address of its memory. A bundle may only say ``bundle:``, which the loader
replaces. This walks the protobuf wire format along the fields that can hold a tensor, everywhere a
tensor can be.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator

from edgeadapt._protobuf import Malformed, raw_fields
from edgeadapt.errors import BundleError
from edgeadapt.onnx_file import LOCATION

_MAX_DEPTH = 64
# a graph of 50,000 nodes has some 600,000; two gigabytes of empty ones would take an hour to walk
_MAX_FIELDS = 1 << 20
_EXTERNAL = 1

# message -> field number -> message: every path from a model to a tensor (onnx.proto, IR version
# 12)
_CHILDREN: dict[str, dict[int, str]] = {
    "model": {7: "graph", 20: "training", 25: "function"},
    "graph": {1: "node", 5: "tensor", 15: "sparse"},
    "training": {1: "graph", 2: "graph"},
    "function": {7: "node", 11: "attribute"},
    "node": {5: "attribute"},
    "attribute": {5: "tensor", 6: "graph", 10: "tensor", 11: "graph", 22: "sparse", 23: "sparse"},
    "sparse": {1: "tensor", 2: "tensor"},
}
# a second one would be merged into the first: another name
_ONCE = {("attribute", 5), ("attribute", 22), ("sparse", 1), ("sparse", 2)}
_NAME, _ENTRY, _DATA_LOCATION = 8, 13, 14  # of TensorProto


def check_external_data(member: str, model: bytes, frozen: Iterable[str]) -> None:
    """Refuse a model that reaches for data outside the bundle.

    Args:
        member: name of the graph, for messages.
        model: a serialised ``ModelProto``.
        frozen: the tensors the manifest lets this graph take from ``bundle:``.

    Raises:
        BundleError: malformed protobuf, another location, or a tensor that is not in ``frozen``.
    """
    allowed = set(frozen)
    try:
        for name, location in external_tensors(model):
            if location != LOCATION:
                raise BundleError(
                    f"{member}: tensor {name!r} has external data at {location!r}; only"
                    f" {LOCATION!r} is allowed"
                )
            if name not in allowed:
                raise BundleError(
                    f"{member}: tensor {name!r} is external, but the manifest does not list it as"
                    " frozen for this graph"
                )
    except Malformed as error:
        raise BundleError(f"{member}: not an ONNX model: {error}") from None


def external_tensors(model: bytes) -> Iterator[tuple[str, str]]:
    """Name and location (``""`` for none) of every tensor that is external or says it is."""
    count = itertools.count(1)
    open_messages: list[tuple[str, Iterator[tuple[int, int | memoryview]], set[int]]] = [
        ("model", _fields(memoryview(model), count), set())
    ]
    has_graph = False
    while open_messages:
        message, fields, seen = open_messages[-1]
        for field, value in fields:
            child = _CHILDREN[message].get(field)
            if child is None or not isinstance(value, memoryview):
                continue
            has_graph = has_graph or message == "model"
            if (message, field) in _ONCE and field in seen:
                raise Malformed(f"field {field} of a message can be given once, it is given twice")
            seen.add(field)
            if child == "tensor":
                yield from _locations(value, count)
                continue
            if len(open_messages) > _MAX_DEPTH:
                raise Malformed(f"nested deeper than {_MAX_DEPTH}")
            open_messages.append((child, _fields(value, count), set()))
            break
        else:
            open_messages.pop()
    if not has_graph:
        raise Malformed("it has no graph")


def _locations(tensor: memoryview, count: Iterator[int]) -> Iterator[tuple[str, str]]:
    name, is_external, found = "", False, []
    for field, value in _fields(tensor, count):
        if field == _DATA_LOCATION and isinstance(value, int):
            is_external = is_external or value & 0xFFFFFFFF == _EXTERNAL  # an enum keeps 32 bits
        elif field == _NAME and isinstance(value, memoryview):
            name = _text(value)
        elif field == _ENTRY and isinstance(value, memoryview):
            is_external = True
            pair = {
                number: _text(part)
                for number, part in _fields(value, count)
                if isinstance(part, memoryview)
            }
            if pair.get(1, "") == "location":
                found.append(pair.get(2, ""))
    if is_external:
        yield from ((name, location) for location in found or [""])


def _fields(data: memoryview, count: Iterator[int]) -> Iterator[tuple[int, int | memoryview]]:
    """The fields of a message. ``count`` goes on over the whole model."""
    for field, value, _ in raw_fields(data):
        if next(count) > _MAX_FIELDS:
            raise Malformed(f"more than {_MAX_FIELDS} fields")
        if value is not None:
            yield field, value


def _text(value: memoryview) -> str:
    return bytes(value).decode("utf-8", "backslashreplace")
