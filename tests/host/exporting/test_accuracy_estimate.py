"""The estimate of accuracy without labels: right where the model is surely right, low where it
doubts, silent on clean streams."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from edgeadapt.bundle.schema import AccuracyPolicy
from edgeadapt.device.detection.accuracy_estimate import RecentAccuracy, margins_of, tally, wilson
from edgeadapt.host.exporting.accuracy_estimate import accuracy_policy

K = 6


def predictions(
    count: int, seed: int, gain: float = 1.0, noise: float = 0.45, harder: int | None = None
) -> tuple[Any, Any]:
    """Logits and labels of a model that is right where noise does not outdo the gain; one class may
    be harder than the others."""
    rng = np.random.default_rng(seed)
    y = rng.integers(0, K, count)
    spread = np.where(y == harder, 1.6 * noise, noise)
    return (gain * np.eye(K)[y] + spread[:, None] * rng.normal(size=(count, K))).astype(
        np.float32
    ), y


def watch(policy: AccuracyPolicy, logits: Any) -> list[bool]:
    recent, found = RecentAccuracy(), []
    for start in range(0, len(logits) - 31, 32):
        part = logits[start : start + 32]
        recent = recent.extended(tally(part, part.argmax(axis=1), policy), policy)
        found.append(recent.has_fallen(policy))
    return found


@pytest.mark.parametrize(("gain", "noise"), [(0.6, 0.35), (0.5, 0.35), (0.4, 0.3), (1.0, 0.4)])
def test_the_estimate_follows_accuracy_under_a_degradation_that_it_never_saw(
    gain: float, noise: float
) -> None:
    policy = accuracy_policy(*predictions(1500, 0))
    logits, y = predictions(512, 1, gain, noise)
    recent = RecentAccuracy()
    for start in range(0, 512, 32):
        part = logits[start : start + 32]
        recent = recent.extended(tally(part, part.argmax(axis=1), policy), policy)
    estimate = recent.estimate(policy)
    right = float((logits.argmax(axis=1) == y).mean())
    assert estimate is not None and estimate.samples == 512
    assert abs(estimate.value - right) < 0.08 and estimate.low < estimate.value < estimate.high


def test_on_held_out_samples_themselves_the_estimate_is_their_accuracy() -> None:
    logits, y = predictions(1500, 0)
    policy = accuracy_policy(logits, y)
    assert policy.samples == 1500 and policy.accuracy == pytest.approx(
        (logits.argmax(axis=1) == y).mean()
    )
    assert float((margins_of(logits) >= policy.threshold).mean()) == pytest.approx(
        policy.accuracy, abs=0.002
    )


def test_a_drop_of_twenty_points_is_noticed_within_128_samples() -> None:
    policy = accuracy_policy(*predictions(1500, 0))
    noticed = 0
    for seed in range(20):
        logits, _ = predictions(128, 100 + seed, 0.5, 0.35)
        noticed += any(watch(policy, logits))
    assert noticed >= 18


@pytest.mark.parametrize("order", ["natural", "sorted"])
def test_clean_streams_are_not_doubted_though_one_class_is_harder(order: str) -> None:
    policy = accuracy_policy(*predictions(1500, 0, harder=2))
    alarms = 0
    for seed in range(50):
        logits, y = predictions(640, 200 + seed, harder=2)
        alarms += any(
            watch(policy, logits[np.argsort(y, kind="stable")] if order == "sorted" else logits)
        )
    assert alarms <= 1


def test_there_is_an_estimate_again_when_the_doubt_is_over() -> None:
    policy = accuracy_policy(*predictions(1500, 0))
    found = watch(
        policy, np.concatenate([predictions(256, 3, 0.4, 0.3)[0], predictions(256, 4)[0]])
    )
    assert found[7] and not any(found[-4:])


def test_a_class_that_came_later_counts_by_the_overall_rate() -> None:
    policy = accuracy_policy(*predictions(1500, 0))
    wide = np.zeros((4, K + 2), np.float32)
    wide[:, K + 1] = 5.0
    found = tally(wide, wide.argmax(axis=1), policy)
    assert found.below == 0 and found.expected == pytest.approx(4 * (1.0 - policy.accuracy))


@pytest.mark.parametrize("y", [np.zeros(40, np.int64), np.ones(40, np.int64)])
def test_where_everything_is_right_or_wrong_there_is_no_estimate(y: Any) -> None:
    logits = np.tile(np.array([[1.0, 0.0]], np.float32), (40, 1))
    assert accuracy_policy(logits, y).samples == 0


def test_the_interval_is_that_of_wilson() -> None:
    low, high = wilson(0.8, 50)
    assert (round(low, 3), round(high, 3)) == (0.670, 0.888)  # by hand
    assert wilson(1.0, 3)[1] == 1.0 and wilson(0.0, 3)[0] == 0.0
