"""Bad input of every kind: a named error or a documented outcome, and nothing is
lost.
"""

from __future__ import annotations

import os
import resource
import sqlite3
import warnings
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from golden_files import GOLDEN
from learner_steps import BATCH, Opener, watch
from sample_images import KNOWN, images

from edgeadapt.bundle import FACTORY, FROZEN, GUARD, Bundle, read_bundle, write_bundle
from edgeadapt.bundle.schema import FORMAT, PLAIN_FORMAT
from edgeadapt.bundle.signature import generate_key
from edgeadapt.demo.sample import bundle_path
from edgeadapt.device.detection.policy import Policy
from edgeadapt.device.learner import Learner
from edgeadapt.device.learner import open as open_learner
from edgeadapt.device.resources.budget import Budget
from edgeadapt.errors import (
    BudgetError,
    BundleError,
    CapacityError,
    InputError,
    RuntimeUnavailable,
    StateError,
    UnknownClassError,
)
from edgeadapt.testing import inspect_state

X, NAMES = images(40, seed=9)


@contextmanager
def nothing_lost(learner: Learner) -> Iterator[None]:
    """The digest is as before, and the learner predicts, observes and learns as before."""
    digest, pending = learner.digest(), learner.counters()["pending"]
    yield
    assert learner.digest() == digest
    assert learner.counters()["pending"] == pending
    still_works(learner)


def still_works(learner: Learner) -> None:
    rows = sum(learner.counters()["evidence"].values())
    learner.label(learner.observe(X[:4], stream="after").ids, NAMES[:4])
    learner.settle()
    assert sum(learner.counters()["evidence"].values()) == rows + 4
    assert len(learner.predict(X)) == len(X)


def refuse(learner: Learner, match: str, x: Any = None, features: Any = None) -> None:
    """All three doors refuse alike, and a window that was there stays."""
    learner.observe(X[:5], stream="kept")
    with nothing_lost(learner):
        count = inspect_state(learner).streams.observed("kept").window.count
        for call in (
            lambda: learner.predict(x, features=features),
            lambda: learner.observe(x, features=features, stream="kept"),
            lambda: learner.learn(x, NAMES[:1], features=features),
        ):
            with pytest.raises(InputError, match=match):
                call()
        assert inspect_state(learner).streams.observed("kept").window.count == count


@pytest.mark.parametrize(
    ("x", "match"),
    [
        (np.zeros((3, 28, 27), np.uint8), r"shape \(N, 28, 28\), layout NHW; got \(3, 28, 27\)"),
        (np.zeros((3, 28, 28, 1), np.uint8), r"got \(3, 28, 28, 1\)"),
        (np.zeros(784, np.uint8), r"got \(784,\)"),
        (np.uint8(3), r"got \(\)"),
        (np.zeros((3, 28, 28), np.float32), r"inputs are uint8, got float32; edgeadapt\.prepare"),
        (np.zeros((3, 28, 28), np.int64), "inputs are uint8, got int64"),
        (np.zeros((3, 28, 28), bool), "inputs are uint8, got bool"),
        (np.zeros((3, 28, 28), complex), "inputs are uint8, got complex128"),
        (np.full((3, 28, 28), None), "inputs are uint8, got object"),
        (np.zeros((0, 28, 28), np.uint8), r"the batch is empty: shape \(0, 28, 28\)"),
        ([], r"got \(0,\)"),
        ([[1, 2], [3]], "not an array"),
        ("photo.png", r"got \(\)"),
        (None, "either a batch x or features"),
    ],
    ids=[
        "width",
        "channel",
        "flat",
        "scalar",
        "float32",
        "int64",
        "bool",
        "complex",
        "objects",
        "no rows",
        "empty list",
        "ragged",
        "path",
        "nothing",
    ],
)
def test_a_batch_of_the_wrong_shape_or_dtype_is_refused(
    learner: Learner, x: Any, match: str
) -> None:
    refuse(learner, match, x)


