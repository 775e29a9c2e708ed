"""Whether a stream shows one class after the other, and what only then is done about answers: those
of a batch speak for each other.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import msgspec
import numpy as np
import pytest
from numpy.typing import NDArray

from edgeadapt.bundle import Bundle
from edgeadapt.device.adaptation.temporal_correlation import PAIRS, Correlation, _expected
from edgeadapt.device.inference.program import Program
from edgeadapt.device.learner import Learner
from edgeadapt.device.learner import open as open_learner
from edgeadapt.errors import BundleError, InputError
from edgeadapt.runtime import Runtime
from edgeadapt.testing import inspect_state

THRESHOLD = 3.0


def exported(path: Path, *data: Any, **settings: Any) -> Bundle:
    """A bundle of feature vectors; needs the host."""
    pytest.importorskip("torch")
    from edgeadapt.host import Identity, export

    return export(path, Identity(DIM), *data, **settings)


# -- the detector ----------------------------------------------------------------------------------
@pytest.mark.parametrize("counts", [(3, 2, 2), (5, 1, 1), (4, 3), (1, 1, 1, 1, 2)])
@pytest.mark.parametrize("pairs", [1, 3, 5])
def test_mean_and_variance_are_those_of_all_orders(counts: tuple[int, ...], pairs: int) -> None:
    samples = [k for k, count in enumerate(counts) for _ in range(count)]
    matches = [
        sum(a == b for a, b in itertools.pairwise(order[: pairs + 1]))
        for order in itertools.permutations(samples)
    ]
    mean, variance = _expected(np.array(counts, np.float64), pairs)
    assert mean == pytest.approx(np.mean(matches))
    assert variance == pytest.approx(np.var(matches))


def fired(slots: NDArray[np.int64], batch: int) -> float:
    """Share of batches at which a stream of these predictions reads as correlated, once it has
    enough.
    """
    order, found = Correlation(), []
    for start in range(0, len(slots), batch):
        order.push(slots[start : start + batch])
        if len(order) > PAIRS + 1:
            found.append(order.z() > THRESHOLD)
    return float(np.mean(found))


SHARES = {
    "even": lambda k: np.ones(k) / k,
    "skewed": lambda k: (1 / np.arange(1, k + 1)) / (1 / np.arange(1, k + 1)).sum(),
    "halves": lambda k: np.append(0.5 ** np.arange(1, k), 0.5 ** (k - 1)),
}


@pytest.mark.parametrize("classes", [2, 6, 100, 1000])
@pytest.mark.parametrize("shares", SHARES)
def test_a_stream_without_order_fires_in_fewer_than_one_window_in_a_hundred(
    classes: int, shares: str
) -> None:
    rng = np.random.default_rng(classes)
    slots = rng.choice(classes, size=64_000, p=SHARES[shares](classes))
    assert fired(slots, 64) < 0.01


@pytest.mark.parametrize(("run", "least"), [(20, 0.6), (200, 0.6), (600, 0.35)])
def test_runs_of_one_class_fire_although_half_of_the_predictions_are_wrong(
    run: int, least: float
) -> None:
    rng = np.random.default_rng(run)
    y = np.repeat(np.arange(6_000 // run) % 10, run)
    slots = np.where(rng.random(len(y)) < 0.45, y, rng.integers(0, 10, len(y)))
    assert fired(slots, 32) > least


def test_one_class_alone_has_no_order_and_too_few_samples_say_nothing() -> None:
    assert fired(np.zeros(1000, np.int64), 10) == 0.0
    order = Correlation()
    order.push(np.repeat([0, 1], 32))
    assert order.z() == 0.0
    order.push(np.repeat([0, 1], 32))
    assert order.z() > THRESHOLD
    order.clear()
    assert order.z() == 0.0 and len(order) == 0


def test_it_is_over_soon_after_the_order_is() -> None:
    rng = np.random.default_rng(0)
    order = Correlation()
    order.push(np.repeat(np.arange(10), 100))
    assert order.z() > THRESHOLD
    order.push(rng.integers(0, 10, PAIRS + 1))
    assert order.z() < THRESHOLD


@pytest.mark.parametrize("batch", [1, 7, 64, 5000])
def test_how_a_stream_is_cut_into_batches_does_not_matter(batch: int) -> None:
    slots = np.random.default_rng(1).integers(0, 4, 5000)
    whole, cut = Correlation(), Correlation()
    whole.push(slots)
    for start in range(0, len(slots), batch):
        cut.push(slots[start : start + batch])
    assert whole.z() == cut.z() and len(whole) == len(cut)


# -- a learner whose bundle carries it -------------------------------------------------------------
CLASSES = tuple("abcdef")
DIM = 16


def overlapping(
    count: int, order: Literal["sorted", "shuffled"], seed: int = 0
) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Features of six classes that overlap, and their slots."""
    means = np.linalg.qr(np.random.default_rng(5).standard_normal((DIM, DIM)))[0][: len(CLASSES)]
    rng = np.random.default_rng(seed)
    y = np.arange(count) % len(CLASSES)
    y = np.sort(y) if order == "sorted" else rng.permutation(y)
    z = 2.2 * means[y] + rng.standard_normal((count, DIM))
    return z.astype(np.float32), y


