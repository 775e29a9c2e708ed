"""Edits of nested dicts and lists, as JSON and TOML hold them: one value replaced, dropped,
doubled, moved, deepened.

``DEEP`` stands in a tree for brackets nested thousands deep, which no tree could hold; writing it
out turns it into text.
"""

from __future__ import annotations

import copy
import json
import re
from collections.abc import Iterator
from random import Random
from typing import Any

from fuzz.edits import raw

DEEP = "\ue000deep"
_NUMBERS = [
    0,
    1,
    -1,
    2,
    3,
    255,
    2**31,
    2**32,
    2**53 + 1,
    2**63 - 1,
    2**63,
    -(2**63) - 1,
    2**64,
    10**30,
    0.5,
    -0.0,
    1e-320,
    1e308,
    3.5e38,
    float("inf"),
    float("-inf"),
    float("nan"),
]
_TEXTS = [
    "",
    " ",
    "a",
    "float32",
    "F32",
    "..",
    "../../etc/passwd",
    "/etc/passwd",
    "\0",
    "a\nb",
    "\u202e",
    "\U0001f600",
    "é" * 40,
    "x" * 3000,
    "None",
    "true",
    "$.a[0]",
    "'; --",
]
_PLAIN: list[Any] = [None, True, False, [], {}, [[]], [None], {"": None}, ["a", 1, None]]
Path = tuple[Any, ...]


def edit(rng: Random, tree: Any, *, texts: tuple[str, ...] = (), other: Any = None) -> Any:
    """The tree, changed in place by one to three edits. ``texts`` are words of this format;
    ``other`` a tree to take branches from.
    """
    edited = tree
    for _ in range(rng.choice((1, 1, 1, 2, 3))):
        edited = _once(rng, edited, texts, other)
    return edited


def value(rng: Random, texts: tuple[str, ...] = ()) -> Any:
    """Any value at all."""
    kind = rng.randrange(10)
    if kind < 3:
        return rng.choice(_NUMBERS)
    if kind < 6:
        return rng.choice(_TEXTS)
    if kind < 8 and texts:
        return rng.choice(texts)
    return copy.deepcopy(rng.choice(_PLAIN))


def paths(tree: Any, here: Path = ()) -> Iterator[Path]:
    """Every place in a tree, the root included."""
    yield here
    if isinstance(tree, dict):
        for key, inner in tree.items():
            yield from paths(inner, (*here, key))
    elif isinstance(tree, list):
        for index, inner in enumerate(tree):
            yield from paths(inner, (*here, index))


def at(tree: Any, path: Path) -> Any:
    for key in path:
        tree = tree[key]
    return tree


def _once(rng: Random, tree: Any, texts: tuple[str, ...], other: Any) -> Any:
    places = list(paths(tree))
    path = rng.choice(places)
    if not path:
        return tree if rng.random() < 0.9 else value(rng, texts)
    parent, key = at(tree, path[:-1]), path[-1]
    kind = rng.randrange(12)
    if kind < 3:
        parent[key] = value(rng, texts)
    elif kind < 5:
        parent[key] = _near(rng, parent[key])
    elif kind == 5:
        del parent[key]
    elif kind == 6:
        parent[key] = copy.deepcopy(at(tree, rng.choice(places[:200])))
    elif kind == 7 and isinstance(parent, list):
        parent[key:key] = [copy.deepcopy(parent[key]) for _ in range(rng.choice((1, 2, 60)))]
    elif kind == 8 and isinstance(parent, dict):
        parent[str(value(rng, texts))] = (
            parent.pop(key) if rng.random() < 0.5 else copy.deepcopy(parent[key])
        )
    elif kind == 9:
        for _ in range(rng.choice((1, 3, 20))):
            parent[key] = [parent[key]] if rng.random() < 0.7 else {"a": parent[key]}
        if rng.random() < 0.1:
            parent[key] = DEEP
    elif kind == 10 and isinstance(parent[key], list):
        rng.shuffle(parent[key])
    elif kind == 11 and other is not None:
        parent[key] = copy.deepcopy(at(other, rng.choice(list(paths(other)))))
    return tree


def _near(rng: Random, found: Any) -> Any:
    """A value of the same type."""
    if isinstance(found, bool):
        return not found
    if isinstance(found, int):
        return found + rng.choice((-1, 1, 2, 1000, -found, 2**31))
    if isinstance(found, float):
        return found * rng.choice((-1.0, 0.0, 2.0, 1e6, float("inf"), float("nan")))
    if isinstance(found, str):
        place = rng.randrange(len(found) + 1)
        return (
            found[:place]
            + rng.choice(("", "a", "\n", ".", "\0", "Z" * 20))
            + found[place + rng.choice((0, 1)) :]
        )
    return found


def to_json(rng: Random, tree: Any) -> bytes:
    """Bytes of a tree; now and then with a key twice, or text that is not quite JSON (``NaN``, a
    byte order mark).
    """
    depth = rng.choice((50, 500, 5000, 100_000))
    text = dumped(tree, depth, is_closed=rng.random() < 0.7)
    chance = rng.random()
    if chance < 0.04 and isinstance(tree, dict) and tree:
        key = rng.choice(list(tree))
        text = "{" + f"{json.dumps(key)}: {json.dumps(value(rng))}, " + text[1:]
    elif chance < 0.06:
        text = "\ufeff" + text
    elif chance < 0.1:
        text = re.sub(
            r"\d+",
            lambda found: (
                "9" * rng.choice((20, 400, 5000)) if rng.random() < 0.05 else found.group()
            ),
            text,
        )
    return text.encode("utf-8", "surrogatepass")


def dumped(tree: Any, depth: int = 5000, *, is_closed: bool = True) -> str:
    """JSON text, with so many brackets in the place of ``DEEP``."""
    return json.dumps(tree).replace(json.dumps(DEEP), "[" * depth + "]" * (depth * is_closed))


def edit_json(
    rng: Random, data: bytes, other: bytes = b"", *, texts: tuple[str, ...] = ()
) -> bytes:
    """The same on bytes; what is no JSON, or nested too deep to be a tree here, is edited as
    bytes.
    """
    try:
        return to_json(rng, edit(rng, json.loads(data), texts=texts))
    except (ValueError, RecursionError):
        return raw.edit(rng, data, other)
