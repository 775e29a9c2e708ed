"""The state folder: one SQLite file that holds what was learned, decided and can be undone.

WAL with ``synchronous=FULL``: a transaction that returned survives a power cut. ``secure_delete`` overwrites what is forgotten.
The write-ahead log is written back here, at a size of our choosing, so that every byte that goes to the disk can be counted.
"""

from __future__ import annotations

import contextlib
import json
import os
import sqlite3
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load as load_tensors
from safetensors.numpy import save as save_tensors

from edgeadapt.device import journal_schema
from edgeadapt.device.damage import reads
from edgeadapt.device.draw import draw_of
from edgeadapt.device.folder import FILE_NAME, LOCK_NAME, FolderLock, claim, refusal, unreadable
from edgeadapt.device.journal_rows import CommitRow, EvidenceRow, Moves, RawInput, Step
from edgeadapt.device.journal_schema import VERSION as SCHEMA_VERSION
from edgeadapt.device.writes import Writes
from edgeadapt.errors import StateError
from edgeadapt.results import Commit

DECISIONS_KEPT = 20_000
_CLOCK_SET = 1_577_836_800.0  # 2020-01-01: no device that runs this met anything before
_LOG_BYTES = 4 << 20  # a write-ahead log of this size is written back after the next change
_COLUMNS = "id, source, stream, domain, time, label, weight, space, is_factory, features, status, commit_number, seq, draw, met, receipt"
_NARROW = "id, source, stream, domain, time, label, weight, space, is_factory, x'', status, commit_number, seq, draw, met, receipt"


_LARGEST = 1 << 53  # commits and bytes that any journal can have
_KINDS = (str, str, str, str, float, str, float, str, int, bytes, str)


def _detail(text: str) -> dict[str, Any]:
    found = json.loads(text)
    if not isinstance(found, dict):
        raise ValueError(f"the detail of a commit is {type(found).__name__}, not an object")
    return found


def _sane(number: Any) -> int:
    if not 0 <= int(number) <= _LARGEST:
        raise ValueError(f"the number {number} is out of range")
    return int(number)


def _row(found: tuple[Any, ...]) -> EvidenceRow:
    if tuple(map(type, found[:11])) != _KINDS or type(found[15]) not in (bytes, type(None)):
        raise ValueError(f"evidence row {found[12]!r:.20} has a value of another type")
    sample, source, stream, domain, at, label, weight, space, is_factory, blob, status, number, seq, draw, met, receipt = found
    features = np.frombuffer(blob, "<f2").astype(np.float16)
    return EvidenceRow(sample, source, stream, domain, at, label, weight, space, bool(is_factory), features, status, number, seq, draw, met, receipt or b"")


def _input(kind: str, shape: str, blob: bytes) -> NDArray[Any]:
    value: NDArray[Any] = np.frombuffer(blob, np.dtype(kind).newbyteorder("<")).astype(kind).reshape(json.loads(shape))
    return value


