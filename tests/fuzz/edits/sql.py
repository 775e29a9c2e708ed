"""Edits of a SQLite file: values of any type in any column, rows dropped and doubled, tables
changed under it, and bytes of its pages.
"""

from __future__ import annotations

import json
import os
import sqlite3
import tempfile
from contextlib import closing, suppress
from pathlib import Path
from random import Random
from typing import Any

from fuzz.edits import raw, safetensors, tree

_TEXTS = (
    "",
    "x",
    "learned",
    "held_out",
    "received",
    "withdrawn",
    "vetoed",
    "held",
    "source",
    "condition-1",
    "Coat",
    "Sandal",
    "factory",
    "shifted",
    "[]",
    "{}",
    "null",
    "[1, 2]",
    "[[1, [1]]]",
    '{"added": [1, 2]}',
    '{"added": ["x"]}',
    '{"taken": [[1, [1]]]}',
    '{"base": [["learned", 1, [1, 2]]]}',
    '{"to": 0}',
    '{"to": 99}',
    '{"learned": -1}',
    '{"learned": "x"}',
    "uint8",
    "|O",
    "[28, 28]",
    "[-1]",
    "[99999999, 99999999]",
    "0",
    "1",
    "2",
    "3",
    "99",
    "-1",
    "[" * 5000,
    "9" * 5000,
    "\0",
    "é",
)
_NUMBERS = (
    0,
    1,
    -1,
    2,
    3,
    255,
    2**31,
    2**53,
    2**63 - 1,
    -(2**63),
    0.5,
    -0.0,
    1e308,
    float("inf"),
    float("-inf"),
)
_OBJECTS = (
    (
        "CREATE VIEW {0} AS WITH RECURSIVE c(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM c) SELECT"
        " x AS seq, x AS number, x AS commit_number, x AS key, x AS value FROM c"
    ),
    "CREATE TRIGGER t AFTER INSERT ON {1} BEGIN DELETE FROM {0}; END",
    "CREATE TRIGGER t AFTER UPDATE ON {0} BEGIN DELETE FROM {1}; END",
    "CREATE TABLE {0} (a)",
    "CREATE TABLE extra (a)",
    "CREATE VIEW extra AS SELECT * FROM {0}",
    "CREATE TABLE {0} AS SELECT * FROM {1}",
)


def edit(rng: Random, data: bytes, other: bytes = b"") -> bytes:
    """A file that SQLite still opens, most of the time."""
    if rng.random() < 0.15:
        return _spoilt_pages(rng, data, other)
    handle, name = tempfile.mkstemp(
        suffix=".db", dir="/dev/shm" if os.access("/dev/shm", os.W_OK) else None
    )
    os.close(handle)
    path = Path(name)
    try:
        path.write_bytes(data)
        with (
            closing(sqlite3.connect(path, isolation_level=None)) as db,
            suppress(sqlite3.Error, ValueError),
        ):
            db.execute("PRAGMA journal_mode=DELETE")
            db.execute("PRAGMA synchronous=OFF")
            db.execute("PRAGMA ignore_check_constraints=ON")
            for _ in range(rng.choice((1, 1, 2, 4))):
                with suppress(
                    sqlite3.Error, OverflowError, ValueError, TypeError, RecursionError
                ):  # a constraint keeps this edit out; the others stand
                    _once(rng, db)
        edited = path.read_bytes()
        return edited if len(edited) <= raw.LARGEST else data
    finally:
        for left in path.parent.glob(path.name + "*"):
            left.unlink()


def _spoilt_pages(rng: Random, data: bytes, other: bytes) -> bytes:
    """Bytes beyond the header, so that SQLite looks at them; whole pages swapped now and then."""
    if rng.random() < 0.2 and len(data) >= 3 * 4096:
        pages = [data[at : at + 4096] for at in range(0, len(data), 4096)]
        one, two = rng.randrange(1, len(pages)), rng.randrange(1, len(pages))
        pages[one], pages[two] = pages[two], pages[one]
        return b"".join(pages)
    return (
        data[:100] + raw.edit(rng, data[100:], other[100:])
        if rng.random() < 0.9
        else raw.edit(rng, data, other)
    )


