"""The tables of ``learner.db``, and how a file of an earlier version becomes one of this.

A migration is one transaction: a kill leaves the earlier version, which the next start migrates
again. A newer version is refused.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Callable

import numpy as np
from safetensors.numpy import load as load_tensors
from safetensors.numpy import save as save_tensors

from edgeadapt.device.numerics.stable_hash import stable_hash

VERSION = 3
_TABLES = ("meta", "evidence", "raw", "commits", "decisions", "snapshots")

SCHEMA = """
CREATE TABLE meta (key TEXT PRIMARY KEY, value TEXT NOT NULL) STRICT;
CREATE TABLE evidence (
    seq INTEGER PRIMARY KEY AUTOINCREMENT,  -- order of arrival; commits name rows by it
    id TEXT NOT NULL,                       -- of the sample; a corrected label is a later row of the same sample
    source TEXT NOT NULL, stream TEXT NOT NULL, domain TEXT NOT NULL,
    time REAL NOT NULL,                     -- when the sample was met, seconds since the epoch
    label TEXT NOT NULL, weight REAL NOT NULL,
    space TEXT NOT NULL,
    met TEXT NOT NULL CHECK (met IN ('factory','shifted','adapted')),
    is_factory INTEGER NOT NULL,            -- 1: it may move the class means of the factory condition
    draw INTEGER NOT NULL,                  -- hash of the features: the lowest fifth of a class is held out
    status TEXT NOT NULL CHECK (status IN ('received','learned','held_out','held','vetoed','withdrawn')),
    commit_number INTEGER,                  -- the commit that set the status
    trusted INTEGER NOT NULL,               -- 1: a person vouches for it; it is not held for contradicting the head
    receipt BLOB,                           -- where it was counted, as the graph gave it, little endian; if the bundle gives receipts
    features BLOB NOT NULL                  -- float16 z then taps, little endian; empty once they have expired
) STRICT;
CREATE INDEX evidence_by_status ON evidence (status, label, draw);
CREATE INDEX evidence_that_judges ON evidence (domain, seq) WHERE status = 'held_out';
CREATE INDEX evidence_by_id ON evidence (id);
CREATE INDEX evidence_by_source ON evidence (source);
CREATE INDEX evidence_by_time ON evidence (time);
CREATE TABLE raw (
    seq INTEGER PRIMARY KEY,                -- of the evidence row
    dtype TEXT NOT NULL, shape TEXT NOT NULL,
    input BLOB NOT NULL                     -- the input as the encoder took it, C order, little endian
) STRICT;
CREATE TABLE commits (
    number INTEGER PRIMARY KEY, time REAL NOT NULL, kind TEXT NOT NULL, outcome TEXT NOT NULL,
    detail TEXT NOT NULL,                   -- JSON for people
    rows TEXT NOT NULL,                     -- JSON: what the commit did with evidence rows, by seq (see journal.Moves)
    tables TEXT NOT NULL,                   -- JSON: domain table and counters after this commit
    classes TEXT,                           -- JSON: class names by slot after this commit; NULL: as after the commit before
    tensors BLOB,                           -- safetensors: domain tensors this commit changed, corrections it learned through
    digest TEXT NOT NULL,                   -- SHA-256 of tables and checkpointed tensors after this commit; empty for earlier versions
    written INTEGER NOT NULL                -- bytes this journal had written to the disk before this commit, since it was created
) STRICT;
CREATE INDEX commits_with_classes ON commits (number) WHERE classes IS NOT NULL;
CREATE TABLE decisions (time REAL NOT NULL, stream TEXT NOT NULL, kind TEXT NOT NULL, domain TEXT NOT NULL, why TEXT NOT NULL) STRICT;
CREATE TABLE snapshots (commit_number INTEGER PRIMARY KEY, tensors BLOB NOT NULL) STRICT;
"""  # noqa: E501 - written journals are compared with it word for word


def _from_1(db: sqlite3.Connection) -> None:
    """Rows get their sequence number as name, a draw, and how they were met; commits say what they
    added and took.
    """
    for table in ("evidence", "commits"):
        db.execute(f"ALTER TABLE {table} RENAME TO {table}_1")
    for index in ("status", "source", "commit"):
        db.execute(f"DROP INDEX IF EXISTS evidence_by_{index}")
    for statement in _statements("evidence", "raw", "commits"):
        db.execute(statement)
    db.create_function("draw_of", 1, lambda blob: stable_hash(np.frombuffer(blob, "<f2")))
    db.execute(
        "INSERT INTO evidence SELECT seq, id, source, stream, domain, time, label, weight, space,"
        " CASE WHEN is_factory THEN 'factory' WHEN domain = 'source' THEN 'shifted' ELSE 'adapted'"
        " END, is_factory, draw_of(features), status, commit_number, 0, NULL, features"
        " FROM evidence_1 ORDER BY seq"
    )
    seq_of = dict(db.execute("SELECT id, seq FROM evidence_1 ORDER BY seq").fetchall())
    known = None
    for number, at, kind, outcome, detail, rows, tables, blob in db.execute(
        "SELECT * FROM commits_1 ORDER BY number"
    ).fetchall():
        about = json.loads(detail)
        seqs = [seq_of[sample] for sample in json.loads(rows) if sample in seq_of]
        moves = _moves_of_1(kind, outcome, about, seqs)
        if blob:
            domain = about.get("domain", "source")
            named = {
                k if k.startswith("domain/") else f"correction/{domain}/{k}": v
                for k, v in load_tensors(blob).items()
            }
            blob = save_tensors(named) if named else None
        rest, classes = split_tables(tables)
        new, known = (None if classes == known else classes), classes
        db.execute(
            "INSERT INTO commits VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, '', 0)",
            (number, at, kind, outcome, detail, json.dumps(moves), rest, new, blob),
        )
    db.execute("DROP TABLE evidence_1")
    db.execute("DROP TABLE commits_1")


_OF_2 = (
    "seq, id, source, stream, domain, time, label, weight, space, met, is_factory, draw, status,"
    " commit_number"
)


def _from_2(db: sqlite3.Connection) -> None:
    """Rows say whether a person vouches for them; until then nobody could."""
    if "trusted" in {row[1] for row in db.execute("PRAGMA table_info(evidence)")}:
        return  # a file of version 1 has just been given this table
    for index in ("by_status", "that_judges", "by_id", "by_source", "by_time"):
        db.execute(f"DROP INDEX IF EXISTS evidence_{index}")
    db.execute("ALTER TABLE evidence RENAME TO evidence_2")
    for statement in _statements("evidence"):
        db.execute(statement)
    db.execute(
        f"INSERT INTO evidence SELECT {_OF_2}, 0, receipt, features FROM evidence_2 ORDER BY seq"
    )
    last = db.execute("SELECT seq FROM sqlite_sequence WHERE name = 'evidence_2'").fetchone()
    if last is not None:  # the numbers of rows that were forgotten are not given again
        db.execute("DELETE FROM sqlite_sequence WHERE name = 'evidence'")
        db.execute("INSERT INTO sqlite_sequence (name, seq) VALUES ('evidence', ?)", last)
    db.execute("DROP TABLE evidence_2")


def split_tables(tables: str) -> tuple[str, str]:
    """(domain table and counters, class table) of a commit's tables: with a thousand classes the
    second is large, and seldom changes.
    """
    rest = json.loads(tables)
    classes = rest.pop("classes")
    return json.dumps(rest, sort_keys=True), json.dumps(classes)


def join_tables(rest: str, classes: str) -> str:
    """What ``split_tables`` took apart."""
    return json.dumps({**json.loads(rest), "classes": json.loads(classes)}, sort_keys=True)


def _moves_of_1(
    kind: str, outcome: str, detail: dict[str, object], rows: list[int]
) -> dict[str, object]:
    """Version 1 listed the learned rows, then those held out; ids of rows that were forgotten since
    are not there any more.
    """
    if outcome == "learned":
        count = detail["learned"]
        assert isinstance(count, int)
        return {"added": rows[:count], "held_out": rows[count:]}
    if kind == "remove_class":
        return {"withdrawn": rows}
    return {outcome: rows} if outcome in ("vetoed", "held") else {}


_MIGRATIONS: dict[int, Callable[[sqlite3.Connection], None]] = {1: _from_1, 2: _from_2}


def _statements(*tables: str) -> list[str]:
    found = [statement.strip() for statement in SCHEMA.split(";\n") if statement.strip()]
    wanted = tuple(f"CREATE {kind}" for t in tables for kind in (f"TABLE {t} ", f"INDEX {t}_"))
    return [statement for statement in found if statement.startswith(wanted)]


def foreign_part(db: sqlite3.Connection, *, exactly: bool) -> str | None:
    """The first thing in the database that a journal does not have: a view or trigger would run
    somebody else's SQL at every read or write.

    Args:
        exactly: tables and indexes must be those of this version, word for word; else any plain
            table will do.
    """
    ours = {" ".join(statement.split()) for statement in _statements(*_TABLES)}
    found = db.execute(
        "SELECT type, name, sql FROM sqlite_master WHERE name NOT LIKE 'sqlite_%'"
    ).fetchall()
    for kind, name, text in found:
        is_plain = kind in ("table", "index") and not str(text).upper().startswith("CREATE VIRTUAL")
        if not is_plain or (exactly and " ".join(str(text).split()) not in ours):
            return f"{kind} {name}"
    is_short = exactly and len(found) < len(ours)
    return f"no more than {len(found)} tables and indexes" if is_short else None


def create(db: sqlite3.Connection) -> None:
    """Empty tables of this version. Called inside a transaction."""
    for statement in _statements(*_TABLES):
        db.execute(statement)
    db.execute("INSERT INTO meta VALUES ('schema', ?)", (str(VERSION),))


def migrate(db: sqlite3.Connection, written: int) -> None:
    """From version ``written`` to this one, step by step. Called inside a transaction."""
    for version in range(written, VERSION):
        _MIGRATIONS[version](db)
    db.execute("UPDATE meta SET value = ? WHERE key = 'schema'", (str(VERSION),))


def can_migrate(written: str | None) -> bool:
    """True for an earlier version that this one knows."""
    if written is None or not written.isdigit() or int(written) > VERSION:
        return False
    return all(version in _MIGRATIONS for version in range(int(written), VERSION))
