"""What a state folder may cost: writes a day, rows, commits, bytes on a disk that is full."""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from feature_vectors import samples
from learner_steps import Opener, tensors

from edgeadapt.device.detection.policy import Keep
from edgeadapt.device.learner import Learner
from edgeadapt.device.learner import open as open_learner
from edgeadapt.device.pipeline import label_worker as learning_room
from edgeadapt.device.resources.budget import Budget, WriteRoom
from edgeadapt.device.resources.write_meter import Writes
from edgeadapt.device.storage.journal import Journal
from edgeadapt.errors import BudgetError, StateError, StorageError
from edgeadapt.testing import inspect_state

PROBE = samples(40, [0, 1, 2, 3], 99)[0]


def teach(learner: Learner, count: int, seed: int, source: str = "a") -> tuple[str, ...]:
    x, names = samples(count, [0, 1, 2, 3], seed)
    ids = learner.learn(x, names, source=source)
    learner.settle()
    return ids


@contextmanager
def full_disk(learner: Learner) -> Iterator[None]:
    """No page more for the database, and none for its log."""
    db, mutex = inspect_state(learner).journal._db, inspect_state(learner).journal._mutex
    with mutex:
        pages = db.execute("PRAGMA page_count").fetchone()[0]
        db.execute(f"PRAGMA max_page_count = {pages}")
        free = db.execute("PRAGMA freelist_count").fetchone()[0]
    assert free < 100
    try:
        yield
    finally:
        with mutex:
            db.execute(f"PRAGMA max_page_count = {2**30}")


