"""A state is rebuilt from its journal: the same digests, and the commit after which it got
worse.
"""

from __future__ import annotations

import contextlib
import shutil
import sqlite3
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from feature_vectors import NAMES, samples
from golden_files import GOLDEN
from learner_steps import Opener, watch
from sample_images import KNOWN, images, wrong
from without_guard import unguarded

from edgeadapt.bundle import Bundle
from edgeadapt.device.commits.serialization import snapshot_of
from edgeadapt.device.detection.policy import Keep
from edgeadapt.device.inference.program import Program
from edgeadapt.device.learner import Learner
from edgeadapt.device.learner import open as open_learner
from edgeadapt.device.recovery.bisect import Fall, Labelled, accuracy, course, own_judges, search
from edgeadapt.device.recovery.rebuild import rebuild
from edgeadapt.device.recovery.replay import Replayed, difference, replay
from edgeadapt.device.recovery.walk import reachable_start, walk
from edgeadapt.device.storage.journal import Journal
from edgeadapt.device.storage.snapshot_copy import copied
from edgeadapt.errors import StateError
from edgeadapt.runtime import Runtime


@contextlib.contextmanager
def journal_of(state: Path) -> Iterator[Journal]:
    with copied(state) as folder, contextlib.closing(Journal(folder)) as journal:
        yield journal


def replayed(state: Path, bundle: Bundle, runtime: Runtime, upto: int | None = None) -> Replayed:
    with journal_of(state) as journal:
        return replay(journal, Program(bundle, runtime), upto)


def query(state: Path, sql: str, *values: Any) -> list[Any]:
    """Rows of the database, or a change of it."""
    with contextlib.closing(sqlite3.connect(state / "learner.db")) as db, db:
        return db.execute(sql, values).fetchall()


def live(learner: Learner, *, forget: bool) -> None:
    """Something of everything: labels, new classes, a correction, withdrawals, a condition, a
    rollback, a removed class.
    """
    x, names = images(300)

    def teach(first: int, last: int, source: str) -> tuple[str, ...]:
        ids = learner.learn(x[first:last], names[first:last], source=source)
        learner.settle()
        return ids

    teach(0, 60, "a")
    ids = teach(60, 120, "b")
    learner.add_class("Bag")
    learner.learn(*images(30, ("Bag",)), source="a")
    learner.settle()
    learner.withdraw(ids[:3])
    learner.label(ids[5], names[70], source="corrected")
    learner.settle()
    teach(120, 180, "c")
    learner.rollback()
    if forget:
        learner.forget(source="b")
    watch(learner, images(160, condition="fog")[0], stream="foggy")
    learner.checkpoint()
    learner.remove_class("Bag")
    learner.add_class("Sneaker")
    teach(180, 240, "d")


# -- the same digests ------------------------------------------------------------------------------
def test_a_life_with_everything_but_forgetting_replays_bit_for_bit_from_the_factory(
    state: Path, bundle: Bundle, runtime: Runtime, opened: Opener
) -> None:
    learner = opened(state)
    live(learner, forget=False)
    found = replayed(state, bundle, runtime)
    kinds = {step.kind for step in found.steps}
    assert {
        "learn",
        "add_class",
        "withdraw",
        "rollback",
        "checkpoint",
        "remove_class",
    } <= kinds and len(found.steps) >= 11
    assert (found.verdict, found.start, found.difference, found.resumed) == (
        "equal",
        0,
        0.0,
        "equal",
    )
    assert {step.digest for step in found.steps} == {"equal"}
    assert found.snapshot > 0  # a device resumes from a snapshot, and comes to the same


def test_after_forgetting_the_digests_of_what_came_later_are_equal(
    state: Path, bundle: Bundle, runtime: Runtime, opened: Opener
) -> None:
    live(opened(state), forget=True)
    found = replayed(state, bundle, runtime)
    forgotten = next(step.number for step in found.steps if step.kind == "forget")
    assert found.resumed == "equal" and found.verdict == "equal to tolerance"
    assert 0.0 < found.difference < 1e-6
    assert found.first_different is not None and found.first_different.number == 2
    assert found.continued == (forgotten,)
    assert {step.digest for step in found.steps if 2 <= step.number <= forgotten} == {
        "without rows that were forgotten since"
    }
    assert {step.digest for step in found.steps if not 2 <= step.number <= forgotten} == {"equal"}
    assert f"gone on from the snapshot of commit {forgotten}" in "\n".join(found.lines())


def test_every_commit_on_the_way_is_the_state_that_was(
    state: Path, bundle: Bundle, runtime: Runtime, opened: Opener
) -> None:
    live(opened(state), forget=False)
    program = Program(bundle, runtime)
    with journal_of(state) as journal:
        for commit, memory in walk(journal, program, 0, journal.last_number()):
            was = rebuild(journal, program, commit.number)
            assert difference(snapshot_of(program, memory), snapshot_of(program, was)) == (
                0.0,
                "",
            ), commit.number
            assert memory.classes == was.classes and memory.labels == was.labels


