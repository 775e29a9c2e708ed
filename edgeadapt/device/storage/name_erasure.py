"""Names of sources and classes that only the history still knows: taken out of it.

A source is named as long as a label of it is there, a class as long as it has a label or a slot, or
is the factory's. After that its name in ``commits`` becomes a placeholder, in what people read and
in the class tables alike, so that a replay finds every slot as it was. What the digest of such a
commit covered is not there any more: it says so instead.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

NAMES_FORGOTTEN = "names forgotten"
"""In place of the digest of a commit whose class table named one of them."""
_SOURCE = "(forgotten)"


@dataclass(frozen=True)
class Names:
    """Sources and classes that may be named no more."""

    sources: frozenset[str] = frozenset()
    classes: frozenset[str] = frozenset()

    def __bool__(self) -> bool:
        return bool(self.sources or self.classes)


def only_in_history(db: sqlite3.Connection, names: Names) -> Names:
    """Those of them that commits name, and no label and no slot any more."""
    found = db.execute(
        "SELECT classes FROM commits WHERE classes IS NOT NULL ORDER BY number DESC LIMIT 1"
    ).fetchone()
    live = set() if found is None else set(json.loads(found[0]))
    gone = Names(
        frozenset(name for name in names.sources if not _is_there(db, "source", name)),
        frozenset(name for name in names.classes - live if not _is_there(db, "label", name)),
    )
    if not gone:
        return gone
    named: set[str] = set()
    for detail, classes in db.execute("SELECT detail, classes FROM commits"):
        named |= _named_in(json.loads(detail), gone)
        named |= gone.classes.intersection(json.loads(classes) if classes else ())
    return Names(gone.sources & named, gone.classes & named)


def erase(db: sqlite3.Connection, names: Names) -> None:
    """Put placeholders into every commit, the newest included. Called inside a transaction."""
    found = db.execute("SELECT number, detail, classes FROM commits ORDER BY number").fetchall()
    taken = {name for _, _, classes in found if classes for name in json.loads(classes)}
    free = (f"(forgotten {n})" for n in range(1, 1 << 30))
    placeholders = {name: next(f for f in free if f not in taken) for name in sorted(names.classes)}
    db.executemany(
        "DELETE FROM decisions WHERE kind = 'answer' AND json_extract(why, '$.predicted') = ?",
        [(name,) for name in sorted(names.classes)],
    )
    is_named = False  # by the class table after the commit at hand
    for number, text, classes in found:
        about = json.loads(text)
        detail = _without(about, names.sources, placeholders)
        if classes is not None:
            table = json.loads(classes)
            is_named = any(name in placeholders for name in table)
            if is_named:
                kept = json.dumps([placeholders.get(name, name) for name in table])
                db.execute("UPDATE commits SET classes = ? WHERE number = ?", (kept, number))
        if detail != about:
            row = (json.dumps(detail), number)
            db.execute("UPDATE commits SET detail = ? WHERE number = ?", row)
        if is_named:
            row = (NAMES_FORGOTTEN, number)
            db.execute("UPDATE commits SET digest = ? WHERE number = ? AND digest != ''", row)


def _is_there(db: sqlite3.Connection, column: str, name: str) -> bool:
    found = db.execute(f"SELECT 1 FROM evidence WHERE {column} = ? LIMIT 1", (name,)).fetchone()
    return found is not None


def _named_in(detail: Mapping[str, Any], names: Names) -> set[str]:
    found = {str(detail.get("source"))} & names.sources
    for text in _texts(detail):
        found |= {name for name in names.classes if _replaced(text, {name: ""}) != text}
    return found


def _texts(detail: Mapping[str, Any]) -> Iterable[str]:
    return (detail[key] for key in ("class", "why") if isinstance(detail.get(key), str))


def _without(
    detail: Mapping[str, Any], sources: frozenset[str], placeholders: Mapping[str, str]
) -> dict[str, Any]:
    result = dict(detail)
    if result.get("source") in sources:
        result["source"] = _SOURCE
    for key in ("class", "why"):
        if isinstance(result.get(key), str):
            result[key] = _replaced(result[key], placeholders)
    return result


def _replaced(text: str, placeholders: Mapping[str, str]) -> str:
    """Names that are the text, that are quoted in it, or that are in the list at its end."""
    if text in placeholders:
        return placeholders[text]
    for name, placeholder in placeholders.items():
        text = text.replace(repr(name), repr(placeholder))
    head, colon, end = text.rpartition(": ")
    return head + colon + ", ".join(placeholders.get(part, part) for part in end.split(", "))
