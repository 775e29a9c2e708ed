"""Commits in ``learner.db``, and the snapshots that spare a reader the replay of all of them."""

from __future__ import annotations

import json
import sqlite3
import time
from collections.abc import Collection, Iterator, Mapping
from dataclasses import replace
from typing import Any

from numpy.typing import NDArray
from safetensors.numpy import load as load_tensors
from safetensors.numpy import save as save_tensors

from edgeadapt.device.storage.corruption import raise_if_corrupt, reads
from edgeadapt.device.storage.database import LOG_BYTES, Database, sane
from edgeadapt.device.storage.name_erasure import Names, erase, only_in_history
from edgeadapt.device.storage.rows import ANSWER, CommitChanges, CommitRow, RowTransitions, Step
from edgeadapt.device.storage.schema import join_tables, split_tables
from edgeadapt.results import Commit

_EXPIRED = "kind = 'expire' AND outcome = 'saved'"
_WITHOUT_END = 1 << 62  # beyond the number of any commit
_READER_S = 0.25  # a reader that copies a small journal is through by then


def _detail(text: str) -> dict[str, Any]:
    found = json.loads(text)
    if not isinstance(found, dict):
        raise ValueError(f"the detail of a commit is {type(found).__name__}, not an object")
    return found


def _blob(tensors: Mapping[str, NDArray[Any]]) -> bytes | None:
    return save_tensors(dict(tensors)) if tensors else None


