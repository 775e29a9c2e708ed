"""How good the predictions are in the field: told from the answers in the state folder, and again
after a restart, a correction and a forgotten sample."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import edgeadapt
from edgeadapt.demo.sample import CLASSES, bundle_path, load_sample
from edgeadapt.device.detection.accuracy_estimate import wilson
from edgeadapt.device.learner import Learner
from edgeadapt.device.quality.field_quality import grouped, weighted
from edgeadapt.device.quality.learning_curve import (
    CHOSEN,
    Curve,
    expected_gain,
    fitted_gain,
    measured_curve,
)
from edgeadapt.device.storage.rows import FieldAnswer
from edgeadapt.results import RightAnswers
from edgeadapt.scenarios.corruptions import corrupt
from edgeadapt.testing import inspect_state


def asked(
    learner: Learner, rights: list[bool], *, is_random: bool = True, label: str = ""
) -> list[str]:
    """Samples that are asked about and answered; a wrong one is given another class."""
    known = load_sample().x[: len(rights)]
    seen = learner.observe(known, stream="door")
    field = inspect_state(learner).conditions.field_accuracy
    said = []
    for sample, predicted, right in zip(seen.ids, seen.prediction.labels, rights, strict=True):
        field.asked(sample, "door", "source", predicted, is_random=is_random)
        said.append(predicted if right else next(n for n in CLASSES[:6] if n != predicted))
    learner.label(list(seen.ids), said)
    learner.settle()
    return list(seen.ids)


def test_accuracy_and_confusion_are_those_of_a_plain_count_and_outlive_a_restart(
    tmp_path: Path,
) -> None:
    with edgeadapt.open(bundle_path(), tmp_path / "s") as learner:
        asked(learner, [True] * 9 + [False] * 3)
        asked(learner, [False] * 4, is_random=False)
        before = learner.quality()
    with edgeadapt.open(bundle_path(), tmp_path / "s") as learner:
        after = learner.quality()
        assert learner.accuracy()["source"].value == pytest.approx(0.75)
    for told in (before, after):
        assert told.accuracy == RightAnswers(0.75, *wilson(0.75, 12), 12)
        assert told.by_condition == {"source": told.accuracy} and told.answers == 16
        assert told.chosen is not None and (told.chosen.value, told.chosen.count) == (0.0, 4)
        assert sum(one.count for one in told.by_class.values()) == 12
        assert sum(one.count for one in told.confusion) == 16
        assert sum(one.count for one in told.confusion if one.predicted == one.label) == 9


def test_a_corrected_answer_counts_as_it_reads_now_and_a_forgotten_one_is_gone(
    tmp_path: Path,
) -> None:
    with edgeadapt.open(bundle_path(), tmp_path / "s") as learner:
        ids = asked(learner, [True] * 4)
        other = next(n for n in CLASSES[:6] if n != learner.label_states(ids[0])[0].label)
        learner.label(ids[0], other)
        learner.settle()
        corrected = learner.quality().accuracy
        assert corrected is not None and (corrected.value, corrected.count) == (0.75, 4)
        learner.forget(ids[:2])
        left = learner.quality().accuracy
        assert left is not None and (left.value, left.count) == (1.0, 2)
        assert all(kind != "answer" for _, _, kind, _, _ in learner.decisions())
    assert ids[0].encode() not in (tmp_path / "s" / "learner.db").read_bytes()


def test_conditions_are_weighted_by_how_long_they_lasted() -> None:
    answers = [FieldAnswer("s", "source", "a", "a", True)] * 10
    answers += [FieldAnswer("s", "fog", "a", "b", True)] * 10
    shares = grouped(answers, lambda one: one.domain)
    overall = weighted(shares, {"source": 90, "fog": 10, "rain": 50})
    assert overall is not None and overall.value == pytest.approx(0.9) and overall.count == 20
    assert overall.low == pytest.approx(wilson(0.9, 1 / (0.81 / 10 + 0.01 / 10))[0])
    assert weighted({}, {"source": 1}) is None
    plain = weighted(shares, {})
    assert plain is not None and plain.value == pytest.approx(0.5)


def test_a_curve_that_bends_tells_what_ten_labels_more_take_off_the_error() -> None:
    labels = np.array([0.0, 20.0, 40.0, 64.0])
    errors = 0.4 - 0.3 * labels / (labels + 30.0)
    expected = 0.3 * (90 / 120 - 80 / 110)
    assert fitted_gain(labels, errors, 80) == pytest.approx(expected, abs=1e-9)
    assert fitted_gain(labels, 0.1 + labels / 1000, 80) == 0.0  # it gets worse: nothing is promised


def test_labels_that_teach_promise_more_than_labels_that_do_not() -> None:
    rng = np.random.default_rng(0)
    y = rng.integers(0, 3, 60)
    believed = np.full((60, 3), 1 / 3)
    taught = measured_curve(np.eye(3)[y] + 0.05 * rng.normal(size=(60, 3)), y, believed)
    noise = measured_curve(rng.normal(size=(60, 3)), y, believed)
    assert taught is not None and noise is not None
    assert taught.errors[0] > 0.4 and taught.errors[-1] < 0.05
    assert min(noise.errors) > 0.4 and taught.slope > noise.slope
    assert measured_curve(np.eye(3), np.arange(3), np.eye(3)) is None


def test_the_interval_narrows_with_labels_and_with_a_smaller_error() -> None:
    curve = Curve((0.0, 25.0, 50.0, 80.0), (0.4, 0.3, 0.25, 0.2), 100)

    def width(error: float, labels: int) -> float:
        told = expected_gain(curve, error, labels)
        assert told.low < told.value < told.high and told.more == 10
        return told.high - told.low

    assert width(0.3, 10) > width(0.3, 50) > width(0.1, 50) > 2 * CHOSEN.width * CHOSEN.floor
    flat = Curve(curve.labels, (0.2,) * 4, 100)
    assert expected_gain(curve, 0.2, 100).value > expected_gain(flat, 0.2, 100).value > 0.0
    first = expected_gain(None, 0.3, 4)
    assert (first.value, first.low, first.high) == CHOSEN.first and first.labels == 4


def test_the_interval_holds_what_ten_labels_bring_in_most_steps_of_a_stream() -> None:
    sample = load_sample()
    x = corrupt(sample.x[sample.y < 6], "gaussian_noise", 3, 0)
    names = np.array(CLASSES)[sample.y[sample.y < 6]]
    order = np.random.default_rng(0).permutation(len(x))
    test, held, sizes = order[-300:], [], []
    with edgeadapt.open(bundle_path()) as learner:
        learner.observe(x[order[100:132]])
        learner.settle()
        before = float((np.array(learner.predict(x[test]).labels) == names[test]).mean())
        for start in range(0, 80, 10):
            gain = learner.quality().gain
            assert gain.labels == start
            rows = order[start : start + 10]
            learner.learn(x[rows], names[rows].tolist())
            learner.settle()
            after = float((np.array(learner.predict(x[test]).labels) == names[test]).mean())
            held.append(gain.low <= after - before <= gain.high)
            sizes.append(gain.high - gain.low)
            before = after
    assert sum(held) >= 0.8 * len(held)
    assert max(sizes) < 0.25  # an interval that holds everything says nothing
