"""The state folder: one SQLite file that holds what was learned, decided and can be undone.

WAL with ``synchronous=FULL``: a transaction that returned survives a power cut. ``secure_delete`` overwrites
what is forgotten. The folder belongs to one process at a time; a lock file names its pid.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import sqlite3
import threading
import time
import weakref
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import load as load_tensors
from safetensors.numpy import save as save_tensors

from edgeadapt.errors import StateError
from edgeadapt.results import Commit

SCHEMA_VERSION = 1
FILE_NAME = "learner.db"
LOCK_NAME = "learner.lock"

_SCHEMA = """
CREATE TABLE meta (key TEXT PRIMARY KEY, value TEXT NOT NULL) STRICT;
CREATE TABLE evidence (
    seq INTEGER PRIMARY KEY AUTOINCREMENT,  -- order of arrival
    id TEXT NOT NULL UNIQUE,
    source TEXT NOT NULL, stream TEXT NOT NULL, domain TEXT NOT NULL,
    time REAL NOT NULL,                     -- seconds since the epoch
    label TEXT NOT NULL, weight REAL NOT NULL,
    space TEXT NOT NULL,
    is_factory INTEGER NOT NULL,            -- 1: features of the factory encoder under the factory condition
    features BLOB NOT NULL,                 -- float16 z then taps, little endian
    status TEXT NOT NULL CHECK (status IN ('received','learned','held_out','held','vetoed','withdrawn')),
    commit_number INTEGER                   -- the commit that set the status
) STRICT;
CREATE INDEX evidence_by_status ON evidence (status);
CREATE INDEX evidence_by_source ON evidence (source);
CREATE INDEX evidence_by_commit ON evidence (commit_number);
CREATE TABLE commits (
    number INTEGER PRIMARY KEY, time REAL NOT NULL, kind TEXT NOT NULL, outcome TEXT NOT NULL,
    detail TEXT NOT NULL,                   -- JSON for people
    rows TEXT NOT NULL,                     -- JSON: evidence ids in the order they were learned, then those held out; or withdrawn ones
    tables TEXT NOT NULL,                   -- JSON: class table, domain table, counters after this commit
    tensors BLOB                            -- safetensors: domain tensors this commit changed or learned through
) STRICT;
CREATE TABLE decisions (time REAL NOT NULL, stream TEXT NOT NULL, kind TEXT NOT NULL, domain TEXT NOT NULL, why TEXT NOT NULL) STRICT;
CREATE TABLE snapshots (commit_number INTEGER PRIMARY KEY, tensors BLOB NOT NULL) STRICT;
"""
DECISIONS_KEPT = 20_000


@dataclass(frozen=True)
class EvidenceRow:
    """One labelled sample as it was, or will be, learned."""

    id: str
    source: str
    stream: str
    domain: str
    time: float
    label: str
    weight: float
    space: str
    is_factory: bool  # features of the factory encoder under the factory condition: they may move its class means
    features: NDArray[np.float16]
    status: str = "received"
    commit_number: int | None = None


@dataclass(frozen=True)
class CommitRow:
    """What one transaction records about a change."""

    number: int
    kind: str
    outcome: str
    detail: Mapping[str, Any]
    rows: tuple[str, ...]
    tables: str
    tensors: Mapping[str, NDArray[Any]]


def _row(found: tuple[Any, ...]) -> EvidenceRow:
    sample, source, stream, domain, at, label, weight, space, is_factory, blob, status, number = found
    features = np.frombuffer(blob, "<f2").astype(np.float16)
    return EvidenceRow(sample, source, stream, domain, at, label, weight, space, bool(is_factory), features, status, number)


class FolderLock:
    """Exclusive use of a state folder, released by the kernel when the process dies."""

    def __init__(self, folder: Path) -> None:
        self._path = folder / LOCK_NAME
        try:
            self._fd = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise StateError(f"cannot lock the state folder {folder}: {error.strerror}") from error
        try:
            fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            holder = os.read(self._fd, 32).decode(errors="replace").strip() or "unknown"
            os.close(self._fd)
            raise StateError(f"state folder {folder} is in use by the process with pid {holder}") from error
        os.ftruncate(self._fd, 0)
        os.pwrite(self._fd, f"{os.getpid()}\n".encode(), 0)
        os.register_at_fork(after_in_child=partial(_let_go, weakref.ref(self)))

    def release(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


def _let_go(held: weakref.ref[FolderLock]) -> None:
    """A forked child shares its parent's lock, and would hold it after the parent has died."""
    lock = held()
    if lock is not None:
        lock.release()


