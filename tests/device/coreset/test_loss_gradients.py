"""Closed-form gradients, clusters of them, experts and their choice."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgeadapt.device.coreset.choice import bin_entropy, choose_experts, standardised
from edgeadapt.device.coreset.clusters import k_means, skill_clusters
from edgeadapt.device.coreset.experts import EXPERTS, grand, grounding, scores
from edgeadapt.device.coreset.gradients import (
    gradient_kernel,
    gradient_mean,
    gradient_norms,
    gradient_products,
    gradient_sketch,
    residuals,
)
from edgeadapt.device.coreset.readout import fit, probabilities
from edgeadapt.device.coreset.samples import Samples
from edgeadapt.errors import InputError


def drawn(count: int = 40, dim: int = 6, classes: int = 4, seed: int = 0) -> Samples:
    rng = np.random.default_rng(seed)
    p = rng.dirichlet(np.ones(classes), count)
    return Samples(
        rng.standard_normal((count, dim)).astype(np.float32),
        rng.integers(0, classes, count),
        p,
        blank=np.full(classes, 1 / classes),
    )


def full(samples: Samples) -> np.ndarray:
    """The (N, K (D + 1)) matrix that the package never forms."""
    assert samples.p is not None
    u, h = residuals(samples.p, samples.y), np.hstack([samples.z, np.ones((len(samples), 1))])
    return np.einsum("nk,nd->nkd", u, h).reshape(len(samples), -1)


def test_the_factored_gradients_are_those_of_a_cross_entropy() -> None:
    s, step = drawn(3), 1e-6
    weight = np.random.default_rng(1).standard_normal((4, 7))
    h = np.hstack([s.z, np.ones((3, 1))]).astype(np.float64)

    def loss(w: np.ndarray, i: int) -> float:
        logits = h[i] @ w.T
        return float(np.log(np.exp(logits).sum()) - logits[s.y[i]])

    logits = h @ weight.T
    u = residuals(np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True), s.y)
    for i in range(3):
        numeric = np.zeros_like(weight)
        for place in np.ndindex(weight.shape):
            moved = weight.copy()
            moved[place] += step
            numeric[place] = (loss(moved, i) - loss(weight, i)) / step
        np.testing.assert_allclose(np.outer(u[i], h[i]), numeric, atol=1e-4)


def test_kernel_norms_means_and_products_equal_those_of_the_full_matrix() -> None:
    s = drawn()
    assert s.p is not None
    u, g, share = residuals(s.p, s.y), full(s), np.full(len(s), 1 / len(s))
    np.testing.assert_allclose(
        gradient_kernel(u, s.z, u[:5], s.z[:5]), g @ g[:5].T, rtol=1e-5, atol=1e-6
    )
    np.testing.assert_allclose(gradient_norms(u, s.z), np.linalg.norm(g, axis=1), rtol=1e-6)
    mean = gradient_mean(u, s.z, share)
    np.testing.assert_allclose(mean.ravel(), g.mean(axis=0), atol=1e-6)
    np.testing.assert_allclose(gradient_products(u, s.z, mean), g @ g.mean(axis=0), atol=1e-5)


def test_a_wide_sketch_keeps_inner_products_and_a_narrow_one_scatters_around_them() -> None:
    s = drawn()
    assert s.p is not None
    u = residuals(s.p, s.y)
    exact = gradient_kernel(u, s.z, u, s.z)
    average = np.mean(
        [(r := gradient_sketch(u, s.z, 64, seed)) @ r.T for seed in range(60)], axis=0
    )
    assert np.corrcoef(average.ravel(), exact.ravel())[0, 1] > 0.98
    narrow = gradient_sketch(u, s.z, 16, 0)
    assert 0.2 < np.corrcoef((narrow @ narrow.T).ravel(), exact.ravel())[0, 1] < 0.98


def test_k_means_finds_separate_groups_and_no_more_clusters_than_distinct_points() -> None:
    rng = np.random.default_rng(0)
    points = np.repeat(np.eye(3, dtype=np.float32) * 50, 20, axis=0) + rng.standard_normal(
        (60, 3)
    ).astype(np.float32)
    owner, centres = k_means(points, 3, 0)
    assert len(centres) == 3 and all(len(set(owner[i : i + 20].tolist())) == 1 for i in (0, 20, 40))
    assert len(k_means(np.ones((9, 2), np.float32), 5, 0)[1]) == 1
    assert k_means(points[:1], 4, 0)[0].tolist() == [0]
    with pytest.raises(InputError, match="at least one cluster; got 0"):
        k_means(points, 0, 0)


def test_clusters_hold_samples_whose_gradients_point_the_same_way() -> None:
    s = drawn(120, dim=3)
    assert s.p is not None
    g = full(s) / np.linalg.norm(full(s), axis=1, keepdims=True)
    cluster = skill_clusters(s, s.p, 6, seed=0, width=256)
    same = cluster[:, None] == cluster[None, :]
    off = ~np.eye(len(s), dtype=bool)
    assert (g @ g.T)[same & off].mean() > (g @ g.T)[~same].mean() + 0.3


def test_experts_give_the_numbers_of_their_formulas() -> None:
    s = Samples(
        np.array([[3.0, 4.0]]), np.array([0]), np.array([[0.5, 0.5]]), blank=np.array([0.25, 0.75])
    )
    found = {name: float(value[0]) for name, value in scores(s).items()}
    wanted = {
        "perplexity": 2.0,
        "entropy": np.log(2),
        "el2n": np.sqrt(0.5),
        "grand": np.sqrt(0.5 * 26),
        "grounding": 2.0,
    }
    assert found == pytest.approx(wanted) and found.keys() == EXPERTS.keys()


def test_an_expert_says_what_it_is_missing() -> None:
    with pytest.raises(InputError, match=r"Samples\(p="):
        grand(Samples(np.ones((2, 2)), np.array([0, 1])))
    with pytest.raises(InputError, match=r"Samples\(blank="):
        grounding(Samples(np.ones((1, 2)), np.array([0]), np.array([[0.5, 0.5]])))


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10_000), st.floats(1e-3, 1e3), st.floats(-100, 100, allow_subnormal=False))
def test_the_choice_of_an_expert_does_not_depend_on_units(
    seed: int, scale: float, offset: float
) -> None:
    rng = np.random.default_rng(seed)
    found = {"a": rng.standard_normal(200), "b": rng.gamma(1.0, 1.0, 200), "c": rng.random(200)}
    cluster = rng.integers(0, 3, 200)
    before = choose_experts(found, cluster)
    assert choose_experts({**found, "b": scale * found["b"] + offset}, cluster) == before
    # a value on an edge may move a bin
    assert bin_entropy(standardised(scale * found["c"] + offset)) == pytest.approx(
        bin_entropy(standardised(found["c"])), abs=0.03
    )


def released_entropy(score: np.ndarray) -> float:
    """The published code's form: standardised scores, but edges at four raw standard deviations,
    and what lies outside is dropped.
    """
    standard, reach = (score - score.mean()) / score.std(), 4.0 * score.std()
    q = np.histogram(standard, bins=50, range=(-reach, reach))[0].astype(float)
    q = q[q > 0] / q.sum()
    return float(-(q * np.log2(q)).sum())


def test_the_released_edges_reward_small_units() -> None:
    score = np.random.default_rng(0).standard_normal(4000)
    assert (
        released_entropy(0.1 * score)
        > released_entropy(score) + 0.5
        > released_entropy(10 * score) + 2.0
    )
    assert bin_entropy(standardised(0.1 * score)) == pytest.approx(
        bin_entropy(standardised(10 * score)), abs=1e-3
    )


def test_a_constant_score_is_never_chosen_over_one_that_varies() -> None:
    rng = np.random.default_rng(0)
    assert choose_experts(
        {"constant": np.full(50, 0.3), "varies": rng.random(50)}, np.zeros(50, np.int64)
    ) == {0: "varies"}


def test_the_held_out_answer_is_that_of_a_fit_without_the_row() -> None:
    for count in (30, 7):  # primal and dual
        s = drawn(count, dim=12, seed=2)
        whole = fit(s)
        rest = np.delete(np.arange(count), 3)
        share = np.bincount(s.y, minlength=4)[s.y]
        w = 1.0 / share / len(s.classes)
        z = s.z.astype(np.float64)
        z0 = z - w @ z
        penalty = 1e-2 * (w @ (z0**2).sum(axis=1)) / z.shape[1]
        mean, target = w[rest] @ z[rest] / w[rest].sum(), np.eye(4)[s.y]
        centre = w[rest] @ target[rest] / w[rest].sum()
        zc = z[rest] - mean
        weight = np.linalg.solve(
            zc.T @ (zc * w[rest, None]) + penalty * np.eye(12),
            zc.T @ ((target[rest] - centre) * w[rest, None]),
        )
        np.testing.assert_allclose(whole.held_out[3], (z[3] - mean) @ weight + centre, atol=2e-3)


def test_a_read_out_of_one_class_or_one_row_is_constant() -> None:
    for s in (
        Samples(np.ones((1, 3)), np.array([2])),
        Samples(np.ones((4, 3)), np.zeros(4, np.int64)),
    ):
        p = probabilities(s)
        assert (
            p.shape == (len(s), s.slots)
            and np.isfinite(p).all()
            and (p.argmax(axis=1) == s.y).all()
        )
