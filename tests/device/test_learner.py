"""The public face, on the shipped bundle: what each call promises."""

from __future__ import annotations

import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from learner_steps import BATCH, Opener, accuracy, assert_same, tensors, watch
from sample_images import KNOWN, images, wrong

from edgeadapt.device.detection.policy import Keep, Policy
from edgeadapt.device.learner import Learner
from edgeadapt.errors import InputError, StateError, UnknownClassError
from edgeadapt.testing import inspect_state


def answer(learner: Learner, ids: Any, names: Any, **settings: Any) -> None:
    learner.label(ids, names, **settings)
    learner.settle()


def test_predict_names_the_six_classes_and_their_probabilities(learner: Learner) -> None:
    x, names = images(300)
    p = learner.predict(x)
    assert p.classes == KNOWN == learner.classes
    assert p.probs.shape == (300, 6) and p.probs.dtype == np.float32
    np.testing.assert_allclose(p.probs.sum(axis=1), 1.0, atol=1e-5)
    assert p.labels == tuple(p.classes[i] for i in p.probs.argmax(axis=1))
    assert np.mean([a == b for a, b in zip(p.labels, names, strict=True)]) > 0.9


def test_predict_changes_nothing(learner: Learner) -> None:
    x, _ = images(200, condition="fog")
    before = learner.digest()
    first = learner.predict(x)
    learner.predict(x)
    assert_same(
        {"p": first.probs, "n": first.novelty},
        {"p": learner.predict(x).probs, "n": learner.predict(x).novelty},
    )
    assert learner.digest() == before
    assert learner.domains() == {} and learner.questions() == [] and learner.history() == []


def test_one_input_is_a_batch_of_one(learner: Learner) -> None:
    x, _ = images(1)
    assert len(learner.predict(x[0])) == 1
    assert len(learner.observe(x[0]).ids) == 1


def test_a_batch_does_not_depend_on_how_it_is_cut(learner: Learner) -> None:
    x, _ = images(70)
    whole = learner.predict(x).probs
    parts = np.concatenate(
        [learner.predict(x[rows]).probs for rows in (slice(0, 1), slice(1, 9), slice(9, 70))]
    )
    np.testing.assert_allclose(parts, whole, atol=1e-5)


def test_features_go_around_the_encoder(learner: Learner) -> None:
    x, names = images(64)
    z, taps = inspect_state(learner).program.encode(x)
    by_image, by_features = learner.predict(x), learner.predict(features={"z": z, "taps": taps})
    np.testing.assert_array_equal(by_image.probs, by_features.probs)
    seen = learner.observe(features={"z": z.astype(np.float64), "taps": taps})
    answer(learner, seen.ids, names)
    learner.learn(None, names, features={"z": z, "taps": taps})
    learner.settle()
    assert sum(learner.counters()["evidence"].values()) == 128


def test_a_stream_of_features_is_sensed_asked_about_and_never_meets_the_encoder(
    learner: Learner,
) -> None:
    x, _ = images(6 * BATCH, condition="fog")
    z, taps = inspect_state(learner).program.encode(x)
    for rows in (slice(i, i + BATCH) for i in range(0, len(x), BATCH)):
        seen = learner.observe(features={"z": z[rows], "taps": taps[rows]})
        learner.settle()
    assert seen.reading.is_shifted and learner.domain() == "condition-1"
    assert 10 <= len(learner.questions(100)) <= 20  # no more than the bundle allows for a condition
    assert learner.questions()[0].frame.shape == (z.shape[1] + taps.shape[1],)


def test_observe_predicts_what_predict_says_and_gives_fresh_ids(learner: Learner) -> None:
    x, _ = images(2 * BATCH)
    seen = [learner.observe(x), learner.observe(x)]
    np.testing.assert_array_equal(seen[0].prediction.probs, learner.predict(x).probs)
    assert len({*seen[0].ids, *seen[1].ids}) == 4 * BATCH
    assert seen[0].reading.axis == "clear" and seen[0].reading.domain == "source"
    assert not seen[0].abstained.all()