# -- a full disk -----------------------------------------------------------------------------------
def test_a_full_disk_refuses_labels_by_name_serves_on_and_recovers_by_itself(
    open_vectors: Opener, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(learning_room, "_FIRST_RETRY_S", 0.05)
    with open_vectors(state=tmp_path / "s") as learner:
        teach(learner, 30, 1)
        probs, labels = learner.predict(PROBE).probs, learner.counters()["evidence"]
        x, names = samples(4000, [0, 1, 2, 3], 2)
        with full_disk(learner):
            with pytest.raises(StorageError, match="disk is full; nothing was changed"):
                learner.learn(x, names)
            ids = learner.observe(PROBE).ids
            np.testing.assert_array_equal(learner.predict(PROBE).probs, probs)
            assert learner.counters()["evidence"] == labels and learner.is_pending(ids[0])
        learner.label(ids[0], "ok")
        learner.settle()
        assert sum(learner.counters()["evidence"].values()) == 31


def test_labels_taken_before_the_disk_was_full_are_learned_later_without_being_asked(
    open_vectors: Opener, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(learning_room, "_FIRST_RETRY_S", 0.05)
    with open_vectors(state=tmp_path / "s", freeze=True) as learner:
        x, names = samples(400, [0, 1, 2, 3], 3)
        for start in range(0, 400, 4):
            learner.learn(x[start : start + 4], names[start : start + 4], source=f"person {start}")
        with full_disk(learner):
            learner.freeze(False)
            with pytest.raises(StorageError):
                learner.settle()
            assert 0 < learner.counters()["evidence"]["received"] <= 400
        deadline = time.monotonic() + 20.0
        while inspect_state(learner).state.labels < 400 and time.monotonic() < deadline:
            time.sleep(0.05)
        learner.settle()  # and the failure is not reported any more
        assert (
            learner.counters()["evidence"].get("received") is None
            and inspect_state(learner).state.labels == 400
        )
        digest = learner.digest()
    with open_vectors(state=tmp_path / "s") as again:
        assert again.digest() == digest


# -- bytes a day -----------------------------------------------------------------------------------
def test_every_byte_of_the_log_and_of_the_database_is_counted(
    open_vectors: Opener, tmp_path: Path
) -> None:
    with open_vectors(state=tmp_path / "s") as learner:
        # with its tables, before there is a log
        made = (tmp_path / "s" / "learner.db").stat().st_size
        teach(learner, 64, 1)
        after = inspect_state(learner).journal.writes.total
        assert (
            after - made == inspect_state(learner).journal._log_bytes() > 64 * 24 and made >= 4096
        )
        inspect_state(learner).journal.write_back()
        assert inspect_state(learner).journal._log_bytes() == 0
        size = (tmp_path / "s" / "learner.db").stat().st_size
        assert after + 4096 <= inspect_state(learner).journal.writes.total <= after + size
        assert (
            learner.counters()["written_bytes_last_day"]
            == inspect_state(learner).journal.writes.total
        )


def test_the_count_survives_the_process(open_vectors: Opener, tmp_path: Path) -> None:
    with open_vectors(state=tmp_path / "s") as learner:
        teach(learner, 64, 1)
        teach(learner, 64, 2)
        total = inspect_state(learner).journal.writes.total
    with open_vectors(state=tmp_path / "s") as again:
        assert total / 2 < inspect_state(again).journal.writes.total <= total + 2**20


def test_a_used_up_budget_refuses_labels_with_the_numbers_and_a_day_later_takes_them(
    open_vectors: Opener, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = time.time()
    monkeypatch.setattr("time.time", lambda: now)
    with open_vectors(state=tmp_path / "s", budget=Budget(write_mib_per_day=0.5)) as learner:
        with pytest.raises(
            BudgetError,
            match=r"has written 0\.\d MiB over the last 24 hours and write_mib_per_day is 0\.5",
        ):
            for seed in range(100):
                teach(learner, 32, seed)
        assert 0.4 * 2**20 < learner.counters()["written_bytes_last_day"] < 0.75 * 2**20
        known = learner.counters()["evidence"]
        assert len(learner.predict(PROBE)) == 40
        now += 92_000
        teach(learner, 32, 1000)
        assert sum(learner.counters()["evidence"].values()) == sum(known.values()) + 32


def test_what_can_wait_stops_before_labels_do() -> None:
    writes = Writes()
    room = WriteRoom(Budget(write_mib_per_day=1.0), writes)
    writes.add(int(0.7 * 2**20))
    assert room.has_room(2**10) and not room.has_room(int(0.2 * 2**20)) and room.deferred == 1
    room.require_room(int(0.2 * 2**20))
    writes.add(int(0.3 * 2**20) + 1)
    with pytest.raises(BudgetError):
        room.require_room(1)


@pytest.mark.parametrize("jump", [-10 * 86_400.0, 10 * 86_400.0])
def test_a_clock_that_jumps_makes_the_day_neither_endless_nor_free_of_charge(jump: float) -> None:
    now = [1_000_000.0]
    writes = Writes(clock=lambda: now[0])
    for _ in range(10):
        writes.add(100)
        now[0] += 600
    now[0] += jump
    for _ in range(30):
        writes.add(10)
        now[0] += 3600
    assert 200 <= writes.last_day <= 1300 and len(writes._hours) <= 26
    for _ in range(30):
        writes.add(10)
        now[0] += 3600
    assert 240 <= writes.last_day <= 280


# -- how long and how many -------------------------------------------------------------------------
def test_beyond_their_number_the_oldest_rows_go_and_what_they_taught_stays(
    open_vectors: Opener, tmp_path: Path
) -> None:
    with open_vectors(state=tmp_path / "s", keep=Keep(rows=100)) as learner:
        for seed in range(5):
            teach(learner, 50, seed)
        probs = learner.predict(PROBE).probs
        learner.checkpoint()
        assert (
            sum(learner.counters()["evidence"].values()) == 100
            and inspect_state(learner).state.labels == 250
        )
        np.testing.assert_array_equal(learner.predict(PROBE).probs, probs)
        assert {row.seq for row in inspect_state(learner).journal.evidence()} == set(
            range(151, 251)
        )


def test_old_commits_are_compacted_and_everything_after_can_still_be_reached(
    open_vectors: Opener, tmp_path: Path
) -> None:
    marks = {}
    with open_vectors(state=tmp_path / "s", keep=Keep(commits=100)) as learner:
        for seed in range(130):
            teach(learner, 4, seed, source=f"s{seed % 3}")
            marks[learner.history(1)[0].number] = tensors(learner)
        digest = learner.digest()
        learner.checkpoint()
        assert learner.digest() == digest
        first = inspect_state(learner).journal.first_number()
        assert first == 31 and len(learner.history(1000)) == 100
        with pytest.raises(StateError, match=r"cannot roll back to commit 30.*compacted"):
            learner.rollback(30)
    with open_vectors(state=tmp_path / "s") as again:
        assert again.digest() == digest
        for target in (31, 77, 120):
            assert again.rollback(target) == target
            for name, value in tensors(again).items():
                np.testing.assert_array_equal(value, marks[target][name])
            again.rollback(130)
        assert again.forget(source="s1").removed == 43 * 4
    with open_vectors() as never:
        for seed in range(130):
            if seed % 3 != 1:
                teach(never, 4, seed, source=f"s{seed % 3}")
        with open_vectors(state=tmp_path / "s") as again:
            for name, value in tensors(never).items():
                np.testing.assert_allclose(
                    tensors(again)[name], value, rtol=1e-4, atol=1e-4 * np.abs(value).max()
                )


def test_history_is_compacted_past_a_rollback_that_went_further_back(
    open_vectors: Opener, tmp_path: Path
) -> None:
    """Nothing that is kept may go back to what is not."""
    with open_vectors(state=tmp_path / "s", keep=Keep(commits=100)) as learner:
        for seed in range(60):
            teach(learner, 1, seed, source="early")
        learner.rollback(5)
        for seed in range(75):
            teach(learner, 1, 100 + seed)
        learner.checkpoint()
        assert inspect_state(learner).journal.first_number() == 61
        assert learner.forget(source="early").removed == 60
        for seed in range(60):
            teach(learner, 1, 200 + seed)
        learner.checkpoint()
        assert inspect_state(learner).journal.first_number() > 61
        learner.rollback()
        base = [
            seq
            for _, _, rows in inspect_state(learner).journal.steps()[0].moves.base
            for seq in rows
        ]
        assert (
            base and set(base) <= inspect_state(learner).journal.present()
        )  # what is gone is not carried along
        digest = learner.digest()
    with open_vectors(state=tmp_path / "s") as again:
        assert again.digest() == digest


def test_an_error_after_a_change_became_durable_delays_the_log_and_nothing_else(
    open_vectors: Opener, tmp_path: Path
) -> None:
    with open_vectors(state=tmp_path / "s") as learner:
        teach(learner, 20, 1, "gone")
        teach(learner, 20, 2, "kept")
        db = inspect_state(learner).journal._db

        class Broken:
            def __getattr__(self, name: str) -> Any:
                return getattr(db, name)

            def execute(self, sql: str, *values: Any) -> Any:
                if sql.startswith(("PRAGMA page_size", "PRAGMA wal_checkpoint")):
                    raise sqlite3.OperationalError("disk I/O error")
                return db.execute(sql, *values)

        inspect_state(learner).journal._db = Broken()  # type: ignore[assignment]
        assert learner.forget(source="gone").removed == 20
        assert (
            inspect_state(learner).journal.delayed == "disk I/O error"
            and inspect_state(learner).state.commit == inspect_state(learner).journal.last_number()
        )
        inspect_state(learner).journal._db = db
        teach(learner, 20, 3, "later")
        digest = learner.digest()
    with open_vectors(state=tmp_path / "s") as again:
        assert again.digest() == digest


def test_a_file_that_was_emptied_gives_its_pages_back(tmp_path: Path, open_vectors: Opener) -> None:
    with open_vectors(state=tmp_path / "s") as learner:
        for seed in range(40):
            teach(learner, 64, seed)
        inspect_state(learner).journal.write_back()
        large = (tmp_path / "s" / "learner.db").stat().st_size
        learner.forget(after=0.0)
        learner.checkpoint()
        assert (tmp_path / "s" / "learner.db").stat().st_size < 0.6 * large


def test_snapshots_follow_the_cost_of_a_replay(open_vectors: Opener) -> None:
    with open_vectors() as learner:
        teach(learner, 8, 0)
        assert inspect_state(learner).journal.snapshot_numbers() == []
        inspect_state(learner).log.costs_replay(0.2, 0)
        teach(learner, 8, 1)
        assert inspect_state(learner).journal.snapshot_numbers() == [2]
        inspect_state(learner).room._writes.add(int(0.9 * inspect_state(learner).room.per_day))
        inspect_state(learner).log.costs_replay(0.2, 0)
        teach(learner, 8, 2)
        assert inspect_state(learner).journal.snapshot_numbers() == [2]  # little may be written
        inspect_state(learner).log.costs_replay(2.0, 0)
        teach(learner, 8, 3)
        assert inspect_state(learner).journal.snapshot_numbers() == [2, 4]


# -- raw inputs ------------------------------------------------------------------------------------
def test_raw_inputs_are_kept_for_so_many_of_a_class_and_go_with_their_label(tmp_path: Path) -> None:
    from sample_images import images

    from edgeadapt.demo.sample import bundle_path

    x, names = images(120)
    with open_learner(bundle_path(), state=tmp_path / "s", keep=Keep(raw_per_class=5)) as learner:
        learner.learn(x[:80], names[:80], source="a")
        ids = learner.observe(x[80:]).ids
        learner.label(ids, names[80:], source="b")
        learner.checkpoint()
        kept = inspect_state(learner).journal.raw()
        rows = {row.seq: row for row in inspect_state(learner).journal.evidence()}
        per_class: dict[str, int] = {}
        for raw in kept:
            per_class[rows[raw.seq].label] = per_class.get(rows[raw.seq].label, 0) + 1
            np.testing.assert_array_equal(raw.value, x[raw.seq - 1])
        assert set(per_class.values()) == {5} and len(per_class) == 6
        assert any(raw.seq > 80 for raw in kept)
        moved = next(raw.seq for raw in kept if raw.seq > 80)
        learner.label(
            rows[moved].id,
            next(name for name in per_class if name != rows[moved].label),
            source="b",
        )
        learner.settle()
        assert (inspect_state(learner).journal.raw_of(121) == x[moved - 1]).all()
        learner.forget(source="b")
        assert (
            all(raw.seq <= 80 for raw in inspect_state(learner).journal.raw())
            and inspect_state(learner).journal.raw_of(121) is None
        )


def test_without_being_asked_no_raw_input_is_kept(tmp_path: Path) -> None:
    from sample_images import images

    from edgeadapt.demo.sample import bundle_path

    x, names = images(10)
    with open_learner(bundle_path(), state=tmp_path / "s") as learner:
        learner.learn(x, names)
        learner.settle()
        journal: Journal = inspect_state(learner).journal
        assert journal.raw() == [] and not any(
            x[i].tobytes() in (tmp_path / "s" / "learner.db-wal").read_bytes() for i in range(10)
        )