@pytest.mark.parametrize(
    ("z", "taps", "match"),
    [
        (
            np.full((1, 96), np.nan, np.float32),
            np.zeros((1, 96), np.float32),
            r"features\['z'\] has the value nan at \(0, 0\)",
        ),
        (
            np.zeros((1, 96), np.float32),
            np.full((1, 96), np.inf, np.float32),
            r"features\['taps'\] has the value inf",
        ),
        (np.full((1, 96), 1e300), np.zeros((1, 96)), r"features\['z'\] has the value inf"),
        (
            np.zeros((1, 95), np.float32),
            np.zeros((1, 96), np.float32),
            r"features\['z'\] has shape \(N, 96\), got \(1, 95\)",
        ),
        (np.zeros((1, 96), np.int32), np.zeros((1, 96), np.float32), "is a float array, got int32"),
        (np.zeros((0, 96), np.float32), np.zeros((0, 96), np.float32), "is empty"),
        (
            np.zeros((2, 96), np.float32),
            np.zeros((1, 96), np.float32),
            "'z' has 2 rows and 'taps' 1",
        ),
    ],
    ids=["nan", "inf", "too large for float32", "width", "integers", "empty", "rows"],
)
@pytest.mark.filterwarnings("ignore:overflow encountered in cast")
def test_bad_features_are_refused(learner: Learner, z: Any, taps: Any, match: str) -> None:
    refuse(learner, match, features={"z": z, "taps": taps})


@pytest.mark.parametrize(
    ("features", "match"),
    [
        ([1.0], "a mapping with the key 'z'"),
        ({"y": 1}, "a mapping with the key 'z'"),
        ({"z": np.zeros((1, 96))}, "also needs"),
        ({"z": 1, "mask": 2}, "unknown feature 'mask'"),
    ],
)
def test_features_of_another_form_are_refused(learner: Learner, features: Any, match: str) -> None:
    refuse(learner, match, features=features)


def test_a_batch_and_features_together_are_refused(learner: Learner) -> None:
    refuse(
        learner,
        "either a batch x or features",
        X[:1],
        {"z": np.zeros((1, 96), np.float32), "taps": np.zeros((1, 96), np.float32)},
    )


def test_features_too_large_for_float16_are_answered_but_not_learned(learner: Learner) -> None:
    large = {"z": np.full((1, 96), 1e6, np.float32), "taps": np.zeros((1, 96), np.float32)}
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        sample = learner.observe(features=large, stream="large").ids[0]
    with nothing_lost(learner):
        with pytest.raises(InputError, match="does not fit into float16"):
            learner.label(sample, "Coat")
        with pytest.raises(InputError, match="below 65504"):
            learner.learn(None, "Coat", features=large)


def test_extreme_but_finite_features_do_not_stop_later_labels(learner: Learner) -> None:
    learner.learn(
        None,
        ["Coat"] * 8,
        features={
            "z": np.full((8, 96), 6e4, np.float32),
            "taps": np.full((8, 96), -6e4, np.float32),
        },
    )
    learner.settle()
    still_works(learner)
    assert np.isfinite(learner.predict(X).probs).all()


def test_one_sample_is_learned(learner: Learner) -> None:
    learner.learn(X[0], NAMES[0])
    learner.settle()
    assert learner.counters()["evidence"] == {"learned": 1}


def test_ten_thousand_samples_in_one_batch_and_memory_stays_flat(learner: Learner) -> None:
    x, names = np.tile(images(2400)[0], (5, 1, 1))[:10_000], (images(2400)[1] * 5)[:10_000]
    learner.observe(x)
    learner.settle()
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    seen = learner.observe(x)
    learner.settle()
    assert len(seen.ids) == len(seen.abstained) == 10_000 and seen.reading.axis == "clear"
    assert learner.counters()["pending"] == 20_000
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 24 * 1024  # KiB
    ids = learner.learn(x, names)
    learner.settle()
    assert len(ids) == 10_000
    assert (
        sum(learner.counters()["evidence"].values()) == 10_000
        and "received" not in learner.counters()["evidence"]
    )


def test_the_callers_buffer_can_be_used_again(learner: Learner) -> None:
    x, _ = images(3 * BATCH, condition="fog")
    seen, buffer = [], np.zeros_like(x[:8])
    for start in range(0, len(x), 8):
        buffer[:] = x[start : start + 8]
        seen += learner.observe(buffer).ids
        buffer[:] = 0
        learner.settle()
    asked = learner.questions(20)
    assert asked
    for q in asked:
        np.testing.assert_array_equal(q.frame, x[seen.index(q.id)])


