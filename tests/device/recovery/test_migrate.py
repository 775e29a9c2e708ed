"""What was learned goes to a bundle with another encoder: by the raw inputs that were kept, and
whole or not at all.
"""

from __future__ import annotations

import contextlib
import json
import sqlite3
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from feature_vectors import samples
from golden_files import GOLDEN
from learner_steps import Opener, accuracy, watch
from migration_state import LEARNED, RAW, SEEN_BY_SECOND, digest, images, teach_three_sources
from sample_images import KNOWN, wrong
from without_guard import unguarded

from edgeadapt.bundle import Bundle, read_bundle
from edgeadapt.device.commits.domain_changes import save_domains
from edgeadapt.device.inference.program import Program
from edgeadapt.device.learner import open as open_learner
from edgeadapt.device.recovery.migrate import migrate
from edgeadapt.errors import BundleError, CapacityError, InputError, StateError
from edgeadapt.runtime import Runtime
from edgeadapt.scenarios.corruptions import corrupt
from edgeadapt.testing import inspect_state


def query(state: Path, sql: str, *values: Any) -> list[Any]:
    """Rows of the database, or a change of it."""
    with contextlib.closing(sqlite3.connect(state / "learner.db")) as db, db:
        return db.execute(sql, values).fetchall()


def test_classes_known_from_raw_samples_alone_are_recognised_by_the_new_encoder(
    old: Path, second: Bundle, runtime: Runtime, opened: Opener
) -> None:
    report = migrate(old, second, runtime=runtime)
    assert report.outcome == "migrated" and report.by == "raw inputs"
    learner, shipped = opened(old, bundle=second), opened(bundle=second)
    assert set(learner.classes) == {*KNOWN, *LEARNED}
    x, names = images(LEARNED, 100, 400)
    assert accuracy(shipped, x, names) == 0.0
    assert accuracy(learner, x, names) > 0.65
    both, truth = images((*KNOWN, *LEARNED), 300, 400)
    assert accuracy(learner, both, truth) > accuracy(shipped, both, truth) + 0.06
    foggy = corrupt(images(KNOWN, 300, 400)[0], "fog", 3, 1)
    assert (
        accuracy(learner, foggy, images(KNOWN, 300, 400)[1])
        > accuracy(shipped, foggy, images(KNOWN, 300, 400)[1]) + 0.03
    )


def test_the_report_counts_what_every_class_had_kept_carried_and_lost(
    old: Path, second: Bundle, runtime: Runtime
) -> None:
    report = migrate(old, second, runtime=runtime)
    by_name = {found.name: found for found in report.classes}
    assert list(by_name) == [*KNOWN, *LEARNED]
    bag, coat = by_name["Bag"], by_name["Coat"]
    assert (bag.labels, bag.kept, bag.carried, bag.lost, bag.refused, bag.is_new) == (
        25,
        20,
        20,
        5,
        0,
        True,
    )
    assert (coat.labels, coat.kept, coat.carried, coat.lost, coat.is_new) == (20, 20, 20, 0, False)
    assert bag.judged == 4 and bag.before == 0.0
    assert by_name["Ankle boot"].after is not None and by_name["Ankle boot"].after >= 0.75
    held_out = {name: (before, after) for name, before, after in report.accuracy}[
        "held-out samples"
    ]
    assert held_out[1] > held_out[0] + 0.15
    assert (
        report.commits == 5 and json.loads(json.dumps(report.as_dict()))["classes"][6]["lost"] == 5
    )
    assert "Bag: 20 of 25 labels carried over, 5 could not be" in "\n".join(report.lines())


def test_samples_keep_their_id_source_stream_time_and_raw_input(
    old: Path, second: Bundle, bundle: Bundle, runtime: Runtime, opened: Opener
) -> None:
    kept = "SELECT id, source || stream || time || label FROM evidence JOIN raw USING (seq)"
    before = dict(query(old, kept))
    migrate(old, second, runtime=runtime)
    after = dict(query(old, kept))
    met = dict(query(old, "SELECT source || met, count(*) FROM evidence GROUP BY source, met"))
    assert after == before and len(after) == 160
    assert met == {"line 1shifted": 40, "line 2factory": 60, "line 3shifted": 60}
    learner = opened(old, bundle=second, keep=RAW)
    assert learner.forget(source="line 2").removed == 60
    learner.close()
    back = migrate(old, bundle, runtime=runtime)  # what was kept is kept on
    assert sum(found.carried for found in back.classes) == 100
    x, names = images(LEARNED, 100, 300)
    assert accuracy(opened(old), x, names) > 0.85


def test_a_state_that_the_bundle_opens_needs_nothing(
    old: Path, bundle: Bundle, second: Bundle, runtime: Runtime
) -> None:
    was = digest(old, bundle, runtime)
    report = migrate(old, bundle, runtime=runtime)
    assert report.outcome == "nothing to do" and "nothing to do" in report.lines()[1]
    assert digest(old, bundle, runtime) == was
    assert not list(old.glob("learner.?*.db"))


