"""The numerics against plain numpy, on matrices that evidence really gives: singular, unbalanced,
with classes taken away.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from edgeadapt.device.numerics.linalg import (
    FEWEST,
    NUMERICS,
    balanced_ridge,
    cholesky_solve,
    class_mean,
    nearest_mean,
)

WIDTH, SLOTS = 20, 6
CENTRES = 2.0 * np.random.default_rng(1).standard_normal((SLOTS, WIDTH))


def samples(counts: list[int], seed: int = 0) -> tuple[Any, Any]:
    """z (N, D) and y (N,): counts[k] samples around CENTRES[k]."""
    y = np.repeat(np.arange(len(counts)), counts)
    return CENTRES[y] + np.random.default_rng(seed).standard_normal((len(y), WIDTH)), y


def sums(z: Any, y: Any, weight: Any = None) -> tuple[Any, Any]:
    """Gram matrix (D + 1, D + 1) and class sums (D + 1, K), float32 as evidence is."""
    h = np.c_[z, np.ones(len(z))]
    weight = np.ones(len(z)) if weight is None else weight
    return (h.T @ (h * weight[:, None])).astype(np.float32), (
        h.T @ (np.eye(SLOTS)[y] * weight[:, None])
    ).astype(np.float32)


def plain_ridge(z: Any, y: Any, mass: Any, penalty: float) -> Any:
    """(D + 1, K): samples weighted so that class k weighs mass[k] in total."""
    share = (np.asarray(mass) / np.maximum(np.bincount(y, minlength=SLOTS), 1))[y]
    h = np.c_[z, np.ones(len(z))]
    gram = h.T @ (h * share[:, None])
    return np.linalg.solve(
        gram + penalty * np.trace(gram) / len(gram) * np.eye(len(gram)),
        h.T @ (np.eye(SLOTS)[y] * share[:, None]),
    )


def accuracy(weight: Any, z: Any, y: Any, slots: Any) -> float:
    logits = z @ weight[:-1] + weight[-1]
    return float((np.asarray(slots)[logits[:, slots].argmax(axis=1)] == y).mean())


@pytest.mark.parametrize("size", [1, 5, 128, 300])
def test_cholesky_solve_agrees_with_numpy(size: int) -> None:
    rng = np.random.default_rng(size)
    root = rng.standard_normal((size, size + 3))
    a, b = root @ root.T + 0.1 * np.eye(size), rng.standard_normal((size, 4))
    before = b.copy()
    np.testing.assert_allclose(cholesky_solve(a, b), np.linalg.solve(a, b), rtol=1e-8, atol=1e-8)
    np.testing.assert_array_equal(b, before)


def test_cholesky_solve_refuses_an_indefinite_matrix() -> None:
    with pytest.raises(np.linalg.LinAlgError):
        cholesky_solve(np.diag([1.0, -1.0]), np.ones((2, 1)))


@pytest.mark.parametrize("balance", [0.0, 0.5, 1.0])
def test_with_equal_counts_balance_does_not_matter_and_it_is_plain_ridge(balance: float) -> None:
    z, y = samples([30] * SLOTS)
    gram, moment = sums(z, y)
    weight, mean, active = balanced_ridge(gram, moment, moment, penalty=1e-2, balance=balance)
    np.testing.assert_allclose(
        weight, plain_ridge(z, y, np.full(SLOTS, 1 / SLOTS), 1e-2), atol=2e-5
    )
    np.testing.assert_allclose(mean, [z[y == k].mean(axis=0) for k in range(SLOTS)], atol=1e-5)
    np.testing.assert_array_equal(active, np.ones(SLOTS))
    assert {weight.dtype, mean.dtype, active.dtype} == {np.dtype(np.float32)}


def test_balance_0_is_plain_ridge_at_any_counts() -> None:
    counts = [200, 5, 40, 80, 3, 60]
    z, y = samples(counts)
    gram, moment = sums(z, y)
    weight, *_ = balanced_ridge(gram, moment, moment, penalty=1e-2, balance=0.0)
    np.testing.assert_allclose(
        weight, plain_ridge(z, y, np.array(counts) / sum(counts), 1e-2), atol=2e-5
    )


def test_balance_1_gives_the_formula_solved_by_numpy() -> None:
    z, y = samples([200, 5, 40, 80, 3, 60])
    gram, moment = sums(z, y)
    h = np.c_[z, np.ones(len(z))]
    means = np.array([h[y == k].mean(axis=0) for k in range(SLOTS)])
    within = (h - means[y]).T @ (h - means[y]) / len(h)
    expected = within + means.T @ means / SLOTS
    expected += 1e-2 * np.trace(expected) / len(expected) * np.eye(len(expected))
    weight, *_ = balanced_ridge(gram, moment, moment, penalty=1e-2, balance=1.0)
    np.testing.assert_allclose(weight, np.linalg.solve(expected, means.T / SLOTS), atol=2e-5)


def test_ten_labels_beside_thousands_are_not_drowned() -> None:
    z, y = samples([2000, 2000, 2000, 2000, 2000, 10])
    gram, moment = sums(z, y)
    test_z, test_y = samples([200] * SLOTS, seed=5)
    rare = test_y == SLOTS - 1
    plain, balanced = (balanced_ridge(gram, moment, moment, balance=b)[0] for b in (0.0, 1.0))
    assert accuracy(plain, test_z[rare], test_y[rare], range(SLOTS)) < 0.2
    assert accuracy(balanced, test_z[rare], test_y[rare], range(SLOTS)) > 0.9
    assert accuracy(balanced, test_z, test_y, range(SLOTS)) > 0.95


@pytest.mark.parametrize("counts", [[50] * SLOTS, [400, 50, 50, 50, 50, 20]])
@pytest.mark.parametrize("balance", [0.0, 1.0])
def test_a_perfect_fit_reads_one_for_the_right_class_whatever_the_masses(
    counts: list[int], balance: float
) -> None:
    z, y = samples(counts)
    z = CENTRES[y] + 0.02 * (z - CENTRES[y])
    gram, moment = sums(z, y)
    weight, *_ = balanced_ridge(gram, moment, moment, penalty=1e-5, balance=balance)
    logits = z @ weight[:-1] + weight[-1]
    np.testing.assert_allclose(logits, np.eye(SLOTS)[y], atol=0.05)


def test_a_singular_matrix_is_solved() -> None:
    """Fewer samples than features, and a feature that is always 0."""
    z, y = samples([2, 2, 0, 1, 0, 0])
    z[:, 3] = 0.0
    gram, moment = sums(z, y)
    for penalty in (0.0, 1e-3):
        weight, _, active = balanced_ridge(gram, moment, moment, penalty=penalty)
        assert np.isfinite(weight).all() and np.abs(weight).max() < 1e3
        np.testing.assert_array_equal(active, [1, 1, 0, 1, 0, 0])
        assert accuracy(weight, z, y, [0, 1, 3]) == 1.0


def test_a_slightly_indefinite_matrix_takes_a_larger_penalty_and_a_worse_one_is_an_error() -> None:
    z, y = samples([30] * SLOTS)
    gram, moment = sums(z, y)
    indefinite = gram.copy()
    indefinite[0, 0] = 0.0
    assert np.linalg.eigvalsh(indefinite / len(z))[0] < -0.1  # far more than the first penalty adds
    weight, *_ = balanced_ridge(indefinite, moment, moment, penalty=1e-3, balance=0.0)
    assert np.isfinite(weight).all() and accuracy(weight, z, y, range(SLOTS)) > 0.9
    with pytest.raises(np.linalg.LinAlgError, match="Gram matrix is not positive definite"):
        balanced_ridge(-gram, moment, moment)
    with pytest.raises(np.linalg.LinAlgError):
        balanced_ridge(np.full_like(gram, np.nan), moment, moment)


def test_a_class_that_was_forgotten_leaves_what_never_knew_it() -> None:
    z, y = samples([40] * SLOTS)
    gram, moment = sums(z, y)
    of_five = y == 5
    minus_gram, minus_moment = sums(z[of_five], y[of_five], -np.ones(of_five.sum()))
    never = sums(z[~of_five], y[~of_five])
    weight, mean, active = balanced_ridge(
        gram + minus_gram, moment + minus_moment, moment + minus_moment
    )
    expected = balanced_ridge(*never, never[1])
    for got, want in zip((weight, mean, active), expected, strict=True):
        np.testing.assert_allclose(got, want, atol=2e-4)
    assert active[5] == 0 and not weight[:, 5].any() and not mean[5].any()


def test_a_class_whose_slot_was_cleared_does_not_disturb_the_others() -> None:
    """The Gram matrix has no class axis: it keeps samples of a removed class."""
    z, y = samples([40, 40, 40, 40, 40, 400])
    gram, moment = sums(z, y)
    moment[:, 5] = 0.0
    weight, _, active = balanced_ridge(gram, moment, moment)
    test_z, test_y = samples([200] * 5 + [0], seed=5)
    np.testing.assert_array_equal(active, [1, 1, 1, 1, 1, 0])
    assert accuracy(weight, test_z, test_y, range(5)) > 0.97
    logits = test_z @ weight[:-1] + weight[-1]
    assert logits[np.arange(len(test_y)), test_y].mean() == pytest.approx(1.0, abs=0.1)


def test_residues_of_float32_sums_are_not_a_class() -> None:
    z, y = samples([30, 30, 30, 0, 0, 0])
    gram, moment = sums(z, y)
    moment[:, 4] = 1e-5
    moment[-1, 5] = -3e-6
    assert FEWEST > 1e-5
    for _, mean, active in (balanced_ridge(gram, moment, moment), nearest_mean(moment)):
        np.testing.assert_array_equal(active, [1, 1, 1, 0, 0, 0])
        assert not mean[3:].any()
    assert not class_mean(moment)[0][3:].any()


def test_no_evidence_gives_zeros() -> None:
    gram = np.zeros((WIDTH + 1, WIDTH + 1), np.float32)
    moment = np.zeros((WIDTH + 1, SLOTS), np.float32)
    for value in (
        *balanced_ridge(gram, moment, moment),
        *nearest_mean(moment),
        *class_mean(moment),
    ):
        assert value.dtype == np.float32 and not value.any()


def test_nearest_mean_ranks_by_distance() -> None:
    z, y = samples([30] * SLOTS)
    _, moment = sums(z, y)
    weight, mean, _ = nearest_mean(moment)
    logits = z @ weight[:-1] + weight[-1]
    np.testing.assert_allclose(
        (z**2).sum(axis=1)[:, None] - logits,
        ((z[:, None] - mean) ** 2).sum(axis=2),
        rtol=1e-4,
        atol=1e-3,
    )


def test_numerics_return_what_a_manifest_writes_in_order_and_leave_inputs_alone() -> None:
    z, y = samples([30] * SLOTS)
    gram, moment = sums(z, y)
    for name, reads in {
        "balanced_ridge": (gram, moment, moment),
        "nearest_mean": (moment,),
        "class_mean": (moment,),
    }.items():
        copies = [value.copy() for value in reads]
        shapes = [value.shape for value in NUMERICS[name](*reads)]
        assert shapes == (
            [(SLOTS, WIDTH)]
            if name == "class_mean"
            else [(WIDTH + 1, SLOTS), (SLOTS, WIDTH), (SLOTS,)]
        )
        for value, copy in zip(reads, copies, strict=True):
            np.testing.assert_array_equal(value, copy)


def test_ridge_of_a_wide_encoder_costs_no_more_than_a_few_general_solves() -> None:
    """M = 1280 and K = 32, against one ``np.linalg.solve`` of that size in the same run: shared
    cores make absolute times useless here.
    """
    rng = np.random.default_rng(0)
    h = np.c_[rng.standard_normal((2000, 1280)), np.ones(2000)].astype(np.float32)
    moment = h.T @ np.eye(32, dtype=np.float32)[rng.integers(0, 32, 2000)]
    gram = h.T @ h
    general = gram.astype(np.float64) + np.eye(1281)

    def seconds(call: Callable[[], object]) -> float:
        start = time.perf_counter()
        call()
        return time.perf_counter() - start

    pairs = [
        (
            seconds(lambda: balanced_ridge(gram, moment, moment)),
            seconds(lambda: np.linalg.solve(general, moment.astype(np.float64))),
        )
        for _ in range(10)
    ]
    assert min(ours for ours, _ in pairs) < 4.0 * min(theirs for _, theirs in pairs)
