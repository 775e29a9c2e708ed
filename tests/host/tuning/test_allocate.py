"""The allocator: what brute force finds, within the budget, at every budget."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgeadapt.errors import InputError
from edgeadapt.host.tuning.allocate import allocate

Table = list[list[int]]
COSTS = st.lists(
    st.lists(st.integers(-3, 3) | st.integers(-50, 50), min_size=4, max_size=4),
    min_size=4,
    max_size=4,
)  # whole numbers, so that sums are exact, and small ones, so that some are equal
SIZES = st.lists(
    st.lists(st.integers(0, 60), min_size=4, max_size=4),
    min_size=4,
    max_size=4,
)
BUDGETS = st.integers(0, 260)


def total(table: Table, chosen: list[int]) -> int:
    return sum(row[one] for row, one in zip(table, chosen, strict=True))


def brute(cost: Table, size: Table, budget: int) -> tuple[int, int] | None:
    """The least (cost, size) of all choices within the budget."""
    found = [
        (total(cost, list(one)), total(size, list(one)))
        for one in itertools.product(*(range(len(row)) for row in size))
        if total(size, list(one)) <= budget
    ]
    return min(found, default=None)


@settings(max_examples=60, deadline=None)
@given(COSTS, SIZES, BUDGETS)
def test_it_finds_what_brute_force_finds(cost: Table, size: Table, budget: int) -> None:
    best = brute(cost, size, budget)
    if best is None:
        with pytest.raises(InputError):
            allocate(cost, size, budget)
        return
    chosen = allocate(cost, size, budget)
    assert (total(cost, chosen), total(size, chosen)) == best


@settings(max_examples=60, deadline=None)
@given(COSTS, SIZES, BUDGETS, st.integers(1, 20))
def test_rounded_sizes_stay_within_the_budget_and_leave_a_unit_a_site(
    cost: Table, size: Table, budget: int, units: int
) -> None:
    if sum(map(min, size)) > budget:
        return
    chosen = allocate(cost, size, budget, units=units)
    assert total(size, chosen) <= budget
    unit = -(-budget // units)
    if (least := brute(cost, size, budget - 4 * unit)) is not None:
        assert total(cost, chosen) <= least[0]


@settings(max_examples=30, deadline=None)
@given(COSTS, SIZES)
def test_a_larger_budget_never_costs_more(cost: Table, size: Table) -> None:
    least = sum(map(min, size))
    costs = [total(cost, allocate(cost, size, budget)) for budget in range(least, 245, 9)]
    assert all(more <= less for less, more in itertools.pairwise(costs))


def test_it_finds_what_an_integer_program_finds() -> None:
    optimize = pytest.importorskip("scipy.optimize")
    draw = np.random.default_rng(3)
    for budget in (40, 300, 900):
        sizes = [[0, *np.sort(draw.choice(100, 7, replace=False) + 1).tolist()] for _ in range(20)]
        costs = [np.sort(draw.uniform(0, 1, 8))[::-1].tolist() for _ in range(20)]
        one_of_each = np.kron(np.eye(20), np.ones(8))
        answer = optimize.milp(
            np.concatenate(costs),
            constraints=[
                optimize.LinearConstraint(one_of_each, 1, 1),
                optimize.LinearConstraint(np.concatenate(sizes)[None], 0, budget),
            ],
            integrality=np.ones(160),
            bounds=optimize.Bounds(0, 1),
            options={"mip_rel_gap": 1e-9},
        )
        chosen = allocate(costs, sizes, budget)
        found = sum(row[one] for row, one in zip(costs, chosen, strict=True))
        assert found == pytest.approx(answer.fun, abs=1e-6)


def test_of_equal_costs_it_takes_the_smaller_sizes_together() -> None:
    cost = [[2.0, 1.0, 0.0], [2.0, 1.0, 0.0]]  # 2 by (2, 0), (1, 1) or (0, 2)
    size = [[0, 9, 20], [0, 5, 12]]
    assert [total(size, allocate(cost, size, budget)) for budget in (19, 20, 40)] == [12, 12, 32]
    assert allocate([[1.0, 1.0, 1.0]], [[7, 3, 5]], 9) == [1]


def test_sizes_in_common_units_are_exact_however_large_the_budget() -> None:
    size = [[0, 30_000_000, 50_000_000], [0, 40_000_000, 60_000_000]]
    cost = [[9.0, 5.0, 1.0], [9.0, 4.0, 1.0]]
    assert allocate(cost, size, 90_000_000) == [2, 1]
    assert allocate(cost, size, 89_999_999) == [1, 1]
    assert allocate(cost, size, 39_999_999) == [1, 0]


def test_what_cannot_be_allocated_is_refused_with_the_value() -> None:
    with pytest.raises(InputError, match=r"budget of 1,499 is too small; .* is 1,500"):
        allocate([[1.0], [1.0]], [[1000], [500]], 1499)
    with pytest.raises(InputError, match="as many costs as sizes"):
        allocate([[1.0, 2.0]], [[0]], 10)
    with pytest.raises(InputError, match="as many costs as sizes"):
        allocate([[1.0]], [[0], [0]], 10)
    for wrong in (float("nan"), float("inf")):
        with pytest.raises(InputError, match="not finite"):
            allocate([[wrong, 1.0]], [[0, 1]], 10)