def _once(rng: Random, db: sqlite3.Connection) -> None:
    tables = sorted(
        name
        for (name,) in db.execute(
            "SELECT name FROM sqlite_master WHERE type = 'table' AND name NOT LIKE 'sqlite_%'"
        )
    )
    if not tables:
        return
    kind = rng.random()
    table = rng.choice(tables)
    if kind < 0.03:
        db.execute("PRAGMA writable_schema=ON")
        db.execute(
            "UPDATE sqlite_master SET sql = replace(replace(sql, 'STRICT', ''), 'NOT NULL', '')"
        )
        db.execute("PRAGMA writable_schema=RESET")
    elif kind < 0.06:
        if rng.random() < 0.7:
            db.execute(f"DROP TABLE {table}")
        db.execute(rng.choice(_OBJECTS).format(table, rng.choice(tables)))
    elif kind < 0.08:
        columns = [row[1] for row in db.execute(f"PRAGMA table_info({table})")]
        db.execute(
            rng.choice(
                (
                    f"ALTER TABLE {table} DROP COLUMN {rng.choice(columns)}",
                    f"ALTER TABLE {table} ADD COLUMN extra",
                    f"ALTER TABLE {table} RENAME COLUMN {rng.choice(columns)} TO other",
                )
            )
        )
    elif kind < 0.13:
        db.execute(
            f"PRAGMA {rng.choice(('user_version', 'application_id'))} ="
            f" {rng.choice((0, 7, 2**31 - 1))}"
        )
        db.execute(
            "UPDATE meta SET value = ? WHERE key = ?",
            (rng.choice(_TEXTS), rng.choice(("schema", "space", "bundle", "sha256"))),
        )
    else:
        _edit_row(rng, db, table)


def _edit_row(rng: Random, db: sqlite3.Connection, table: str) -> None:
    rows = [row for (row,) in db.execute(f"SELECT rowid FROM {table} LIMIT 500")]
    if not rows:
        return
    row = rng.choice(rows)
    kind = rng.random()
    if kind < 0.08:
        db.execute(f"DELETE FROM {table} WHERE rowid = ?", (row,))
        return
    if kind < 0.14:
        others = [
            name for (_, name, _, _, _, key) in db.execute(f"PRAGMA table_info({table})") if not key
        ]
        db.execute(
            f"INSERT INTO {table} ({', '.join(others)}) SELECT {', '.join(others)} FROM {table}"
            " WHERE rowid = ?",
            (row,),
        )
        return
    if kind < 0.2:
        db.execute(
            f"UPDATE {table} SET rowid = ? WHERE rowid = ?",
            (rng.choice((0, -1, row + 1, row + 1000, 2**62, 2**63 - 1)), row),
        )
        return
    column = rng.choice([name for (_, name, *_) in db.execute(f"PRAGMA table_info({table})")])
    (found,) = db.execute(f"SELECT {column} FROM {table} WHERE rowid = ?", (row,)).fetchone()
    where = "" if rng.random() < 0.05 else f" WHERE rowid = {row}"
    db.execute(f"UPDATE {table} SET {column} = ?{where}", (_another(rng, found),))


def _another(rng: Random, found: Any) -> Any:
    """Another value: mostly of the type that is there, edited as what it is."""
    if rng.random() < 0.15:
        return rng.choice(
            (None, rng.choice(_TEXTS), rng.choice(_NUMBERS), b"", b"\0" * 7, rng.randbytes(400))
        )
    if isinstance(found, bytes):
        if len(found) > 16 and int.from_bytes(found[:8], "little") < len(found):
            return safetensors.edit(rng, found)
        return rng.choice(
            (
                found[:-1],
                found + b"\0\0",
                found * 2,
                b"",
                b"\0\x7e" * (len(found) // 2),
                raw.edit(rng, found),
            )
        )
    if isinstance(found, str):
        if found[:1] in "[{" and rng.random() < 0.8:
            return tree.dumped(tree.edit(rng, json.loads(found), texts=_TEXTS[:20]))
        return rng.choice(_TEXTS)
    return (
        rng.choice(_NUMBERS)
        if rng.random() < 0.7 or not isinstance(found, int)
        else found + rng.choice((-1, 1, 1000))
    )
