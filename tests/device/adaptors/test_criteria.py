"""When a condition grows an adaptor: pure decisions, no model."""

from __future__ import annotations

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgeadapt.bundle.schema import AdaptorSpec, GrowthPolicy
from edgeadapt.device.adaptors.criteria import (
    SIGNIFICANCE,
    AdaptorEligibility,
    halves_apart,
    ineligibility_reason,
    rejection_reason,
)
from edgeadapt.device.detection.gradual_drift import GradualDriftTracker

POLICY = GrowthPolicy(
    candidates=(AdaptorSpec(name="a", tensors=("a.x",), learning_rate=0.1, steps=1, batch=1),)
)
READY = AdaptorEligibility("condition", labels=60, classes=4, considered=0, gap=0.05)


def test_a_condition_with_answers_at_one_place_grows() -> None:
    assert ineligibility_reason(READY, POLICY) == ""


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"kind": "provisional"}, "answers have not made it a condition"),
        ({"kind": "novelty"}, "answers have not made it a condition"),
        ({"labels": 39}, "39 labels, 40 are needed"),
        ({"classes": 1}, "one class"),
        ({"considered": 59}, "it was looked at with 59"),
        ({"gap": 0.4}, "0.40 apart"),
    ],
    ids=["provisional", "novelty", "few", "one-class", "looked-at", "drifting"],
)
def test_what_keeps_a_condition_from_growing_is_named(
    change: dict[str, object], reason: str
) -> None:
    fields = {name: getattr(READY, name) for name in AdaptorEligibility.__dataclass_fields__}
    assert reason in ineligibility_reason(AdaptorEligibility(**{**fields, **change}), POLICY)


def test_a_bundle_without_adaptors_grows_none() -> None:
    assert "no adaptors" in ineligibility_reason(
        READY, msgspec.structs.replace(POLICY, candidates=())
    )


def test_halves_at_the_same_place_are_near_and_a_drift_pulls_them_apart() -> None:
    rng = np.random.default_rng(0)
    slots = rng.integers(0, 3, 80)
    still = 20.0 + rng.standard_normal((80, 6))
    moving = still + np.linspace(0, 40, 80)[:, None]
    assert halves_apart(still, slots, 4) < POLICY.coherent < halves_apart(moving, slots, 4)
    assert halves_apart(still[:1], slots[:1], 4) == float("inf")


def test_another_class_mix_in_the_second_half_is_not_another_place() -> None:
    rng = np.random.default_rng(1)
    means = 20.0 + 4.0 * rng.standard_normal((2, 6))
    slots = np.r_[rng.integers(0, 2, 40), np.zeros(40, np.int64)]
    assert halves_apart(means[slots] + rng.standard_normal((80, 6)), slots, 2) < POLICY.coherent


def test_a_win_that_may_be_chance_is_doubted() -> None:
    before = np.zeros(60, bool)
    after = before.copy()
    after[:3] = True
    assert "may be chance" in rejection_reason(before, after, 0.01, has_one=False)
    after[:8] = True
    assert rejection_reason(before, after, 0.01, has_one=False) == ""
    assert "0.133 -> 0.000" in rejection_reason(after, before, 0.01, has_one=False)


def test_an_adaptor_that_takes_the_place_of_another_must_only_not_lose() -> None:
    same = np.arange(50) % 2 == 0
    assert rejection_reason(same, same, 0.01, has_one=True) == ""
    assert rejection_reason(same, same, 0.01, has_one=False)
    assert rejection_reason(same, np.zeros(50, bool), 0.01, has_one=True)


@given(st.lists(st.tuples(st.booleans(), st.booleans()), min_size=1, max_size=80))
def test_nothing_grows_that_loses_as_many_samples_as_it_wins(
    pairs: list[tuple[bool, bool]],
) -> None:
    before, after = np.array([a for a, _ in pairs]), np.array([b for _, b in pairs])
    if int(after.sum()) <= int(before.sum()):
        assert rejection_reason(before, after, 0.01, has_one=False)
    assert 0.0 < SIGNIFICANCE < 0.5


def test_small_steps_are_followed_however_far_they_lead_and_a_jump_is_not() -> None:
    trail = GradualDriftTracker(np.full(8, 1.0))
    for step in range(200):
        place = np.full(8, 1.0 + 0.3 * step)
        assert trail.is_gradual(place, 0.1)
        trail = trail.extended(place)
    assert not trail.is_gradual(place + 60.0, 0.1)
    assert not trail.is_gradual(-place, 0.1)


@given(st.integers(1, 40), st.floats(0.1, 5.0))
def test_a_stream_that_stays_leads_to_where_it_is(windows: int, at: float) -> None:
    trail = GradualDriftTracker(np.full(5, at))
    for _ in range(windows):
        trail = trail.extended(np.full(5, at))
    assert trail.is_gradual(np.full(5, at), 0.1) and trail.weight < 2.0 + 1e-9
