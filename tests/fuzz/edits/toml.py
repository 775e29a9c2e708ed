"""Edits of TOML: of the tree that a file holds, and of its lines."""

from __future__ import annotations

import json
import sys
from random import Random
from typing import Any

from fuzz.edits import raw, tree

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

_LINES = (
    "[data]",
    "[[data]]",
    "[export]",
    "[encoder.options]",
    "[a.b.c]",
    "seed = 1",
    "seed = -1",
    "seed = 0x7fffffff",
    "seed = 2147483648",
    "path = 'x'",
    'name = "a/b"',
    "lr = nan",
    "lr = inf",
    "lr = 1e400",
    "momentum = nan",
    "validation = nan",
    "created = 1979-05-27T07:32:00Z",
    "at = 07:32:00",
    "day = 1979-05-27",
    "a.b.c = 1",
    "a.b = 2",
    '"" = 1',
    "size = [1, 2, 3]",
    "size = [0, 0]",
    "batches = []",
    'x = """',
    "x = '''",
    "= 1",
    "x = {a = 1, a = 2}",
    "classes = ['a', 'a']",
    '"\\u0000" = 1',
    "\0",
    "weights = '../../x'",
)


def edit(rng: Random, data: bytes, other: bytes = b"", *, texts: tuple[str, ...] = ()) -> bytes:
    chance = rng.random()
    if chance < 0.2:
        return raw.edit(rng, data, other)
    if chance < 0.4:
        lines = data.decode("utf-8", "replace").split("\n")
        lines.insert(
            rng.randrange(len(lines) + 1),
            rng.choice((*_LINES, *data.decode("utf-8", "replace").split("\n"))),
        )
        return "\n".join(lines).encode()
    try:
        table = tree.edit(rng, tomllib.loads(data.decode()), texts=texts)
        return written(rng, table).encode("utf-8", "surrogatepass")
    except (ValueError, RecursionError):
        return raw.edit(rng, data, other)


def written(rng: Random, table: Any) -> str:
    """TOML of a tree, sections first of all where it has any."""
    if not isinstance(table, dict):
        return f"x = {_value(rng, table)}"
    plain = [
        f"{_key(key)} = {_value(rng, value)}"
        for key, value in table.items()
        if not isinstance(value, dict)
    ]
    for key, section in table.items():
        if isinstance(section, dict):
            plain += [
                f"[{_key(key)}]",
                *(f"{_key(inner)} = {_value(rng, value)}" for inner, value in section.items()),
            ]
    return "\n".join(plain) + "\n"


def _key(key: str) -> str:
    return key if key.isidentifier() and key.isascii() else json.dumps(key)


def _value(rng: Random, value: Any) -> str:
    if value == tree.DEEP:
        depth = rng.choice((50, 500, 5000))
        return "[" * depth + "]" * depth
    if isinstance(value, dict):
        return (
            "{"
            + ", ".join(f"{_key(key)} = {_value(rng, inner)}" for key, inner in value.items())
            + "}"
        )
    if isinstance(value, list):
        return "[" + ", ".join(_value(rng, inner) for inner in value) + "]"
    if isinstance(value, float):
        return repr(value)
    if isinstance(value, int) and not isinstance(value, bool) and rng.random() < 0.02:
        return "9" * rng.choice((20, 400, 5000))
    return json.dumps(value) if isinstance(value, (str, bool, int)) else '""'
