"""Intervals of a difference, against the bootstrap written out."""

from __future__ import annotations

import numpy as np
import pytest
from edgeadapt_bench.harness.resampling import mean_and_spread, paired_interval
from hypothesis import given, settings
from hypothesis import strategies as st

from edgeadapt.errors import InputError

answers = st.lists(st.tuples(st.booleans(), st.booleans()), min_size=1, max_size=200)


@given(answers)
@settings(max_examples=60, deadline=None)
def test_the_difference_is_that_of_the_accuracies_and_changing_sides_changes_the_sign(
    pairs: list[tuple[bool, bool]],
) -> None:
    a, b = np.array(pairs).T
    difference, low, high = paired_interval(a, b, rounds=200)
    assert difference == pytest.approx(a.mean() - b.mean())
    assert -1 <= low <= high <= 1
    back = paired_interval(b, a, rounds=200)
    assert back[0] == pytest.approx(-difference)


def test_equal_answers_differ_by_nothing() -> None:
    right = np.random.default_rng(0).random(500) < 0.7
    assert paired_interval(right, right) == (0.0, 0.0, 0.0)


def test_the_multinomial_draw_is_the_bootstrap_written_out() -> None:
    rng = np.random.default_rng(1)
    a, b = rng.random(400) < 0.8, rng.random(400) < 0.7
    rows = rng.integers(400, size=(4000, 400))
    plain = np.quantile(a[rows].mean(axis=1) - b[rows].mean(axis=1), [0.025, 0.975])
    assert np.allclose(paired_interval(a, b, rounds=20000)[1:], plain, atol=0.006)


def test_the_interval_covers_the_true_difference_about_as_often_as_it_says() -> None:
    hits = 0
    for seed in range(200):
        rng = np.random.default_rng(seed)
        _, low, high = paired_interval(
            rng.random(300) < 0.75, rng.random(300) < 0.70, seed=seed, rounds=400
        )
        hits += low <= 0.05 <= high
    assert 0.90 <= hits / 200 <= 0.99


def test_pairing_makes_the_interval_narrow_when_two_methods_err_on_the_same_samples() -> None:
    u = np.random.default_rng(2).random(1000)
    _, low, high = paired_interval(u < 0.75, u < 0.70)
    _, loose_low, loose_high = paired_interval(
        u < 0.75, np.random.default_rng(3).permutation(u) < 0.70
    )
    assert high - low < 0.5 * (loose_high - loose_low)


def test_shares_of_orders_are_units_too() -> None:
    difference, low, high = paired_interval([1.0, 2 / 3, 1 / 3], [1 / 3, 2 / 3, 1 / 3])
    assert difference == pytest.approx(2 / 9) and low == 0.0 and high == pytest.approx(2 / 3)


@pytest.mark.parametrize(
    ("a", "b", "named"),
    [
        ([], [], "N at least 1"),
        ([True], [True, False], r"\(1,\) and \(2,\)"),
        ([float("nan")], [1.0], "shares between"),
        ([2.0], [1.0], "shares between"),
    ],
    ids=["empty", "lengths", "nan", "range"],
)
def test_what_cannot_be_compared_is_refused_by_name(
    a: list[float], b: list[float], named: str
) -> None:
    with pytest.raises(InputError, match=named):
        paired_interval(a, b)


def test_a_level_outside_0_and_1_is_refused() -> None:
    with pytest.raises(InputError, match="level"):
        paired_interval([True], [False], level=1.0)


def test_mean_and_spread_of_one_value_and_of_none() -> None:
    assert mean_and_spread([3.0]) == (3.0, 0.0)
    assert mean_and_spread([1.0, 3.0]) == (2.0, pytest.approx(np.sqrt(2.0)))
    with pytest.raises(InputError, match="at least one finite"):
        mean_and_spread([])
    with pytest.raises(InputError, match="nan"):
        mean_and_spread([1.0, float("nan")])
