"""The state folder: one SQLite file that holds what was learned, decided and can be undone."""

from __future__ import annotations

import json
from collections.abc import Sequence

from edgeadapt.device.storage.commit_table import CommitTable
from edgeadapt.device.storage.corruption import reads
from edgeadapt.device.storage.evidence_table import EvidenceTable
from edgeadapt.device.storage.folder import FILE_NAME, LOCK_NAME, FolderLock
from edgeadapt.device.storage.rows import (
    ANSWER,
    AskedSample,
    CommitRow,
    EvidenceRow,
    FieldAnswer,
    RawInput,
    RowTransitions,
)
from edgeadapt.device.storage.schema import VERSION as SCHEMA_VERSION

DECISIONS_KEPT = 20_000


class Journal(EvidenceTable, CommitTable):
    """All of ``learner.db``. Thread-safe; every method that writes is one transaction."""

    def decide(self, decisions: Sequence[tuple[float, str, str, str, str]]) -> None:
        """Record decisions (time, stream, kind, domain, why); the oldest fall out beyond a fixed
        number.
        """
        if not decisions:
            return
        with self._transaction() as db:
            db.executemany("INSERT INTO decisions VALUES (?, ?, ?, ?, ?)", decisions)
            db.execute(
                "DELETE FROM decisions WHERE rowid <= (SELECT max(rowid) FROM decisions) - ?",
                (DECISIONS_KEPT,),
            )

    @reads
    def decisions(self, limit: int = 100) -> list[tuple[float, str, str, str, str]]:
        return self._all(
            "SELECT * FROM decisions WHERE kind != ? ORDER BY rowid DESC LIMIT ?", ANSWER, limit
        )

    @reads
    def field_answers(self, limit: int) -> list[FieldAnswer]:
        """The last answers to questions whose labels stand, oldest first, each sample once.

        A label that was corrected counts as it reads now; one that is held or vetoed is an answer
        all the same, or the accuracy would come out too good.
        """
        found = self._all(
            "SELECT d.stream, d.domain, d.why, e.label, e.status FROM decisions d"
            " JOIN evidence e ON e.id = json_extract(d.why, '$.id') WHERE d.kind = ?"
            " AND e.seq = (SELECT max(seq) FROM evidence WHERE id = e.id)"
            " ORDER BY d.rowid DESC LIMIT ?",
            ANSWER,
            limit,
        )
        answers: dict[str, FieldAnswer] = {}
        for stream, domain, text, label, status in found:
            about = json.loads(text)
            if status != "withdrawn":
                predicted, is_random = str(about["predicted"]), bool(about["random"])
                answer = FieldAnswer(stream, domain, predicted, label, is_random)
                answers.setdefault(str(about["id"]), answer)
        return list(answers.values())[::-1]

    @reads
    def asked_samples(self) -> dict[str, AskedSample]:
        """By id, the last question about each sample that was answered, and is still known."""
        found = self._all(
            "SELECT stream, domain, why FROM decisions WHERE kind = ? ORDER BY rowid", ANSWER
        )
        asked: dict[str, AskedSample] = {}
        for stream, domain, text in found:
            about = json.loads(text)
            predicted, is_random = str(about["predicted"]), bool(about["random"])
            one = AskedSample(str(about["id"]), stream, domain, predicted, is_random)
            asked[one.sample] = one
        return asked


__all__ = [
    "DECISIONS_KEPT",
    "FILE_NAME",
    "LOCK_NAME",
    "SCHEMA_VERSION",
    "CommitRow",
    "EvidenceRow",
    "FolderLock",
    "Journal",
    "RawInput",
    "RowTransitions",
]
