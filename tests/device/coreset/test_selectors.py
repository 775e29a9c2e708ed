"""What every selector promises, and what the default does beyond that."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgeadapt.device.coreset import DEFAULT, SELECTORS, Samples, SelectedMemory, choose
from edgeadapt.device.coreset.adaptive import Adaptive
from edgeadapt.device.coreset.agreement import agreeing_rows, is_noisy
from edgeadapt.device.coreset.budgets import class_quotas, water_fill
from edgeadapt.device.coreset.coverage import Coverage, coverage_rows
from edgeadapt.device.coreset.duplicates import distinct_rows, redundancy
from edgeadapt.device.coreset.herding import Herding
from edgeadapt.device.coreset.matched import Matched
from edgeadapt.errors import InputError

WITH_QUOTAS = tuple(name for name in SELECTORS if name != "reservoir")


def pool(
    count: int, classes: int = 3, dim: int = 5, seed: int = 0, *, head: bool = True
) -> Samples:
    rng = np.random.default_rng(seed)
    y = rng.integers(0, classes, count)
    z = (np.eye(classes, dim)[y] * 3 + rng.standard_normal((count, dim))).astype(np.float32)
    return Samples(z, y, rng.dirichlet(np.ones(classes), count) if head else None)


@st.composite
def pools(draw: Any) -> Samples:
    """Small whole numbers: ties, copies, contradicting labels and classes of one sample are the
    rule.
    """
    count, dim = draw(st.integers(1, 24)), draw(st.integers(1, 3))
    z = draw(st.lists(st.integers(-2, 2), min_size=count * dim, max_size=count * dim))
    y = draw(st.lists(st.integers(0, 4), min_size=count, max_size=count))
    return Samples(np.array(z, np.float32).reshape(count, dim), np.array(y))


# -- budgets ---------------------------------------------------------------------------------------
@given(st.lists(st.integers(0, 50), max_size=12), st.integers(0, 400))
def test_a_budget_is_shared_to_the_last_row_and_small_groups_stay_whole(
    sizes: list[int], total: int
) -> None:
    budgets = water_fill(np.array(sizes, np.int64), total)
    assert budgets.sum() == min(total, sum(sizes)) and (budgets <= np.array(sizes, np.int64)).all()
    cut = [b for b, size in zip(budgets.tolist(), sizes, strict=True) if b < size]
    assert all(b <= level + 1 for b in budgets.tolist() for level in cut) and (
        not cut or max(cut) - min(cut) <= 1
    )


@given(st.lists(st.integers(0, 30), min_size=1, max_size=60), st.integers(1, 80))
def test_no_class_starves_while_the_budget_reaches_the_classes(
    labels: list[int], budget: int
) -> None:
    quotas = class_quotas(np.array(labels), budget)
    assert set(quotas) == set(labels) and (budget < len(quotas) or min(quotas.values()) >= 1)


def test_a_negative_budget_is_refused() -> None:
    with pytest.raises(InputError, match="at least 0"):
        water_fill(np.array([1, 2]), -1)


# -- every selector --------------------------------------------------------------------------------
@pytest.mark.parametrize("name", list(SELECTORS))
@settings(max_examples=25, deadline=None)
@given(samples=pools(), budget=st.integers(1, 30), seed=st.integers(0, 5))
def test_a_selection_is_distinct_ascending_and_exactly_as_large_as_it_can_be(
    name: str, samples: Samples, budget: int, seed: int
) -> None:
    rows = choose(name, samples, budget, seed)
    assert rows.dtype == np.int64 and len(rows) == min(budget, len(samples))
    assert (np.diff(rows) > 0).all() and rows.min() >= 0 and rows.max() < len(samples)
    np.testing.assert_array_equal(rows, choose(name, samples, budget, seed))
    if name in WITH_QUOTAS and budget >= len(samples.classes):
        assert set(samples.y[rows].tolist()) == set(samples.classes.tolist())


@pytest.mark.parametrize("name", ["herding", "clean_herding", "matched"])
@settings(max_examples=25, deadline=None)
@given(samples=pools(), budget=st.integers(1, 20), seed=st.integers(0, 1000))
def test_what_is_selected_does_not_depend_on_the_order_of_arrival(
    name: str, samples: Samples, budget: int, seed: int
) -> None:
    def content(of: Samples) -> list[tuple[float, ...]]:
        rows = choose(name, of, budget)
        return sorted(
            (*map(float, z), float(y)) for z, y in zip(of.z[rows], of.y[rows], strict=True)
        )

    assert content(samples) == content(
        samples.take(np.random.default_rng(seed).permutation(len(samples)))
    )


@pytest.mark.parametrize("name", list(SELECTORS))
def test_sparse_labels_one_class_one_sample_and_equal_samples_are_served(name: str) -> None:
    sparse = Samples(np.random.default_rng(0).standard_normal((30, 4)), np.repeat([0, 7, 90], 10))
    assert len(choose(name, sparse, 6)) == 6
    assert choose(name, Samples(np.ones((1, 2)), np.array([5])), 3).tolist() == [0]
    assert len(choose(name, Samples(np.ones((12, 2)), np.zeros(12, np.int64)), 5)) == 5
    assert len(choose(name, Samples(np.zeros((12, 2)), np.arange(12) % 2), 5)) == 5


@pytest.mark.parametrize(
    "given_, message",
    [
        ({"z": np.zeros((0, 3)), "y": np.zeros(0, np.int64)}, "at least one row"),
        (
            {"z": np.full((2, 3), np.nan), "y": np.array([0, 1])},
            "2 of 2 rows have features that are not finite",
        ),
        ({"z": np.ones((2, 3)), "y": np.array([0, -1])}, "class slots"),
        ({"z": np.ones((2, 3)), "y": np.array([0.0, 1.0])}, "class slots"),
        ({"z": np.ones((2, 3)), "y": np.array([0, 1]), "p": np.full((2, 2), 0.7)}, "sum to 1"),
        (
            {"z": np.ones((2, 3)), "y": np.array([0, 2]), "p": np.full((2, 2), 0.5)},
            "y goes up to 2, p has 2 classes",
        ),
        (
            {
                "z": np.ones((2, 3)),
                "y": np.array([0, 1]),
                "p": np.full((2, 2), 0.5),
                "blank": np.ones(1),
            },
            "blank has 1 classes, p has 2",
        ),
        ({"z": np.ones((2, 3)), "y": np.array([0, 1]), "weight": np.array([1.0, -1.0])}, "weight"),
        ({"z": np.ones((2, 3)), "y": np.array([0, 1]), "weight": np.zeros(2)}, "not all 0"),
    ],
    ids=[
        "empty",
        "nan",
        "negative",
        "float",
        "no-probabilities",
        "label-beyond-p",
        "blank",
        "negative-weight",
        "no-weight",
    ],
)
def test_bad_samples_are_refused_at_the_door(given_: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        Samples(**given_)


@pytest.mark.parametrize("budget", [0, -3, 2.5, True], ids=str)
def test_a_budget_that_is_none_is_refused(budget: Any) -> None:
    for name in SELECTORS:
        with pytest.raises(InputError, match="at least 1; got"):
            choose(name, pool(10), budget)


def test_an_unknown_selector_is_refused_with_the_names_there_are() -> None:
    with pytest.raises(InputError, match="'best'; selectors: reservoir, balanced"):
        choose("best", pool(5), 2)


# -- coverage and the published recipe -------------------------------------------------------------
def test_a_constant_score_is_sampled_uniformly() -> None:
    taken = np.zeros(20)
    for seed in range(2000):
        taken[coverage_rows(np.full(20, 0.3), 5, np.random.default_rng(seed))] += 1
    assert np.abs(taken / 2000 - 0.25).max() < 0.05


def test_every_range_of_difficulty_is_covered_and_the_hardest_can_be_cut() -> None:
    score = np.concatenate([np.zeros(950), np.linspace(0, 1, 50)])
    assert (score[coverage_rows(score, 50, np.random.default_rng(0))] > 0.1).sum() > 35
    assert score[coverage_rows(score, 50, np.random.default_rng(0), hardest=0.02)].max() < 0.65
    assert len(coverage_rows(score, 999, np.random.default_rng(0), hardest=0.5, easiest=0.5)) == 999


def test_without_quotas_the_published_recipe_leaves_a_rare_class_a_few_rows() -> None:
    """900 rows of one class, 100 of another: most clusters are of the first, and the budget is
    shared between clusters.
    """
    rng = np.random.default_rng(0)
    y = np.repeat([0, 1], [900, 100])
    right = np.where(y == 0, 0.99 + 0.005 * rng.random(1000), 0.02 + 0.9 * rng.random(1000))
    p = np.where(np.eye(2, dtype=bool)[y], right[:, None], 1 - right[:, None])
    samples = Samples(rng.standard_normal((1000, 4)) + 4 * y[:, None], y, p)
    assert np.bincount(y[Adaptive(quotas=False).select(samples, 50, 0)], minlength=2)[1] < 10
    assert np.bincount(y[Adaptive().select(samples, 50, 0)]).tolist() == [25, 25]
    assert np.bincount(y[Coverage().select(samples, 50, 0)]).tolist() == [25, 25]


# -- copies and contradicted labels ----------------------------------------------------------------
@settings(max_examples=40, deadline=None)
@given(st.integers(1, 12), st.integers(1, 6), st.integers(0, 1000))
def test_one_of_every_group_of_copies_stays(groups: int, copies: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    z = np.repeat(rng.standard_normal((groups, 8)).astype(np.float32) * 10, copies, axis=0)
    group = np.repeat(np.arange(groups), copies)
    order = rng.permutation(len(z))
    stays = distinct_rows(z[order], 1e-4)
    assert sorted(group[order][stays].tolist()) == list(range(groups))
    least = np.argsort(redundancy(z[order]), kind="stable")[:groups]
    assert sorted(group[order][least].tolist()) == list(range(groups))


def test_every_row_that_goes_has_a_stand_in_that_stays() -> None:
    # a chain: each is a near-duplicate of the next
    z = np.arange(0, 30, 0.2, dtype=np.float32)[:, None]
    limit = 0.01 * 2 * float(z.var())
    stays = z[distinct_rows(z, 0.01)]
    assert ((z - stays.T) ** 2).min(axis=1).max() <= limit * 1.001 and 5 < len(stays) < 30


def test_no_unit_of_the_features_changes_what_a_copy_is() -> None:
    z = np.random.default_rng(0).standard_normal((200, 3)).astype(np.float32)
    stays = distinct_rows(z, 0.02)
    assert 20 < len(stays) < 200
    np.testing.assert_array_equal(stays, distinct_rows(z * 64 + 32, 0.02))


def test_a_few_hard_samples_are_no_reason_to_cut() -> None:
    answers, y = np.tile([1.0, 0.0], (100, 1)), np.zeros(100, np.int64)
    answers[:5] = [0.0, 1.0]
    assert not is_noisy(answers, y)
    answers[:6] = [0.0, 1.0]
    assert is_noisy(answers, y) and agreeing_rows(answers, y).tolist() == list(range(6, 100))


def test_a_class_never_loses_more_than_half_to_the_agreement_cut() -> None:
    answers = np.tile([0.0, 1.0], (9, 1))
    assert len(agreeing_rows(answers, np.zeros(9, np.int64))) == 5
    assert len(agreeing_rows(np.ones((4, 1)), np.zeros(4, np.int64))) == 4


def damaged(seed: int) -> tuple[Samples, np.ndarray]:
    """900 samples of three classes; a sixth with a wrong label, a third copies of ten of them."""
    rng = np.random.default_rng(seed)
    truth = np.arange(900) % 3
    z = (rng.standard_normal((900, 12)) + 4 * np.eye(3, 12)[truth]).astype(np.float32)
    z[600:] = z[:30][np.arange(300) % 30]
    wrong = np.zeros(900, bool)
    wrong[100:250] = True
    return Samples(z, np.where(wrong, (truth + 1) % 3, truth)), wrong


@pytest.mark.parametrize("seed", range(3))
def test_the_default_spends_little_on_copies_and_wrong_labels(seed: int) -> None:
    samples, wrong = damaged(seed)
    rows, others = choose(DEFAULT, samples, 60), choose("balanced", samples, 60, seed)
    assert len(np.unique(samples.z[rows], axis=0)) == 60 > len(np.unique(samples.z[others], axis=0))
    assert 2 * wrong[rows].sum() < wrong[others].sum()


def test_what_was_cut_fills_the_quota_before_the_budget_is_left_unspent() -> None:
    samples = Samples(
        np.ones((40, 3), np.float32) * (np.arange(40) % 2)[:, None], np.arange(40) % 2
    )
    assert np.bincount(samples.y[Matched().select(samples, 30)]).tolist() == [15, 15]


def test_herding_brings_the_mean_of_the_selection_closer_than_chance() -> None:
    samples = pool(600, head=False, dim=16)

    def gap(rows: np.ndarray) -> float:
        units = samples.z / np.linalg.norm(samples.z, axis=1, keepdims=True)
        return float(
            sum(
                np.linalg.norm(
                    units[rows][samples.y[rows] == k].mean(axis=0)
                    - units[samples.y == k].mean(axis=0)
                )
                for k in range(3)
            )
        )

    assert gap(Herding().select(samples, 30)) < 0.35 * gap(choose("balanced", samples, 30))


def test_a_reservoir_keeps_classes_as_the_stream_had_them() -> None:
    """300 of each of four classes, one after another, into 40 rows that carry what they stand
    for.
    """
    counts = np.zeros(4)
    for seed in range(60):
        memory = SelectedMemory(SELECTORS["reservoir"], 40, seed=seed)
        for slot in range(4):
            memory.offer(Samples(np.ones((300, 2)), np.full(300, slot)))
        counts += np.bincount(memory.kept().y, minlength=4) / 60
    assert np.abs(counts - 10).max() < 2


def test_weights_say_how_many_samples_a_row_stands_for() -> None:
    z = np.array([[1.0, 0.0], [0.0, 1.0]])
    for heavy in (0, 1):
        weight = np.where(np.arange(2) == heavy, 9.0, 1.0)
        assert Herding().select(Samples(z, np.zeros(2, np.int64), weight=weight), 1).tolist() == [
            heavy
        ]


# -- in bounded memory -----------------------------------------------------------------------------
@pytest.mark.parametrize("name", list(WITH_QUOTAS))
def test_a_long_run_of_one_class_pushes_no_rare_class_out(name: str) -> None:
    memory = SelectedMemory(SELECTORS[name], 12)
    memory.offer(Samples(np.random.default_rng(0).standard_normal((3, 4)), np.array([1, 1, 2])))
    for seed in range(6):
        memory.offer(
            Samples(np.random.default_rng(seed).standard_normal((40, 4)), np.zeros(40, np.int64))
        )
        assert len(memory) <= 12
    assert np.bincount(memory.kept().y).tolist() == [9, 2, 1]


def test_a_kept_row_stands_for_what_was_offered_of_its_class() -> None:
    memory = SelectedMemory(SELECTORS["herding"], 6, patience=20)
    for start in range(0, 90, 10):
        memory.offer(pool(90, head=False).take(np.arange(start, start + 10)))
        assert len(memory) < 6 + 20
    kept = memory.kept()
    assert len(kept) == 6 and memory.nbytes == 6 * (5 * 4 + 8 + 8)
    for k in range(3):
        assert kept.weight[kept.y == k].sum() == pytest.approx(float((pool(90).y == k).sum()))


def test_a_memory_refuses_another_width_and_being_read_before_it_was_offered_anything() -> None:
    memory = SelectedMemory(SELECTORS["reservoir"], 3)
    with pytest.raises(InputError, match="nothing was offered"):
        memory.kept()
    memory.offer(pool(4))
    with pytest.raises(InputError, match="width 5, the batch has 2"):
        memory.offer(pool(4, classes=2, dim=2))


def test_the_callers_arrays_can_be_used_again() -> None:
    batch, memory = pool(4), SelectedMemory(SELECTORS["balanced"], 8)
    memory.offer(batch)
    batch.z[:] = 0
    assert memory.kept().z.any()
