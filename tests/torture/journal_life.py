"""The journal alone, through everything it can do: what is adapted here when its methods change."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from stored import Stored, difference, stored_in

from edgeadapt.device.storage.journal import Journal
from edgeadapt.device.storage.name_erasure import Names
from edgeadapt.device.storage.rows import CommitChanges, CommitRow, EvidenceRow, RowTransitions


def row(number: int, source: str = "line 1") -> EvidenceRow:
    features = np.random.default_rng(number).standard_normal(12).astype(np.float16)
    return EvidenceRow(
        f"{number:016d}",
        source,
        "cam",
        "source",
        5.0 + number,
        "dent",
        1.0,
        "space",
        True,
        features,
    )


def commit(number: int, kind: str = "learn", outcome: str = "learned", **moves: Any) -> CommitRow:
    tensors = {"domain/condition-1/scale": np.full(40, number, np.float32)}
    return CommitRow(
        number,
        kind,
        outcome,
        {"labels": 1, "source": "gone"},
        RowTransitions(**moves),
        json.dumps({"classes": ["dent"], "number": number}),
        tensors,
    )


def snapshot(number: int) -> dict[str, Any]:
    return {"gram": np.full((40, 40), number, np.float32)}


Step = Callable[[Journal], object]
STEPS: tuple[tuple[str, Step], ...] = (
    ("receive", lambda j: j.receive([row(1), row(2), row(3, "line 2")])),
    ("learn", lambda j: j.commit(commit(1, added=(1, 2), held_out=(3,)))),
    (
        "receive with raw",
        lambda j: j.receive(
            [row(4, "gone"), row(5, "gone")],
            [np.zeros(40_000, np.uint8), np.ones((100, 100), np.float32)],
        ),
    ),
    (
        "learn with snapshot",
        lambda j: j.commit(
            commit(2, added=(4, 5)), CommitChanges(receipts={4: b"counted here"}), snapshot(2)
        ),
    ),
    (
        "decide",
        lambda j: j.decide(
            [(6.0, "cam", "hold", "source", "still"), (7.0, "cam", "ask", "source", "novel")]
        ),
    ),
    ("thin raw", lambda j: j.thin_raw(1)),
    (
        "forget",
        lambda j: j.commit(
            commit(3, "forget", "forgotten"),
            CommitChanges(deleted=[4], emptied=[5], rewritten={2: snapshot(9)}),
            snapshot(3),
        ),
    ),
    ("receive more", lambda j: j.receive([row(number) for number in range(6, 30)])),
    ("hold", lambda j: j.commit(commit(4, outcome="held", held=tuple(range(6, 30))))),
    (
        "roll back",
        lambda j: j.commit(
            commit(5, "rollback", "rolled back", withdrawn=(5,)),
            CommitChanges(statuses={1: ("learned", 1)}),
            snapshot(5),
        ),
    ),
    (
        "compact",
        lambda j: j.compact(3, RowTransitions(base=(("learned", 1, (1, 2)),)), snapshot(3)),
    ),
    (
        "forget much",
        lambda j: j.commit(
            commit(6, "forget", "forgotten"),
            CommitChanges(deleted=range(5, 30), unnamed=Names(frozenset({"gone"}))),
        ),
    ),
    ("shrink", lambda j: j.shrink()),
    ("write back", lambda j: j.write_back()),
    ("receive again", lambda j: j.receive([row(31)])),
)


def forget_pages(journal: Journal) -> None:
    """A cache of a few pages, as a large journal would have it: what was read is read again, what
    was changed is written before its commit.
    """
    journal._db.execute("PRAGMA cache_size=4")


class JournalLife:
    """Opened, lived step by step, closed."""

    name = "journal"
    steps: tuple[tuple[str, Step], ...] = STEPS

    def open(self, folder: Path) -> Journal:
        journal = Journal(folder)
        forget_pages(journal)
        return journal

    def journal_of(self, journal: Journal) -> Journal:
        return journal

    def close(self, journal: Journal) -> None:
        journal.close()

    def look(self, journal: Journal) -> bytes:
        """What it says without writing."""
        return repr(
            (
                sorted(journal.count_evidence().items()),
                [c.number for c in journal.history(9)],
                len(journal.decisions()),
            )
        ).encode()

    def recall(self, folder: Path) -> tuple[bytes, str]:
        """What a reopened one says."""
        journal = Journal(folder)
        try:
            return self.look(journal), ""
        finally:
            journal.close()

    def go_on(self, folder: Path, done: int, final: Stored) -> str:
        """Take the steps that are left after a crash; returns what is wrong with the end, empty if
        nothing.
        """
        journal = Journal(folder)
        try:
            for _, step in STEPS[done:]:
                step(journal)
            return difference(stored_in(folder), final)
        finally:
            journal.close()
