"""The committed description of the journal is that of the code, and of a journal on disk."""

from __future__ import annotations

import json
import sqlite3
from pathlib import Path

from journal_schema import journal_schema_text

from edgeadapt.device.storage.journal import Journal

COMMITTED = Path(__file__).parents[1] / "docs" / "format" / "journal.schema.json"
REGENERATE = "python tools/journal_schema.py > docs/format/journal.schema.json"


def test_the_committed_description_has_not_drifted() -> None:
    assert COMMITTED.read_text() == journal_schema_text(), (
        f"the journal changed; raise SCHEMA_VERSION if it must, then: {REGENERATE}"
    )


def test_a_journal_on_disk_has_exactly_the_described_columns(tmp_path: Path) -> None:
    Journal(tmp_path).close()
    described = {
        table: list(spec["columns"])
        for table, spec in json.loads(COMMITTED.read_text())["tables"].items()
    }
    with sqlite3.connect(tmp_path / "learner.db") as db:
        tables = [
            row[0]
            for row in db.execute(
                "SELECT name FROM sqlite_master WHERE type = 'table' AND name NOT LIKE 'sqlite_%'"
            )
        ]
        found = {
            table: [row[1] for row in db.execute(f"PRAGMA table_info({table})")] for table in tables
        }
    assert found == described
