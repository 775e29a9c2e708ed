"""The tables of ``learner.db`` as JSON: what other languages read. Committed as
``docs/format/journal.schema.json``.

Regenerate it with ``python tools/journal_schema.py > docs/format/journal.schema.json``.
"""

from __future__ import annotations

import json
import re
import sqlite3
from typing import Any

from edgeadapt.device.storage.folder import FILE_NAME, LOCK_NAME
from edgeadapt.device.storage.schema import SCHEMA, VERSION

_COMMENT = re.compile(r"^\s*(\w+) [A-Z]+.*?--\s*(.+)$", re.MULTILINE)


def journal_schema() -> dict[str, Any]:
    """Version, files and tables; a column has its SQLite type, whether it may be NULL, and what it
    holds.
    """
    with sqlite3.connect(":memory:") as db:
        db.executescript(SCHEMA)
        names = [
            row[0]
            for row in db.execute(
                "SELECT name FROM sqlite_master WHERE type = 'table' AND name NOT LIKE 'sqlite_%'"
                " ORDER BY name"
            )
        ]
        tables = {name: _table(db, name) for name in names}
    return {
        "title": "edgeadapt journal",
        "version": VERSION,
        "file": FILE_NAME,
        "lock": f"{LOCK_NAME}: held with flock while a process uses the folder; contains its pid",
        "format": "SQLite 3, WAL; meta.schema holds the version",
        "tables": tables,
    }


def _table(db: sqlite3.Connection, table: str) -> dict[str, Any]:
    sql = str(db.execute("SELECT sql FROM sqlite_master WHERE name = ?", (table,)).fetchone()[0])
    about = dict(_COMMENT.findall(sql))
    allowed = {
        name: re.findall(r"'([^']*)'", values)
        for name, values in re.findall(r"CHECK \((\w+) IN \(([^)]*)\)", sql)
    }
    columns = {}
    for _, name, kind, is_required, _, is_key in db.execute(f"PRAGMA table_info({table})"):
        columns[name] = {"type": kind, "nullable": not (is_required or is_key)}
        columns[name] |= {"primary_key": True} if is_key else {}
        columns[name] |= {"allowed": allowed[name]} if name in allowed else {}
        columns[name] |= {"about": about[name]} if name in about else {}
    return {"columns": columns}


def journal_schema_text() -> str:
    """The bytes of the committed file."""
    return json.dumps(journal_schema(), indent=2) + "\n"


if __name__ == "__main__":
    print(journal_schema_text(), end="")