class CommitTable(Database):
    """The tables ``commits`` and ``snapshots``."""

    def commit(
        self,
        row: CommitRow,
        changes: CommitChanges = CommitChanges(),  # noqa: B008 - it is frozen
        snapshot: Mapping[str, NDArray[Any]] | None = None,
    ) -> None:
        """One transaction: what became of the rows, the commit, and snapshots taken or rewritten.

        Args:
            row: the commit; its moves set the statuses of the rows they name.
            snapshot: tensors to keep as of this commit.
        """
        gone = [(seq,) for seq in changes.deleted]
        empty = [(seq,) for seq in changes.emptied]
        with self._transaction() as db:
            self.at("begin")
            statuses = dict(changes.statuses) | {
                seq: (status, row.number) for seq, status in row.moves.statuses().items()
            }
            db.executemany(
                "UPDATE evidence SET status = ?, commit_number = ? WHERE seq = ?",
                [(s, n, seq) for seq, (s, n) in statuses.items()],
            )
            for column, values in (("receipt", changes.receipts), ("weight", changes.weights)):
                db.executemany(
                    f"UPDATE evidence SET {column} = ? WHERE seq = ?",
                    [(value, seq) for seq, value in values.items()],
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
            rest, classes = split_tables(row.tables)
            new = None if classes == self._classes_at(row.number) else classes
            db.execute(
                "INSERT INTO commits VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
                (
                    *(row.number, time.time(), row.kind, row.outcome, json.dumps(dict(row.detail))),
                    *(row.moves.encode(), rest, new, _blob(row.tensors)),
                    *(row.digest, self.writes.total),
                ),
            )
            db.executemany(
                "UPDATE snapshots SET tensors = ? WHERE commit_number = ?",
                [(save_tensors(dict(left)), number) for number, left in changes.rewritten.items()],
            )
            with raise_if_corrupt(self.folder):  # of earlier commits
                names = only_in_history(db, changes.unnamed)
                if names:
                    erase(db, names)
            db.executemany(
                "UPDATE commits SET tensors = ? WHERE number = ?",
                [(_blob(left), number) for number, left in changes.relieved.items()],
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
        them. Returns how many were dropped.
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
        """Give empty pages back to the file system, where the file was created to allow it."""
        with self._reading():
            free, pages = self._pragma("freelist_count"), self._pragma("page_count")
            if free > pages // 4:
                before = self._log_bytes()
                # a script is stepped to its end, a page at a time
                self._db.executescript("PRAGMA incremental_vacuum")
                self.writes.add(self._log_bytes() - before)
                self.write_back()

    def _number(self, what: str, where: str = "1", *values: Any) -> int:
        """A number of the commits for which ``where`` holds; 0 if there are none."""
        found = self._one(f"SELECT coalesce({what}, 0) FROM commits WHERE {where}", *values)
        return sane(found[0])

    @reads
    def last_number(self) -> int:
        return self._number("max(number)")

    @reads
    def last_time(self) -> float | None:
        """When the last commit was made, seconds since the epoch; None if there is none."""
        found = self._all("SELECT time FROM commits ORDER BY number DESC LIMIT 1")
        return float(found[0][0]) if found else None

    @reads
    def last_change(self, upto: int) -> int:
        """The last commit up to a number that changed the state: vetoes, checkpoints and the choice
        of a head are stepped over. 0 if there is none.
        """
        where = (
            "number <= ? AND outcome NOT IN ('vetoed', 'held', 'superseded', 'saved', 'thinned',"
            " 'chosen')"
        )
        return self._number("max(number)", where, upto)

    @reads
    def first_number(self) -> int:
        """The earliest commit that is still there; 0 if there is none."""
        return self._number("min(number)")

    @reads
    def last_expiry(self) -> int:
        """The last commit by which rows expired; 0 if none have."""
        return self._number("max(number)", _EXPIRED)

    @reads
    def expired_after(self, number: int, *, deleted_only: bool = False) -> set[int]:
        """Rows that expired by a later commit: what was learned from them before can be read from a
        snapshot, and not be replayed.
        """
        found = self._all(f"SELECT rows FROM commits WHERE {_EXPIRED} AND number > ?", number)
        moves = [RowTransitions.decode(rows) for (rows,) in found]
        return {
            seq
            for move in moves
            for seq in (move.expired if deleted_only else (*move.expired, *move.emptied))
        }

    @reads
    def horizon(self) -> int:
        """The commit before which nothing can be rebuilt: its history was compacted, or a version
        that did not record which rows expired them. 0 if there is none.
        """
        unsaid = self._number("max(number)", f"{_EXPIRED} AND digest = ''")
        first = self.first_number()
        return max(unsaid, first if first > 1 else 0)

    @reads
    def commits(self, after: int = 0, upto: int = _WITHOUT_END) -> list[CommitRow]:
        """Raises StateError where a commit cannot be read."""
        with self._mutex:
            found = self._all(
                "SELECT number, kind, outcome, detail, rows, tables, classes, tensors, digest FROM"
                " commits WHERE number > ? AND number <= ? ORDER BY number",
                after,
                upto,
            )
            classes = self._classes_at(found[0][0]) if found else None
        result = []
        for n, kind, outcome, detail, rows, rest, new, blob, marks in found:
            classes = new or classes
            tables = join_tables(rest, classes or "[]")
            about = _detail(detail)
            if kind == "rollback" and not (type(about["to"]) is int and 0 <= about["to"] < n):
                raise ValueError(f"commit {n} went back to {about['to']!r:.40}")
            tensors = load_tensors(blob) if blob else {}
            moves = RowTransitions.decode(rows)
            result.append(CommitRow(n, kind, outcome, about, moves, tables, tensors, marks))
        return result

    @reads
    def labels_at_growth(self) -> dict[str, int]:
        """Condition -> its labels when growth was last considered; 0 if some were taken back."""
        found = self._all(
            "SELECT kind, detail FROM commits WHERE kind IN ('grow', 'withdraw', 'forget',"
            " 'remove_class') ORDER BY number"
        )
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
        sql = "SELECT number FROM commits WHERE tensors IS NOT NULL ORDER BY number"
        return [int(number) for (number,) in self._all(sql)]

    @reads
    def _tensors_of(self, number: int) -> dict[str, NDArray[Any]]:
        sql = "SELECT tensors FROM commits WHERE number = ? AND tensors IS NOT NULL"
        found = self._all(sql, number)
        return load_tensors(found[0][0]) if found else {}

    def _classes_at(self, number: int) -> str | None:
        """The class table after a commit, as JSON; None if none was written yet."""
        found = self._all(
            "SELECT classes FROM commits WHERE number <= ? AND classes IS NOT NULL ORDER BY number"
            " DESC LIMIT 1",
            number,
        )
        return str(found[0][0]) if found else None

    @reads
    def steps(self, upto: int = _WITHOUT_END) -> list[Step]:
        """What every commit did with rows, without tables and tensors."""
        found = self._all(
            "SELECT number, CASE WHEN kind = 'rollback' THEN detail END, rows FROM commits WHERE"
            " number <= ? ORDER BY number",
            upto,
        )
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
        found = self._all(
            "SELECT number, time, kind, outcome, detail FROM commits ORDER BY number DESC LIMIT ?",
            limit,
        )
        return [
            Commit(n, at, kind, outcome, _detail(detail)) for n, at, kind, outcome, detail in found
        ]

    @reads
    def details(self, numbers: Collection[int]) -> dict[int, Mapping[str, Any]]:
        """What these commits say to people, of those that are still there."""
        sql = "SELECT number, detail FROM commits WHERE number = ?"
        found = [row for number in numbers for row in self._all(sql, number)]
        return {number: _detail(text) for number, text in found}

    @reads
    def only_in_history(self, names: Names) -> Names:
        """Those of the names that commits still have, and nothing else."""
        with self._reading():
            return only_in_history(self._db, names)

    @reads
    def forgot_since_added(self, name: str) -> bool:
        """True if labels were forgotten after a class was added, by the commits that are there."""
        found = self._all(
            "SELECT kind, detail FROM commits WHERE kind IN ('add_class', 'forget')"
            " ORDER BY number DESC"
        )
        for kind, detail in found:
            if kind == "forget":
                return True
            if name in str(_detail(detail).get("class")).split(", "):
                return False
        return False

    @reads
    def snapshot(self, upto: int) -> tuple[int, dict[str, NDArray[Any]]] | None:
        """The newest snapshot at or before a commit."""
        found = self._all(
            "SELECT commit_number, tensors FROM snapshots WHERE commit_number <= ? ORDER BY"
            " commit_number DESC LIMIT 1",
            upto,
        )
        return (int(found[0][0]), load_tensors(found[0][1])) if found else None

    @reads
    def snapshot_before(self, upto: int) -> int:
        """The number of the newest snapshot at or before a commit; 0 if there is none."""
        sql = "SELECT coalesce(max(commit_number), 0) FROM snapshots WHERE commit_number <= ?"
        return int(self._one(sql, upto)[0])

    @reads
    def snapshot_numbers(self) -> list[int]:
        found = self._all("SELECT commit_number FROM snapshots ORDER BY commit_number")
        return [int(number) for (number,) in found]
