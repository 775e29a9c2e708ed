"""Streaming LDA and projected ridge: sums in any order, forgetting, one label per class, few labels
beside many, and bad input.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from edgeadapt.device.numerics.linalg import NUMERICS, slda
from edgeadapt.errors import InputError
from edgeadapt.host.compile import compile_graph
from edgeadapt.host.contracts import Dims, FactoryData, with_derived
from edgeadapt.host.methods.heads.projection import (
    HadamardProjection,
    PrincipalProjection,
    SignProjection,
)
from edgeadapt.host.methods.heads.ridge import Ridge
from edgeadapt.host.methods.heads.slda import StreamingLDA
from edgeadapt.testing import check_identity_stub
from edgeadapt.testing._head_checks import check_learn, check_predict
from edgeadapt.testing._subject import Subject

WIDTH, SLOTS, CLASSES = 40, 8, 6
_RNG = np.random.default_rng(3)
CENTRES = _RNG.standard_normal((CLASSES, WIDTH))
MIX = np.linalg.qr(_RNG.standard_normal((WIDTH, WIDTH)))[0] * np.geomspace(3.0, 0.2, WIDTH)
HEADS: dict[str, Any] = {
    "slda": StreamingLDA(),
    "slda on signs": StreamingLDA(projection=SignProjection(20)),
    "slda on principal directions": StreamingLDA(projection=PrincipalProjection(20)),
    "slda on a hadamard transform, compact": StreamingLDA(
        projection=HadamardProjection(20), compact=True
    ),
    "ridge on principal directions": Ridge(projection=PrincipalProjection(20), packed=True),
    "ridge, packed": Ridge(packed=True),
}


def samples(counts: list[int], seed: int, spread: float = 0.8) -> tuple[Any, Any]:
    """z (N, D) with strongly correlated features and y (N,): ``counts[k]`` samples of class k."""
    y = np.repeat(np.arange(len(counts)), counts)
    noise = np.random.default_rng(seed).standard_normal((len(y), WIDTH)) @ MIX.T
    return (CENTRES[y] + spread * noise + 2.0).astype(np.float32), y.astype(np.int64)


def learned(head: Any, z: Any, y: Any, weight: Any = None) -> dict[str, Any]:
    """Evidence after these samples, from nothing; frozen tensors from the same factory every
    time.
    """
    factory, labels = samples([20] * CLASSES, 99)
    start = head.factory(
        FactoryData(
            factory,
            np.zeros((len(factory), 0), np.float32),
            labels,
            np.ones(len(labels), np.float32),
            SLOTS,
        )
    )
    specs = head.tensors(Dims(WIDTH, 0, SLOTS))
    state = {
        s.name: torch.zeros(s.shape) if s.kind == "evidence" else torch.from_numpy(start[s.name])
        for s in specs
        if s.kind != "derived"
    }
    return added(head, state, z, y, weight)


def added(head: Any, state: Any, z: Any, y: Any, weight: Any = None) -> dict[str, Any]:
    weight = np.ones(len(y), np.float32) if weight is None else np.asarray(weight, np.float32)
    return {
        **state,
        **head.learn(
            state,
            torch.from_numpy(z),
            torch.zeros(len(y), 0),
            torch.from_numpy(y),
            torch.from_numpy(weight),
        ),
    }


def derived(head: Any, state: Any) -> dict[str, Any]:
    return with_derived(state, head.numerics())


def accuracy(head: Any, state: Any, seed: int = 50, only: Any = None) -> float:
    z, y = samples([100] * CLASSES, seed)
    right = head.predict(derived(head, state), torch.from_numpy(z)).argmax(dim=1).numpy() == y
    return float(right.mean() if only is None else right[np.isin(y, only)].mean())


def evidence_of(head: Any, state: Any) -> dict[str, Any]:
    return {
        s.name: state[s.name] for s in head.tensors(Dims(WIDTH, 0, SLOTS)) if s.kind == "evidence"
    }


def expect_same(head: Any, one: Any, two: Any, tolerance: float = 2e-4) -> None:
    for name, value in evidence_of(head, one).items():
        assert (value - two[name]).abs().max() <= tolerance * max(1.0, float(value.abs().max())), (
            name
        )


def test_a_projected_head_keeps_its_promises_and_its_stubs_do_not() -> None:
    assert len(check_identity_stub(HEADS["slda on a hadamard transform, compact"])) == 5


@pytest.mark.parametrize("name", [name for name in HEADS if "compact" not in name])
def test_every_other_form_learns_and_predicts_as_a_head_must(name: str) -> None:
    subject = Subject.of(HEADS[name], Dims(24, 6, 5))
    check_learn(subject)
    check_predict(subject)


def test_three_values_to_a_direction_compile() -> None:
    head = HEADS["ridge on principal directions"]
    state = derived(head, learned(head, *samples([20] * CLASSES, 1)))
    compile_graph(
        "predict",
        lambda ports, t: ({"logits": head.predict(t, ports["z"])}, {}),
        lambda g, b: {"z": torch.randn(b, WIDTH, generator=g)},
        state,
        frozen=head.projection.names,
    )


@pytest.mark.parametrize("name", HEADS)
@settings(max_examples=3, deadline=None)
@given(seed=st.integers(0, 999))
def test_order_does_not_matter_states_merge_by_addition_and_a_negative_weight_forgets(
    name: str, seed: int
) -> None:
    head = HEADS[name]
    rng = np.random.default_rng(seed)
    z, y = samples([12] * CLASSES, seed)
    order = rng.permutation(len(y))
    whole, permuted = learned(head, z, y), learned(head, z[order], y[order])
    expect_same(head, whole, permuted)
    half = order[: len(order) // 2]
    one = learned(head, z[half], y[half])
    two = learned(head, np.delete(z, half, 0), np.delete(y, half))
    expect_same(head, whole, {n: one[n] + two[n] for n in evidence_of(head, one)})
    expect_same(head, added(head, whole, z[half], y[half], -np.ones(len(half))), two, 1e-3)


@pytest.mark.parametrize("name", HEADS)
def test_classes_may_change_places(name: str) -> None:
    head = HEADS[name]
    z, y = samples([15] * CLASSES, 1)
    places = np.random.default_rng(0).permutation(SLOTS)
    judge = torch.from_numpy(samples([40] * CLASSES, 2)[0])
    straight = head.predict(derived(head, learned(head, z, y)), judge)
    moved = head.predict(derived(head, learned(head, z, places[y])), judge)
    np.testing.assert_allclose(
        moved[:, places[:CLASSES]],
        straight[:, :CLASSES],
        rtol=1e-3,
        atol=1e-3 * float(straight[:, :CLASSES].abs().max()),
    )


@pytest.mark.parametrize("name", HEADS)
def test_one_label_per_class_is_far_above_chance(name: str) -> None:
    z, y = samples([1] * CLASSES, 7)
    assert accuracy(HEADS[name], learned(HEADS[name], z, y)) > 2.0 / CLASSES


def test_without_the_floor_under_the_shrinkage_one_label_per_class_is_chance() -> None:
    """The within-class scatter is zero, so a shrinkage relative to it inverts rounding errors."""
    z, y = samples([1] * CLASSES, 7)
    state = learned(StreamingLDA(), z, y)
    h = np.c_[z, np.ones(len(z))].astype(np.float64)
    means = z.astype(np.float64)
    # zero up to rounding
    within = (h.astype(np.float32).T @ h.astype(np.float32)).astype(np.float64)[
        :-1, :-1
    ] - means.T @ means
    naive = np.linalg.solve(within + 1e-2 * np.trace(within) / WIDTH * np.eye(WIDTH), means.T)
    judge, labels = samples([100] * CLASSES, 50)
    answers = (judge @ naive - 0.5 * (means.T * naive).sum(axis=0)).argmax(axis=1)
    assert (
        float((answers == labels).mean())
        < 1.6 / CLASSES
        < 2.0 / CLASSES
        < accuracy(StreamingLDA(), state)
    )


def test_correlated_features_are_worth_points_over_the_nearest_mean() -> None:
    state = derived(StreamingLDA(), learned(StreamingLDA(), *samples([100] * CLASSES, 3, 1.5)))
    nearest = NUMERICS["nearest_mean"](state["mean.moment"].numpy())[0]
    judge, labels = samples([100] * CLASSES, 50, 1.5)
    marks = [
        float(((judge @ weight[:-1] + weight[-1])[:, :CLASSES].argmax(axis=1) == labels).mean())
        for weight in (state["head.weight"].numpy(), nearest)
    ]
    assert marks[0] > marks[1] + 0.05


@pytest.mark.parametrize("name", ["slda", "slda on signs", "slda on principal directions"])
def test_a_class_of_ten_labels_is_not_drowned_by_thousands(name: str) -> None:
    head = HEADS[name]
    state = learned(head, *samples([3000] * (CLASSES - 1) + [10], 4))
    few = [CLASSES - 1]
    balanced = accuracy(head, state, only=few)
    plain = accuracy(replace(head, balance=0.0), state, only=few)
    assert balanced > 0.8 * accuracy(head, learned(head, *samples([3000] * CLASSES, 4)), only=few)
    assert balanced >= plain


def test_the_formula_is_what_plain_numpy_solves() -> None:
    z, y = samples([30, 12, 50, 20, 9, 40], 5)
    h = np.c_[z, np.ones(len(z))].astype(np.float64)
    moment = h.T @ np.eye(SLOTS)[y]
    means = np.array([z[y == k].mean(axis=0, dtype=np.float64) for k in range(CLASSES)])
    within = (z - means[y]).T @ (z - means[y]) / len(z)
    apart = means - means.mean(axis=0)
    total = np.trace(within) + (apart**2).sum() / CLASSES
    inverse = np.linalg.inv(
        within + 0.05 * max(np.trace(within), 0.1 * total) / WIDTH * np.eye(WIDTH)
    )
    expected = (
        z @ inverse @ apart.T
        - 0.5 * np.einsum("kd,de,ke->k", apart, inverse, apart)
        - means.mean(axis=0) @ inverse @ apart.T
    )
    expected += np.trace(inverse @ within) / (2 * np.bincount(y))
    weight, mean, active = slda(h.T @ h, moment, moment, shrinkage=0.05)
    np.testing.assert_allclose((z @ weight[:-1] + weight[-1])[:, :CLASSES], expected, atol=2e-2)
    np.testing.assert_allclose(mean[:CLASSES], means, atol=1e-4)
    assert active.tolist() == [1.0] * CLASSES + [0.0] * 2 and not weight[:, CLASSES:].any()


def test_a_removed_class_leaves_its_scatter_and_takes_its_mean_along() -> None:
    z, y = samples([200] * CLASSES, 6)
    state = learned(StreamingLDA(), z, y)
    for name in ("slda.moment", "mean.moment"):
        state[name] = state[name].clone()
        state[name][:, CLASSES - 1] = 0.0
    known = list(range(CLASSES - 1))
    without = learned(StreamingLDA(), z[y < CLASSES - 1], y[y < CLASSES - 1])
    assert (
        abs(
            accuracy(StreamingLDA(), state, only=known)
            - accuracy(StreamingLDA(), without, only=known)
        )
        < 0.02
    )


def _one_class() -> Any:
    return samples([20], 1)


def _one_sample() -> Any:
    return samples([1], 1)


def _duplicates() -> Any:
    z, _ = samples([1], 1)
    return np.repeat(z, 12, 0), np.repeat(np.arange(3), 4)


def _constant_columns() -> Any:
    z, y = samples([20] * CLASSES, 1)
    z[:, ::2] = 1.0
    return z, y


def _contradicting() -> Any:
    z, y = samples([20] * 3, 1)
    return np.r_[z, z], np.r_[y, (y + 1) % 3]


@pytest.mark.parametrize("name", HEADS)
@pytest.mark.parametrize(
    "bad",
    [_one_class, _one_sample, _duplicates, _constant_columns, _contradicting],
    ids=lambda f: f.__name__[1:],
)
def test_poor_evidence_gives_finite_logits_for_the_classes_it_has(
    name: str, bad: Callable[[], Any]
) -> None:
    z, y = bad()
    state = derived(HEADS[name], learned(HEADS[name], z, y))
    logits = HEADS[name].predict(state, torch.from_numpy(samples([10] * CLASSES, 8)[0]))
    assert bool(logits.isfinite().all()) and set(logits.argmax(dim=1).tolist()) <= set(y.tolist())
    bounds = {s.name: s.bound for s in HEADS[name].tensors(Dims(WIDTH, 0, SLOTS)) if s.bound}
    assert all(float(state[tensor].abs().max()) <= bound for tensor, bound in bounds.items())
    if bad is _constant_columns:
        right = HEADS[name].predict(state, torch.from_numpy(z)).argmax(dim=1).numpy() == y
        assert right.mean() > 0.6


def test_no_evidence_gives_zeros() -> None:
    for value in slda(np.zeros((5, 5)), np.zeros((5, 3)), np.zeros((5, 3))):
        assert not value.any()


def test_what_contradicts_itself_is_refused() -> None:
    with pytest.raises(InputError, match="not both; got 64"):
        Ridge(random_features=64, projection=SignProjection(8))
    for head in (Ridge, StreamingLDA):
        with pytest.raises(InputError, match="compact means are kept in the space of a projection"):
            head(compact=True)


def test_compact_means_read_like_full_ones_where_the_projection_kept_them() -> None:
    z, y = samples([60] * CLASSES, 9)
    full = StreamingLDA(projection=PrincipalProjection(32))
    compact = replace(full, compact=True)
    means = [
        derived(head, learned(head, z, y))["head.mean"].numpy()[:CLASSES]
        for head in (full, compact)
    ]
    cosine = (means[0] * means[1]).sum(axis=1) / np.sqrt(
        (means[0] ** 2).sum(axis=1) * (means[1] ** 2).sum(axis=1)
    )
    assert cosine.min() > 0.98
    assert (
        sum(
            s.shape[0] * s.shape[1]
            for s in compact.tensors(Dims(1280, 0, 32))
            if s.name == "mean.moment"
        )
        == 33 * 32
    )
