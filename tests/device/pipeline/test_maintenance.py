"""How long things stay: rows expire at a checkpoint, what was learned from them does not."""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np
import pytest
from sample_images import images

import edgeadapt
from edgeadapt.demo.sample import CLASSES, bundle_path, load_sample
from edgeadapt.errors import InputError, StateError
from edgeadapt.testing import inspect_state


def test_expired_rows_are_gone_and_what_they_taught_stays(tmp_path: Path) -> None:
    sample = load_sample()
    bags = sample.x[sample.y == CLASSES.index("Bag")]
    keep = edgeadapt.Keep(features_days=0.0)
    with edgeadapt.open(bundle_path(), state=tmp_path / "s", keep=keep) as learner:
        learner.add_class("Bag")
        before = learner.history(1)[0].number
        learner.learn(bags[:10], ["Bag"] * 10, source="line 1")
        learner.settle()
        taught = learner.predict(bags[10:60])
        learner.checkpoint()
        assert learner.counters()["evidence"] == {}
        with pytest.raises(StateError, match="have expired"):
            learner.rollback(to=before + 1)
        receipt = learner.forget(source="line 1")
        assert receipt.removed == 0
        assert any("expired" in reason for reason in receipt.unreachable)
        digest = learner.digest()
    assert (np.array(taught.labels) == "Bag").mean() > 0.5
    with edgeadapt.open(bundle_path(), state=tmp_path / "s", keep=keep) as again:
        assert again.digest() == digest
        assert np.array_equal(again.predict(bags[10:60]).probs, taught.probs)


def test_fresh_rows_do_not_expire(tmp_path: Path) -> None:
    sample = load_sample()
    with edgeadapt.open(bundle_path(), state=tmp_path / "s") as learner:
        learner.learn(sample.x[:5], [CLASSES[k] for k in sample.y[:5]])
        learner.checkpoint()
        assert sum(learner.counters()["evidence"].values()) == 5


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"raw_per_class": -1}, "got -1"),
        ({"features_days": -1.0}, ">= 0"),
        ({"pending_s": -5.0}, "-5.0"),
        ({"rows": 99}, ">= 100"),
        ({"commits": 0}, "got 0"),
    ],
)
def test_what_cannot_be_kept_is_refused(values: dict[str, float], message: str) -> None:
    with pytest.raises(InputError, match=message):
        edgeadapt.Keep(**values)


def test_however_many_snapshots_follow_an_expiry_everything_after_it_can_be_reached(
    tmp_path: Path,
) -> None:
    sample = load_sample()
    x, names = sample.x[:60], [CLASSES[k] for k in sample.y[:60]]
    with edgeadapt.open(
        bundle_path(), state=tmp_path / "s", keep=edgeadapt.Keep(features_days=0.0)
    ) as learner:
        learner.learn(x[:20], names[:20])
        learner.checkpoint()
    with edgeadapt.open(bundle_path(), state=tmp_path / "s") as learner:
        horizon = inspect_state(learner).journal.last_expiry()
        for start in range(20, 60, 8):
            learner.learn(x[start : start + 8], names[start : start + 8])
            learner.settle()
            learner.forget(source="nobody")
            learner.rollback(learner.history(1)[0].number - 1)
        assert inspect_state(learner).journal.snapshot_numbers()[0] == horizon
        assert learner.rollback(horizon) == horizon
        learner.checkpoint()


def test_how_many_raw_inputs_are_kept_is_remembered_until_it_is_said_again(tmp_path: Path) -> None:
    x, names = images(60)
    counts = []
    for keep in (
        edgeadapt.Keep(raw_per_class=3),
        edgeadapt.Keep(),
        edgeadapt.Keep(raw_per_class=0),
        edgeadapt.Keep(),
    ):
        with edgeadapt.open(bundle_path(), state=tmp_path / "s", keep=keep) as learner:
            learner.learn(x, names, source="a")
            learner.checkpoint()
            counts.append(len(inspect_state(learner).journal.raw()))
    assert counts == [18, 18, 0, 0]


