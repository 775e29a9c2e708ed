"""Health without labels: the same inputs, with and without a correction. Each kind of harm is
found by its own test and by no stub.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from edgeadapt.device.adaptation.health import (
    CROWDED,
    DEFAULT_MAX_RATIO,
    DISPUTED,
    FEWEST_SURE,
    CorrectionDiagnostics,
    collapse,
    dispute,
    distance_from,
    exceeds_max_distance,
    health_of,
    healthiest,
    increases_distance,
    is_less_certain,
    reduces_distance,
    rejection_reason,
    relaxed_ratio,
)

N = 64


def health(distance: float = 1.0, entropy: float = 0.5, sure: int = 0) -> CorrectionDiagnostics:
    return CorrectionDiagnostics(
        np.arange(N) % 6, np.full(N, entropy), np.full(N, distance, np.float32), np.arange(N) < sure
    )


def moved(slots: np.ndarray, count: int, to: int | None = None) -> np.ndarray:
    """The first ``count`` of those that are elsewhere go to a class, or each to the next one."""
    result = slots.copy()
    rows = np.flatnonzero(slots != to)[:count]
    result[rows] = (slots[rows] + 1) % 6 if to is None else to
    return result


def test_what_the_head_reads_becomes_a_histogram_entropy_distance_and_sure_answers() -> None:
    logits = np.array([[4.0, 0.0, 0.0], [0.0, 0.0, 0.0], [0.0, 0.0, 4.0]], np.float32)
    embedding = np.array([[2.0, 0.0], [1.0, 1.0], [0.0, -3.0]], np.float32)
    found = health_of(
        logits,
        embedding,
        np.array([0.0, 0.0, 9.0], np.float32),
        np.eye(2, dtype=np.float32),
        1.0,
        1.0,
    )
    np.testing.assert_array_equal(found.histogram, [2, 0, 1])
    assert found.entropy[1] == pytest.approx(np.log(3)) and found.entropy[0] == pytest.approx(
        0.178, abs=1e-3
    )
    np.testing.assert_allclose(found.distance, [0.0, 1.0 - np.sqrt(0.5), 1.0], atol=1e-6)
    # the last is as confident as the first, but looks new
    np.testing.assert_array_equal(found.is_sure, [True, False, False])
    np.testing.assert_allclose(
        distance_from(embedding, np.eye(2, dtype=np.float32)), found.distance
    )
    assert found.live == 2


def test_a_correction_that_brings_inputs_nearer_and_changes_little_is_healthy() -> None:
    plain = health(sure=40)
    assert rejection_reason(plain, replace(health(0.5, 0.3), slots=moved(plain.slots, 6))) == ""


@pytest.mark.parametrize(
    ("distance", "is_near"),
    [
        (DEFAULT_MAX_RATIO - 0.01, True),
        (DEFAULT_MAX_RATIO + 0.01, False),
        (3.0, False),
    ],
)
def test_a_correction_must_bring_inputs_nearer_by_a_margin(distance: float, is_near: bool) -> None:
    assert (exceeds_max_distance(health(), health(distance)) == "") is is_near
    assert (rejection_reason(health(), health(distance)) == "") is is_near


def test_everything_one_class_is_a_collapse_however_close_to_the_classes_it_is() -> None:
    plain = health()
    gathered = replace(health(0.0, 0.0), slots=np.full(N, 2))
    assert (
        rejection_reason(plain, gathered)
        == "100% of the inputs look like one class corrected, 17% without"
    )
    # below the share that counts
    assert collapse(plain, replace(gathered, slots=moved(plain.slots, 20, to=2))) == ""


def test_a_run_of_one_class_that_was_seen_as_one_is_no_collapse() -> None:
    run = replace(health(), slots=np.where(np.arange(N) < int(0.95 * N), 3, 1))
    # 4 inputs moved: not significant
    assert collapse(run, replace(health(0.5), slots=np.full(N, 3))) == ""
    assert (np.bincount(run.slots).max() / N) > CROWDED


def test_entropy_must_rise_by_the_margin_and_on_significantly_many_inputs() -> None:
    plain = health(entropy=0.2)
    assert is_less_certain(plain, health(0.5, 0.8)) and not is_less_certain(plain, health(0.5, 0.6))
    few = np.where(np.arange(N) < 10, 5.0, 0.19)  # the mean rises by .7, but 54 of 64 grow surer
    assert few.mean() - 0.2 > 0.5 and not is_less_certain(plain, replace(health(0.5), entropy=few))


def test_rising_entropy_suspends_nothing_alone_and_halves_the_disputes_that_are_allowed() -> None:
    plain = health(sure=40)
    few = moved(plain.slots, 10)  # 10 of 40: P(>= 10 of 40 at a fifth) = .27, at a tenth .005
    assert (
        rejection_reason(plain, health(0.5, 2.0)) == ""
        and rejection_reason(plain, replace(health(0.5, 0.5), slots=few)) == ""
    )
    assert rejection_reason(plain, replace(health(0.5, 2.0), slots=few)).endswith(
        "disputes 10 of them, while its entropy rises from 0.50 to 2.00"
    )


def test_the_frozen_twin_is_heard_where_it_is_sure_and_often_enough() -> None:
    plain = health(sure=40)
    disputed = replace(health(0.5), slots=moved(plain.slots, 20))
    assert (
        dispute(plain, disputed)
        == "the frozen model is sure of 40 inputs and the correction disputes 20 of them"
    )
    assert dispute(health(sure=0), disputed) == ""
    assert (
        dispute(health(sure=FEWEST_SURE - 1), replace(health(0.5), slots=moved(plain.slots, N)))
        == ""
    )
    assert dispute(plain, replace(health(0.5), slots=moved(plain.slots, int(DISPUTED * 40)))) == ""


def test_the_margin_shrinks_where_most_classes_are_there_and_few_go_by_the_narrower() -> None:
    assert (
        relaxed_ratio(0.85, 0.4) == 0.85
        and relaxed_ratio(0.85, 0.55) == pytest.approx(0.925)
        and relaxed_ratio(0.85, 0.7) == relaxed_ratio(0.85, 1.0) == 1.0
    )
    # a method that leaves features where they are
    assert relaxed_ratio(1.01, 1.0) == relaxed_ratio(1.01, 0.0) == 1.01
    wide, one = health(), replace(health(), slots=np.full(N, 2))
    assert (
        wide.classes == pytest.approx(6.0, rel=0.01) and one.classes == 1.0 and wide.breadth == 0.0
    )
    wide, one = replace(wide, live=6), replace(one, live=6)
    # one of two classes is not half of them
    assert wide.breadth > 0.9 and one.breadth == 0.0 and replace(one, live=2).breadth == 0.0
    near = replace(wide, distance=0.97 * wide.distance)
    assert (
        exceeds_max_distance(wide, near) == ""
        and exceeds_max_distance(one, near)
        and exceeds_max_distance(wide, replace(one, distance=near.distance))
    )
    assert (
        healthiest([(near, "near")], 1.0, lambda: wide) == ("near", "")
        and healthiest([(near, "near")], 1.0, lambda: one)[0] is None
    )


def test_the_newest_inputs_speak_against_what_takes_them_away_from_the_classes() -> None:
    plain = np.full(N, 0.4, np.float32)
    assert increases_distance(plain, plain) == "" and increases_distance(0.9 * plain, plain) == ""
    assert (
        increases_distance(1.25 * plain, plain)
        == "the newest inputs lie 0.5 from the classes corrected, 0.4 without"
    )
    # a method that leaves features where they are
    assert increases_distance(1.005 * plain, plain, max_ratio=1.01) == "" and increases_distance(
        1.02 * plain, plain, max_ratio=1.01
    )
    # batches of another size round otherwise
    assert increases_distance(1.00001 * plain, plain) == "" and increases_distance(
        1.001 * plain, plain
    )
    assert increases_distance(np.full(N, np.nan, np.float32), plain) and exceeds_max_distance(
        health(), replace(health(), distance=np.full(N, np.nan, np.float32))
    )


def test_a_correction_that_brings_all_newest_inputs_nearer_is_of_their_condition() -> None:
    plain = np.full(N, 0.4, np.float32)
    assert reduces_distance(0.84 * plain, plain) and not reduces_distance(0.86 * plain, plain)
    assert not reduces_distance(np.full(N, np.nan, np.float32), plain)


def test_the_closest_harmless_correction_is_chosen_and_others_are_read_where_it_matters() -> None:
    asked: list[int] = []

    def plain() -> CorrectionDiagnostics:
        asked.append(1)
        return health()

    gathered = replace(health(0.0, 0.0), slots=np.full(N, 2))
    assert healthiest([(health(0.9), "far"), (health(1.2), "farther")], 1.0, plain) == (
        None,
        "distance from the classes 0.9 corrected, 0.85 needed",
    )
    assert not asked
    assert healthiest(
        [(health(0.6), "good"), (health(0.4), "better"), (gathered, "collapsed")], 1.0, plain
    ) == ("better", "")
    assert healthiest([(gathered, "collapsed"), (health(0.9), "far")], 1.0, plain) == (
        None,
        "100% of the inputs look like one class corrected, 17% without",
    )
    assert len(asked) == 2


@pytest.mark.parametrize("seed", range(3))
def test_inputs_that_change_by_chance_are_no_harm(seed: int) -> None:
    rng = np.random.default_rng(seed)
    suspended = 0
    for _ in range(200):
        slots = rng.integers(0, 6, N)
        plain = CorrectionDiagnostics(
            slots,
            rng.gamma(2.0, 0.2, N),
            rng.random(N).astype(np.float32) + 0.5,
            rng.random(N) < 0.4,
        )
        after = np.where(rng.random(N) < 0.1, rng.integers(0, 6, N), slots)
        suspended += (
            rejection_reason(
                plain,
                CorrectionDiagnostics(
                    after, rng.gamma(2.0, 0.2, N), 0.7 * plain.distance, plain.is_sure
                ),
            )
            != ""
        )
    assert suspended <= 2