class Journal:
    """The one door to ``learner.db``. Thread-safe; every method that writes is one transaction."""

    def __init__(self, folder: str | os.PathLike[str] | None) -> None:
        """Open or create; a file of an earlier version is migrated. ``None`` keeps the journal in memory: nothing survives the process.

        Raises:
            StateError: locked by another process, not ours, damaged, newer, or not writable.
        """
        self.folder = Path(folder) if folder is not None else None
        self._mutex = threading.RLock()
        self.at: Callable[[str], None] = lambda step: None  # called inside transactions; tests stop the process here
        self._lock: FolderLock | None = None
        self.is_new = False
        self._log: Path | None = None
        if self.folder is None:
            self._db = sqlite3.connect(":memory:", check_same_thread=False, isolation_level=None)
        else:
            self._lock, path = claim(self.folder)
            self._log = Path(f"{path}-wal")
            try:
                self._db = sqlite3.connect(path, check_same_thread=False, isolation_level=None, timeout=5.0)
            except sqlite3.Error as error:
                self._lock.release()
                raise StateError(f"cannot open {path}: {error}") from error
        try:
            left = self._log_bytes()  # of a process that was killed
            self._prepare()
            self.writes = Writes(*self._written_before())
            self.writes.add(self._log_bytes() - left)
        except sqlite3.OperationalError as error:
            self.close()
            raise refusal(self.folder, error) from error
        except (sqlite3.Error, SafetensorError, ValueError, TypeError, LookupError, AttributeError, RecursionError, AssertionError) as error:
            self.close()
            raise StateError(f"{self.folder or 'memory'}: {FILE_NAME} is damaged or not a learner's journal: {error}") from error
        except BaseException:
            self.close()
            raise

    def _prepare(self) -> None:
        db = self._db
        is_empty = not db.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]
        if is_empty:
            db.execute("PRAGMA auto_vacuum=INCREMENTAL")  # before the first table
        for pragma in ("journal_mode=WAL", "synchronous=FULL", "secure_delete=ON", "wal_autocheckpoint=0"):
            db.execute(f"PRAGMA {pragma}")
        if is_empty:
            self._in_one_step(lambda: journal_schema.create(db))
            self.is_new = True
            return
        if not db.execute("SELECT 1 FROM sqlite_master WHERE name = 'meta'").fetchone():
            raise StateError(f"{self.folder}: {FILE_NAME} is a database of something else")
        self._refuse_strangers(exactly=False)
        written = self.meta("schema")
        if written == str(SCHEMA_VERSION):
            self._refuse_strangers(exactly=True)
            return
        if not journal_schema.can_migrate(written):
            raise StateError(f"{self.folder}: journal schema {written}, this version reads {SCHEMA_VERSION}; open it with the version that wrote it")
        self._in_one_step(lambda: journal_schema.migrate(db, int(str(written))))
        self._refuse_strangers(exactly=True)

    def _refuse_strangers(self, *, exactly: bool) -> None:
        found = journal_schema.stranger(self._db, exactly=exactly)
        if found is not None:
            raise StateError(f"{self.folder}: {FILE_NAME} is damaged or not a learner's journal: it has {found}")

    def _in_one_step(self, change: Callable[[], None]) -> None:
        self._db.execute("BEGIN IMMEDIATE")
        try:
            change()
            self.at("before_commit")
            self._db.execute("COMMIT")
        except BaseException:
            with contextlib.suppress(sqlite3.Error):
                self._db.execute("ROLLBACK")
            raise

    @contextlib.contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        """All or nothing; a full or failing disk becomes a StorageError and changes nothing."""
        with self._mutex:
            before = self._log_bytes()
            try:
                self._db.execute("BEGIN IMMEDIATE")
                yield self._db
                self.at("before_commit")
                self._db.execute("COMMIT")
            except sqlite3.Error as error:
                with contextlib.suppress(sqlite3.Error):
                    self._db.execute("ROLLBACK")
                raise refusal(self.folder, error) from error
            except BaseException:
                with contextlib.suppress(sqlite3.Error):
                    self._db.execute("ROLLBACK")
                raise
            finally:
                self.writes.add(self._log_bytes() - before)
            self.at("after_commit")

    @contextlib.contextmanager
    def _reading(self) -> Iterator[None]:
        """Holds the mutex; what cannot be read becomes a StorageError."""
        with self._mutex:
            try:
                yield
            except sqlite3.Error as error:
                raise unreadable(self.folder, error) from error

    # -- the write-ahead log ----------------------------------------------------------------------------
    def _log_bytes(self) -> int:
        """Size of the write-ahead log; as it was the last time where the system does not say."""
        if self._log is None:
            return 0
        try:
            self._last_log_bytes = self._log.stat().st_size
        except FileNotFoundError:
            self._last_log_bytes = 0
        except OSError as error:
            self.delayed = str(error)
        return self._last_log_bytes

    _last_log_bytes = 0

    def write_back(self, *, at_least: int = 0) -> None:
        """Move the write-ahead log into the database and empty it, if it has ``at_least`` so many bytes.

        It follows changes that are durable already, so that nothing may be raised here: a disk that is full or fails delays it to the next
        time, and what was committed stays in the log.
        """
        with self._mutex:
            if self._log is None or self._log_bytes() < max(at_least, 1):
                return
            try:
                page, pages = (int(self._db.execute(f"PRAGMA {name}").fetchone()[0]) for name in ("page_size", "page_count"))
                frames = self._log_bytes() // page
                is_busy = self._db.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()[0]
            except sqlite3.Error as error:
                self.delayed = str(error)
                return
            self.delayed = "" if not is_busy else "in use"
            self.writes.add(page * min(frames, pages))  # at most: a page that changed twice is written once

    delayed: str = ""
    """Why the log could not be written back the last time; empty if it could."""

    def _written_before(self) -> tuple[int, list[tuple[float, int]]]:
        """Bytes written since the journal was created, and those of the last day by the hour, as the commits noted them."""
        since = time.time() - 25 * 3600.0
        found = self._db.execute(
            "SELECT min(time), max(written) FROM commits WHERE time >= ? GROUP BY cast(time / 3600 AS INTEGER) ORDER BY 1", (since,)
        ).fetchall()
        before = _sane(self._db.execute("SELECT coalesce(max(written), 0) FROM commits WHERE time < ?", (since,)).fetchone()[0])
        hours = []
        for at, written in found:
            hours.append((float(at), max(0, _sane(written) - before)))
            before = max(before, _sane(written))
        return before, hours

    # -- meta -----------------------------------------------------------------------------------------
    @reads
    def meta(self, key: str) -> str | None:
        with self._reading():
            row = self._db.execute("SELECT value FROM meta WHERE key = ?", (key,)).fetchone()
        return None if row is None else str(row[0])

    def set_meta(self, values: Mapping[str, str]) -> None:
        with self._transaction() as db:
            db.executemany("INSERT OR REPLACE INTO meta VALUES (?, ?)", list(values.items()))

    # -- evidence -------------------------------------------------------------------------------------
    def receive(self, rows: Sequence[EvidenceRow], raw: Sequence[NDArray[Any] | None] = ()) -> None:
        """Make labelled samples durable before anything learns from them, each with its raw input where one is to be kept."""
        with self._transaction() as db:
            for index, r in enumerate(rows):
                features = np.ascontiguousarray(r.features, "<f2")
                at = db.execute(
                    "INSERT INTO evidence (id, source, stream, domain, time, label, weight, space, met, is_factory, draw, status, commit_number, receipt, features)"
                    " VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
                    (r.id, r.source, r.stream, r.domain, r.time, r.label, r.weight, r.space, r.met, int(r.is_factory), draw_of(features), r.status,
                     r.commit_number, r.receipt or None, features.tobytes()),
                )  # fmt: skip
                value = raw[index] if index < len(raw) else None
                if value is not None:
                    kept = np.ascontiguousarray(value).astype(value.dtype.newbyteorder("<"), copy=False)
                    db.execute("INSERT INTO raw VALUES (?, ?, ?, ?)", (at.lastrowid, str(value.dtype), json.dumps(value.shape), kept.tobytes()))
        self.write_back(at_least=4 * _LOG_BYTES)  # only if no change has done it for long

    @reads
    def evidence(self, *, where: str = "1", values: Sequence[Any] = (), limit: int = -1, newest_first: bool = False, narrow: bool = False) -> list[EvidenceRow]:
        """Rows in order of arrival. ``where`` is SQL from this package only, never from a user; ``narrow`` leaves features out."""
        order = "seq DESC" if newest_first else "seq"
        with self._reading():
            found = self._db.execute(
                f"SELECT {_NARROW if narrow else _COLUMNS} FROM evidence WHERE {where} ORDER BY {order} LIMIT ?", (*values, limit)
            ).fetchall()
        return [_row(found_row) for found_row in found]

    @reads
    def evidence_of(self, seqs: Sequence[int]) -> list[EvidenceRow]:
        """The rows with these numbers that are still there, in the order of the numbers."""
        found: dict[int, EvidenceRow] = {}
        for some in (seqs[start : start + 500] for start in range(0, len(seqs), 500)):
            found |= {row.seq: row for row in self.evidence(where=f"seq IN ({', '.join('?' * len(some))})", values=some)}
        return [found[seq] for seq in seqs if seq in found]

    @reads
    def newest_of(self, samples: Sequence[str]) -> dict[str, EvidenceRow]:
        """For each sample id that has rows, the last one."""
        found: dict[str, EvidenceRow] = {}
        for some in (samples[start : start + 500] for start in range(0, len(samples), 500)):
            found |= {row.id: row for row in self.evidence(where=f"id IN ({', '.join('?' * len(some))})", values=some)}
        return found

    @reads
    def accepted_of(self, samples: Sequence[str]) -> list[EvidenceRow]:
        """Rows of these samples that teach or judge now."""  # the plus keeps SQLite from scanning every accepted row by its status
        found: list[EvidenceRow] = []
        for some in (samples[start : start + 500] for start in range(0, len(samples), 500)):
            found += self.evidence(where=f"+status IN ('learned', 'held_out') AND id IN ({', '.join('?' * len(some))})", values=some)
        return found

    @reads
    def near_the_line(self, label: str, status: str, limit: int) -> list[EvidenceRow]:
        """Rows of a class with the draws nearest to the line between judging and teaching: the largest held out, or the smallest learned; without features."""
        order = "DESC" if status == "held_out" else "ASC"
        with self._reading():
            found = self._db.execute(
                f"SELECT {_NARROW} FROM evidence WHERE status = ? AND label = ? ORDER BY draw {order}, seq {order} LIMIT ?", (status, label, limit)
            ).fetchall()
        return [_row(found_row) for found_row in found]

    @reads
    def older_than(self, before: float, most: int) -> list[EvidenceRow]:
        """Rows met before a time, and of the rest the oldest beyond ``most``; without features, and without those that wait to be learned.

        A row met before the year 2020 was met by a device whose clock was not set: it is as old as the rows around it.
        """
        can_go = "status != 'received' AND (length(features) > 0 OR status NOT IN ('learned', 'held_out'))"
        is_old = "(time >= ? AND time < ? OR time < ? AND seq < (SELECT coalesce(max(seq), 0) FROM evidence WHERE time >= ? AND time < ?))"
        values = (_CLOCK_SET, before, _CLOCK_SET, _CLOCK_SET, before)
        found = self.evidence(where=f"{can_go} AND {is_old}", values=values, narrow=True)
        with self._reading():
            over = int(self._db.execute("SELECT count(*) FROM evidence").fetchone()[0]) - len(found) - most
        if over > most // 10:  # not a few at every checkpoint: each time a part of the way back is lost
            found += self.evidence(where=f"{can_go} AND NOT {is_old}", values=values, limit=over, narrow=True)
        return found

    @reads
    def count_evidence(self) -> dict[str, int]:
        with self._reading():
            return dict(self._db.execute("SELECT status, count(*) FROM evidence GROUP BY status").fetchall())

    @reads
    def count_accepted(self) -> dict[str, dict[str, int]]:
        """Class -> how many rows of it teach (``learned``) and judge (``held_out``)."""
        counts: dict[str, dict[str, int]] = {}
        with self._reading():
            found = self._db.execute("SELECT label, status, count(*) FROM evidence WHERE status IN ('learned', 'held_out') GROUP BY status, label").fetchall()
        for label, status, count in found:
            counts.setdefault(label, {})[status] = count
        return counts

    @reads
    def count_learned_by_domain(self) -> dict[str, int]:
        """Condition -> how many rows of it teach."""
        with self._reading():
            return dict(self._db.execute("SELECT domain, count(*) FROM evidence WHERE status = 'learned' GROUP BY domain").fetchall())

    # -- raw inputs -----------------------------------------------------------------------------------
    @reads
    def raw(self, label: str | None = None) -> list[RawInput]:
        """Raw inputs that are kept, of accepted rows of one class or of all, in order of arrival."""
        where = "e.status IN ('learned', 'held_out')" + ("" if label is None else " AND e.label = ?")
        with self._reading():
            found = self._db.execute(
                f"SELECT r.seq, r.dtype, r.shape, r.input FROM raw r JOIN evidence e USING (seq) WHERE {where} ORDER BY r.seq", () if label is None else (label,)
            ).fetchall()
        return [RawInput(seq, _input(kind, shape, blob)) for seq, kind, shape, blob in found]

    @reads
    def raw_of(self, seq: int) -> NDArray[Any] | None:
        """The raw input of one row, if it is kept."""
        with self._reading():
            found = self._db.execute("SELECT dtype, shape, input FROM raw WHERE seq = ?", (seq,)).fetchone()
        return None if found is None else _input(*found)

    @reads
    def thin_raw(self, per_class: int) -> int:
        """Keep the raw inputs of at most so many rows of a class, those with the smallest draws; returns how many went."""
        with self._reading():
            over = self._db.execute(
                "SELECT seq FROM (SELECT r.seq AS seq, e.status AS status,"
                " row_number() OVER (PARTITION BY e.label ORDER BY e.status NOT IN ('learned', 'held_out'), e.draw, r.seq) AS place FROM raw r JOIN evidence e USING (seq)) WHERE place > ? AND status != 'received'", (per_class,)
            ).fetchall()  # fmt: skip
        if over:
            with self._transaction() as db:
                db.executemany("DELETE FROM raw WHERE seq = ?", over)
        return len(over)

    # -- commits --------------------------------------------------------------------------------------
    def commit(
        self,
        row: CommitRow,
        *,
        statuses: Mapping[int, tuple[str, int]] | None = None,
        receipts: Mapping[int, bytes] | None = None,
        deleted: Iterable[int] = (),
        emptied: Iterable[int] = (),
        snapshot: Mapping[str, NDArray[Any]] | None = None,
        rewritten: Mapping[int, Mapping[str, NDArray[Any]]] | None = None,
        scrubbed: Mapping[int, Mapping[str, Any]] | None = None,
        relieved: Mapping[int, Mapping[str, NDArray[Any]]] | None = None,
        weights: Mapping[int, float] | None = None,
    ) -> None:
        """One transaction: what became of the rows, the commit, and snapshots taken or rewritten.

        Args:
            row: the commit; its moves set the statuses of the rows they name.
            statuses: earlier statuses by seq that are restored, with the commit they date from; the moves come after them.
            receipts: by seq. deleted: rows that are forgotten, with their raw inputs. emptied: rows that lose features and raw input.
            snapshot: tensors to keep as of this commit. rewritten: new tensors of earlier snapshots.
            scrubbed: new details of earlier commits. relieved: what is left of the tensors of earlier commits.
            weights: by seq, of rows that no commit has learned before.
        """
        gone = [(seq,) for seq in deleted]
        empty = [(seq,) for seq in emptied]
        with self._transaction() as db:
            self.at("begin")
            changed = dict(statuses or {}) | {seq: (status, row.number) for seq, status in row.moves.statuses().items()}
            db.executemany("UPDATE evidence SET status = ?, commit_number = ? WHERE seq = ?", [(s, n, seq) for seq, (s, n) in changed.items()])
            db.executemany("UPDATE evidence SET receipt = ? WHERE seq = ?", [(receipt, seq) for seq, receipt in (receipts or {}).items()])
            db.executemany("UPDATE evidence SET weight = ? WHERE seq = ?", [(weight, seq) for seq, weight in (weights or {}).items()])
            db.executemany("DELETE FROM evidence WHERE seq = ?", gone)
            db.executemany("UPDATE evidence SET features = x'' WHERE seq = ?", empty)
            db.executemany("DELETE FROM raw WHERE seq = ?", gone + empty)
            self.at("rows")
            rest, classes = journal_schema.split_tables(row.tables)
            new = None if classes == self._classes_at(row.number) else classes
            db.execute(
                "INSERT INTO commits VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
                (row.number, time.time(), row.kind, row.outcome, json.dumps(dict(row.detail)), row.moves.encode(), rest, new,
                 save_tensors(dict(row.tensors)) if row.tensors else None, row.digest, self.writes.total),
            )  # fmt: skip
            for number, tensors in (rewritten or {}).items():
                db.execute("UPDATE snapshots SET tensors = ? WHERE commit_number = ?", (save_tensors(dict(tensors)), number))
            for number, detail in (scrubbed or {}).items():
                db.execute("UPDATE commits SET detail = ? WHERE number = ?", (json.dumps(dict(detail)), number))
            for number, tensors in (relieved or {}).items():
                db.execute("UPDATE commits SET tensors = ? WHERE number = ?", (save_tensors(dict(tensors)) if tensors else None, number))
            if snapshot is not None:
                self._keep_snapshot(db, row.number, snapshot)
        if gone or empty:
            self.write_back()  # the log still holds what was deleted
        else:
            self.write_back(at_least=_LOG_BYTES)

    def _keep_snapshot(self, db: sqlite3.Connection, number: int, tensors: Mapping[str, NDArray[Any]]) -> None:
        """The newest four, and those that stand in for what was compacted and for rows that have expired."""
        db.execute("INSERT OR REPLACE INTO snapshots VALUES (?, ?)", (number, save_tensors(dict(tensors))))
        db.execute(
            "DELETE FROM snapshots WHERE commit_number NOT IN (SELECT commit_number FROM snapshots ORDER BY commit_number DESC LIMIT 4)"
            " AND commit_number != (SELECT CASE WHEN min(number) > 1 THEN min(number) ELSE -1 END FROM commits)"
            " AND commit_number != (SELECT coalesce(max(number), -1) FROM commits WHERE kind = 'expire' AND outcome = 'saved')"
        )

    def compact(self, upto: int, base: Moves, snapshot: Mapping[str, NDArray[Any]]) -> int:
        """Drop the commits before ``upto``: its snapshot and the statuses in ``base`` stand in for them. Returns how many went."""
        with self._transaction() as db:
            self.at("begin")
            db.execute("UPDATE commits SET rows = ?, classes = ? WHERE number = ?", (base.encode(), self._classes_at(upto), upto))
            gone = db.execute("DELETE FROM commits WHERE number < ?", (upto,)).rowcount
            db.execute("DELETE FROM snapshots WHERE commit_number < ?", (upto,))
            db.execute("INSERT OR REPLACE INTO snapshots VALUES (?, ?)", (upto, save_tensors(dict(snapshot))))
        return gone

    @reads
    def shrink(self) -> None:
        """Give pages that hold nothing back to the file system, where the file was created to allow it."""
        with self._reading():
            free, pages = (int(self._db.execute(f"PRAGMA {name}").fetchone()[0]) for name in ("freelist_count", "page_count"))
            if free > pages // 4:
                before = self._log_bytes()
                self._db.executescript("PRAGMA incremental_vacuum")  # a script is stepped to its end, a page at a time
                self.writes.add(self._log_bytes() - before)
                self.write_back()

    @reads
    def last_number(self) -> int:
        with self._reading():
            return _sane(self._db.execute("SELECT coalesce(max(number), 0) FROM commits").fetchone()[0])

    @reads
    def last_change(self, upto: int) -> int:
        """The last commit up to a number that changed the state: vetoes and checkpoints are stepped over. 0 if there is none."""
        with self._reading():
            return _sane(
                self._db.execute(
                    "SELECT coalesce(max(number), 0) FROM commits WHERE number <= ? AND outcome NOT IN ('vetoed', 'held', 'superseded', 'saved', 'thinned')", (upto,)
                ).fetchone()[0]
            )

    @reads
    def first_number(self) -> int:
        """The earliest commit that is still there; 0 if there is none."""
        with self._reading():
            return int(self._db.execute("SELECT coalesce(min(number), 0) FROM commits").fetchone()[0])

    @reads
    def last_expiry(self) -> int:
        """The last commit by which rows expired; 0 if none have."""
        with self._reading():
            return int(self._db.execute("SELECT coalesce(max(number), 0) FROM commits WHERE kind = 'expire' AND outcome = 'saved'").fetchone()[0])

    @reads
    def expired_after(self, number: int, *, deleted_only: bool = False) -> set[int]:
        """Rows that expired by a later commit: what was learned from them before can be read from a snapshot, and not be replayed."""
        with self._reading():
            found = self._db.execute("SELECT rows FROM commits WHERE kind = 'expire' AND outcome = 'saved' AND number > ?", (number,)).fetchall()
        moves = [Moves.decode(rows) for (rows,) in found]
        return {seq for move in moves for seq in (move.expired if deleted_only else (*move.expired, *move.emptied))}

    @reads
    def present(self) -> set[int]:
        """Every evidence row that is there."""
        with self._reading():
            return {int(seq) for (seq,) in self._db.execute("SELECT seq FROM evidence").fetchall()}

    @reads
    def rows_of(self, samples: Sequence[str]) -> list[EvidenceRow]:
        """Every row of these samples."""
        found: list[EvidenceRow] = []
        for some in (samples[start : start + 500] for start in range(0, len(samples), 500)):
            found += self.evidence(where=f"id IN ({', '.join('?' * len(some))})", values=some)
        return found

    @reads
    def superseded(self) -> tuple[int, ...]:
        """Rows that wait although a later label of the same sample waits, counts or was withdrawn."""
        with self._reading():
            found = self._db.execute(
                "SELECT seq FROM evidence AS e WHERE status = 'received' AND EXISTS (SELECT 1 FROM evidence AS later"
                " WHERE later.id = e.id AND later.seq > e.seq AND +later.status IN ('received', 'learned', 'held_out', 'withdrawn')) ORDER BY seq"
            ).fetchall()
        return tuple(int(seq) for (seq,) in found)

    @reads
    def horizon(self) -> int:
        """The commit before which nothing can be rebuilt: its history was compacted, or rows expired by a version that did not say which. 0 if there is none."""
        with self._reading():
            unsaid = self._db.execute("SELECT coalesce(max(number), 0) FROM commits WHERE kind = 'expire' AND outcome = 'saved' AND digest = ''").fetchone()[0]
        first = self.first_number()
        return max(int(unsaid), first if first > 1 else 0)

    @reads
    def commits(self, after: int = 0, upto: int | None = None) -> list[CommitRow]:
        """Raises StateError where a commit cannot be read."""
        with self._reading():
            found = self._db.execute(
                "SELECT number, kind, outcome, detail, rows, tables, classes, tensors, digest FROM commits WHERE number > ? AND number <= ? ORDER BY number",
                (after, upto if upto is not None else 2**62),
            ).fetchall()
            classes = self._classes_at(found[0][0]) if found else None
        result = []
        for n, kind, outcome, detail, rows, rest, new, blob, marks in found:
            classes = new or classes
            tables = journal_schema.join_tables(rest, classes or "[]")
            about = _detail(detail)
            if kind == "rollback" and not (type(about["to"]) is int and 0 <= about["to"] < n):
                raise ValueError(f"commit {n} went back to {about['to']!r:.40}")
            result.append(CommitRow(n, kind, outcome, about, Moves.decode(rows), tables, load_tensors(blob) if blob else {}, marks))
        return result

    @reads
    def grown(self) -> dict[str, int]:
        """Condition -> its labels when it was last looked at for growth, by the commits that say so; 0 if labels were taken back since."""
        with self._reading():
            found = self._db.execute("SELECT kind, detail FROM commits WHERE kind IN ('grow', 'withdraw', 'forget', 'remove_class') ORDER BY number").fetchall()
        labels: dict[str, int] = {}
        for kind, detail in found:
            about = _detail(detail)
            if kind == "grow":
                labels[str(about["domain"])] = int(about["labels"])
            else:
                labels = dict.fromkeys(labels, 0)
        return labels

    def commit_tensors(self) -> Iterator[tuple[int, dict[str, NDArray[Any]]]]:
        """What commits store beside rows, of those that store anything, one at a time."""
        for number in self._commits_with_tensors():
            yield number, self._tensors_of(number)

    @reads
    def _commits_with_tensors(self) -> list[int]:
        with self._reading():
            return [int(number) for (number,) in self._db.execute("SELECT number FROM commits WHERE tensors IS NOT NULL ORDER BY number").fetchall()]

    @reads
    def _tensors_of(self, number: int) -> dict[str, NDArray[Any]]:
        with self._reading():
            found = self._db.execute("SELECT tensors FROM commits WHERE number = ? AND tensors IS NOT NULL", (number,)).fetchone()
        return load_tensors(found[0]) if found else {}

    def _classes_at(self, number: int) -> str | None:
        """The class table after a commit, as JSON; None if none was written yet."""
        found = self._db.execute("SELECT classes FROM commits WHERE number <= ? AND classes IS NOT NULL ORDER BY number DESC LIMIT 1", (number,)).fetchone()
        return None if found is None else str(found[0])

    @reads
    def steps(self, upto: int | None = None) -> list[Step]:
        """What every commit did with rows, without tables and tensors."""
        with self._reading():
            found = self._db.execute(
                "SELECT number, CASE WHEN kind = 'rollback' THEN detail END, rows FROM commits WHERE number <= ? ORDER BY number", (upto if upto is not None else 2**62,)
            ).fetchall()
        steps = [Step(number, None if detail is None else int(_detail(detail)["to"]), Moves.decode(rows)) for number, detail, rows in found]
        if steps and steps[0].number > 1:  # it stands for those that were compacted: its base says all, wherever it had gone back to
            steps[0] = replace(steps[0], to=None)
        return steps

    @reads
    def history(self, limit: int) -> list[Commit]:
        """Newest first."""
        with self._reading():
            found = self._db.execute("SELECT number, time, kind, outcome, detail FROM commits ORDER BY number DESC LIMIT ?", (limit,)).fetchall()
        return [Commit(n, at, kind, outcome, _detail(detail)) for n, at, kind, outcome, detail in found]

    @reads
    def snapshot(self, upto: int) -> tuple[int, dict[str, NDArray[Any]]] | None:
        """The newest snapshot at or before a commit."""
        with self._reading():
            row = self._db.execute(
                "SELECT commit_number, tensors FROM snapshots WHERE commit_number <= ? ORDER BY commit_number DESC LIMIT 1", (upto,)
            ).fetchone()
        return None if row is None else (int(row[0]), load_tensors(row[1]))

    @reads
    def snapshot_before(self, upto: int) -> int:
        """The number of the newest snapshot at or before a commit; 0 if there is none."""
        with self._reading():
            return int(self._db.execute("SELECT coalesce(max(commit_number), 0) FROM snapshots WHERE commit_number <= ?", (upto,)).fetchone()[0])

    @reads
    def snapshot_numbers(self) -> list[int]:
        with self._reading():
            return [int(row[0]) for row in self._db.execute("SELECT commit_number FROM snapshots ORDER BY commit_number").fetchall()]

    # -- decisions ------------------------------------------------------------------------------------
    def decide(self, decisions: Sequence[tuple[float, str, str, str, str]]) -> None:
        """Record decisions (time, stream, kind, domain, why); the oldest fall out beyond a fixed number."""
        if not decisions:
            return
        with self._transaction() as db:
            db.executemany("INSERT INTO decisions VALUES (?, ?, ?, ?, ?)", decisions)
            db.execute("DELETE FROM decisions WHERE rowid <= (SELECT max(rowid) FROM decisions) - ?", (DECISIONS_KEPT,))

    @reads
    def decisions(self, limit: int = 100) -> list[tuple[float, str, str, str, str]]:
        with self._reading():
            return self._db.execute("SELECT * FROM decisions ORDER BY rowid DESC LIMIT ?", (limit,)).fetchall()

    @property
    def nbytes(self) -> int:
        """Bytes on disk, write-ahead log included."""
        if self.folder is None:
            return 0
        return sum(p.stat().st_size for p in self.folder.glob(FILE_NAME + "*"))

    def keep_lock(self) -> FolderLock | None:
        """The lock of the folder, which closing this journal does not release any more: whoever asks for it does."""
        lock, self._lock = self._lock, None
        return lock

    def close(self) -> None:
        with self._mutex:
            with contextlib.suppress(sqlite3.Error):
                self._db.close()
            if self._lock is not None:
                self._lock.release()


__all__ = ["DECISIONS_KEPT", "FILE_NAME", "LOCK_NAME", "SCHEMA_VERSION", "CommitRow", "EvidenceRow", "FolderLock", "Journal", "Moves", "RawInput"]