def test_another_head_in_the_same_space_relearns_the_features(
    state: Path, runtime: Runtime, opened: Opener
) -> None:
    vectors, counting = read_bundle(GOLDEN / "vectors.edge"), read_bundle(GOLDEN / "counting.edge")
    assert vectors.manifest.space == counting.manifest.space
    with open_learner(vectors, state=state, runtime=runtime) as learner:
        learner.add_class("crack")
        learner.learn(*samples(60, [0, 1, 2, 3, 4], 1), source="line 1")
        learner.checkpoint()
        inspect_state(learner).worker.call(
            lambda: save_domains(inspect_state(learner).log, force=True)
        )
        learner.rollback(2)  # takes a snapshot, which the other head cannot read
    with pytest.raises(StateError, match="migrate"):
        open_learner(counting, state=state, runtime=runtime)
    report = migrate(state, counting, runtime=runtime)
    assert report.by == "features"
    assert sum(found.carried for found in report.classes) == 60 and not any(
        found.lost for found in report.classes
    )
    from_the_start = opened(bundle=counting)
    from_the_start.add_class("crack")
    from_the_start.learn(*samples(60, [0, 1, 2, 3, 4], 1), source="line 1")
    from_the_start.settle()
    x, _ = samples(200, [0, 1, 2, 3, 4], 9)
    was, now = from_the_start.predict(x), opened(state, bundle=counting).predict(x)
    assert np.array_equal(was.probs, now.probs) and "crack" in now.labels


def test_without_raw_inputs_it_says_what_would_have_kept_them(
    state: Path, bundle: Bundle, second: Bundle, runtime: Runtime, opened: Opener
) -> None:
    with open_learner(bundle, state=state, runtime=runtime) as learner:
        teach_three_sources(learner)
    was = digest(state, bundle, runtime)
    with pytest.raises(
        StateError,
        match=(
            r"none of its 170 labels has a raw input.*Keep\(raw_per_class=20\).*--without-samples"
        ),
    ):
        migrate(state, second, runtime=runtime)
    assert digest(state, bundle, runtime) == was
    report = migrate(state, second, without_samples=True, runtime=runtime)
    assert {found.name: found.carried for found in report.classes} == dict.fromkeys(
        [*KNOWN, *LEARNED], 0
    )
    assert (
        "Bag: 0 of 25 labels carried over, 25 could not be, new to this bundle, unknown until it"
        " gets labels" in report.lines()[7]
    )
    assert set(opened(state, bundle=second).classes) == {*KNOWN, *LEARNED}


def test_a_learner_that_is_given_features_keeps_no_raw_inputs(
    state: Path, second: Bundle, runtime: Runtime
) -> None:
    vectors = read_bundle(GOLDEN / "vectors.edge")
    with open_learner(vectors, state=state, runtime=runtime, keep=RAW) as learner:
        x, names = samples(20, [0, 1], 1)
        learner.learn(None, names, features={"z": x})
    with pytest.raises(StateError, match="given features has no inputs to keep"):
        migrate(state, second, runtime=runtime)


def test_inputs_that_the_new_encoder_does_not_take_are_refused_and_nothing_changes(
    state: Path, second: Bundle, runtime: Runtime
) -> None:
    vectors = read_bundle(GOLDEN / "vectors.edge")
    with open_learner(vectors, state=state, runtime=runtime, keep=RAW) as learner:
        learner.learn(*samples(20, [0, 1], 1))
    was = digest(state, vectors, runtime)
    with pytest.raises(
        InputError,
        match=(
            r"is float32 \(12,\), and the encoder of 'second' takes uint8 \(28, 28\), layout NHW:"
            r" only gray uint8 frames"
        ),
    ):
        migrate(state, second, runtime=runtime)
    assert digest(state, vectors, runtime) == was
    assert sorted(p.name for p in state.iterdir()) == ["learner.db", "learner.lock"]


def test_images_cannot_become_features_of_a_bundle_without_an_encoder(
    old: Path, bundle: Bundle, runtime: Runtime
) -> None:
    with pytest.raises(InputError, match="has no encoder, it is given features"):
        migrate(old, read_bundle(GOLDEN / "vectors.edge"), runtime=runtime)


def test_gray_frames_of_another_size_are_resized(
    old: Path, second: Bundle, runtime: Runtime, opened: Opener
) -> None:
    for seq, blob in query(old, "SELECT seq, input FROM raw"):
        large = np.kron(np.frombuffer(blob, np.uint8).reshape(28, 28), np.ones((2, 2), np.uint8))
        query(
            old, "UPDATE raw SET shape = '[56, 56]', input = ? WHERE seq = ?", large.tobytes(), seq
        )
    report = migrate(old, second, runtime=runtime)
    assert report.converted == 160
    assert accuracy(opened(old, bundle=second), *images(LEARNED, 100, 400)) > 0.6