def test_an_unknown_label_is_refused_with_the_closest_name(learner: Learner) -> None:
    ids = learner.observe(X).ids
    with nothing_lost(learner):
        for call in (
            lambda: learner.label(ids[0], "Trousers"),
            lambda: learner.learn(X[:1], "Trousers"),
            lambda: learner.remove_class("Trousers"),
        ):
            with pytest.raises(
                UnknownClassError,
                match=(
                    r"unknown class 'Trousers'; closest: 'Trouser';"
                    r" learner\.add_class\('Trousers'\) adds it"
                ),
            ):
                call()
        with pytest.raises(UnknownClassError, match=r"unknown class 'xyzzy'; learner\.add_class"):
            learner.learn(X[:1], "xyzzy")


@pytest.mark.parametrize(
    "label", [None, 1.0, True, np.bool_(True), b"Coat", ["Coat", "Coat"], [["Coat"]]], ids=repr
)
def test_what_is_no_label_is_refused(learner: Learner, label: Any) -> None:
    with nothing_lost(learner), pytest.raises((InputError, TypeError)):
        learner.learn(X[:1], label)


@pytest.mark.parametrize("name", ["", "  ", None, 3, b"Bag"], ids=repr)
def test_what_is_no_class_name_is_refused(learner: Learner, name: Any) -> None:
    with (
        nothing_lost(learner),
        pytest.raises(InputError, match="a class name is a non-empty string"),
    ):
        learner.add_class(name)


def test_more_classes_than_slots_is_a_capacity_error_with_the_numbers(learner: Learner) -> None:
    for number in range(32 - len(KNOWN)):
        learner.add_class(f"class {number}")
    with (
        nothing_lost(learner),
        pytest.raises(
            CapacityError,
            match=(
                r"32 of 32 class slots are used; export with class_slots = 64 or call"
                r" learner\.remove_class"
            ),
        ),
    ):
        learner.add_class("one more")
    learner.remove_class("class 3")
    learner.add_class("one more")
    assert "one more" in learner.classes and len(learner.classes) == 32


def test_new_names_beyond_the_slots_are_all_refused(opened: Opener) -> None:
    learner = opened(policy=Policy(new_classes="add"))
    x = np.repeat(X[:1], 30, axis=0)
    with nothing_lost(learner), pytest.raises(CapacityError):
        learner.learn(x, [f"class {i}" for i in range(30)])
    assert learner.classes == KNOWN


def test_more_memory_than_the_budget_is_refused_with_the_numbers(opened: Opener) -> None:
    with pytest.raises(
        BudgetError, match=r"declares \d+\.\d MiB \(.*frozen .*\) and memory_mib is 0\.5"
    ):
        opened(budget=Budget(memory_mib=0.5))


@pytest.mark.parametrize("level", [0, 128, 255])
def test_constant_frames_are_stuck_and_abstained_and_teach_nothing(
    learner: Learner, level: int
) -> None:
    before = learner.digest()
    seen = watch(learner, np.full((10 * BATCH, 28, 28), level, np.uint8))
    assert {o.reading.axis for o in seen} == {"stuck"}
    assert all(o.abstained.all() for o in seen)
    assert (
        learner.questions(100) == []
        and learner.domains() == {}
        and learner.counters()["refreshes"] == 0
    )
    assert learner.digest() == before
    assert {kind for _, _, kind, _, _ in learner.decisions()} == {"hold"}
    assert watch(learner, np.concatenate([X, X])[: 2 * BATCH])[-1].reading.axis != "stuck"


def test_constant_frames_inside_a_condition_leave_its_correction_alone(learner: Learner) -> None:
    x, _ = images(8 * BATCH, condition="fog")
    watch(learner, x)
    probs, refreshes = learner.predict(x).probs, learner.counters()["refreshes"]
    assert learner.domain() == "condition-1" and refreshes
    seen = watch(learner, np.full((6 * BATCH, 28, 28), 200, np.uint8))
    assert seen[-1].reading.axis == "stuck" and seen[-1].abstained.all()
    assert learner.counters()["refreshes"] == refreshes
    np.testing.assert_array_equal(learner.predict(x).probs, probs)