def test_up_to_an_earlier_commit(
    state: Path, bundle: Bundle, runtime: Runtime, opened: Opener
) -> None:
    live(opened(state), forget=False)
    found = replayed(state, bundle, runtime, upto=4)
    assert (found.upto, len(found.steps), found.verdict) == (4, 4, "equal")
    with pytest.raises(StateError, match="no commit 99"):
        replayed(state, bundle, runtime, upto=99)


@pytest.mark.parametrize(("version", "recorded"), [("v1", 0), ("v2", 15)])
def test_golden_states_of_every_version_replay(
    version: str, recorded: int, vectors: Bundle, runtime: Runtime
) -> None:
    found = replayed(GOLDEN / version, vectors, runtime)
    # the bits are those of the machine that wrote it
    assert found.verdict in ("equal", "equal to tolerance")
    assert found.difference < 1e-6
    assert sum(step.digest != "not recorded" for step in found.steps) == recorded
    # version 1 did not say what removing a class took: it goes from the snapshot on
    assert found.start == (0 if recorded else 10)


def test_a_forged_feature_is_named_by_its_commit(
    state: Path, vectors: Bundle, runtime: Runtime
) -> None:
    with open_learner(vectors, state=state, runtime=runtime) as learner:
        for seed in range(4):
            learner.learn(*samples(20, [0, 1, 2, 3], seed), source=f"{seed}")
            learner.settle()
    seq = query(state, "SELECT min(seq) FROM evidence WHERE source = '2' AND status = 'learned'")[
        0
    ][0]
    query(state, "UPDATE evidence SET features = zeroblob(length(features)) WHERE seq = ?", seq)
    found = replayed(state, vectors, runtime)
    assert found.verdict == "different" and found.resumed == "different"
    assert found.first_different is not None and found.first_different.number == 3
    assert [step.digest for step in found.steps] == ["equal", "equal", "different", "different"]


def test_a_forged_snapshot_is_measured_and_its_tensor_named(
    state: Path, vectors: Bundle, runtime: Runtime
) -> None:
    from safetensors.numpy import load, save

    with open_learner(vectors, state=state, runtime=runtime) as learner:
        learner.add_class("crack")
        learner.learn(*samples(30, [0, 1, 4], 1))
        learner.settle()
        learner.learn(*samples(30, [0, 1, 4], 2))
        learner.settle()
        learner.rollback()
    number, blob = query(state, "SELECT commit_number, tensors FROM snapshots")[0]
    values = load(blob)
    values["ridge.moment"] = values["ridge.moment"] * 1.01
    query(state, "UPDATE snapshots SET tensors = ? WHERE commit_number = ?", save(values), number)
    found = replayed(state, vectors, runtime)
    assert found.verdict == "different" and found.resumed == "different"
    assert (found.tensor, found.at) == ("ridge.moment", number)
    assert found.difference == pytest.approx(0.01 / 1.01, rel=0.01)
    assert {step.digest for step in found.steps} == {"equal"}  # the commits themselves are sound


def test_a_compacted_state_replays_from_its_horizon(
    state: Path, vectors: Bundle, runtime: Runtime
) -> None:
    with open_learner(vectors, state=state, runtime=runtime, keep=Keep(commits=100)) as learner:
        for seed in range(115):
            learner.learn(*samples(1, [0, 1, 2, 3], seed))
            learner.settle()
    found = replayed(state, vectors, runtime)
    assert (
        found.start > 0
        and found.steps[0].number == found.start + 1
        and found.steps[-1].number == 115
    )
    assert found.verdict == "equal" and found.difference == 0.0


def test_the_folder_is_only_read(
    state: Path, vectors: Bundle, runtime: Runtime, opened: Opener
) -> None:
    learner = opened(state, bundle=vectors)
    learner.learn(*samples(30, [0, 1, 2, 3], 1))
    learner.settle()
    was = {p.name: p.read_bytes() for p in state.iterdir() if not p.name.endswith("-shm")}
    assert was["learner.db-wal"]  # in use, and not all of it in the database
    assert len(replayed(state, vectors, runtime).steps) == 1
    assert {p.name: p.read_bytes() for p in state.iterdir() if not p.name.endswith("-shm")} == was
    learner.learn(*samples(30, [0, 1, 2, 3], 2))
    learner.close()
    was = {p.name: p.read_bytes() for p in state.iterdir()}
    assert len(replayed(state, vectors, runtime).steps) == 2
    assert {p.name: p.read_bytes() for p in state.iterdir()} == was


def test_what_a_killed_process_left_in_the_log_is_read(
    state: Path, vectors: Bundle, runtime: Runtime, opened: Opener, tmp_path: Path
) -> None:
    learner = opened(state, bundle=vectors)
    learner.learn(*samples(30, [0, 1, 2, 3], 1))
    learner.settle()
    killed = tmp_path / "killed"
    killed.mkdir()
    for name in ("learner.db", "learner.db-wal", "learner.lock"):
        shutil.copy(state / name, killed / name)
    assert replayed(killed, vectors, runtime).verdict == "equal"
    assert len(replayed(killed, vectors, runtime).steps) == 1