@pytest.fixture(scope="module")
def carrying(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    path = tmp_path_factory.mktemp("smooth") / "vectors.edge"
    return exported(
        path,
        overlapping(1200, "shuffled", 1),
        CLASSES,
        adapt="feature_shift",
        smooth="lame",
        stress=False,
        novelty="cosine",
        random_features=0,
    )


def in_mode(bundle: Bundle, mode: str) -> Bundle:
    policy = bundle.manifest.policy
    policy = msgspec.structs.replace(policy, adapt=msgspec.structs.replace(policy.adapt, mode=mode))
    return dataclasses.replace(
        bundle, manifest=msgspec.structs.replace(bundle.manifest, policy=policy)
    )


@pytest.fixture
def learner(carrying: Bundle, runtime: Runtime) -> Iterator[Learner]:
    with open_learner(in_mode(carrying, "act"), runtime=runtime) as opened:
        yield opened


def observed(
    learner: Learner, z: NDArray[np.float32], batch: int, **options: Any
) -> NDArray[np.str_]:
    """What a stream is answered."""
    said: list[str] = []
    for start in range(0, len(z), batch):
        said += learner.observe(z[start : start + batch], **options).prediction.labels
        learner.settle()
    return np.array(said)


def predicted(learner: Learner, z: NDArray[np.float32]) -> NDArray[np.str_]:
    return np.array(learner.predict(z).labels)


def test_on_a_sorted_stream_of_overlapping_classes_more_answers_are_right(learner: Learner) -> None:
    z, y = overlapping(960, "sorted")
    truth = np.array(CLASSES)[y]
    alone = (predicted(learner, z) == truth).mean()
    together = (observed(learner, z, 32) == truth).mean()
    assert 0.6 < alone < 0.9
    assert together > alone + 0.07
    assert (
        inspect_state(learner).observer._smoothing is not None
        and inspect_state(learner).observer._smoothing.batches > 15
    )


@pytest.mark.parametrize("batch", [8, 32])
def test_on_a_stream_without_order_it_never_acts(learner: Learner, batch: int) -> None:
    z, _ = overlapping(1600, "shuffled")
    np.testing.assert_array_equal(observed(learner, z, batch), predicted(learner, z))
    assert (
        inspect_state(learner).observer._smoothing is not None
        and inspect_state(learner).observer._smoothing.batches == 0
    )


@pytest.mark.parametrize("batch", [1, 7])
def test_small_batches_are_answered_as_if_it_were_not_there(learner: Learner, batch: int) -> None:
    z, _ = overlapping(240, "sorted")
    observed(learner, z, 8)
    assert inspect_state(learner).observer._smoothing is not None
    acted = inspect_state(learner).observer._smoothing.batches
    assert acted > 0
    np.testing.assert_array_equal(observed(learner, z[:56], batch), predicted(learner, z[:56]))
    assert inspect_state(learner).observer._smoothing.batches == acted


def test_prediction_stays_pure_and_windows_read_what_was_not_smoothed(
    learner: Learner, carrying: Bundle, runtime: Runtime
) -> None:
    z, _ = overlapping(480, "sorted")
    before = learner.predict(z).probs

    def readings_of(learner: Learner) -> list[object]:
        found: list[object] = []
        for start in range(0, 480, 32):
            found.append(learner.observe(z[start : start + 32]).reading)
            learner.settle()
        return found

    readings = readings_of(learner)
    np.testing.assert_array_equal(learner.predict(z).probs, before)
    with open_learner(in_mode(carrying, "advise"), runtime=runtime) as unsmoothed:
        assert readings_of(unsmoothed) == readings


def test_smoothed_probabilities_are_those_of_the_labels_and_add_up(learner: Learner) -> None:
    z, _ = overlapping(960, "sorted")
    for start in range(0, 960, 32):
        prediction = learner.observe(z[start : start + 32]).prediction
        np.testing.assert_allclose(prediction.probs.sum(axis=1), 1.0, atol=1e-5)
        assert prediction.labels == tuple(
            prediction.classes[i] for i in prediction.probs.argmax(axis=1)
        )


@pytest.mark.parametrize("mode", ["advise", "off"])
def test_without_leave_to_act_it_does_not(carrying: Bundle, runtime: Runtime, mode: str) -> None:
    z, _ = overlapping(480, "sorted")
    with open_learner(in_mode(carrying, mode), runtime=runtime) as quiet:
        np.testing.assert_array_equal(observed(quiet, z, 32), predicted(quiet, z))


def test_a_frozen_learner_does_not_smooth(learner: Learner) -> None:
    z, _ = overlapping(480, "sorted")
    learner.freeze()
    np.testing.assert_array_equal(observed(learner, z, 32), predicted(learner, z))


def test_each_stream_has_an_order_of_its_own(learner: Learner) -> None:
    z, _ = overlapping(480, "sorted")
    mixed, _ = overlapping(320, "shuffled")
    assert (observed(learner, z, 32, stream="line") != predicted(learner, z)).any()
    np.testing.assert_array_equal(
        observed(learner, mixed, 32, stream="mixed"), predicted(learner, mixed)
    )


def test_a_batch_beyond_the_ladder_is_smoothed_in_chunks_and_its_small_rest_is_not(
    carrying: Bundle, runtime: Runtime
) -> None:
    program = Program(carrying, runtime)
    with open_learner(carrying, runtime=runtime) as opened:
        tensors = inspect_state(opened).state.tensors
    z, _ = overlapping(70, "sorted")
    read = program.forward_head(z, np.zeros((70, 0), np.float32), tensors)
    whole = program.smooth(read.logits, read.embedding, tensors)
    assert not np.allclose(whole[:64], read.logits[:64])
    np.testing.assert_allclose(
        whole[32:64], program.smooth(read.logits[32:64], read.embedding[32:64], tensors), atol=1e-5
    )
    np.testing.assert_array_equal(whole[64:], read.logits[64:])


def test_a_bundle_without_it_has_no_graph_and_says_so(bundle: Bundle, runtime: Runtime) -> None:
    assert bundle.manifest.policy.smooth.method == "" and not bundle.manifest.graphs_for("smooth")
    with pytest.raises(BundleError, match="no graph for the role 'smooth'"):
        Program(bundle, runtime).smooth(
            np.zeros((8, 4), np.float32), np.zeros((8, 4), np.float32), runtime.upload({})
        )
    policy = msgspec.structs.replace(
        bundle.manifest.policy,
        smooth=msgspec.structs.replace(bundle.manifest.policy.smooth, method="lame"),
    )
    claiming = dataclasses.replace(
        bundle, manifest=msgspec.structs.replace(bundle.manifest, policy=policy)
    )
    with pytest.raises(BundleError, match="no graph answers the role 'smooth'"):
        Program(claiming, runtime)


def test_an_unknown_smoother_is_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="smooth is one of none, lame, got 'more'"):
        exported(tmp_path / "a.edge", overlapping(120, "shuffled"), CLASSES, smooth="more")