def test_labels_come_late_out_of_order_and_from_other_threads(learner: Learner) -> None:
    x, names = images(6 * BATCH)
    seen = [
        learner.observe(x[i : i + BATCH], stream=f"cam-{i % 2}") for i in range(0, len(x), BATCH)
    ]
    todo = [
        (sample, names[i * BATCH + j]) for i, o in enumerate(seen) for j, sample in enumerate(o.ids)
    ]
    np.random.default_rng(0).shuffle(todo)
    threads = [
        threading.Thread(target=lambda part=todo[i::4]: [learner.label(*pair) for pair in part])
        for i in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    learner.settle()
    assert sum(learner.counters()["evidence"].values()) == len(todo)
    assert learner.counters()["evidence"].get("received", 0) == 0
    assert learner.counters()["pending"] == 0


def test_labels_help(learner: Learner) -> None:
    x, names = images(1000, condition="gaussian_noise")
    before = accuracy(learner, x[600:], names[600:])
    learner.learn(x[:600], names[:600])
    learner.settle()
    assert accuracy(learner, x[600:], names[600:]) > before + 0.05


def test_a_label_that_is_given_again_counts_once(learner: Learner) -> None:
    x, names = images(4)
    ids = learner.observe(x).ids
    answer(learner, ids[0], names[0])
    learner.label(ids[0], names[0])
    learner.settle()
    with pytest.raises(InputError, match="given twice"):
        learner.label([ids[1], ids[1]], [names[1]] * 2)
    with pytest.raises(InputError, match="no sample has the id 'nobody'"):
        learner.label([ids[1], "nobody"], names[:2])
    with pytest.raises(InputError, match="1 inputs need 1 labels, got 2"):
        learner.label(ids[1], names[:2])
    assert learner.is_pending(ids[1])
    assert learner.counters()["evidence"] == {"learned": 1}


def test_when_two_threads_give_one_id_the_same_label_it_counts_once(learner: Learner) -> None:
    x, names = images(40)
    told: list[Exception] = []

    def label(sample: str, name: str) -> None:
        barrier.wait()
        try:
            learner.label(sample, name)
        except Exception as error:
            told.append(error)

    for sample, name in zip(learner.observe(x).ids, names, strict=True):
        barrier = threading.Barrier(2)
        pair = [threading.Thread(target=label, args=(sample, name)) for _ in range(2)]
        for thread in pair:
            thread.start()
        for thread in pair:
            thread.join()
    learner.settle()
    assert sum(learner.counters()["evidence"].values()) == 40 and not told


def test_a_pending_sample_expires(opened: Opener) -> None:
    learner = opened(keep=Keep(pending_s=0.05))
    x, names = images(8)
    old = learner.observe(x[:4]).ids
    time.sleep(0.1)
    learner.observe(x[4:])
    with pytest.raises(InputError, match=r"older than 0\.05 s"):
        learner.label(old[0], names[0])


def test_a_question_that_can_no_longer_be_answered_is_not_asked(opened: Opener) -> None:
    learner = opened(keep=Keep(pending_s=0.5))
    x, _ = images(4 * BATCH, condition="fog")
    watch(learner, x, "cam")
    assert all(learner.is_pending(q.id) for q in learner.questions(50)) and learner.questions()
    time.sleep(0.6)
    learner.observe(x[:1], stream="another")
    assert learner.questions(50) == []


def test_every_question_can_be_answered_and_disappears_then(learner: Learner) -> None:
    x, names = images(4 * BATCH, condition="fog")
    ids = [sample for o in watch(learner, x) for sample in o.ids]
    asked = learner.questions(100)
    assert 5 <= len(asked) <= 20 and len(learner.questions(3)) == 3
    first = asked[0]
    assert (
        first.stream == "default"
        and "shift" in first.why
        and 0.0 < first.confidence <= 1.0
        and first.predicted in KNOWN
    )
    np.testing.assert_array_equal(first.frame, x[ids.index(first.id)])
    for q in asked:
        answer(learner, q.id, names[ids.index(q.id)])
    assert learner.questions(100) == []


def test_class_ids_are_labels_too(learner: Learner) -> None:
    x, names = images(6)
    slots = [KNOWN.index(name) for name in names]
    ids = learner.observe(x).ids
    answer(learner, ids[0], slots[0])
    answer(learner, ids[1], np.int64(slots[1]))
    answer(learner, ids[2:4], [np.int32(slots[2]), slots[3]])
    answer(learner, ids[4:], np.array(slots[4:]))
    assert [r.label for r in inspect_state(learner).journal.evidence()] == names


def test_an_unknown_name_is_refused_and_the_closest_is_offered(learner: Learner) -> None:
    x, _ = images(2)
    ids = learner.observe(x).ids
    with pytest.raises(UnknownClassError, match="unknown class 'Sandals'; closest: 'Sandal'"):
        learner.label(ids[0], "Sandals")
    with pytest.raises(UnknownClassError, match=r"no class has the id 6; ids are 0\.\.5"):
        learner.learn(x, [0, 6])
    assert learner.is_pending(ids[0]) and learner.classes == KNOWN


def test_under_new_classes_add_an_unknown_name_becomes_a_class(opened: Opener) -> None:
    learner = opened(policy=Policy(new_classes="add"))
    x, names = images(40, classes=("Bag",))
    answer(learner, learner.observe(x[:20]).ids, names[:20])
    assert learner.classes == (*KNOWN, "Bag")
    assert accuracy(learner, x[20:], names[20:]) > 0.7


@pytest.mark.parametrize("labels", [["Bag", 3.5], ["Bag", None], ["Bag"], ["Bag", "  "]])
def test_under_new_classes_add_a_refused_label_adds_no_class(
    opened: Opener, labels: list[Any]
) -> None:
    learner = opened(policy=Policy(new_classes="add"))
    before = learner.digest()
    with pytest.raises(InputError):
        learner.learn(images(2)[0], labels)
    assert learner.classes == KNOWN and learner.digest() == before


def test_a_class_is_added_learned_and_removed(learner: Learner) -> None:
    x, names = images(60, classes=("Bag",))
    known, known_names = images(400, seed=3)
    before = accuracy(learner, known, known_names)
    learner.add_class("Bag")
    learner.add_class("Bag")
    assert learner.classes == (*KNOWN, "Bag") and len(learner.history()) == 1
    assert np.isfinite(learner.predict(x).probs).all() and "Bag" not in learner.predict(x).labels
    learner.learn(x[:30], names[:30])
    learner.settle()
    assert accuracy(learner, x[30:], names[30:]) > 0.7
    assert accuracy(learner, known, known_names) > before - 0.05
    learner.remove_class("Bag")
    assert learner.classes == KNOWN and "Bag" not in learner.predict(x).classes
    assert accuracy(learner, known, known_names) > before - 0.02
    assert learner.counters()["evidence"] == {"withdrawn": 30}
    assert inspect_state(learner).state.labels == 0


def test_removing_a_class_uncounts_only_labels_that_counted(opened: Opener) -> None:
    learner = opened(freeze=True)
    x, names = images(60)
    learner.learn(x[:40], names[:40])
    learner.freeze(False)
    learner.settle()
    learner.freeze()
    waiting, _ = images(20, classes=("Sandal",), seed=4)
    learner.learn(waiting, ["Sandal"] * 20)
    counted = sum(name == "Sandal" for name in names[:40])
    learner.remove_class("Sandal")
    assert inspect_state(learner).state.labels == 40 - counted


def test_after_a_factory_class_is_removed_its_slot_serves_another_and_honest_labels_pass(
    learner: Learner,
) -> None:
    learner.remove_class("Trouser")
    learner.add_class("Bag")
    assert learner.classes == tuple("Bag" if name == "Trouser" else name for name in KNOWN)
    x, names = images(40, classes=("Bag",))
    rest = tuple(name for name in KNOWN if name != "Trouser")
    learner.learn(x[:30], names[:30])
    learner.learn(*images(64, classes=rest))
    learner.settle()
    assert [c.outcome for c in learner.history(2)] == ["learned", "learned"]
    assert "accuracy on factory samples" in learner.history(1)[0].detail
    assert accuracy(learner, x[30:], names[30:]) > 0.6


def test_classes_that_do_not_exist_cannot_be_removed_and_the_last_one_stays(
    learner: Learner,
) -> None:
    with pytest.raises(UnknownClassError, match="closest: 'Dress'"):
        learner.remove_class("Dres")
    for name in KNOWN[1:]:
        learner.remove_class(name)
    with pytest.raises(StateError, match="is the only class"):
        learner.remove_class(KNOWN[0])
    assert learner.classes == KNOWN[:1]


def test_forget_takes_conditions_joined_by_and(learner: Learner) -> None:
    x, names = images(30)
    learner.learn(x[:10], names[:10], source="a")
    ids = learner.learn(x[10:20], names[10:20], source="b")
    learner.settle()
    middle = time.time()
    learner.learn(x[20:], names[20:], source="b")
    learner.settle()
    assert learner.forget(source="a", after=middle).removed == 0
    assert learner.forget(source="b", before=middle, ids=ids[:3]).removed == 3
    assert learner.forget(ids=ids[3]).removed == 1
    assert learner.forget(classes=[names[25]], source="b", after=middle).removed == names[
        20:
    ].count(names[25])
    assert learner.forget(after=0.0).removed == sum(1 for _ in range(30)) - 4 - names[20:].count(
        names[25]
    )
    with pytest.raises(InputError, match="say what to forget"):
        learner.forget()


def test_forgetting_nothing_is_no_change(learner: Learner) -> None:
    receipt = learner.forget(source="nobody")
    assert (receipt.removed, receipt.subtracted, receipt.snapshots) == (0, 0, 0)
    assert learner.history() == []


def test_a_forgotten_sample_cannot_be_labelled(learner: Learner) -> None:
    x, names = images(2)
    ids = learner.observe(x).ids
    assert learner.forget(ids=ids[:1]).removed == 1
    with pytest.raises(InputError, match="was forgotten"):
        learner.label(ids[0], names[0])
    learner.label(ids[1], names[1])


def test_history_is_newest_first_and_reads_as_a_sentence(learner: Learner) -> None:
    x, names = images(20)
    learner.learn(x, names, source="me")
    learner.settle()
    learner.add_class("Bag")
    learner.rollback()
    assert [(c.number, c.kind, c.outcome) for c in learner.history()] == [
        (3, "rollback", "rolled back"),
        (2, "add_class", "added"),
        (1, "learn", "learned"),
    ]
    assert str(learner.history()[1]) == "#2 add_class: added (class Bag)"
    assert learner.history(1)[0].detail["to"] == 1
    assert abs(learner.history()[0].time - time.time()) < 60


def test_checkpoint_names_the_last_commit_and_keeps_conditions(opened: Opener, state: Path) -> None:
    learner = opened(state)
    assert learner.checkpoint() == 0
    x, _ = images(4 * BATCH, condition="fog")
    watch(learner, x)
    assert learner.checkpoint() == 1 == learner.history()[0].number
    assert learner.checkpoint() == 1
    domains, probs = learner.domains(), learner.predict(x).probs
    assert domains == {"condition-1": "provisional"}
    learner.close()
    again = opened(state)
    assert again.domains() == domains
    watch(again, x)
    assert again.domain() == "condition-1" and len(again.domains()) == 1
    np.testing.assert_allclose(again.predict(x).probs, probs, atol=0.2)


def test_a_frozen_learner_receives_labels_and_learns_them_when_it_thaws(learner: Learner) -> None:
    x, names = images(40)
    learner.freeze()
    before = learner.digest()
    learner.label(learner.observe(x[:20]).ids, names[:20])
    learner.learn(x[20:], names[20:])
    learner.settle()
    assert learner.counters()["evidence"] == {"received": 40}
    assert learner.digest() == before
    learner.freeze(False)
    learner.settle()
    assert (
        sum(learner.counters()["evidence"].values()) == 40
        and "received" not in learner.counters()["evidence"]
    )
    assert learner.digest() != before


def test_frozen_under_a_shift_nothing_durable_changes(opened: Opener, state: Path) -> None:
    learner = opened(state, freeze=True)
    before = learner.digest()
    x, names = images(6 * BATCH, condition="fog")
    ids = [sample for o in watch(learner, x) for sample in o.ids]
    for q in learner.questions(20):
        answer(learner, q.id, names[ids.index(q.id)])
    assert learner.checkpoint() == 0 and learner.history() == []
    assert (
        learner.digest() == before and inspect_state(learner).conditions.corrections.refreshes == 0
    )
    learner.close()
    assert opened(state, freeze=True).digest() == before


def test_answers_given_while_frozen_are_heard_after_the_thaw(learner: Learner) -> None:
    x, names = images(4 * BATCH, condition="fog")
    ids = [sample for o in watch(learner, x) for sample in o.ids]
    learner.freeze()
    for q in learner.questions(20):
        answer(learner, q.id, names[ids.index(q.id)])
    assert learner.domains() == {"condition-1": "provisional"}
    learner.freeze(False)
    learner.settle()
    assert learner.domains() == {"condition-1": "condition"}


def test_edgeadapt_freeze_stops_adaptation_whatever_the_policy_says(
    opened: Opener, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EDGEADAPT_FREEZE", "1")
    learner = opened(policy=Policy(adapt="act"))
    x, _ = images(8 * BATCH, condition="fog")
    watch(learner, x)
    assert learner.counters()["refreshes"] == 0
    monkeypatch.delenv("EDGEADAPT_FREEZE")
    watch(learner, x)
    assert learner.counters()["refreshes"] > 0


@pytest.mark.parametrize(
    ("mine", "acts"), [(None, True), ("act", True), ("advise", False), ("off", False)]
)
def test_the_policy_can_only_lower_what_the_bundle_earned(
    opened: Opener, mine: Any, acts: bool
) -> None:
    learner = opened(policy=Policy(adapt=mine))
    x, _ = images(6 * BATCH, condition="fog")
    frozen = opened(policy=Policy(adapt="off")).predict(x).probs
    watch(learner, x)
    assert (learner.counters()["refreshes"] > 0) == acts
    assert (not np.array_equal(learner.predict(x).probs, frozen)) == acts


def test_placement_says_who_serves_which_role(learner: Learner) -> None:
    assert learner.placement() == dict.fromkeys(
        ("encode", "correct", "predict", "novelty", "shift", "learn", "adapt", "derive"),
        "onnxruntime",
    )


def test_the_status_line_counts(learner: Learner) -> None:
    x, names = images(BATCH)
    learner.observe(x)
    learner.learn(x, names)
    learner.settle()
    counters = learner.counters()
    assert (
        counters["observed"] == BATCH
        and counters["encoded"] == 2 * BATCH
        and counters["pending"] == BATCH
        and counters["backlog"] == 0
    )
    assert (
        all(seconds > 0 for name, seconds in learner.timings().items() if name != "learn")
        and learner.timings()["learn"] > 0
    )


def test_a_closed_learner_refuses_by_name_and_closing_twice_is_harmless(
    opened: Opener, state: Path
) -> None:
    learner = opened(state)
    x, names = images(4)
    ids = learner.observe(x).ids
    learner.close()
    learner.close()
    for call in (
        lambda: learner.predict(x),
        lambda: learner.observe(x),
        lambda: learner.label(ids[0], names[0]),
        lambda: learner.learn(x, names),
        lambda: learner.questions(),
        lambda: learner.add_class("Bag"),
        lambda: learner.remove_class("Coat"),
        lambda: learner.forget(source="a"),
        lambda: learner.rollback(),
        lambda: learner.checkpoint(),
        lambda: learner.history(),
        lambda: learner.decisions(),
        lambda: learner.freeze(),
        lambda: learner.digest(),
        lambda: learner.counters(),
        lambda: learner.settle(),
    ):
        with pytest.raises(StateError, match="the learner is closed"):
            call()


def test_with_closes_and_what_was_queued_is_done(opened: Opener, state: Path) -> None:
    x, names = images(200)
    with opened(state) as learner:
        learner.learn(x, names)
    again = opened(state)
    assert (
        "received" not in again.counters()["evidence"]
        and sum(again.counters()["evidence"].values()) == 200
    )


def test_two_learners_share_an_engine_and_nothing_else(opened: Opener) -> None:
    x, names = images(64)
    first, second = opened(), opened()
    before = second.digest()
    first.learn(x, wrong(names), source="liar", stream="cam")
    first.add_class("Bag")
    first.settle()
    assert second.digest() == before and second.classes == KNOWN
    assert_same(tensors(second), second._program.checkpoint(second._program.factory()))