class Journal:
    """The one door to ``learner.db``. Thread-safe; every method that writes is one transaction."""

    def __init__(self, folder: str | os.PathLike[str] | None) -> None:
        """Open or create. ``None`` keeps the journal in memory: nothing survives the process.

        Raises:
            StateError: locked by another process, not ours, damaged, newer, or not writable.
        """
        self.folder = Path(folder) if folder is not None else None
        self._mutex = threading.RLock()
        self.at: Callable[[str], None] = lambda step: None  # called inside transactions; tests stop the process here
        self._lock: FolderLock | None = None
        self.is_new = True
        if self.folder is None:
            self._db = sqlite3.connect(":memory:", check_same_thread=False, isolation_level=None)
        else:
            self._db = self._open_file(self.folder)
        try:
            self._prepare()
        except sqlite3.DatabaseError as error:
            self.close()
            raise StateError(f"{self.folder or 'memory'}: {FILE_NAME} is damaged or not a learner's journal: {error}") from error
        except StateError:
            self.close()
            raise

    def _open_file(self, folder: Path) -> sqlite3.Connection:
        if folder.exists() and not folder.is_dir():
            raise StateError(f"{folder} is a file; a state folder is a directory")
        try:
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        except OSError as error:
            raise StateError(f"cannot create the state folder {folder}: {error.strerror}") from error
        if not os.access(folder, os.W_OK | os.X_OK):
            raise StateError(f"state folder {folder} is not writable by this user")
        path = folder / FILE_NAME
        strangers = sorted(p.name for p in folder.iterdir() if not p.name.startswith("learner."))
        if not path.exists() and strangers:
            raise StateError(f"{folder} is not a state folder: it has no {FILE_NAME} but holds {strangers[0]!r}; use an empty folder")
        self._lock = FolderLock(folder)
        self.is_new = not path.exists() or path.stat().st_size == 0
        try:
            if self.is_new:
                os.close(os.open(path, os.O_RDWR | os.O_CREAT, 0o600))
            return sqlite3.connect(path, check_same_thread=False, isolation_level=None, timeout=5.0)
        except (OSError, sqlite3.Error) as error:
            self._lock.release()
            raise StateError(f"cannot open {path}: {error}") from error

    def _prepare(self) -> None:
        db = self._db
        db.execute("PRAGMA journal_mode=WAL")
        db.execute("PRAGMA synchronous=FULL")
        db.execute("PRAGMA secure_delete=ON")
        if not db.execute("SELECT 1 FROM sqlite_master WHERE name = 'meta'").fetchone():
            if db.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]:
                raise StateError(f"{self.folder}: {FILE_NAME} is a database of something else")
            db.executescript("BEGIN IMMEDIATE;" + _SCHEMA + f"INSERT INTO meta VALUES ('schema', '{SCHEMA_VERSION}'); COMMIT;")
            self.is_new = True
            return
        written = self.meta("schema")
        if written != str(SCHEMA_VERSION):
            raise StateError(f"{self.folder}: journal schema {written}, this version reads {SCHEMA_VERSION}; open it with the version that wrote it")

    @contextlib.contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        """All or nothing; a full or failing disk becomes a StateError and changes nothing."""
        with self._mutex:
            try:
                self._db.execute("BEGIN IMMEDIATE")
                yield self._db
                self.at("before_commit")
                self._db.execute("COMMIT")
                self.at("after_commit")
            except sqlite3.Error as error:
                with contextlib.suppress(sqlite3.Error):
                    self._db.execute("ROLLBACK")
                raise StateError(f"the state folder {self.folder} cannot take the change: {error}; nothing was changed") from error
            except BaseException:
                with contextlib.suppress(sqlite3.Error):
                    self._db.execute("ROLLBACK")
                raise

    # -- meta -----------------------------------------------------------------------------------------
    def meta(self, key: str) -> str | None:
        with self._mutex:
            row = self._db.execute("SELECT value FROM meta WHERE key = ?", (key,)).fetchone()
        return None if row is None else str(row[0])

    def set_meta(self, values: Mapping[str, str]) -> None:
        with self._transaction() as db:
            db.executemany("INSERT OR REPLACE INTO meta VALUES (?, ?)", list(values.items()))

    # -- evidence -------------------------------------------------------------------------------------
    def receive(self, rows: Sequence[EvidenceRow]) -> None:
        """Make labelled samples durable before anything learns from them."""
        with self._transaction() as db:
            db.executemany(
                "INSERT INTO evidence (id, source, stream, domain, time, label, weight, space, is_factory, features, status, commit_number)"
                " VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
                [
                    (r.id, r.source, r.stream, r.domain, r.time, r.label, r.weight, r.space, int(r.is_factory),
                     np.ascontiguousarray(r.features, "<f2").tobytes(), r.status, r.commit_number)
                    for r in rows
                ],
            )

    def evidence(self, *, where: str = "1", values: Sequence[Any] = ()) -> list[EvidenceRow]:
        """Rows in order of arrival. ``where`` is SQL from this package only, never from a user."""
        with self._mutex:
            found = self._db.execute(
                "SELECT id, source, stream, domain, time, label, weight, space, is_factory, features, status, commit_number"
                f" FROM evidence WHERE {where} ORDER BY seq", tuple(values),
            ).fetchall()
        return [_row(found_row) for found_row in found]

    def evidence_of(self, samples: Sequence[str]) -> list[EvidenceRow]:
        """The rows with these ids that are still there, in the order of the ids."""
        found: dict[str, EvidenceRow] = {}
        for some in (samples[start : start + 500] for start in range(0, len(samples), 500)):
            found |= {row.id: row for row in self.evidence(where=f"id IN ({', '.join('?' * len(some))})", values=some)}
        return [found[sample] for sample in samples if sample in found]

    def count_evidence(self) -> dict[str, int]:
        with self._mutex:
            return dict(self._db.execute("SELECT status, count(*) FROM evidence GROUP BY status").fetchall())

    def known_id(self, sample: str) -> str | None:
        """Status of the evidence row with this id, or None."""
        with self._mutex:
            row = self._db.execute("SELECT status FROM evidence WHERE id = ?", (sample,)).fetchone()
        return None if row is None else str(row[0])

    # -- commits --------------------------------------------------------------------------------------
    def commit(
        self,
        row: CommitRow,
        *,
        statuses: Mapping[str, str] | None = None,
        deleted: Iterable[str] = (),
        snapshot: Mapping[str, NDArray[Any]] | None = None,
        rewritten: Mapping[int, Mapping[str, NDArray[Any]]] | None = None,
    ) -> None:
        """One transaction: what became of the rows, the commit, and snapshots taken or rewritten."""
        deleted = list(deleted)
        with self._transaction() as db:
            self.at("begin")
            if statuses:
                db.executemany(
                    "UPDATE evidence SET status = ?, commit_number = ? WHERE id = ?",
                    [(status, row.number, sample) for sample, status in statuses.items()],
                )
            db.executemany("DELETE FROM evidence WHERE id = ?", [(sample,) for sample in deleted])
            self.at("rows")
            db.execute(
                "INSERT INTO commits VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
                (row.number, time.time(), row.kind, row.outcome, json.dumps(dict(row.detail)), json.dumps(row.rows),
                 row.tables, save_tensors(dict(row.tensors)) if row.tensors else None),
            )
            for number, tensors in (rewritten or {}).items():
                db.execute("UPDATE snapshots SET tensors = ? WHERE commit_number = ?", (save_tensors(dict(tensors)), number))
            if snapshot is not None:
                db.execute("INSERT OR REPLACE INTO snapshots VALUES (?, ?)", (row.number, save_tensors(dict(snapshot))))
                db.execute("DELETE FROM snapshots WHERE commit_number NOT IN (SELECT commit_number FROM snapshots ORDER BY commit_number DESC LIMIT 4)")
        if deleted:  # the write-ahead log still holds what was deleted
            self._truncate_log()

    def _truncate_log(self) -> None:
        with self._mutex, contextlib.suppress(sqlite3.OperationalError):  # a reader or a full disk may delay it to the next time
            self._db.execute("PRAGMA wal_checkpoint(TRUNCATE)")

    def last_number(self) -> int:
        with self._mutex:
            return int(self._db.execute("SELECT coalesce(max(number), 0) FROM commits").fetchone()[0])

    def horizon(self) -> int:
        """The commit before which rows have expired: nothing earlier can be rebuilt. 0 if none have."""
        with self._mutex:
            return int(self._db.execute("SELECT coalesce(max(number), 0) FROM commits WHERE kind = 'expire'").fetchone()[0])

    def commits(self, after: int = 0, upto: int | None = None) -> list[CommitRow]:
        with self._mutex:
            found = self._db.execute(
                "SELECT number, kind, outcome, detail, rows, tables, tensors FROM commits WHERE number > ? AND number <= ? ORDER BY number",
                (after, upto if upto is not None else 2**62),
            ).fetchall()
        return [
            CommitRow(n, kind, outcome, json.loads(detail), tuple(json.loads(rows)), tables, load_tensors(blob) if blob else {})
            for n, kind, outcome, detail, rows, tables, blob in found
        ]

    def history(self, limit: int) -> list[Commit]:
        """Newest first."""
        with self._mutex:
            found = self._db.execute("SELECT number, time, kind, outcome, detail FROM commits ORDER BY number DESC LIMIT ?", (limit,)).fetchall()
        return [Commit(n, at, kind, outcome, json.loads(detail)) for n, at, kind, outcome, detail in found]

    def snapshot(self, upto: int) -> tuple[int, dict[str, NDArray[Any]]] | None:
        """The newest snapshot at or before a commit."""
        with self._mutex:
            row = self._db.execute(
                "SELECT commit_number, tensors FROM snapshots WHERE commit_number <= ? ORDER BY commit_number DESC LIMIT 1", (upto,)
            ).fetchone()
        return None if row is None else (int(row[0]), load_tensors(row[1]))

    def snapshot_numbers(self) -> list[int]:
        with self._mutex:
            return [int(row[0]) for row in self._db.execute("SELECT commit_number FROM snapshots ORDER BY commit_number").fetchall()]

    # -- decisions ------------------------------------------------------------------------------------
    def decide(self, decisions: Sequence[tuple[float, str, str, str, str]]) -> None:
        """Record decisions (time, stream, kind, domain, why); the oldest fall out beyond a fixed number."""
        if not decisions:
            return
        with self._transaction() as db:
            db.executemany("INSERT INTO decisions VALUES (?, ?, ?, ?, ?)", decisions)
            db.execute("DELETE FROM decisions WHERE rowid <= (SELECT max(rowid) FROM decisions) - ?", (DECISIONS_KEPT,))

    def decisions(self, limit: int = 100) -> list[tuple[float, str, str, str, str]]:
        with self._mutex:
            return self._db.execute("SELECT * FROM decisions ORDER BY rowid DESC LIMIT ?", (limit,)).fetchall()

    @property
    def nbytes(self) -> int:
        """Bytes on disk, write-ahead log included."""
        if self.folder is None:
            return 0
        return sum(p.stat().st_size for p in self.folder.glob(FILE_NAME + "*"))

    def close(self) -> None:
        with self._mutex:
            with contextlib.suppress(sqlite3.Error):
                self._db.close()
            if self._lock is not None:
                self._lock.release()
