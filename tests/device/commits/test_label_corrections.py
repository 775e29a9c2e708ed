"""Labels that come late, are corrected, withdrawn or forgotten leave what would be there if they
had been right on time, or had never been.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from learner_steps import Opener, tensors
from sample_images import KNOWN, images, wrong

from edgeadapt.device.learner import Learner
from edgeadapt.errors import InputError
from edgeadapt.testing import inspect_state

X, NAMES = images(160, seed=33)


def observed(learner: Learner) -> list[str]:
    ids: list[str] = []
    for start in range(0, len(X), 32):
        ids += learner.observe(X[start : start + 32]).ids
        learner.settle()
    return ids


def answer(learner: Learner, ids: Any, names: Any, source: str = "hand") -> None:
    learner.label(list(ids), list(names), source=source)
    learner.settle()


def accepted(learner: Learner) -> dict[bytes, tuple[str, str]]:
    """Features -> (label, learned or held out): the rows without their random names and numbers."""
    rows = inspect_state(learner).journal.evidence(where="status IN ('learned', 'held_out')")
    return {row.features.tobytes(): (row.label, row.status) for row in rows}


def assert_equal_but_for_rounding(mine: Learner, other: Learner) -> None:
    """The same rows teach and judge, counts agree bit for bit, sums to what float32 can tell."""
    assert accepted(mine) == accepted(other)
    a, b = tensors(mine), tensors(other)
    for name in a:
        np.testing.assert_allclose(
            a[name], b[name], rtol=1e-4, atol=2e-5 * np.abs(b[name]).max(), err_msg=name
        )
    for name in ("ridge.moment", "mean.moment", "shift.moment"):
        np.testing.assert_array_equal(a[name][-1], b[name][-1], err_msg=name)
    np.testing.assert_allclose(mine.predict(X).probs, other.predict(X).probs, atol=2e-3)
    assert inspect_state(mine).state.labels == inspect_state(other).state.labels


def test_late_labels_in_any_order_leave_what_labels_on_time_leave(opened: Opener) -> None:
    punctual, late = opened(), opened()
    ids = observed(punctual)
    for start in range(0, 160, 20):
        answer(punctual, ids[start : start + 20], NAMES[start : start + 20])
    ids = observed(late)
    order = np.random.default_rng(0).permutation(160)
    for start in range(0, 160, 32):
        rows = order[start : start + 32]
        answer(late, [ids[i] for i in rows], [NAMES[i] for i in rows])
    assert_equal_but_for_rounding(late, punctual)


def test_corrected_labels_leave_what_right_labels_leave(opened: Opener) -> None:
    right, corrected = opened(), opened()
    answer(right, observed(right), NAMES)
    ids = observed(corrected)
    few = list(range(0, 160, 16))
    at_first = [wrong([name])[0] if i in few else name for i, name in enumerate(NAMES)]
    answer(corrected, ids, at_first)
    with pytest.raises(AssertionError):
        assert_equal_but_for_rounding(corrected, right)
    answer(corrected, [ids[i] for i in few], [NAMES[i] for i in few])
    assert corrected.history()[0].detail["corrected"] == len(few)
    assert_equal_but_for_rounding(corrected, right)


def test_a_withdrawn_label_leaves_what_would_be_there_without_it_and_can_be_given_again(
    opened: Opener,
) -> None:
    without, withdrawn = opened(), opened()
    ids = observed(without)
    answer(without, ids[40:], NAMES[40:])
    ids = observed(withdrawn)
    answer(withdrawn, ids, NAMES)
    receipt = withdrawn.withdraw(ids[:40])
    assert receipt.removed == 0 and receipt.subtracted >= 30
    assert_equal_but_for_rounding(withdrawn, without)
    answer(withdrawn, ids[:40], NAMES[:40])
    answer(without, observed(without)[:40], NAMES[:40])
    assert_equal_but_for_rounding(withdrawn, without)


@pytest.mark.parametrize("first", ["kept", "gone"])
def test_a_forgotten_source_leaves_what_would_be_there_without_it_whoever_came_first(
    opened: Opener, first: str
) -> None:
    without, forgot = opened(), opened()
    without.learn(X[:100], NAMES[:100], source="kept")
    parts = {"kept": slice(0, 100), "gone": slice(100, 160)}
    for source in (first, "gone" if first == "kept" else "kept"):
        forgot.learn(X[parts[source]], NAMES[parts[source]], source=source)
        forgot.settle()
    without.settle()
    receipt = forgot.forget(source="gone")
    assert receipt.removed == 60 and receipt.unreachable == ()
    assert_equal_but_for_rounding(forgot, without)
    assert not any("gone" in str(commit) for commit in forgot.history())


@pytest.mark.parametrize(
    "selection",
    [
        {"classes": ["Coat", "Bag"]},
        {"classes": "Coat", "source": "b"},
        {"after": 1.0, "source": "a"},
        {"before": 1.0},
    ],
)
def test_forgetting_by_class_source_and_time_joins_its_conditions(
    opened: Opener, selection: dict[str, Any]
) -> None:
    learner = opened()
    for source, part in (("a", slice(0, 80)), ("b", slice(80, 160))):
        learner.learn(X[part], NAMES[part], source=source)
    learner.settle()
    classes = selection.get("classes", KNOWN)
    listed = [classes] if isinstance(classes, str) else classes
    expected = sum(
        name in listed and selection.get("source", source) == source and "before" not in selection
        for source, name in zip(["a"] * 80 + ["b"] * 80, NAMES, strict=True)
    )
    assert learner.forget(**selection).removed == expected
    assert len(accepted(learner)) == 160 - expected


def test_a_forgotten_factory_class_is_said_to_be_answered_by_the_factory_until_it_is_removed(
    opened: Opener,
) -> None:
    learner = opened()
    learner.add_class("Hat")
    learner.learn(X[:60], ["Hat" if name == "Bag" else name for name in NAMES[:60]])
    learner.settle()
    # of Hat there was nothing but labels
    (reason,) = learner.forget(classes=["Coat", "Hat"]).unreachable
    assert (
        reason.startswith("'Coat': the factory's own samples") and "remove_class('Coat')" in reason
    )
    assert "Coat" in learner.predict(X).labels
    assert learner.forget(classes=["Coat"]).unreachable == (reason,)  # also where no label was left
    assert learner.forget(classes=["Coat"], source="a").unreachable == ()  # the class was not meant
    before = learner.history()[0].number
    learner.remove_class("Coat")
    assert (
        learner.forget(classes=["Coat"]).unreachable == ()
        and "Coat" not in learner.predict(X).labels
    )
    learner.add_class("Coat")
    assert learner.forget(classes=["Coat"]).unreachable == ()
    learner.rollback(to=before)
    assert learner.forget(classes=["Coat"]).unreachable == (reason,)


def test_a_sample_is_forgotten_by_when_it_was_met_not_by_when_it_was_labelled(
    opened: Opener, monkeypatch: pytest.MonkeyPatch
) -> None:
    learner = opened()
    monkeypatch.setattr("time.time", lambda: 1000.0)
    ids = learner.observe(X[:8]).ids
    monkeypatch.setattr("time.time", lambda: 5000.0)
    answer(learner, ids, NAMES[:8])
    assert [row.time for row in inspect_state(learner).journal.evidence()] == [1000.0] * 8
    assert learner.forget(after=2000.0).removed == 0
    assert learner.forget(before=2000.0).removed == 8


def test_a_correction_that_waits_when_the_process_stops_is_learned_at_the_next_start(
    opened: Opener, state: Path
) -> None:
    learner = opened(state)
    ids = observed(learner)
    answer(learner, ids[:50], NAMES[:50])
    learner.freeze()
    learner.label(ids[7], wrong(NAMES[7:8])[0], source="hand")
    learner.close()
    again = opened(state)
    again.settle()
    rows = [row for row in inspect_state(again).journal.evidence() if row.id == ids[7]]
    assert [(row.label, row.status in ("learned", "held_out")) for row in rows] == [
        (NAMES[7], False),
        (wrong(NAMES[7:8])[0], True),
    ]
    assert inspect_state(again).state.labels == 50


def test_rollback_over_a_correction_brings_the_first_label_back(opened: Opener) -> None:
    learner = opened()
    ids = observed(learner)
    answer(learner, ids[:50], NAMES[:50])
    before, probs = accepted(learner), learner.predict(X).probs
    answer(learner, ids[:3], wrong(NAMES[:3]))
    assert accepted(learner) != before
    learner.rollback()
    assert accepted(learner) == before
    np.testing.assert_array_equal(learner.predict(X).probs, probs)


def test_a_rollback_to_before_something_that_was_forgotten_since_is_as_if_it_had_never_been(
    opened: Opener,
) -> None:
    learner, never = opened(), opened()
    never.learn(X[:60], NAMES[:60], source="kept")
    never.settle()
    learner.learn(X[60:100], NAMES[60:100], source="gone")
    learner.settle()
    learner.learn(X[:60], NAMES[:60], source="kept")
    learner.settle()
    target = learner.history()[0].number
    learner.learn(X[100:], NAMES[100:], source="later")
    learner.settle()
    learner.forget(source="gone")
    learner.rollback(target)
    assert_equal_but_for_rounding(learner, never)


def test_what_has_no_label_cannot_be_withdrawn(opened: Opener) -> None:
    learner = opened()
    ids = learner.observe(X[:4]).ids
    answer(learner, ids[:2], NAMES[:2])
    for sample in (ids[3], "nobody"):
        with pytest.raises(InputError, match=f"sample '{sample}' has no label"):
            learner.withdraw([ids[0], sample])
    assert len(accepted(learner)) == 2
    learner.withdraw(ids[0])
    with pytest.raises(InputError, match="has no label that could be withdrawn"):
        learner.withdraw(ids[0])


@pytest.mark.parametrize(
    "odd",
    [
        {"ids": 3},
        {"ids": [1]},
        {"source": 3},
        {"classes": {"a": 1}},
        {"before": float("nan")},
        {"after": "yesterday"},
        {},
    ],
)
def test_odd_selections_are_refused_by_name(opened: Opener, odd: dict[str, Any]) -> None:
    learner = opened()
    learner.learn(X[:5], NAMES[:5])
    learner.settle()
    with pytest.raises(InputError):
        learner.forget(**odd)
    assert len(accepted(learner)) == 5


# -- labels that wait ------------------------------------------------------------------------------
def in_force(learner: Learner, sample: str) -> list[str]:
    return [
        row.label
        for row in inspect_state(learner).journal.rows_of([sample])
        if row.status in ("learned", "held_out")
    ]


def test_of_labels_that_waited_the_last_one_counts_whoever_gave_it(opened: Opener) -> None:
    learner = opened()
    ids = observed(learner)
    learner.freeze()
    learner.label(ids[1], NAMES[1], source="b")
    learner.label(ids[0], wrong(NAMES[:1])[0], source="a")
    learner.label(ids[0], NAMES[0], source="b")
    learner.freeze(False)
    learner.settle()
    assert in_force(learner, ids[0]) == NAMES[:1] and in_force(learner, ids[1]) == NAMES[1:2]
    assert inspect_state(learner).state.labels == 2


def test_a_withdrawn_sample_has_no_older_label_that_is_learned_after_all(opened: Opener) -> None:
    learner = opened()
    ids = observed(learner)
    learner.freeze()
    learner.label(ids[0], NAMES[0], source="a")
    learner.label(ids[0], wrong(NAMES[:1])[0], source="b")
    learner.withdraw(ids[0])
    learner.freeze(False)
    learner.settle()
    assert in_force(learner, ids[0]) == [] and inspect_state(learner).state.labels == 0


def test_a_label_that_a_rollback_brought_back_can_be_withdrawn(opened: Opener) -> None:
    learner = opened()
    ids = observed(learner)
    answer(learner, ids[:1], NAMES[:1])
    answer(learner, ids[:1], wrong(NAMES[:1]))
    learner.rollback()
    assert in_force(learner, ids[0]) == NAMES[:1]
    learner.withdraw(ids[0])
    assert in_force(learner, ids[0]) == []
