"""A ``learner.db`` that somebody else wrote, opened as a journal: refused by name, or read to the
end and written to.
"""

from __future__ import annotations

import shutil
import sqlite3
import tempfile
from collections.abc import Callable
from pathlib import Path
from random import Random

import numpy as np
from golden_files import GOLDEN
from safetensors import SafetensorError

from edgeadapt.device.learner import Learner
from edgeadapt.device.storage.journal import FILE_NAME, EvidenceRow, Journal
from edgeadapt.errors import StateError
from fuzz import shipped
from fuzz.edits import sql
from fuzz.target import Execute, Target

_DAMAGE = (
    sqlite3.DatabaseError,
    SafetensorError,
    ValueError,
    KeyError,
    TypeError,
    IndexError,
)  # what the learner turns into a StateError when it opens


def seeds() -> list[bytes]:
    """States of the shipped bundle, and those of every version that are kept."""
    return [
        *shipped_states(),
        *(path.read_bytes() for path in sorted(GOLDEN.glob("v*/learner.db"))),
    ]


def shipped_states() -> list[bytes]:
    return [_written(_little), _written(_much)]


def _written(teach: Callable[[Learner], None]) -> bytes:
    folder = Path(tempfile.mkdtemp())
    try:
        with shipped.opened(folder) as learner:
            teach(learner)
        return (folder / FILE_NAME).read_bytes()
    finally:
        shutil.rmtree(folder)


def _little(learner: Learner) -> None:
    x, names = shipped.clean()
    learner.learn(x[:3], names[:3], source="ann")
    learner.settle()


def _much(learner: Learner) -> None:
    """Labels from two sources, a class of its own, a condition with its tensors, a forgotten row
    and a rollback.
    """
    x, names = shipped.clean()
    learner.add_class("new")
    learner.learn(x[:20], names[:20], source="ann")
    learner.learn(x[20:24], ["new"] * 4, source="bob")
    learner.settle()
    for start in range(0, 96, 32):
        seen = learner.observe(shipped.fog()[start : start + 32], stream="cam")
        learner.settle()
    learner.label(seen.ids[:4], names[:4], source="ann")
    learner.settle()
    learner.forget(source="bob")
    learner.rollback()
    learner.learn(x[30:36], names[30:36])
    learner.settle()


def mutate(rng: Random, data: bytes, other: bytes) -> bytes:
    return sql.edit(rng, data, other)


def prepare(scratch: Path) -> Execute:
    def execute(data: bytes) -> None:
        folder = Path(tempfile.mkdtemp(dir=scratch))
        try:
            (folder / FILE_NAME).write_bytes(data)
            journal = Journal(folder)
            try:
                read_all(journal)
            except _DAMAGE as damage:
                if isinstance(damage, StateError):
                    raise
                raise StateError(f"damaged: {damage}") from damage
            finally:
                journal.close()
        finally:
            shutil.rmtree(folder)

    return execute


def read_all(journal: Journal) -> None:
    """Every read, and a write."""
    for row in journal.evidence():
        assert isinstance(row, EvidenceRow)
    journal.evidence(narrow=True)
    journal.commits()
    journal.history(10)
    journal.decisions(10)
    journal.raw()
    for number in journal.snapshot_numbers():
        journal.snapshot(number)
    journal.count_evidence(), journal.count_accepted(), journal.last_number()
    journal.receive(
        [
            EvidenceRow(
                "f" * 16,
                "",
                "s",
                "source",
                0.0,
                "Coat",
                1.0,
                "0" * 64,
                True,
                np.zeros(192, np.float16),
            )
        ]
    )


def is_past_header(error: Exception) -> bool:
    """SQLite opened it, and it has tables of ours of a version that is read."""
    return not any(
        part in str(error)
        for part in (
            "not a database",
            "malformed",
            "journal schema",
            "something else",
            "no such table: meta",
        )
    )


_MODULES = (
    "edgeadapt.device.storage.journal",
    "edgeadapt.device.storage.database",
    "edgeadapt.device.storage.evidence_table",
    "edgeadapt.device.storage.commit_table",
    "edgeadapt.device.storage.rows",
    "edgeadapt.device.storage.schema",
    "edgeadapt.device.storage.folder",
)
TARGET = Target(
    "journal",
    seeds,
    mutate,
    prepare,
    (StateError,),
    is_past_header,
    _MODULES,
    share=20,
    seconds=10.0,
)
