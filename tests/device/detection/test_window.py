"""Windows against plain numpy, and what the shipped bundle's axes say about real streams."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from learner_steps import BATCH, Opener, watch
from sample_images import KNOWN, NEW, images

from edgeadapt.bundle.schema import NoveltyPolicy, ShiftPolicy
from edgeadapt.device.detection.policy import Policy
from edgeadapt.device.detection.window import StreamWindow, shift_ratio
from edgeadapt.scenarios.orders import arrange

SHIFT = ShiftPolicy(window=8, groups=(3, 2), thresholds=(2.0, 0.5))
NOVELTY = NoveltyPolicy(threshold=0.5, window_share=0.5)
COUNTS = np.array([10.0, 1e9, 0.0], np.float32)


def rows(count: int, seed: int = 0) -> tuple[Any, Any, Any, Any, tuple[str, ...]]:
    rng = np.random.default_rng(seed)
    ids = tuple(f"{seed}.{i}" for i in range(count))
    return (
        rng.standard_normal((count, 5)).astype(np.float32),
        rng.integers(0, 3, count),
        rng.random(count, np.float32),
        rng.integers(0, 255, (count, 2, 2), np.uint8),
        ids,
    )


def by_definition(residuals: Any, slots: Any) -> float:
    """The formula of ``sense``, word for word."""
    n = len(residuals)
    share = [float((slots == c).mean()) for c in range(3)]
    spread = 1 / n + sum(f * f / max(float(m), 1.0) for f, m in zip(share, COUNTS, strict=True))
    mean = residuals.astype(np.float64).mean(axis=0)
    return max(
        float((mean[:3] ** 2).mean()) / spread / 2.0, float((mean[3:] ** 2).mean()) / spread / 0.5
    )


def test_the_shift_ratio_is_its_formula() -> None:
    residuals, slots, *_ = rows(8)
    assert shift_ratio(residuals, slots, COUNTS, SHIFT) == pytest.approx(
        by_definition(residuals, slots), rel=1e-5
    )


@pytest.mark.parametrize("sizes", [[1] * 30, [3] * 9, [8, 8], [5, 20, 2, 1], [100]], ids=str)
def test_however_a_stream_is_cut_the_window_is_its_last_rows(sizes: list[int]) -> None:
    window, seen = StreamWindow(SHIFT, NOVELTY, 5), []
    for seed, size in enumerate(sizes):
        seen.append(rows(size, seed))
        window.push(*seen[-1])
    residuals, slots, scores, inputs = (np.concatenate([s[i] for s in seen])[-8:] for i in range(4))
    ids = tuple(i for s in seen for i in s[4])[-8:]
    assert window.is_full and window.count == 8 and window.fresh == sum(sizes)
    np.testing.assert_array_equal(window.residuals(), residuals)
    assert window.shift(COUNTS) == pytest.approx(by_definition(residuals, slots), rel=1e-4)
    assert window.novel_share() == pytest.approx((scores > 0.5).mean())
    view = window.take()
    np.testing.assert_array_equal(view.inputs, inputs)
    np.testing.assert_array_equal(view.slots, slots)
    np.testing.assert_array_equal(view.scores, scores)
    assert view.ids == ids and window.fresh == 0 and window.is_full
    assert view.correction is None


@pytest.mark.parametrize("sizes", [[1] * 11, [3] * 5, [20]], ids=str)
def test_distances_travel_with_their_rows_and_stand_for_a_correction_only_if_all_are_under_it(
    sizes: list[int],
) -> None:
    window, given, first, second = StreamWindow(SHIFT, NOVELTY, 5), [], object(), object()
    for seed, size in enumerate(sizes):
        far = np.arange(size, dtype=np.float32) + 100 * seed
        window.push(*rows(size, seed), far, first)
        given.append(far)
    view = window.take()
    np.testing.assert_array_equal(view.distances, np.concatenate(given)[-8:])
    assert view.correction is first
    window.push(*rows(7, 90), np.ones(7, np.float32), second)
    assert window.take().correction is None, "one row is under the first"
    window.push(*rows(1, 91), np.ones(1, np.float32), second)
    assert window.take().correction is second
    window.push(*rows(1, 92))
    assert window.take().correction is None


def test_a_view_does_not_change_when_the_window_goes_on() -> None:
    window = StreamWindow(SHIFT, NOVELTY, 5)
    window.push(*rows(8))
    view = window.take()
    kept = view.inputs.copy(), view.slots.copy(), view.scores.copy()
    window.push(*rows(8, 1))
    for a, b in zip(kept, (view.inputs, view.slots, view.scores), strict=True):
        np.testing.assert_array_equal(a, b)


def test_a_long_stream_gathers_no_rounding() -> None:
    window = StreamWindow(SHIFT, NOVELTY, 5)
    for seed in range(3000):
        residuals, slots, scores, inputs, ids = rows(3, seed)
        window.push(residuals * 1000 + 5000, slots, scores, inputs, ids)
    window.push(*rows(8, 9))
    assert window.shift(COUNTS) == pytest.approx(by_definition(*rows(8, 9)[:2]), rel=1e-3)


def test_a_window_warms_up_reads_and_starts_over_when_cleared() -> None:
    window = StreamWindow(SHIFT, NOVELTY, 5)
    assert window.shift(COUNTS) == 0.0 and window.novel_share() == 0.0
    window.push(*rows(7))
    assert window.reading("source", COUNTS).axis == "warming"
    window.push(*rows(1, 1))
    assert window.reading("source", COUNTS).axis in ("clear", "novel", "shifted")
    window.clear()
    reading = window.reading("source", COUNTS)
    assert (reading.axis, reading.shift, reading.window) == ("warming", 0.0, 0)


def test_a_window_reads_shifted_above_its_threshold_and_novel_only_below_it() -> None:
    residuals, slots, _, inputs, ids = rows(8)
    ones, quiet = np.ones(8, np.float32), residuals - residuals.mean(axis=0)
    window = StreamWindow(SHIFT, NOVELTY, 5)
    window.push(quiet, slots, ones, inputs, ids)
    assert window.reading("source", COUNTS).axis == "novel"
    window.push(quiet + 3, slots, ones, inputs, ids)
    reading = window.reading("source", COUNTS)
    assert (
        reading.axis == "shifted"
        and reading.is_shifted
        and reading.novel_share is None
        and reading.shift > 1
    )
    window.push(quiet, slots, 0 * ones, inputs, ids)
    assert window.reading("source", COUNTS).axis == "clear"


def test_while_a_correction_is_in_use_the_reading_is_that_of_the_last_probe() -> None:
    window = StreamWindow(SHIFT, NOVELTY, 5)
    window.push(*rows(8))
    assert window.reading("fog", COUNTS, source_shift=7.5).shift == 7.5


def test_rows_that_do_not_move_are_stuck_until_they_move() -> None:
    residuals, slots, scores, inputs, ids = rows(8)
    still = np.repeat(residuals[:1], 8, axis=0)
    window = StreamWindow(SHIFT, NOVELTY, 5)
    window.push(still, slots, scores, inputs, ids)
    assert window.is_stuck and window.reading("source", COUNTS).axis == "stuck"
    window.push(residuals, slots, scores, inputs, ids)
    assert not window.is_stuck


def clean_windows(opened: Opener, classes: tuple[str, ...], seed: int) -> list[bool]:
    """Of windows of 32 clean images of these classes: which read as shifted?"""
    learner = opened(policy=Policy(adapt="off"))
    x, _ = images(10 * BATCH, classes=classes, seed=seed)
    return [o.reading.is_shifted for o in watch(learner, x)]


@pytest.mark.parametrize(
    "classes",
    [KNOWN, KNOWN[2:4], KNOWN[1:2], KNOWN[5:6]],
    ids=["six", "two", "trousers", "sandals"],
)
def test_clean_windows_do_not_alarm_whatever_their_class_mix(
    opened: Opener, classes: tuple[str, ...]
) -> None:
    alarms = [alarm for seed in range(3) for alarm in clean_windows(opened, classes, seed)]
    assert len(alarms) >= 30 and np.mean(alarms) <= 0.04  # the bench asks for 2% over 500 windows


@pytest.mark.parametrize("condition", ["gaussian_noise", "fog", "contrast", "defocus_blur"])
@pytest.mark.parametrize("order", ["shuffled", "sorted"])
def test_a_condition_is_noticed_within_four_windows(
    opened: Opener, condition: str, order: Any
) -> None:
    learner = opened(policy=Policy(adapt="off"))
    x, names = images(8 * BATCH, condition=condition, seed=4)
    rows = arrange(np.array([KNOWN.index(n) for n in names]), order, len(x), seed=1)
    watch(learner, images(2 * BATCH)[0])
    assert any(o.reading.is_shifted for o in watch(learner, x[rows])[:4])


def test_few_known_samples_read_as_novel_and_more_new_ones_do(opened: Opener) -> None:
    learner = opened(policy=Policy(adapt="off"))
    threshold = learner.bundle.manifest.policy.novelty.threshold
    known, new = (
        float((learner.predict(images(400, classes=names)[0]).novelty > threshold).mean())
        for names in (KNOWN, NEW)
    )
    assert known < 0.1 and new > 2 * known


@pytest.mark.parametrize("name", NEW)
def test_a_stream_of_one_new_class_is_noticed_and_asked_about(opened: Opener, name: str) -> None:
    learner = opened(policy=Policy(adapt="off"))
    seen = watch(learner, images(4 * BATCH, classes=(name,))[0])
    assert any(o.reading.axis in ("novel", "shifted") for o in seen)
    assert learner.questions(20)
