"""What a state folder holds, as SQLite reads it: every table, row by row, without the columns that
only say when and at what cost.
"""

from __future__ import annotations

import shutil
import sqlite3
import tempfile
from contextlib import closing
from pathlib import Path
from typing import Any

FILE_NAME = "learner.db"
Stored = dict[str, list[tuple[Any, ...]]]
_COST = {"written"}  # bytes written so far: a change that was tried twice cost more


def stored_in(folder: Path) -> Stored:
    """Table -> rows, of an open or a closed folder; {} where no database was begun."""
    path = folder / FILE_NAME
    if not path.exists() or not path.stat().st_size:
        return {}
    with closing(sqlite3.connect(f"file:{path}?mode=rw", uri=True, isolation_level=None)) as db:
        tables = [
            name
            for (name,) in db.execute(
                "SELECT name FROM sqlite_master WHERE type = 'table' AND name NOT LIKE 'sqlite%'"
                " ORDER BY name"
            )
        ]
        found: Stored = {}
        for table in tables:
            columns = [
                row[1] for row in db.execute(f"PRAGMA table_info({table})") if row[1] not in _COST
            ]
            found[table] = sorted(
                db.execute(f"SELECT {', '.join(columns)} FROM {table}").fetchall(), key=repr
            )
        return found


def stored_after_crash(folder: Path) -> tuple[Stored, str]:
    """(content, what ``PRAGMA integrity_check`` says) of a copy: the folder itself stays as the
    crash left it.
    """
    if not folder.exists():
        return {}, "ok"
    with tempfile.TemporaryDirectory(dir=folder.parent) as place:
        copy = Path(place) / "copy"
        shutil.copytree(folder, copy)
        try:
            found = stored_in(copy)
            if not found:
                return found, "ok"
            with closing(sqlite3.connect(copy / FILE_NAME)) as db:
                return found, str(db.execute("PRAGMA integrity_check").fetchone()[0])
        except sqlite3.DatabaseError as error:
            return {}, str(error)


def is_beginning_of(found: Stored, opened: Stored) -> bool:
    """True for what opening may leave half done: no table yet, or the tables without rows but for a
    part of ``meta``.
    """
    if not found:
        return True
    return found.keys() == opened.keys() and all(
        set(rows) <= set(opened[table]) for table, rows in found.items()
    )


def difference(found: Stored, expected: Stored) -> str:
    """Where two contents differ, for people."""
    for table in sorted(found.keys() | expected.keys()):
        if found.get(table) != expected.get(table):
            mine, others = found.get(table, []), expected.get(table, [])
            surplus = [r for r in mine if r not in others]
            missing = [r for r in others if r not in mine]
            return (
                f"{table}: {len(mine)} rows, {len(others)} expected; not expected"
                f" {repr(surplus[:2])[:300]}; missing {repr(missing[:2])[:300]}"
            )
    return ""
