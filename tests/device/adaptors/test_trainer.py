"""A condition that the head cannot learn grows an adaptor of its own: kept, undone and forgotten
like everything else.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from edgeadapt_bench.datasets.mirrored_domain import NAMES, drifted, samples
from golden_files import GOLDEN

import edgeadapt
from edgeadapt import Budget, Policy
from edgeadapt.bundle import read_bundle
from edgeadapt.bundle.codec import decode_manifest, encode_manifest
from edgeadapt.device.inference.program import Program
from edgeadapt.device.recovery.replay import replay
from edgeadapt.device.storage.journal import Journal
from edgeadapt.errors import BundleError
from edgeadapt.runtime import open_runtime
from edgeadapt.testing import inspect_state

BUNDLE = GOLDEN / "growing.edge"
STREAM = "line"


def opened(state: Path | None = None, **options: Any) -> Any:
    return edgeadapt.open(BUNDLE, state=state, budget=Budget(busy_fraction=1.0), **options)


def show(learner: Any, batch: tuple[Any, list[str]], labels: int = 0) -> tuple[float, list[str]]:
    """One window; accuracy, and the ids of the samples that were labelled."""
    x, names = batch
    seen = learner.observe(x, stream=STREAM)
    learner.settle()
    given = list(seen.ids[:labels]) if learner.domain(STREAM) != "source" else []
    if given:
        learner.label(given, names[: len(given)], source="operator")
        learner.settle()
    return (
        float(np.mean([a == b for a, b in zip(seen.prediction.labels, names, strict=True)])),
        given,
    )


def grow(learner: Any, windows: int = 8) -> list[str]:
    """The mirror, labelled from when it is noticed; returns the ids with a label."""
    return [
        sample
        for seed in range(20, 20 + windows)
        for sample in show(learner, samples(32, seed, 1.0), 16)[1]
    ]


def grown(learner: Any) -> list[Any]:
    return [
        commit
        for commit in learner.history(200)
        if commit.kind == "grow" and commit.outcome == "grown"
    ]


def adaptor(learner: Any) -> str:
    memory = inspect_state(learner).state
    return next(
        (
            found
            for domain in memory.domains.values()
            if (found := inspect_state(learner).program.adaptors.held_in(domain.tensors))
        ),
        "",
    )


def accuracy(learner: Any, mirrored: float) -> float:
    x, names = samples(400, 99, mirrored)
    return float(
        np.mean(
            [a == b for a, b in zip(learner.predict(x, stream=STREAM).labels, names, strict=True)]
        )
    )


@pytest.fixture
def learner() -> Iterator[Any]:
    with opened() as found:
        yield found


def test_a_condition_that_no_linear_head_can_learn_beside_the_factorys_grows_an_adaptor(
    learner: Any,
) -> None:
    first = show(learner, samples(32, 19, 1.0))[0]
    grow(learner)
    assert first < 0.1 and accuracy(learner, 1.0) > 0.9
    found = grown(learner)
    assert found and found[-1].detail["adaptor"] == adaptor(learner) != ""
    before, after = found[-1].detail["cross-validated accuracy"]
    assert after > before + 0.5


def test_labels_that_would_cost_the_factory_too_much_are_kept_to_their_condition(
    learner: Any,
) -> None:
    clean = accuracy(learner, 0.0)
    grow(learner, windows=12)
    apart = [commit for commit in learner.history(200) if "kept to the condition" in commit.detail]
    assert apart and all(
        "at the factory" in commit.detail["kept to the condition"] for commit in apart
    )
    mirrored = accuracy(learner, 1.0)
    for seed in range(40, 44):
        show(learner, samples(32, seed))
    assert mirrored > 0.95 and accuracy(learner, 0.0) > 0.88 and clean > 0.9


def test_the_way_back_and_forth_finds_the_same_adaptor_again(learner: Any) -> None:
    grow(learner)
    for _ in range(2):
        for seed in range(40, 44):
            show(learner, samples(32, seed))
        assert learner.domain(STREAM) == "source"
        right = [show(learner, samples(32, seed, 1.0))[0] for seed in range(50, 54)]
        assert learner.domain(STREAM) == "condition-1" and right[-1] > 0.8
    assert list(learner.domains()) == ["condition-1"]


def test_growing_moves_no_answer_of_another_condition_by_a_bit(
    learner: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    x, record, same = samples(64, 77)[0], inspect_state(learner).log.record, []

    def watched(kind: str, *given: Any, **more: Any) -> Any:
        before = learner.predict(x, stream="other").probs
        result = record(kind, *given, **more)
        if kind == "grow":
            same.append(np.array_equal(learner.predict(x, stream="other").probs, before))
        return result

    monkeypatch.setattr(inspect_state(learner).log, "record", watched)
    grow(learner, windows=12)
    assert len(grown(learner)) >= 2 and len(same) >= 2 and all(same)


def test_labels_of_a_grown_condition_leave_the_shared_head_alone_but_for_new_classes(
    learner: Any,
) -> None:
    earlier = set(grow(learner))
    given = set(show(learner, samples(32, 70, 1.0), 16)[1])
    learner.add_class("plus w")
    seen = learner.observe(samples(32, 71, 1.0)[0], stream=STREAM)
    learner.label(list(seen.ids[:6]), ["plus w"] * 6)
    learner.settle()
    weights = {row.id: row.weight for row in inspect_state(learner).journal.evidence()}
    assert {weights[sample] for sample in given} == {0.0}
    assert (
        {weights[sample] for sample in seen.ids[:6]}
        == {1.0}
        == {weights[sample] for sample in earlier} - {0.0}
    )


def test_what_was_grown_is_there_after_a_restart_bit_for_bit(tmp_path: Path) -> None:
    x = samples(64, 77, 1.0)[0]
    with opened(tmp_path / "state") as first:
        grow(first)
        marks, name, answers = first.digest(), adaptor(first), first.predict(x, stream=STREAM).probs
    with opened(tmp_path / "state") as second:
        assert (second.digest(), adaptor(second)) == (marks, name)
        for seed in (50, 51, 52):
            show(second, samples(32, seed, 1.0))
        assert np.array_equal(second.predict(x, stream=STREAM).probs, answers)
    journal = Journal(tmp_path / "state")
    try:
        assert (
            replay(journal, Program(read_bundle(BUNDLE), open_runtime("auto"))).verdict == "equal"
        )
    finally:
        journal.close()


def test_rolling_back_to_before_the_growth_takes_the_adaptor_away(learner: Any) -> None:
    grow(learner)
    first = min(commit.number for commit in grown(learner))
    learner.rollback(first)
    assert adaptor(learner)
    learner.rollback(first - 1)
    assert adaptor(learner) == ""


def test_what_is_forgotten_leaves_no_adaptor_that_was_trained_on_it_in_the_folder(
    tmp_path: Path,
) -> None:
    with opened(tmp_path / "state") as learner:
        given = grow(learner)
        learner.checkpoint()
        learner.forget(ids=given[: len(given) - 10])  # too few are left to grow again
        learner.settle()
        assert adaptor(learner) == ""
    journal = Journal(tmp_path / "state")
    try:
        stored = [name for _, tensors in journal.commit_tensors() for name in tensors]
        stored += [
            name
            for number in journal.snapshot_numbers()
            for name in (journal.snapshot(number) or (0, {}))[1]
        ]
    finally:
        journal.close()
    assert stored and not [name for name in stored if "low_rank" in name or "bottleneck" in name]


def test_an_adaptor_that_was_shed_stays_shed_after_a_restart_and_in_a_replay(
    tmp_path: Path,
) -> None:
    with opened(tmp_path / "state") as learner:
        grow(learner)
        learner.freeze()
        learner.withdraw(inspect_state(learner).journal.evidence(where="status = 'learned'")[-1].id)
        assert adaptor(learner) == "" and list(learner.domains()) == ["condition-1"]
        marks = learner.digest()
    journal = Journal(tmp_path / "state")
    try:
        assert (
            replay(journal, Program(read_bundle(BUNDLE), open_runtime("auto"))).verdict == "equal"
        )
    finally:
        journal.close()
    with opened(tmp_path / "state", freeze=True) as again:
        assert (again.digest(), adaptor(again)) == (marks, "")
    # nothing holds it back any more: it grows without being asked
    with opened(tmp_path / "state") as third:
        third.settle()
        assert adaptor(third)


def test_what_was_withdrawn_and_then_forgotten_leaves_the_condition_with_an_adaptor(
    learner: Any,
) -> None:
    given = grow(learner, windows=10)
    learner.withdraw(given[0])
    learner.settle()
    assert adaptor(learner)
    learner.forget(ids=[given[0]])
    learner.settle()
    assert adaptor(learner)


def test_a_window_of_one_class_does_not_leave_a_condition_that_has_grown(learner: Any) -> None:
    grow(learner, windows=10)
    x, names = samples(800, 90, 1.0)
    only = x[[name == NAMES[0] for name in names]][:128]
    for start in range(0, 128, 32):
        right, _ = show(learner, (only[start : start + 32], [NAMES[0]] * 32))
        assert right > 0.9
    assert list(learner.domains()) == ["condition-1"]


def test_a_label_of_a_new_class_does_not_keep_the_others_from_their_condition(learner: Any) -> None:
    grow(learner, windows=2)
    learner.add_class("plus w")
    for seed in range(50, 60):
        x, names = samples(32, seed, 1.0)
        seen = learner.observe(x, stream=STREAM)
        learner.settle()
        learner.label(list(seen.ids[:10]), [*names[:9], "plus w"], source="operator")
        learner.settle()
    assert not [
        commit
        for commit in learner.history(200)
        if (commit.outcome, commit.kind) == ("vetoed", "learn")
        and commit.detail["domain"] != "source"
    ]
    weights = {
        (row.label == "plus w", row.weight) for row in inspect_state(learner).journal.evidence()
    }
    assert (True, 0.0) not in weights and (False, 0.0) in weights


def test_growing_needs_nothing_of_the_bundles_file_after_it_was_opened(tmp_path: Path) -> None:
    copy = tmp_path / "copy.edge"
    shutil.copy(BUNDLE, copy)
    with edgeadapt.open(copy, budget=Budget(busy_fraction=1.0)) as learner:
        copy.write_bytes(b"another bundle")
        grow(learner)
        assert adaptor(learner)


def test_two_strengths_of_one_condition_are_not_merged(learner: Any) -> None:
    grow(learner)
    memory = inspect_state(learner).state
    first = memory.domains["condition-1"]
    weak = replace(
        first,
        name="condition-9",
        prototypes=replace(first.prototypes, sums=0.4 * first.prototypes.sums),
    )
    inspect_state(learner).worker.call(
        lambda: inspect_state(learner).published.publish(memory.with_domain(weak))
    )
    learner.checkpoint()
    assert len(learner.domains()) == 2


def test_a_withdrawn_label_has_the_adaptor_trained_again_without_it(learner: Any) -> None:
    given = grow(learner, windows=10)
    count = len(grown(learner))
    labels = grown(learner)[0].detail["labels"]
    learner.withdraw(given[0])
    learner.settle()
    again = grown(learner)
    assert len(again) == count + 1 and adaptor(learner)
    assert again[0].detail["labels"] >= labels - 1


def test_nothing_grows_while_frozen_or_unanswered(learner: Any) -> None:
    for seed in range(20, 32):
        show(learner, samples(32, seed, 1.0))
    assert not grown(learner) and set(learner.domains().values()) <= {"provisional"}
    learner.freeze()
    grow(learner)
    assert not grown(learner)


def test_a_gradual_drift_opens_one_condition_and_grows_nothing(learner: Any) -> None:
    right = [
        show(learner, drifted(32, 100 + i, share), 4)[0]
        for i, share in enumerate(np.linspace(0.0, 1.5, 40))
    ]
    assert len(learner.domains()) <= 1 and not grown(learner)
    assert np.mean(right) > 0.9


def test_a_jump_out_of_a_drift_is_another_condition(learner: Any) -> None:
    for i, share in enumerate(np.linspace(0.0, 1.0, 16)):
        show(learner, drifted(32, 100 + i, share), 4)
    for seed in range(4):
        show(learner, drifted(32, seed, -1.5), 8)
    assert len(learner.domains()) == 2


def test_new_classes_alone_grow_nothing() -> None:
    rng = np.random.default_rng(0)
    far = rng.standard_normal(12)
    with opened(policy=Policy(new_classes="add")) as learner:
        for _ in range(10):
            x = (5.0 * far + 0.6 * rng.standard_normal((32, 12))).astype(np.float32)
            show(learner, (x, ["strange"] * 32), 8)
        assert not grown(learner)


def test_declared_memory_counts_one_adaptor_for_each_condition(learner: Any) -> None:
    program = inspect_state(learner).program
    largest = max(program.adaptors.nbytes(name) for name in program.adaptors.candidates)
    assert program.nbytes()["adaptor"] == program.manifest.domain_slots * largest


def test_a_manifest_whose_candidates_have_no_graphs_or_foreign_tensors_is_refused() -> None:
    text = encode_manifest(read_bundle(BUNDLE).manifest).decode()
    with pytest.raises(BundleError, match="low_rank_5"):
        decode_manifest(text.replace('"name": "low_rank_4"', '"name": "low_rank_5"').encode())
    assert NAMES[0] in text


def test_a_jump_from_clean_data_into_another_condition_does_not_lead_back_to_the_last_one(
    learner: Any,
) -> None:
    for condition in (1.5, 0.0, -1.5):
        for seed in range(5):
            show(learner, drifted(32, 300 + seed, condition), 8)
    assert learner.domain(STREAM) == "condition-2" and len(learner.domains()) == 2


def test_a_stream_that_hovers_about_the_threshold_stays_with_one_condition(learner: Any) -> None:
    shares = np.r_[
        np.linspace(0.0, 0.5, 8), np.tile([0.32, 0.25, 0.18, 0.12, 0.18, 0.25, 0.32, 0.4], 5)
    ]
    for i, share in enumerate(shares):
        show(learner, drifted(32, 400 + i, share), 4)
    assert len(learner.domains()) <= 1


def test_two_conditions_that_turn_out_to_be_one_become_one(tmp_path: Path) -> None:
    with opened(tmp_path / "state") as learner:
        grow(learner)
        program, memory = inspect_state(learner).program, inspect_state(learner).state
        first = memory.domains["condition-1"]
        twin = replace(
            first,
            name="condition-9",
            tensors=program.factory_domain(),
            saved=program.factory_domain(),
        )
        inspect_state(learner).worker.call(
            lambda: inspect_state(learner).published.publish(memory.with_domain(twin))
        )
        learner.checkpoint()
        assert list(learner.domains()) == ["condition-1"] and adaptor(learner)
        assert (
            inspect_state(learner).state.domains["condition-1"].prototypes.counts.sum()
            == 2 * first.prototypes.counts.sum()
        )
        marks = learner.digest()
    with opened(tmp_path / "state") as again:
        assert again.digest() == marks and list(again.domains()) == ["condition-1"]


def test_a_condition_with_more_labels_than_an_adaptor_may_train_on_trains_on_a_selection(
    tmp_path: Path,
) -> None:
    with opened() as learner:
        grow(learner, windows=24)
        assert (
            max(commit.detail["labels"] for commit in grown(learner))
            > inspect_state(learner).program.manifest.policy.growth.samples
        )
        assert accuracy(learner, 1.0) > 0.9
