"""The state folder, as SQLite sees it."""

from __future__ import annotations

import json
import os
import sqlite3
import stat
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgeadapt.device.storage.journal import (
    DECISIONS_KEPT,
    FILE_NAME,
    LOCK_NAME,
    CommitRow,
    EvidenceRow,
    Journal,
    RowTransitions,
)
from edgeadapt.device.storage.rows import CommitChanges
from edgeadapt.errors import StateError


def row(sample: str, status: str = "received", **changes: Any) -> EvidenceRow:
    settings: dict[str, Any] = {
        "id": sample,
        "source": "me",
        "stream": "cam",
        "domain": "source",
        "time": 5.0,
        "label": "Coat",
        "weight": 1.0,
        "space": "s",
        "is_factory": True,
        "features": np.arange(6, dtype=np.float16),
        "status": status,
    }
    return EvidenceRow(**settings | changes)


def commit(
    number: int, rows: tuple[int, ...] = (), held_out: tuple[int, ...] = (), **tensors: Any
) -> CommitRow:
    return CommitRow(
        number,
        "learn",
        "learned",
        {"learned": len(rows)},
        RowTransitions(added=rows, held_out=held_out),
        json.dumps({"classes": []}),
        tensors,
    )


def test_a_row_comes_back_as_it_was_given(state: Path) -> None:
    journal = Journal(state)
    given = row(
        "a",
        source="Zoë's",
        label="T-shirt/top",
        features=np.array([1.5, -2, 65504, 6e-8, 0, -0.0], np.float16),
        is_factory=False,
    )
    journal.receive([given, row("b")])
    journal.close()
    back, other = Journal(state).evidence()
    np.testing.assert_array_equal(back.features, given.features)
    assert (back.id, back.source, back.label, back.status, back.is_factory) == (
        "a",
        "Zoë's",
        "T-shirt/top",
        "received",
        False,
    )
    assert other.is_factory is True and back.commit_number is None


def test_the_schema_is_strict_and_versioned(state: Path) -> None:
    journal = Journal(state)
    assert journal.meta("schema") == "3" and journal.is_new
    db = journal._db
    tables = {
        name
        for (name,) in db.execute(
            "SELECT name FROM sqlite_master WHERE type = 'table' AND name NOT LIKE 'sqlite%'"
        )
    }
    assert tables == {"meta", "evidence", "raw", "commits", "decisions", "snapshots"}
    with pytest.raises(sqlite3.IntegrityError):
        db.execute("UPDATE meta SET value = NULL")
    with pytest.raises(StateError, match="CHECK constraint failed"):
        journal.receive([row("a", status="lost")])
    assert journal.evidence() == []


@pytest.mark.parametrize("version", ["4", "0", "", "one"])
def test_another_schema_is_refused_by_its_number_and_kept(state: Path, version: str) -> None:
    journal = Journal(state)
    journal.set_meta({"schema": version})
    journal.close()
    for _ in range(2):
        with pytest.raises(
            StateError,
            match=(
                f"journal schema {version}, this version reads 3; open it with the version that"
                " wrote it"
            ),
        ):
            Journal(state)
    with sqlite3.connect(state / FILE_NAME) as db:
        assert db.execute("SELECT value FROM meta WHERE key = 'schema'").fetchone() == (version,)


def test_what_is_deleted_is_overwritten_and_a_commit_is_synced(state: Path) -> None:
    db = Journal(state)._db
    assert [
        db.execute(f"PRAGMA {name}").fetchone()[0]
        for name in ("secure_delete", "synchronous", "journal_mode")
    ] == [1, 2, "wal"]


def test_folder_and_file_are_for_this_user_alone(state: Path) -> None:
    journal = Journal(state)
    journal.receive([row("a")])
    assert stat.S_IMODE(state.stat().st_mode) == 0o700
    assert {path.name: stat.S_IMODE(path.stat().st_mode) & 0o077 for path in state.iterdir()} == {
        path.name: 0 for path in state.iterdir()
    }


def test_in_memory_nothing_is_written_and_everything_works() -> None:
    journal = Journal(None)
    journal.receive([row("a")])
    journal.commit(commit(1, (1,)))
    assert (
        journal.count_evidence() == {"learned": 1}
        and journal.nbytes == 0
        and journal.folder is None
    )


def test_a_commit_sets_statuses_deletes_and_keeps_its_tensors(state: Path) -> None:
    journal = Journal(state)
    journal.receive([row("a"), row("b"), row("c")])
    journal.commit(
        commit(1, (1,), (2,), **{"norm.mean": np.ones(3, np.float32)}), CommitChanges(deleted=[3])
    )
    assert journal.count_evidence() == {"learned": 1, "held_out": 1}
    assert [r.commit_number for r in journal.evidence()] == [1, 1]
    (read,) = journal.commits()
    assert read.moves == RowTransitions(added=(1,), held_out=(2,)) and read.detail == {"learned": 1}
    np.testing.assert_array_equal(read.tensors["norm.mean"], np.ones(3))
    assert {
        sample: found.status for sample, found in journal.newest_of(["a", "b", "c"]).items()
    } == {"a": "learned", "b": "held_out"}