def test_another_space_is_refused(
    state: Path, bundle: Bundle, vectors: Bundle, runtime: Runtime, opened: Opener
) -> None:
    opened(state).add_class("Bag")
    with pytest.raises(StateError, match="the bundle 'vectors' has dec36b06eb04"):
        replayed(state, vectors, runtime)


# -- where it got worse ----------------------------------------------------------------------------
Search = Callable[..., Fall]


def poisoned(state: Path, vectors: Bundle, runtime: Runtime, at: int, commits: int = 24) -> None:
    """One commit that calls a class by the name of another in a life of honest ones, past a guard
    that lets everything pass.
    """
    with unguarded(vectors, state, runtime) as learner:
        for number in range(1, commits + 1):
            x, names = samples(
                60 if number == at else 4, [0] if number == at else [0, 1, 2, 3], number
            )
            x = 6 * x if number == at else x  # and loudly: a few quiet ones change nothing
            learner.learn(
                x,
                [NAMES[1]] * 60 if number == at else names,
                source="liar" if number == at else f"line {number % 3}",
            )
            learner.settle()


def found_by(
    state: Path, vectors: Bundle, runtime: Runtime, how: Search = search, margin: float = 0.01
) -> Fall:
    program = Program(vectors, runtime)
    with journal_of(state) as journal:
        last, start = journal.last_number(), reachable_start(journal, journal.last_number())
        sets = own_judges(
            journal, program, rebuild(journal, program, start), rebuild(journal, program, last)
        )
        return how(
            journal,
            program,
            sets,
            start,
            last,
            margin,
            **({"start": start} if how is course else {}),
        )


@pytest.mark.parametrize("at", [1, 2, 9, 16, 23, 24])
def test_bisect_finds_the_poisoned_commit_exactly(
    at: int, state: Path, vectors: Bundle, runtime: Runtime
) -> None:
    poisoned(state, vectors, runtime, at)
    found = found_by(state, vectors, runtime)
    assert (found.culprit, found.kind, found.source, found.labels) == (at, "learn", "liar", 60)
    assert (
        found.before is not None and found.after is not None and found.before - found.after > 0.03
    )
    assert 3 <= len(found.probes) <= 7  # of 25 states
    assert (
        found.advice[0].startswith("learner.forget(source='liar')")
        and f"rollback(to={at - 1})" in found.advice[1]
    )
    looked_at_all = found_by(state, vectors, runtime, course)
    assert looked_at_all.culprit == at and len(looked_at_all.probes) == 25


def test_the_advice_undoes_the_fall(state: Path, vectors: Bundle, runtime: Runtime) -> None:
    poisoned(state, vectors, runtime, 9)
    with unguarded(vectors, state, runtime) as learner:
        learner.forget(source="liar")
    assert found_by(state, vectors, runtime).culprit is None


def test_a_sound_life_has_no_culprit(state: Path, vectors: Bundle, runtime: Runtime) -> None:
    poisoned(state, vectors, runtime, at=0)
    found = found_by(state, vectors, runtime)
    assert found.culprit is None and len(found.probes) == 2
    assert "no fall by more than 1.00%" in found.lines()[-1]


def test_a_state_that_first_improved_is_seen_through_by_looking_at_every_commit(
    state: Path, bundle: Bundle, runtime: Runtime
) -> None:
    x, names = images(500, condition="fog", severity=4)
    with unguarded(bundle, state, runtime) as learner:
        learner.learn(x[:60], names[:60], source="honest")
        learner.settle()
        learner.learn(x[60:120], wrong(names[60:120]), source="liar")
        learner.settle()
    program = Program(bundle, runtime)
    with journal_of(state) as journal:
        sets = [Labelled(*program.encode(x[150:]), tuple(names[150:]))]
        marks = [accuracy(program, rebuild(journal, program, number), sets) for number in range(3)]
        # better than the factory at the end, and worse than it was
        assert marks[0] < marks[2] < marks[1] - 0.01
        assert search(journal, program, sets, 0, 2, 0.01).culprit is None
        assert course(journal, program, sets, 0, 2, 0.01, 0).culprit == 2


def test_a_class_that_was_learned_since_is_no_fall(
    state: Path, bundle: Bundle, runtime: Runtime
) -> None:
    with open_learner(bundle, state=state, runtime=runtime) as learner:
        learner.add_class("Shirt")  # looks like three of the known ones
        learner.learn(*images(60, ("Shirt",)), source="line 1")
        learner.settle()
        assert set(learner.classes) == {*KNOWN, "Shirt"}
    found = found_by(state, bundle, runtime)
    assert found.culprit is None and found.samples == 300