# -- bundles ---------------------------------------------------------------------------------------
def edited(path: Path, change: Callable[[bytearray], Any]) -> Path:
    data = bytearray(bundle_path().read_bytes())
    changed = change(data)
    path.write_bytes(data if changed is None else changed)
    return path


def rewritten(bundle: Bundle, path: Path, **changes: Any) -> Path:
    """The shipped bundle with another manifest."""
    manifest = msgspec.structs.replace(bundle.manifest, members={}, **changes)
    weights = {
        name: bundle.weights(name)
        for name in (FROZEN, FACTORY, GUARD)
        if name in bundle.manifest.members
    }
    write_bundle(
        path,
        manifest,
        {g.file: bundle.graph(g.file) for g in manifest.graphs},
        weights,
        bundle.card,
    )
    return path


def with_manifest(path: Path, old: str, new: str) -> Path:
    """The shipped bundle, its container sound, with another text in its manifest."""
    with zipfile.ZipFile(bundle_path()) as given, zipfile.ZipFile(path, "w") as made:
        for entry in given.infolist():
            data = given.read(entry)
            made.writestr(
                entry,
                (
                    data.replace(old.encode(), new.encode())
                    if entry.filename == "manifest.json"
                    else data
                ),
            )
    return path


@pytest.mark.parametrize(
    ("old", "new", "match"),
    [
        (
            f'"format": {PLAIN_FORMAT},',
            f'"format": {FORMAT + 1},',
            (
                f"format {FORMAT + 1} is newer than {FORMAT}, which this version reads; written by"
                " edgeadapt"
            ),
        ),
        ('"name": "', '"title": "', "manifest"),
        ('"novelty"', '"novel"', "manifest"),
    ],
    ids=["newer", "unknown field", "unknown role"],
)
def test_a_newer_or_edited_manifest_is_refused(
    tmp_path: Path, state: Path, old: str, new: str, match: str
) -> None:
    with pytest.raises(BundleError, match=match):
        open_learner(with_manifest(tmp_path / "new.edge", old, new), state=state)
    assert not state.exists()


