"""Commits in ``learner.db``, and the snapshots that spare a reader the replay of all of them."""

from __future__ import annotations

import json
import sqlite3
import time
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import replace
from typing import Any

from numpy.typing import NDArray
from safetensors.numpy import load as load_tensors
from safetensors.numpy import save as save_tensors

from edgeadapt.device.storage import schema as journal_schema
from edgeadapt.device.storage.corruption import damage_named, reads
from edgeadapt.device.storage.database import LOG_BYTES, Database, sane
from edgeadapt.device.storage.name_erasure import Names, erase, only_in_history
from edgeadapt.device.storage.rows import ANSWER, CommitRow, RowTransitions, Step
from edgeadapt.results import Commit

_READER_S = 0.25  # a reader that copies a small journal is through by then


def _detail(text: str) -> dict[str, Any]:
    found = json.loads(text)
    if not isinstance(found, dict):
        raise ValueError(f"the detail of a commit is {type(found).__name__}, not an object")
    return found


class CommitTable(Database):
    """The tables ``commits`` and ``snapshots``."""

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
        unnamed: Names | None = None,
        relieved: Mapping[int, Mapping[str, NDArray[Any]]] | None = None,
        weights: Mapping[int, float] | None = None,
    ) -> None:
        """One transaction: what became of the rows, the commit, and snapshots taken or rewritten.

        Args:
            row: the commit; its moves set the statuses of the rows they name.
            statuses: earlier statuses by seq that are restored, with the commit they date from; the
                moves come after them.
            receipts: by seq.
            deleted: rows that are forgotten, with their raw inputs.
            emptied: rows that lose features and raw input.
            snapshot: tensors to keep as of this commit.
            rewritten: new tensors of earlier snapshots.
            unnamed: taken out of the history where nothing else names them after this.
            relieved: what is left of the tensors of earlier commits.
            weights: by seq, of rows that no commit has learned before.
        """
        gone = [(seq,) for seq in deleted]
        empty = [(seq,) for seq in emptied]
        with self._transaction() as db:
            self.at("begin")
            changed = dict(statuses or {}) | {
                seq: (status, row.number) for seq, status in row.moves.statuses().items()
            }
            db.executemany(
                "UPDATE evidence SET status = ?, commit_number = ? WHERE seq = ?",
                [(s, n, seq) for seq, (s, n) in changed.items()],
            )
            db.executemany(
                "UPDATE evidence SET receipt = ? WHERE seq = ?",
                [(receipt, seq) for seq, receipt in (receipts or {}).items()],
            )
            db.executemany(
                "UPDATE evidence SET weight = ? WHERE seq = ?",
                [(weight, seq) for seq, weight in (weights or {}).items()],
            )
            db.executemany("DELETE FROM evidence WHERE seq = ?", gone)
            if gone:  # what was predicted of a sample goes with its last label
                db.execute(
                    "DELETE FROM decisions WHERE kind = ? AND json_extract(why, '$.id') NOT IN"
                    " (SELECT id FROM evidence)",
                    (ANSWER,),
                )
            db.executemany("UPDATE evidence SET features = x'' WHERE seq = ?", empty)
            db.executemany("DELETE FROM raw WHERE seq = ?", gone + empty)
            self.at("rows")
            rest, classes = journal_schema.split_tables(row.tables)
            new = None if classes == self._classes_at(row.number) else classes
            db.execute(
                "INSERT INTO commits VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
                (
                    row.number,
                    time.time(),
                    row.kind,
                    row.outcome,
                    json.dumps(dict(row.detail)),
                    row.moves.encode(),
                    rest,
                    new,
                    save_tensors(dict(row.tensors)) if row.tensors else None,
                    row.digest,
                    self.writes.total,
                ),
            )
            for number, tensors in (rewritten or {}).items():
                db.execute(
                    "UPDATE snapshots SET tensors = ? WHERE commit_number = ?",
                    (save_tensors(dict(tensors)), number),
                )
            with damage_named(self.folder):  # of earlier commits
                names = only_in_history(db, unnamed or Names())
                if names:
                    erase(db, names)
            for number, tensors in (relieved or {}).items():
                db.execute(
                    "UPDATE commits SET tensors = ? WHERE number = ?",
                    (save_tensors(dict(tensors)) if tensors else None, number),
                )
            if snapshot is not None:
                self._keep_snapshot(db, row.number, snapshot)
        if gone or empty or names:
            self.holds_deleted = True  # the log has the rows as they were
            self.write_back(wait_s=_READER_S)
        else:
            self.write_back(at_least=0 if self.holds_deleted else LOG_BYTES)

    def _keep_snapshot(
        self, db: sqlite3.Connection, number: int, tensors: Mapping[str, NDArray[Any]]
    ) -> None:
        """The newest four, and those that stand in for what was compacted and for rows that have
        expired.
        """
        db.execute(
            "INSERT OR REPLACE INTO snapshots VALUES (?, ?)", (number, save_tensors(dict(tensors)))
        )
        db.execute(
            "DELETE FROM snapshots WHERE commit_number NOT IN (SELECT commit_number FROM snapshots"
            " ORDER BY commit_number DESC LIMIT 4) AND commit_number != (SELECT CASE WHEN"
            " min(number) > 1 THEN min(number) ELSE -1 END FROM commits) AND commit_number !="
            " (SELECT coalesce(max(number), -1) FROM commits WHERE kind = 'expire' AND outcome ="
            " 'saved')"
        )

    def compact(self, upto: int, base: RowTransitions, snapshot: Mapping[str, NDArray[Any]]) -> int:
        """Drop the commits before ``upto``: its snapshot and the statuses in ``base`` stand in for
        them. Returns how many went.
        """
        with self._transaction() as db:
            self.at("begin")
            db.execute(
                "UPDATE commits SET rows = ?, classes = ? WHERE number = ?",
                (base.encode(), self._classes_at(upto), upto),
            )
            gone = db.execute("DELETE FROM commits WHERE number < ?", (upto,)).rowcount
            db.execute("DELETE FROM snapshots WHERE commit_number < ?", (upto,))
            db.execute(
                "INSERT OR REPLACE INTO snapshots VALUES (?, ?)",
                (upto, save_tensors(dict(snapshot))),
            )
        return gone

    @reads
    def shrink(self) -> None:
        """Give pages that hold nothing back to the file system, where the file was created to allow
        it.
        """
        with self._reading():
            free, pages = (
                int(self._db.execute(f"PRAGMA {name}").fetchone()[0])
                for name in ("freelist_count", "page_count")
            )
            if free > pages // 4:
                before = self._log_bytes()
                # a script is stepped to its end, a page at a time
                self._db.executescript("PRAGMA incremental_vacuum")
                self.writes.add(self._log_bytes() - before)
                self.write_back()

    @reads
    def last_number(self) -> int:
        with self._reading():
            return sane(
                self._db.execute("SELECT coalesce(max(number), 0) FROM commits").fetchone()[0]
            )

    @reads
    def last_time(self) -> float | None:
        """When the last commit was made, seconds since the epoch; None if there is none."""
        with self._reading():
            found = self._db.execute(
                "SELECT time FROM commits ORDER BY number DESC LIMIT 1"
            ).fetchone()
        return None if found is None else float(found[0])

    @reads
    def last_change(self, upto: int) -> int:
        """The last commit up to a number that changed the state: vetoes, checkpoints and the choice
        of a head are stepped over. 0 if there is none.
        """
        with self._reading():
            return sane(
                self._db.execute(
                    "SELECT coalesce(max(number), 0) FROM commits WHERE number <= ? AND outcome NOT"
                    " IN ('vetoed', 'held', 'superseded', 'saved', 'thinned', 'chosen')",
                    (upto,),
                ).fetchone()[0]
            )

    @reads
    def first_number(self) -> int:
        """The earliest commit that is still there; 0 if there is none."""
        with self._reading():
            return int(
                self._db.execute("SELECT coalesce(min(number), 0) FROM commits").fetchone()[0]
            )

    @reads
    def last_expiry(self) -> int:
        """The last commit by which rows expired; 0 if none have."""
        with self._reading():
            return int(
                self._db.execute(
                    "SELECT coalesce(max(number), 0) FROM commits WHERE kind = 'expire' AND outcome"
                    " = 'saved'"
                ).fetchone()[0]
            )

    @reads
    def expired_after(self, number: int, *, deleted_only: bool = False) -> set[int]:
        """Rows that expired by a later commit: what was learned from them before can be read from a
        snapshot, and not be replayed.
        """
        with self._reading():
            found = self._db.execute(
                "SELECT rows FROM commits WHERE kind = 'expire' AND outcome = 'saved' AND"
                " number > ?",
                (number,),
            ).fetchall()
        moves = [RowTransitions.decode(rows) for (rows,) in found]
        return {
            seq
            for move in moves
            for seq in (move.expired if deleted_only else (*move.expired, *move.emptied))
        }

    @reads
    def horizon(self) -> int:
        """The commit before which nothing can be rebuilt: its history was compacted, or rows
        expired by a version that did not say which. 0 if there is none.
        """
        with self._reading():
            unsaid = self._db.execute(
                "SELECT coalesce(max(number), 0) FROM commits WHERE kind = 'expire' AND outcome ="
                " 'saved' AND digest = ''"
            ).fetchone()[0]
        first = self.first_number()
        return max(int(unsaid), first if first > 1 else 0)

    @reads
    def commits(self, after: int = 0, upto: int | None = None) -> list[CommitRow]:
        """Raises StateError where a commit cannot be read."""
        with self._reading():
            found = self._db.execute(
                "SELECT number, kind, outcome, detail, rows, tables, classes, tensors, digest FROM"
                " commits WHERE number > ? AND number <= ? ORDER BY number",
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
            result.append(
                CommitRow(
                    n,
                    kind,
                    outcome,
                    about,
                    RowTransitions.decode(rows),
                    tables,
                    load_tensors(blob) if blob else {},
                    marks,
                )
            )
        return result

    @reads
    def grown(self) -> dict[str, int]:
        """Condition -> its labels when it was last looked at for growth, by the commits that say
        so; 0 if labels were taken back since.
        """
        with self._reading():
            found = self._db.execute(
                "SELECT kind, detail FROM commits WHERE kind IN ('grow', 'withdraw', 'forget',"
                " 'remove_class') ORDER BY number"
            ).fetchall()
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
            return [
                int(number)
                for (number,) in self._db.execute(
                    "SELECT number FROM commits WHERE tensors IS NOT NULL ORDER BY number"
                ).fetchall()
            ]

    @reads
    def _tensors_of(self, number: int) -> dict[str, NDArray[Any]]:
        with self._reading():
            found = self._db.execute(
                "SELECT tensors FROM commits WHERE number = ? AND tensors IS NOT NULL", (number,)
            ).fetchone()
        return load_tensors(found[0]) if found else {}

    def _classes_at(self, number: int) -> str | None:
        """The class table after a commit, as JSON; None if none was written yet."""
        found = self._db.execute(
            "SELECT classes FROM commits WHERE number <= ? AND classes IS NOT NULL ORDER BY number"
            " DESC LIMIT 1",
            (number,),
        ).fetchone()
        return None if found is None else str(found[0])

    @reads
    def steps(self, upto: int | None = None) -> list[Step]:
        """What every commit did with rows, without tables and tensors."""
        with self._reading():
            found = self._db.execute(
                "SELECT number, CASE WHEN kind = 'rollback' THEN detail END, rows FROM commits"
                " WHERE number <= ? ORDER BY number",
                (upto if upto is not None else 2**62,),
            ).fetchall()
        steps = [
            Step(
                number,
                None if detail is None else int(_detail(detail)["to"]),
                RowTransitions.decode(rows),
            )
            for number, detail, rows in found
        ]
        # it stands for those that were compacted: its base says all, wherever it had gone back to
        if steps and steps[0].number > 1:
            steps[0] = replace(steps[0], to=None)
        return steps

    @reads
    def history(self, limit: int) -> list[Commit]:
        """Newest first."""
        with self._reading():
            found = self._db.execute(
                "SELECT number, time, kind, outcome, detail FROM commits ORDER BY number DESC"
                " LIMIT ?",
                (limit,),
            ).fetchall()
        return [
            Commit(n, at, kind, outcome, _detail(detail)) for n, at, kind, outcome, detail in found
        ]

    @reads
    def details(self, numbers: Collection[int]) -> dict[int, Mapping[str, Any]]:
        """What people are told of these commits, of those that are still there."""
        with self._reading():
            found = [
                self._db.execute(
                    "SELECT number, detail FROM commits WHERE number = ?", (number,)
                ).fetchone()
                for number in numbers
            ]
        return {row[0]: _detail(row[1]) for row in found if row is not None}

    @reads
    def only_in_history(self, names: Names) -> Names:
        """Those of the names that commits still have, and nothing else."""
        with self._reading():
            return only_in_history(self._db, names)

    @reads
    def forgot_since_added(self, name: str) -> bool:
        """True if labels were forgotten after a class was added, by the commits that are there."""
        with self._reading():
            found = self._db.execute(
                "SELECT kind, detail FROM commits WHERE kind IN ('add_class', 'forget')"
                " ORDER BY number DESC"
            ).fetchall()
        for kind, detail in found:
            if kind == "forget":
                return True
            if name in str(_detail(detail).get("class")).split(", "):
                return False
        return False

    @reads
    def snapshot(self, upto: int) -> tuple[int, dict[str, NDArray[Any]]] | None:
        """The newest snapshot at or before a commit."""
        with self._reading():
            row = self._db.execute(
                "SELECT commit_number, tensors FROM snapshots WHERE commit_number <= ? ORDER BY"
                " commit_number DESC LIMIT 1",
                (upto,),
            ).fetchone()
        return None if row is None else (int(row[0]), load_tensors(row[1]))

    @reads
    def snapshot_before(self, upto: int) -> int:
        """The number of the newest snapshot at or before a commit; 0 if there is none."""
        with self._reading():
            return int(
                self._db.execute(
                    "SELECT coalesce(max(commit_number), 0) FROM snapshots WHERE commit_number"
                    " <= ?",
                    (upto,),
                ).fetchone()[0]
            )

    @reads
    def snapshot_numbers(self) -> list[int]:
        with self._reading():
            return [
                int(row[0])
                for row in self._db.execute(
                    "SELECT commit_number FROM snapshots ORDER BY commit_number"
                ).fetchall()
            ]
