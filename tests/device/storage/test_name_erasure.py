"""Names that nothing but the history has are taken out of it; a replay and a rollback go on."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from feature_vectors import samples
from learner_steps import Opener

from edgeadapt.device.commits.class_changes import add_classes
from edgeadapt.device.learner import Learner
from edgeadapt.device.recovery.replay import replay
from edgeadapt.testing import inspect_state

NAME = "Ada O'Byron"
SOURCE = "ada@example.org"


def is_stored(state: Path, text: str) -> bool:
    return any(text.encode() in path.read_bytes() for path in state.iterdir())


def taught(learner: Learner) -> tuple[str, ...]:
    """Labels of two sources, and a class of its own for one of them; a label of it is refused."""
    x, names = samples(12, [0, 1, 2], 1)
    learner.learn(x, names, source="kept")
    learner.add_class(NAME)
    x, _ = samples(12, [3], 2)
    ids = learner.learn(x, [NAME] * 12, source=SOURCE)
    learner.settle()
    return ids


def remove_then_forget(learner: Learner) -> None:
    learner.remove_class(NAME)
    learner.forget(classes=[NAME])


def forget_then_remove(learner: Learner) -> None:
    learner.forget(classes=[NAME])
    learner.remove_class(NAME)


def remove_then_forget_by_id(learner: Learner) -> None:
    ids = [
        row.id for row in inspect_state(learner).journal.evidence(where="label = ?", values=(NAME,))
    ]
    learner.remove_class(NAME)
    learner.forget(ids)


@pytest.mark.parametrize(
    "forget", [remove_then_forget, forget_then_remove, remove_then_forget_by_id]
)
def test_a_class_that_is_gone_with_its_labels_is_named_nowhere(
    open_vectors: Opener, tmp_path: Path, forget: Callable[[Learner], None]
) -> None:
    with open_vectors(state=tmp_path) as learner:
        taught(learner)
        first = learner.history()[-1].number
        forget(learner)
        learner.checkpoint()
        assert not is_stored(tmp_path, NAME) and not is_stored(tmp_path, SOURCE)
        told = [commit.detail for commit in learner.history()]
        assert {"class": "(forgotten 1)"} in told and any(d.get("source") == "kept" for d in told)
        replayed = replay(inspect_state(learner).journal, inspect_state(learner).program)
        assert replayed.verdict != "different" and replayed.difference < 1e-5
        digest = learner.digest()
    with open_vectors(state=tmp_path) as learner:
        assert learner.digest() == digest
        assert learner.rollback(first) == first
        learner.add_class(NAME)


def test_a_source_is_named_as_long_as_one_of_its_labels_is_there(
    open_vectors: Opener, tmp_path: Path
) -> None:
    with open_vectors(state=tmp_path) as learner:
        ids = taught(learner)
        learner.forget(ids[:11])
        assert any(commit.detail.get("source") == SOURCE for commit in learner.history())
        learner.forget(ids[11:])
        assert not is_stored(tmp_path, SOURCE)


def test_a_source_whose_labels_are_gone_already_is_taken_out_too(
    open_vectors: Opener, tmp_path: Path
) -> None:
    with open_vectors(state=tmp_path) as learner:
        taught(learner)
        inspect_state(learner).retention.expire(float("inf"), 0)
        assert is_stored(tmp_path, SOURCE)
        assert learner.forget(source=SOURCE).removed == 0
        assert not is_stored(tmp_path, SOURCE)
        count = len(learner.history())
        learner.forget(source=SOURCE)  # and once is enough
        assert len(learner.history()) == count


def test_a_class_that_was_only_removed_keeps_its_name_for_the_way_back(
    open_vectors: Opener,
) -> None:
    with open_vectors() as learner:
        learner.forget(source="nobody")
        taught(learner)
        before = learner.history(1)[0].number
        learner.remove_class(NAME)
        assert {"class": NAME, "labels": 12} in [commit.detail for commit in learner.history()]
        learner.rollback(before)
        assert NAME in learner.classes


def test_classes_of_the_bundle_and_their_neighbours_in_a_list_keep_their_names(
    open_vectors: Opener,
) -> None:
    with open_vectors() as learner:
        x, names = samples(8, [0, 1], 1)
        learner.learn(x, names, source="a")
        inspect_state(learner).worker.call(
            lambda: add_classes(inspect_state(learner).log, ["left", "right"])
        )
        learner.settle()
        learner.forget(classes=[*learner.bundle.manifest.classes, "left"])
        learner.remove_class("left")
        told = [commit.detail for commit in learner.history()]
        assert {"class": "(forgotten 1), right"} in told
        assert set(learner.bundle.manifest.classes) <= set(learner.classes)