@pytest.mark.parametrize(
    ("change", "match"),
    [
        (lambda data: data[:-1000], "archive"),
        (lambda data: data[: len(data) // 2], "archive"),
        (lambda data: b"", "archive"),
        (
            lambda data: data.__setitem__(len(data) // 2, data[len(data) // 2] ^ 1),
            "damaged, its CRC-32",
        ),
        (lambda data: data.replace(b'"feature_dim": 96', b'"feature_dim": 97'), "."),
        (lambda data: b"PK\x03\x04 a zip of something else", "archive"),
    ],
    ids=["last bytes cut", "half", "empty", "one bit", "manifest", "foreign"],
)
def test_a_damaged_or_foreign_bundle_is_refused_and_no_state_is_made(
    tmp_path: Path, state: Path, change: Any, match: str
) -> None:
    with pytest.raises(BundleError, match=match) as told:
        open_learner(edited(tmp_path / "cut.edge", change), state=state)
    assert str(told.value).startswith("cut.edge: ")
    assert not state.exists()


def test_a_bundle_that_is_not_there_is_a_bundle_error(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match="No such file"):
        open_learner(tmp_path / "none.edge")


def test_an_untrusted_bundle_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match=r"manifest\.sig"):
        open_learner(bundle_path(), trust=[generate_key()[1]])


def test_a_sound_bundle_without_the_tensors_of_a_learner_is_refused_by_name(
    bundle: Bundle, tmp_path: Path, state: Path
) -> None:
    tensors = tuple(spec for spec in bundle.manifest.tensors if not spec.name.startswith("route."))
    frozen = {
        name: value
        for name, value in bundle.weights(FROZEN).items()
        if not name.startswith("route.")
    }
    manifest = msgspec.structs.replace(bundle.manifest, members={}, tensors=tensors)
    path = tmp_path / "other.edge"
    write_bundle(
        path,
        manifest,
        {g.file: bundle.graph(g.file) for g in manifest.graphs},
        {FROZEN: frozen, FACTORY: bundle.weights(FACTORY), GUARD: bundle.weights(GUARD)},
        {},
    )
    with pytest.raises(
        BundleError,
        match=r"no tensor called 'route\.centre'; this is not a bundle that a learner can open",
    ):
        open_learner(path, state=state)


def test_a_state_of_another_feature_space_is_refused_and_kept(
    opened: Opener, bundle: Bundle, tmp_path: Path, state: Path
) -> None:
    learner = opened(state)
    learner.learn(X, NAMES)
    digest = learner.settle() and learner.digest()
    learner.close()
    other = read_bundle(GOLDEN / "vectors.edge")
    with pytest.raises(
        StateError,
        match=(
            rf"another feature space.*'vectors', space {other.manifest.space[:12]}.*edgeadapt"
            r" migrate OLD_STATE NEW\.edge"
        ),
    ):
        open_learner(other, state=state)
    fewer = rewritten(bundle, tmp_path / "fewer.edge", class_slots=31)
    with pytest.raises((StateError, BundleError)):
        open_learner(fewer, state=state)
    assert opened(state).digest() == digest


def test_a_runtime_that_is_not_there_is_named() -> None:
    with pytest.raises(
        RuntimeUnavailable, match=r"no runtime called 'abacus'; registered here: .*onnxruntime"
    ):
        open_learner(bundle_path(), runtime="abacus")


# -- state folders ---------------------------------------------------------------------------------
def test_a_foreign_folder_is_refused_and_untouched(opened: Opener, state: Path) -> None:
    state.mkdir()
    (state / "thesis.tex").write_text("years of work")
    with pytest.raises(
        StateError,
        match=(
            r"is not a state folder: it has no learner\.db but holds 'thesis\.tex'; use an empty"
            r" folder"
        ),
    ):
        opened(state)
    assert [p.name for p in state.iterdir()] == ["thesis.tex"]


def test_a_database_of_something_else_is_refused_and_untouched(opened: Opener, state: Path) -> None:
    state.mkdir()
    with sqlite3.connect(state / "learner.db") as db:
        db.execute("CREATE TABLE songs (title TEXT)")
        db.execute("INSERT INTO songs VALUES ('Ode')")
    db.close()
    with pytest.raises(StateError, match="is a database of something else"):
        opened(state)
    assert sqlite3.connect(state / "learner.db").execute("SELECT * FROM songs").fetchall() == [
        ("Ode",)
    ]


def test_a_file_that_is_no_database_is_refused_and_untouched(opened: Opener, state: Path) -> None:
    state.mkdir()
    (state / "learner.db").write_bytes(b"not a database at all" * 200)
    with pytest.raises(StateError, match="damaged or not a learner's journal"):
        opened(state)
    assert (state / "learner.db").read_bytes().startswith(b"not a database")
    with pytest.raises(StateError, match="damaged or not a learner's journal"):
        opened(state)  # and the lock was let go


def test_a_journal_damaged_in_the_middle_is_a_state_error(opened: Opener, state: Path) -> None:
    learner = opened(state)
    learner.learn(*images(200))
    learner.close()
    data = bytearray((state / "learner.db").read_bytes())
    data[8192:-4096] = bytes(len(data) - 8192 - 4096)
    (state / "learner.db").write_bytes(data)
    for _ in range(2):
        with pytest.raises(StateError, match="damaged"):
            opened(state)


def test_a_file_in_place_of_the_folder_is_refused(opened: Opener, state: Path) -> None:
    state.write_text("here already")
    with pytest.raises(StateError, match="is a file; a state folder is a directory"):
        opened(state)
    with pytest.raises(StateError, match="cannot create the state folder"):
        opened(state / "below")
    assert state.read_text() == "here already"


def limit_pages(learner: Learner, spare: int | None) -> None:
    """SQLite's own SQLITE_FULL: the database may grow by ``spare`` pages, or freely again."""
    with inspect_state(learner).journal._mutex:
        pages = inspect_state(learner).journal._db.execute("PRAGMA page_count").fetchone()[0]
        inspect_state(learner).journal._db.execute(
            f"PRAGMA max_page_count = {2**30 if spare is None else pages + spare}"
        )


def test_a_full_state_folder_refuses_labels_by_name_and_recovers(
    opened: Opener, state: Path
) -> None:
    learner = opened(state)
    learner.learn(X, NAMES)
    learner.settle()
    limit_pages(learner, 0)
    x, names = images(300, seed=5)
    ids = learner.observe(x).ids
    with nothing_full(learner):
        with pytest.raises(
            StateError,
            match="cannot take the change: database or disk is full; nothing was changed",
        ):
            learner.label(ids, names)
        with pytest.raises(StateError, match="database or disk is full"):
            learner.learn(x, names)
        with pytest.raises(StateError, match="database or disk is full"):
            learner.rollback()
    assert all(learner.is_pending(sample) for sample in ids)
    limit_pages(learner, None)
    learner.label(ids, names)
    learner.settle()
    assert sum(learner.counters()["evidence"].values()) == 340


@contextmanager
def nothing_full(learner: Learner) -> Iterator[None]:
    digest, probs = learner.digest(), learner.predict(X).probs
    yield
    assert learner.digest() == digest
    np.testing.assert_array_equal(learner.predict(X).probs, probs)
    assert len(learner.observe(X).ids) == len(X)


def test_labels_received_before_the_disk_was_full_are_learned_when_it_has_space(
    opened: Opener, state: Path
) -> None:
    learner = opened(state, freeze=True)
    x, names = images(200)
    for i in range(0, 200, 2):
        learner.learn(x[i : i + 2], names[i : i + 2], source=f"person {i}")  # a commit each
    limit_pages(learner, 0)
    learner.freeze(False)
    with pytest.raises(StateError, match="database or disk is full"):
        learner.settle()
    assert learner.counters()["evidence"]["received"] > 100
    assert inspect_state(learner).state.labels == 200 - learner.counters()["evidence"]["received"]
    with nothing_full(learner):
        assert len(inspect_state(learner).journal.evidence()) == 200
    limit_pages(learner, None)
    learner.learn(X[:1], NAMES[:1])
    learner.settle()
    assert (
        sum(learner.counters()["evidence"].values()) == 201
        and "received" not in learner.counters()["evidence"]
    )
    digest = learner.digest()
    learner.close()
    assert opened(state).digest() == digest


def test_a_forget_that_finds_the_disk_full_keeps_its_held_out_judges(
    opened: Opener, state: Path
) -> None:
    learner = opened(state)
    ids = learner.learn(*images(200))
    learner.settle()
    judges = {
        row.id for row in inspect_state(learner).journal.evidence(where="status = 'held_out'")
    }
    limit_pages(learner, 0)
    for call in (
        lambda: learner.forget(ids=sorted(judges)[:3]),
        lambda: learner.rollback(),
        lambda: learner.remove_class("Coat"),
    ):
        with pytest.raises(StateError, match="database or disk is full"):
            call()
        assert (
            sum(counts["held_out"] for counts in inspect_state(learner).held_out._counts.values())
            == len(judges)
            > 10
        )
    limit_pages(learner, None)
    assert learner.forget(ids=ids).removed == 200
    assert inspect_state(learner).held_out.total == 0


def test_decisions_that_could_not_be_written_are_written_later(opened: Opener, state: Path) -> None:
    learner = opened(state)
    watch(learner, np.zeros((40 * BATCH, 28, 28), np.uint8))
    limit_pages(learner, 0)
    with pytest.raises(StateError):  # no page is left, nor room in the last one
        while True:
            inspect_state(learner).journal.decide([(0.0, "filler", "hold", "source", "x" * 50)])
    with pytest.raises(StateError, match="database or disk is full"):
        learner.checkpoint()
    # reading needs no room
    assert sum(stream == "default" for _, stream, *_ in learner.decisions(10_000)) == 40
    limit_pages(learner, None)
    learner.checkpoint()
    assert (
        sum(
            stream == "default"
            for _, stream, *_ in inspect_state(learner).journal.decisions(10_000)
        )
        == 40
    )


def test_a_second_learner_in_one_process_is_refused_too(opened: Opener, state: Path) -> None:
    learner = opened(state)
    with pytest.raises(StateError, match=f"pid {os.getpid()}"):
        opened(state)
    still_works(learner)
