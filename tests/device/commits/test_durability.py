"""Durable changes: killed at any step, replayed, forgotten, taken back. The digest is the judge."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import killed_changes
import numpy as np
import pytest
from killed_changes import CHANGES, STEPS, prepare
from learner_steps import Opener, assert_same, tensors, watch
from sample_images import KNOWN, NEW, images, wrong

from edgeadapt.demo.sample import bundle_path
from edgeadapt.device.commits.evidence_sums import add_evidence
from edgeadapt.device.learner import Learner
from edgeadapt.errors import StateError
from edgeadapt.testing import inspect_state

X, NAMES = images(200, seed=21)


def killed(cases: list[dict[str, str]]) -> list[int]:
    """Exit statuses of one process per case."""
    run = subprocess.run(
        [sys.executable, killed_changes.__file__, str(bundle_path())],
        input="".join(json.dumps(case) + "\n" for case in cases),
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert run.returncode == 0, run.stderr
    return [int(line) for line in run.stdout.split()]


def teach(learner: Learner, x: Any, names: Any, source: str = "") -> tuple[str, ...]:
    ids = learner.learn(x, names, source=source)
    learner.settle()
    return ids


def statuses(learner: Learner) -> dict[str, int]:
    found: dict[str, int] = learner.counters()["evidence"]
    return found


# -- killed ----------------------------------------------------------------------------------------
def test_killed_at_any_step_of_any_change_the_state_is_the_one_before_or_the_one_after(
    opened: Opener, tmp_path: Path
) -> None:
    base = tmp_path / "base"
    learner = opened(base)
    prepare(learner)
    before = learner.digest()
    learner.close()
    after = {}
    for change, make in CHANGES.items():
        shutil.copytree(base, tmp_path / change)
        learner = opened(tmp_path / change, freeze=True)
        assert learner.digest() == before
        make(learner)
        after[change] = learner.digest()
        learner.close()
    assert len({before, *after.values()}) == 1 + len(CHANGES)
    cases = [
        {"state": str(tmp_path / f"{change}-{step}"), "change": change, "step": step}
        for change in CHANGES
        for step in STEPS
    ]
    for case in cases:
        shutil.copytree(base, case["state"])
    assert killed(cases) == [-9] * len(cases)
    found: Counter[str] = Counter()
    for case in cases:
        learner = opened(Path(case["state"]), freeze=True)
        digest = learner.digest()
        found[
            (
                "before"
                if digest == before
                else "after"
                if digest == after[case["change"]]
                else f"neither: {case}"
            )
        ] += 1
        assert (digest == before) == (case["step"] != "after_commit")
        learner.close()
    assert found == {"before": 18, "after": 6}


def test_a_label_is_durable_when_label_returns(opened: Opener, state: Path) -> None:
    assert killed([{"state": str(state), "change": "label", "step": ""}]) == [-9]
    learner = opened(state, freeze=True)
    assert statuses(learner) == {"received": 1}
    learner.close()
    learner = opened(state)
    learner.settle()
    (row,) = inspect_state(learner).journal.evidence()
    assert (row.status, row.source, row.label) == ("learned", "hand", images(1)[1][0])


# -- replayed --------------------------------------------------------------------------------------
class Acts:
    """A seeded random life of a learner: what a user might do, in any order."""

    def __init__(self, learner: Learner, seed: int) -> None:
        self.learner, self.rng, self.seed = learner, np.random.default_rng(seed), seed

    def act(self) -> None:
        kinds = (
            "learn",
            "learn",
            "learn",
            "label",
            "correct",
            "withdraw",
            "add",
            "forget",
            "rollback",
            "remove",
            "observe",
            "checkpoint",
            "toggle",
        )
        getattr(self, str(self.rng.choice(kinds)))()

    def some(self) -> tuple[Any, list[str]]:
        classes = self.learner.classes
        return images(
            int(self.rng.integers(1, 40)), classes=classes, seed=int(self.rng.integers(1000))
        )

    def learn(self) -> None:
        self.learner.learn(*self.some(), source=str(self.rng.choice(["a", "b", "c"])))

    def label(self) -> None:
        x, names = self.some()
        ids = self.learner.observe(x, stream="hand").ids
        half = len(x) // 2 + 1
        self.learner.label(ids[:half], names[:half], source="hand")

    def correct(self) -> None:
        ids = self.labelled()
        if ids:
            self.learner.label(
                ids,
                [str(name) for name in self.rng.choice(self.learner.classes, len(ids))],
                source=str(self.rng.choice(["a", "hand"])),
            )

    def withdraw(self) -> None:
        ids = self.labelled()
        if ids:
            self.learner.withdraw(ids)

    def labelled(self) -> list[str]:
        self.learner.settle()
        rows = inspect_state(self.learner).journal.evidence(
            where="status IN ('learned', 'held_out', 'received')", narrow=True
        )
        return (
            [
                rows[i].id
                for i in self.rng.choice(
                    len(rows), min(len(rows), int(self.rng.integers(1, 12))), replace=False
                )
            ]
            if rows
            else []
        )

    def add(self) -> None:
        self.learner.add_class(str(self.rng.choice(NEW)))

    def forget(self) -> None:
        self.learner.forget(source=str(self.rng.choice(["a", "b", "c", "hand"])))

    def rollback(self) -> None:
        last = self.learner.history(1)
        if last:
            try:
                self.learner.rollback(
                    int(self.rng.integers(0, last[0].number)) if self.rng.random() < 0.6 else None
                )
            except StateError as error:
                assert "nothing was changed yet" in str(error)

    def remove(self) -> None:
        new = [name for name in self.learner.classes if name in NEW]
        if new:
            self.learner.remove_class(str(self.rng.choice(new)))

    def observe(self) -> None:
        condition = str(self.rng.choice(["clean", "fog", "contrast"]))
        watch(
            self.learner,
            images(96, seed=int(self.rng.integers(1000)), condition=condition)[0],
            stream=condition,
        )

    def checkpoint(self) -> None:
        self.learner.checkpoint()

    def toggle(self) -> None:
        self.learner.freeze(not inspect_state(self.learner).published.is_frozen)


@pytest.mark.parametrize("seed", range(16))
def test_a_resumed_learner_is_bit_for_bit_the_one_that_was_killed(
    opened: Opener, tmp_path: Path, seed: int
) -> None:
    learner = opened(tmp_path / "live")
    acts = Acts(learner, seed)
    for life in range(2):
        for _ in range(9):
            acts.act()
        learner.settle()
        frozen = inspect_state(learner).published.is_frozen
        copy = tmp_path / f"copy-{life}"
        shutil.copytree(tmp_path / "live", copy)  # what a kill would leave: nobody closed it
        resumed = opened(copy, freeze=True)
        assert resumed.digest() == learner.digest()
        assert resumed.classes == learner.classes
        assert_same(tensors(resumed), tensors(learner))
        np.testing.assert_array_equal(
            resumed.predict(X, stream="new").probs, learner.predict(X, stream="new").probs
        )
        assert (
            inspect_state(resumed).state.labels
            == inspect_state(learner).state.labels
            == sum(statuses(learner).get(s, 0) for s in ("learned", "held_out"))
        )
        assert {
            k: v for k, v in inspect_state(resumed).held_out._counts.items() if any(v.values())
        } == {k: v for k, v in inspect_state(learner).held_out._counts.items() if any(v.values())}
        resumed.close()
        learner.freeze(frozen)


def test_a_provisional_condition_that_was_never_checkpointed_leaves_no_trace_in_the_digest(
    opened: Opener, tmp_path: Path
) -> None:
    learner = opened(tmp_path / "live")
    watch(learner, images(128, condition="fog")[0])
    teach(learner, X[:20], NAMES[:20])
    assert learner.domains() == {"condition-1": "provisional"}
    shutil.copytree(tmp_path / "live", tmp_path / "copy")
    assert opened(tmp_path / "copy").digest() == learner.digest()


def test_a_snapshot_taken_while_a_condition_is_provisional_can_be_opened(
    opened: Opener, tmp_path: Path
) -> None:
    learner = opened(tmp_path / "live")
    teach(learner, X[:20], NAMES[:20], "a")
    watch(learner, images(128, condition="fog")[0])
    learner.forget(source="a")
    shutil.copytree(tmp_path / "live", tmp_path / "copy")
    resumed = opened(tmp_path / "copy")
    assert resumed.domains() == {} and resumed.digest() == learner.digest()


# -- forgotten -------------------------------------------------------------------------------------
def test_forgetting_a_source_is_never_having_seen_it(opened: Opener) -> None:
    learner, other = opened(), opened()
    teach(other, X[:60], NAMES[:60], "kept")
    teach(learner, X[:60], NAMES[:60], "kept")
    learner.forget(source="nobody")
    teach(learner, X[60:120], NAMES[60:120], "gone")
    receipt = learner.forget(source="gone")
    assert receipt.removed == 60 and 40 <= receipt.subtracted < 60 and receipt.unreachable == ()
    mine, never = tensors(learner), tensors(other)
    for name in mine:
        np.testing.assert_allclose(
            mine[name], never[name], rtol=1e-4, atol=1e-4 * np.abs(never[name]).max(), err_msg=name
        )
    for name in ("ridge.moment", "mean.moment", "shift.moment"):
        np.testing.assert_array_equal(mine[name][-1], never[name][-1])  # counts are exact
    assert statuses(learner) == statuses(other)
    np.testing.assert_allclose(learner.predict(X).probs, other.predict(X).probs, atol=2e-3)


def test_forgetting_after_a_reopen_reaches_the_snapshots_too(opened: Opener, state: Path) -> None:
    learner = opened(state)
    teach(learner, X[:40], NAMES[:40], "a")
    teach(learner, X[40:80], NAMES[40:80], "b")
    learner.forget(source="a")  # takes a snapshot that holds b
    with_b = inspect_state(learner).journal.snapshot(3)
    learner.close()
    learner = opened(state)
    receipt = learner.forget(source="b")
    assert receipt.snapshots == 1
    without = inspect_state(learner).journal.snapshot(3)
    assert with_b and without
    factory = inspect_state(learner).program.checkpoint(inspect_state(learner).program.factory())
    for name, value in factory.items():
        np.testing.assert_allclose(without[1][name], value, atol=1e-4 * np.abs(value).max())
        assert np.abs(with_b[1][name] - value).max() > 1e-2
    assert statuses(learner) == {}


def test_a_withdrawn_label_is_forgotten_in_old_snapshots_as_well(opened: Opener) -> None:
    learner = opened()
    learner.add_class("Bag")
    teach(learner, *images(30, classes=("Bag",)), source="b")
    teach(learner, X[:20], NAMES[:20], "a")
    learner.forget(source="a")  # snapshot 4 holds b's labels of Bag
    learner.remove_class("Bag")
    learner.add_class("Sneaker")  # in the slot that Bag had
    assert learner.forget(source="b").snapshots == 1
    found = inspect_state(learner).journal.snapshot(4)
    assert found
    factory = inspect_state(learner).program.checkpoint(inspect_state(learner).program.factory())
    for name, value in factory.items():
        np.testing.assert_allclose(
            found[1][name], value, atol=1e-4 * np.abs(value).max(), err_msg=name
        )


def test_what_is_forgotten_is_in_no_file_of_the_folder(opened: Opener, state: Path) -> None:
    learner = opened(state)
    teach(learner, X[:60], NAMES[:60], "gone")
    stored = [
        row.features.astype("<f2").tobytes() for row in inspect_state(learner).journal.evidence()
    ]

    def found() -> int:
        files = [path.read_bytes() for path in state.iterdir()]
        return sum(any(features[:64] in data for data in files) for features in stored)

    assert found() == 60
    learner.forget(source="gone")
    assert found() == 0


def test_a_forgotten_held_out_label_judges_no_more_and_another_takes_its_place(
    opened: Opener,
) -> None:
    learner = opened()
    ids = teach(learner, X[:100], NAMES[:100])
    held = [row.id for row in inspect_state(learner).journal.evidence(where="status = 'held_out'")]
    assert len(held) > 10
    receipt = learner.forget(ids=held)
    assert receipt.removed == len(held) and receipt.subtracted == 0
    left = len(ids) - len(held)
    assert inspect_state(learner).held_out.total == left and sum(statuses(learner).values()) == left
    assert {
        name: counts["held_out"] for name, counts in inspect_state(learner).held_out._counts.items()
    } == {name: inspect_state(learner).held_out.count(name) // 5 for name in KNOWN}


# -- taken back ------------------------------------------------------------------------------------
def test_rollback_restores_predictions_bit_for_bit_and_withdrawn_labels_stay_out(
    opened: Opener, state: Path
) -> None:
    learner = opened(state)
    teach(learner, X[:50], NAMES[:50])
    probs, values, number = learner.predict(X).probs, tensors(learner), learner.history()[0].number
    teach(learner, X[50:100], NAMES[50:100])
    learner.add_class("Bag")
    assert learner.rollback(number) == number
    np.testing.assert_array_equal(learner.predict(X).probs, probs)
    assert_same(tensors(learner), values)
    assert statuses(learner)["withdrawn"] == 50 and learner.classes == KNOWN
    digest = learner.digest()
    learner.close()
    again = opened(state)
    again.settle()
    assert again.digest() == digest and statuses(again)["withdrawn"] == 50
    np.testing.assert_array_equal(again.predict(X).probs, probs)


def test_rollback_goes_back_before_the_last_change_and_again_undoes_that(opened: Opener) -> None:
    learner = opened()
    first = learner.predict(X).probs
    teach(learner, X[:50], NAMES[:50])
    second, counted = learner.predict(X).probs, statuses(learner)
    assert learner.rollback() == 0
    np.testing.assert_array_equal(learner.predict(X).probs, first)
    assert statuses(learner) == {"withdrawn": 50} and inspect_state(learner).state.labels == 0
    assert learner.rollback() == 1
    np.testing.assert_array_equal(learner.predict(X).probs, second)
    assert statuses(learner) == counted and inspect_state(learner).state.labels == 50
    assert learner.forget(after=0.0).removed == 50
    np.testing.assert_allclose(learner.predict(X).probs, first, atol=2e-3)


def test_rollback_over_a_removed_class_brings_its_labels_back(opened: Opener, state: Path) -> None:
    learner = opened(state)
    learner.add_class("Bag")
    teach(learner, *images(30, classes=("Bag",)), source="b")
    probs, counted = learner.predict(X).probs, statuses(learner)
    learner.remove_class("Bag")
    learner.rollback()
    np.testing.assert_array_equal(learner.predict(X).probs, probs)
    assert statuses(learner) == counted and inspect_state(learner).state.labels == 30
    learner.close()
    again = opened(state)
    np.testing.assert_array_equal(again.predict(X).probs, probs)
    assert again.forget(source="b").subtracted == counted["learned"]


def test_rollback_steps_over_what_changed_nothing(opened: Opener) -> None:
    learner = opened()
    teach(learner, X[:40], NAMES[:40])
    teach(learner, X[40:104], wrong(NAMES[40:104]), "liar")
    learner.checkpoint()
    assert learner.history()[0].outcome in ("held", "vetoed")
    assert learner.rollback() == 0


def test_rollback_to_where_there_is_nothing_is_refused(opened: Opener) -> None:
    learner = opened()
    with pytest.raises(StateError, match="nothing was changed yet"):
        learner.rollback()
    teach(learner, X[:10], NAMES[:10])
    for to in (-1, 1, 2, 99):
        with pytest.raises(StateError, match=f"cannot roll back to commit {to}: the last is 1"):
            learner.rollback(to)
    assert len(learner.history()) == 1


def test_the_way_back_goes_through_rollbacks_and_removed_classes_whose_snapshots_are_gone(
    opened: Opener,
) -> None:
    learner = opened()
    marks = {}

    def mark() -> None:
        marks[learner.history(1)[0].number] = (tensors(learner), learner.classes)

    teach(learner, X[:10], NAMES[:10])
    mark()
    learner.add_class("Bag")
    teach(learner, *images(15, classes=("Bag",)), source="b")
    mark()
    learner.remove_class("Bag")
    mark()
    teach(learner, X[10:30], NAMES[10:30])
    mark()
    for _ in range(6):
        learner.rollback()
    assert min(inspect_state(learner).journal.snapshot_numbers()) > max(marks)
    for number, (values, classes) in marks.items():
        learner.rollback(number)
        assert learner.classes == classes
        assert_same(tensors(learner), values)


def test_a_condition_that_was_rolled_back_does_not_lend_its_name(opened: Opener) -> None:
    learner = opened()
    teach(learner, X[:20], NAMES[:20])
    fog = images(160, condition="fog")[0]
    watch(learner, fog)
    learner.checkpoint()
    learner.rollback(1)
    assert learner.domains() == {}
    assert learner.domain() == "condition-1"  # until the next window says otherwise
    assert np.isfinite(learner.predict(X).probs).all()
    watch(learner, fog)
    assert learner.domains() == {"condition-2": "provisional"} and learner.domain() == "condition-2"


def test_a_label_that_waits_for_a_class_that_is_gone_is_vetoed_not_waited_for_forever(
    opened: Opener,
) -> None:
    learner = opened()
    teach(learner, X[:10], NAMES[:10])
    learner.add_class("Bag")
    learner.freeze()
    bags, bag_names = images(5, classes=("Bag",))
    learner.learn(np.concatenate([X[10:15], bags]), NAMES[10:15] + bag_names)
    learner.rollback()
    learner.freeze(False)
    assert learner.settle(20.0)
    assert statuses(learner)["vetoed"] == 5 and "received" not in statuses(learner)
    assert learner.history()[1].detail["why"] == "the class 'Bag' is gone"
    assert inspect_state(learner).state.labels == 15


# -- held out and vetoed ---------------------------------------------------------------------------
def test_every_fifth_label_of_a_class_is_held_out_and_never_trained_on(opened: Opener) -> None:
    learner, other = opened(), opened()
    x, names = images(120, seed=7)
    teach(learner, x, names)
    held = [
        row.label for row in inspect_state(learner).journal.evidence(where="status = 'held_out'")
    ]
    assert {name: held.count(name) for name in KNOWN} == {
        name: names.count(name) // 5 for name in KNOWN
    }
    rows = inspect_state(learner).journal.evidence(where="status = 'learned'")
    values, _ = add_evidence(
        inspect_state(other).program,
        inspect_state(other).state.tensors,
        rows,
        inspect_state(other).state.slots,
        {},
    )
    for name, value in inspect_state(other).program.checkpoint(values).items():
        np.testing.assert_allclose(
            tensors(learner)[name], value, rtol=1e-5, atol=1e-5 * np.abs(value).max(), err_msg=name
        )


@pytest.mark.parametrize("seed", range(3))
def test_a_vetoed_or_held_batch_leaves_every_tensor_as_it_was(opened: Opener, seed: int) -> None:
    learner = opened()
    teach(learner, X[:60], NAMES[:60])
    before, counts = tensors(learner), json.dumps(inspect_state(learner).held_out._counts)
    x, names = images(64, seed=100 + seed)
    lies = wrong(names, seed)
    teach(learner, x, lies, "liar")
    commit = learner.history()[0]
    assert commit.outcome in ("held", "vetoed") and commit.detail["why"]
    assert_same(tensors(learner), before)
    assert json.dumps(inspect_state(learner).held_out._counts) == counts
    assert statuses(learner)[commit.outcome] == 64
    receipt = learner.forget(source="liar")
    assert receipt.removed == 64 and receipt.subtracted == 0
    assert_same(tensors(learner), before)
