"""What is forgotten leaves the write-ahead log too, however long another connection reads."""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

from feature_vectors import samples
from learner_steps import Opener

from edgeadapt.device.learner import Learner
from edgeadapt.device.storage.journal import FILE_NAME
from edgeadapt.testing import inspect_state

SECRET = "nobody-may-read-this"


@contextmanager
def reader(state: Path) -> Iterator[sqlite3.Connection]:
    """Another connection that looks at the state of now until it is closed."""
    with closing(sqlite3.connect(state / FILE_NAME, isolation_level=None)) as db:
        db.execute("BEGIN")
        db.execute("SELECT count(*) FROM evidence").fetchone()
        yield db


def is_stored(state: Path) -> bool:
    return any(SECRET.encode() in path.read_bytes() for path in state.iterdir())


def taught(learner: Learner) -> None:
    x, names = samples(8, [0, 1, 2], 1)
    learner.learn(x, names, source=SECRET)
    learner.settle()


def test_a_receipt_names_what_a_reader_keeps_in_the_log_and_checkpoint_takes_it_out(
    open_vectors: Opener, tmp_path: Path
) -> None:
    with open_vectors(state=tmp_path) as learner:
        taught(learner)
        with reader(tmp_path):
            receipt = learner.forget(source=SECRET)
            assert receipt.removed == 8 and is_stored(tmp_path)
            assert any("write-ahead log" in line for line in receipt.unreachable)
            assert any("another connection reads" in line for line in receipt.unreachable)
            assert learner.settle() is False  # and says so as long as it lasts
            learner.checkpoint()
            assert inspect_state(learner).journal.holds_deleted
        learner.checkpoint()
        assert not is_stored(tmp_path) and not inspect_state(learner).journal.holds_deleted
        assert learner.forget(source="nobody").unreachable == ()


def test_settle_finishes_it_and_it_finishes_by_itself(open_vectors: Opener, tmp_path: Path) -> None:
    with open_vectors(state=tmp_path) as learner:
        for finish in (lambda: learner.settle(), lambda: time.sleep(0.01)):
            taught(learner)
            with reader(tmp_path):
                learner.forget(source=SECRET)
            finish()
            deadline = time.monotonic() + 5.0
            while is_stored(tmp_path) and time.monotonic() < deadline:
                time.sleep(0.02)
            assert not is_stored(tmp_path)


def test_a_reader_delays_a_label_no_longer_than_the_first_try(
    open_vectors: Opener, tmp_path: Path
) -> None:
    with open_vectors(state=tmp_path) as learner:
        taught(learner)
        with reader(tmp_path):
            learner.forget(source=SECRET)
            started = time.monotonic()
            x, names = samples(4, [0, 1], 2)
            for i in range(4):
                learner.learn(x[i : i + 1], names[i : i + 1])
            inspect_state(learner).worker.settle(10.0)
            assert time.monotonic() - started < 2.0  # not five seconds for each of them


def test_what_a_process_left_in_the_log_when_it_was_killed_is_taken_out_at_the_next_start(
    open_vectors: Opener, tmp_path: Path
) -> None:
    state, copy = tmp_path / "state", tmp_path / "copy"
    with open_vectors(state=state) as learner:
        taught(learner)
        with reader(state):
            learner.forget(source=SECRET)
            copy.mkdir()
            for path in state.glob("learner.db*"):  # as a power cut would leave them
                if not path.name.endswith("-shm"):
                    (copy / path.name).write_bytes(path.read_bytes())
    assert is_stored(copy)
    with open_vectors(state=copy) as learner:
        assert learner.settle() and not is_stored(copy)