def test_a_clock_that_jumps_ahead_for_a_moment_deletes_nothing_and_one_that_stays_does(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    now, running = time.time(), [1000.0]
    monkeypatch.setattr("time.monotonic", lambda: running[0])
    x, names = images(20)
    with edgeadapt.open(bundle_path(), state=tmp_path / "s") as learner:
        monkeypatch.setattr("time.time", lambda: now)
        learner.learn(x, names)
        learner.checkpoint()
        for jump in (60, -20_000, 0):  # days
            monkeypatch.setattr("time.time", lambda jump=jump: now + 86_400.0 * jump)
            learner.checkpoint()
            assert sum(learner.counters()["evidence"].values()) == 20
        monkeypatch.setattr("time.time", lambda: now + 86_400.0 * 60)
        learner.checkpoint()
        running[0] += 4000.0
        learner.checkpoint()
        assert learner.counters()["evidence"] == {}


def test_a_clock_that_jumps_before_the_first_checkpoint_of_a_new_folder_deletes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = time.time()
    x, names = images(20)
    with edgeadapt.open(bundle_path(), state=tmp_path / "s") as learner:
        learner.learn(x, names)
        learner.settle()
        monkeypatch.setattr("time.time", lambda: now + 86_400.0 * 60)
        learner.checkpoint()
        assert sum(learner.counters()["evidence"].values()) == 20


def test_a_folder_that_never_noted_its_clock_goes_by_its_last_commit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    x, names = images(20)
    with edgeadapt.open(bundle_path(), state=tmp_path / "s") as learner:
        learner.learn(x, names)
        learner.settle()
        inspect_state(learner).journal._db.execute("DELETE FROM meta WHERE key = 'clock'")
        monkeypatch.setattr(learner._maintenance, "run", lambda: None)
    now = time.time()
    monkeypatch.setattr("time.time", lambda: now + 86_400.0 * 60)
    with edgeadapt.open(bundle_path(), state=tmp_path / "s") as learner:
        learner.checkpoint()
        assert sum(learner.counters()["evidence"].values()) == 20


def test_labels_from_before_the_clock_was_set_are_as_old_as_those_around_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    x, names = images(30)
    now = time.time()
    with edgeadapt.open(
        bundle_path(), state=tmp_path / "s", keep=edgeadapt.Keep(features_days=10.0)
    ) as learner:
        for met_at, part in ((50.0, slice(0, 10)), (now, slice(10, 20)), (60.0, slice(20, 30))):
            monkeypatch.setattr("time.time", lambda met_at=met_at: met_at)
            learner.learn(x[part], names[part])
            learner.settle()
        monkeypatch.setattr("time.time", lambda: now + 100.0)
        learner.checkpoint()
        assert len(inspect_state(learner).journal.evidence()) == 30
        old = inspect_state(learner).journal.older_than(now + 1.0, 100)
        # the last ten came after something that is not old yet
        assert [row.seq for row in old] == list(range(1, 21))


def test_after_an_expiry_the_way_back_is_open_to_whatever_needs_no_row_that_is_gone(
    tmp_path: Path,
) -> None:
    x, names = images(120)
    with edgeadapt.open(bundle_path(), state=tmp_path / "s") as learner:
        learner.learn(x[:40], names[:40], source="old")
        learner.settle()
        learner.forget(source="nobody")
        learner.rollback(0)
        # takes a snapshot that holds the old labels
        learner.rollback(learner.history(1)[0].number - 1)
        marks = {}
        for start in (40, 80):
            learner.learn(x[start : start + 40], names[start : start + 40], source="new")
            learner.settle()
            marks[learner.history(1)[0].number] = learner.predict(x).probs
        old = [row.time for row in inspect_state(learner).journal.evidence(where="source = 'old'")]
        inspect_state(learner).retention.expire(max(old) + 1e-4, 1000)
        assert {row.source for row in inspect_state(learner).journal.evidence()} == {"new"}
        reached = []
        for number, probs in marks.items():
            try:
                learner.rollback(number)
            except StateError as error:
                assert "rows have expired" in str(error)
                continue
            reached.append(number)
            np.testing.assert_array_equal(learner.predict(x).probs, probs)
            learner.rollback(learner.history(1)[0].number - 1)
        with pytest.raises(StateError, match="rows have expired"):
            learner.rollback(1)
        assert inspect_state(learner).state.labels == 120