def test_labels_that_wait_wait_again(
    old: Path, bundle: Bundle, second: Bundle, runtime: Runtime, opened: Opener
) -> None:
    with open_learner(bundle, state=old, runtime=runtime, keep=RAW, freeze=True) as learner:
        seen = learner.observe(images(("Bag",), 30, 36)[0])
        learner.label(seen.ids, ["Bag"] * 6, source="late")
        coat = inspect_state(learner).journal.evidence(
            where="label = 'Coat' AND status = 'learned'"
        )[0]
        learner.label(coat.id, "Pullover", source="late")  # a correction that waits
    report = migrate(old, second, runtime=runtime)
    by_name = {found.name: found for found in report.classes}
    assert (by_name["Bag"].labels, by_name["Bag"].carried, by_name["Bag"].waiting) == (31, 20, 6)
    assert (by_name["Coat"].labels, by_name["Coat"].carried, by_name["Pullover"].waiting) == (
        19,
        19,
        1,
    )
    learner = opened(old, bundle=second, keep=RAW)
    learner.settle()
    assert "received" not in learner.counters()["evidence"]
    assert learner.forget(source="late").removed == 7


def test_labels_that_the_guard_refuses_are_reported_and_not_forced(
    state: Path, bundle: Bundle, second: Bundle, runtime: Runtime, opened: Opener
) -> None:
    x, names = images(KNOWN, SEEN_BY_SECOND, SEEN_BY_SECOND + 10)
    with unguarded(bundle, state, runtime, keep=RAW) as learner:
        for name in LEARNED:
            learner.add_class(name)
        learner.learn(*images(LEARNED, 0, 20), source="honest")
        learner.settle()
        learner.learn(x, wrong(names), source="liar")
        learner.settle()
    report = migrate(state, second, runtime=runtime)
    assert report.outcome == "migrated"
    by_name = {found.name: found for found in report.classes}
    assert sum(by_name[name].refused for name in KNOWN) == 60
    assert all("contradict the head" in by_name[name].reasons[0] for name in KNOWN)
    assert by_name["Bag"].carried == 20
    learner, shipped = opened(state, bundle=second), opened(bundle=second)
    x, names = images(KNOWN, 300, 400)
    assert accuracy(learner, x, names) > accuracy(shipped, x, names) - 0.1


def test_a_state_bound_to_a_signer_takes_no_bundle_of_another(
    old: Path, bundle: Bundle, second: Bundle, runtime: Runtime
) -> None:
    query(old, "INSERT OR REPLACE INTO meta VALUES ('signed_by', 'a1b2c3')")
    with pytest.raises(
        BundleError,
        match="is not signed, but this state folder was opened with trust in key a1b2c3",
    ):
        migrate(old, second, runtime=runtime)
    assert sorted(p.name for p in old.iterdir()) == ["learner.db", "learner.lock"]


def test_too_few_class_slots_are_refused_with_the_numbers(
    old: Path, bundle: Bundle, second: Bundle, runtime: Runtime, opened: Opener
) -> None:
    learner = opened(old, keep=RAW)
    for serial in range(10):
        learner.add_class(f"class {serial}")
    learner.close()
    with pytest.raises(CapacityError, match="12 of 12 class slots"):
        migrate(old, second, runtime=runtime)
    assert digest(old, bundle, runtime)
    assert not (old / "learner.migrating").exists()


def test_a_folder_without_a_state_is_not_made_one(
    tmp_path: Path, second: Bundle, runtime: Runtime
) -> None:
    with pytest.raises(StateError, match="is not a state folder"):
        migrate(tmp_path / "typo", second, runtime=runtime)
    assert not (tmp_path / "typo").exists()


def test_conditions_are_named_as_lost(
    old: Path, bundle: Bundle, second: Bundle, runtime: Runtime
) -> None:
    with open_learner(bundle, state=old, runtime=runtime, keep=RAW) as learner:
        watch(learner, corrupt(images(KNOWN, 0, 25)[0], "fog", 4, 0), stream="foggy")
        assert learner.domains()
    report = migrate(old, second, runtime=runtime)
    assert report.conditions == ("condition-1",) and report.decisions > 0
    assert "conditions condition-1" in "\n".join(report.lines())


def test_the_new_state_replays_with_the_same_digests(
    old: Path, second: Bundle, runtime: Runtime
) -> None:
    from edgeadapt.device.recovery.replay import replay
    from edgeadapt.device.storage.journal import Journal

    migrate(old, second, runtime=runtime)
    journal = Journal(old)
    found = replay(journal, Program(second, runtime))
    journal.close()
    assert found.verdict == "equal" and found.start == 0 and len(found.steps) == 5