def test_rows_are_found_by_number_in_the_order_asked_for(state: Path) -> None:
    journal = Journal(state)
    journal.receive([row(f"{i:04d}") for i in range(1300)])
    wanted = [*range(1300, 0, -1), 5000, 8]
    assert [r.seq for r in journal.evidence_of(wanted)] == [*range(1300, 0, -1), 8]
    assert [r.id for r in journal.evidence_of([8])] == ["0007"]
    assert journal.evidence_of([]) == []


def test_of_several_rows_of_a_sample_the_last_one_is_found(state: Path) -> None:
    journal = Journal(state)
    journal.receive([row("a", label="Coat"), row("b")])
    journal.receive([row("a", label="Bag")])
    found = journal.newest_of(["a", "nobody"])
    assert {sample: (r.label, r.seq) for sample, r in found.items()} == {"a": ("Bag", 3)}
    journal.commit(commit(1, (1,)))
    assert [(r.label, r.status) for r in journal.accepted_of(["a", "b"])] == [("Coat", "learned")]


def test_a_fault_anywhere_in_a_transaction_changes_nothing(state: Path) -> None:
    journal = Journal(state)
    journal.receive([row("a")])
    for step in ("begin", "rows", "before_commit"):

        def at(reached: str, step: str = step) -> None:
            if reached == step:
                raise OSError(f"the power went at {step}")

        journal.at = at
        with pytest.raises(OSError, match=step):
            journal.commit(commit(1, (1,)), CommitChanges(deleted=[1]), {"t": np.ones(1)})
        assert (
            journal.count_evidence() == {"received": 1}
            and journal.last_number() == 0
            and journal.snapshot(9) is None
        )
    journal.at = lambda step: None
    journal.commit(commit(1, (1,)))
    assert journal.last_number() == 1 and journal.count_evidence() == {"learned": 1}


def test_the_newest_four_snapshots_are_kept_and_can_be_rewritten(state: Path) -> None:
    journal = Journal(state)
    for number in range(1, 8):
        journal.commit(commit(number), snapshot={"t": np.full(2, number, np.float32)})
    assert journal.snapshot_numbers() == [4, 5, 6, 7]
    assert journal.snapshot(3) is None
    found = journal.snapshot(5)
    assert found and found[0] == 5
    journal.commit(commit(8), CommitChanges(rewritten={5: {"t": np.zeros(2, np.float32)}}))
    found = journal.snapshot(5)
    assert found and found[1]["t"].tolist() == [0, 0]
    assert journal.snapshot(100)[0] == 7  # type: ignore[index]


def test_history_is_newest_first_and_cut(state: Path) -> None:
    journal = Journal(state)
    for number in range(1, 6):
        journal.commit(commit(number))
    assert [c.number for c in journal.history(3)] == [5, 4, 3]
    assert [c.number for c in journal.commits(2, 4)] == [3, 4]


def test_decisions_are_bounded_and_newest_first(state: Path) -> None:
    journal = Journal(state)
    for start in range(0, DECISIONS_KEPT + 3000, 1000):
        journal.decide(
            [(float(i), "cam", "hold", "source", "still") for i in range(start, start + 1000)]
        )
    found = journal.decisions(DECISIONS_KEPT + 5000)
    assert (
        len(found) == DECISIONS_KEPT
        and found[0][0] == DECISIONS_KEPT + 2999
        and found[-1][0] == 3000
    )
    assert len(journal.decisions()) == 100


def test_the_lock_names_its_holder_and_dies_with_it(state: Path) -> None:
    script = (
        "import sys; from edgeadapt.device.storage.journal import Journal; j ="
        " Journal(sys.argv[1]); print('held', flush=True); sys.stdin.read()"
    )
    holder = subprocess.Popen(
        [sys.executable, "-c", script, str(state)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert holder.stdout and holder.stdout.readline() == b"held\n"
    assert (state / LOCK_NAME).read_text() == f"{holder.pid}\n"
    with pytest.raises(StateError, match=f"is in use by the process with pid {holder.pid}"):
        Journal(state)
    holder.kill()
    holder.communicate()
    Journal(state).close()
    assert (state / LOCK_NAME).read_text() == f"{os.getpid()}\n"


def test_a_journal_that_could_not_be_opened_does_not_keep_the_lock(state: Path) -> None:
    state.mkdir()
    (state / FILE_NAME).write_bytes(b"x" * 5000)
    with pytest.raises(StateError, match="damaged"):
        Journal(state)
    (state / FILE_NAME).unlink()
    Journal(state)


def test_threads_take_turns(state: Path) -> None:
    journal = Journal(state)
    errors: list[Exception] = []

    def write(name: str) -> None:
        try:
            for i in range(40):
                journal.receive([row(f"{name}{i}")])
                journal.count_evidence()
        except Exception as error:
            errors.append(error)

    threads = [threading.Thread(target=write, args=(name,)) for name in "abcd"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not errors and journal.count_evidence() == {"received": 160}


def test_after_closing_every_write_is_a_state_error(state: Path) -> None:
    journal = Journal(state)
    journal.close()
    journal.close()
    with pytest.raises(StateError, match="cannot take the change"):
        journal.receive([row("a")])
