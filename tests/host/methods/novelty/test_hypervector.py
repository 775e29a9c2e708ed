"""The hyperdimensional gate: seeded, exact where it is wide, mergeable, forgetting; as a graph and
as a classifier.
"""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from edgeadapt.device.numerics.hypervectors import binary_cosine, packed, project
from edgeadapt.device.numerics.linalg import class_direction
from edgeadapt.errors import InputError
from edgeadapt.host.contracts import Dims, FactoryData
from edgeadapt.host.methods.novelty.hypervector import Hypervector
from edgeadapt.testing import check_identity_stub, check_method

LEARN = {
    "learn changes nothing",
    "learn ignores sample_weight",
    "learn decays what was learned before",
}
NOVELTY = {"novelty is constant", "novelty is the norm of its input", "novelty has the wrong sign"}


def factory_data(count: int = 60, features: int = 20, taps: int = 6, seed: int = 0) -> FactoryData:
    rng = np.random.default_rng(seed)
    y = np.arange(count) % 3
    z = (rng.standard_normal((4, features))[y] * 2 + rng.standard_normal((count, features))).astype(
        np.float32
    )
    return FactoryData(
        z,
        (0.2 * rng.standard_normal((count, taps)) + y[:, None]).astype(np.float32),
        y,
        np.ones(count, np.float32),
        5,
    )


def state_of(method: Hypervector, data: FactoryData) -> dict[str, torch.Tensor]:
    values = method.factory(data)
    for numeric in method.numerics():
        values["hypervector.memory"] = class_direction(
            values["hypervector.bundle"], **numeric.arguments
        )[0]
    return {name: torch.from_numpy(value) for name, value in values.items()}


def tensors(data: FactoryData) -> tuple[torch.Tensor, torch.Tensor]:
    return torch.from_numpy(data.z), torch.from_numpy(data.taps)


def cosines(v: np.ndarray, means: np.ndarray) -> np.ndarray:
    return (v / np.linalg.norm(v, axis=1, keepdims=True)) @ (
        means / np.linalg.norm(means, axis=1, keepdims=True)
    ).T


def test_a_hypervector_keeps_its_promises_and_its_stubs_do_not() -> None:
    assert set(check_identity_stub(Hypervector())) == LEARN | NOVELTY


@pytest.mark.slow
def test_promises_hold_with_a_memory_of_one_bit_without_taps() -> None:
    check_method(Hypervector(width=64, bits=1), features=40, taps=0, slots=6)


@settings(max_examples=10, deadline=None)
@given(st.integers(0, 2**31))
def test_wide_hypervectors_score_by_the_exact_cosine_to_class_means(seed: int) -> None:
    data = factory_data()
    method = Hypervector(taps=False, levelled=False, seed=seed)
    unit = data.z / np.linalg.norm(data.z, axis=1, keepdims=True)
    expected = 1 - cosines(data.z, np.stack([unit[data.y == k].sum(axis=0) for k in range(3)])).max(
        axis=1
    )
    z, taps = tensors(data)
    assert np.allclose(
        method.novelty(state_of(method, data), z, taps, z[:, :0]).numpy(), expected, atol=1e-4
    )


def test_the_graph_and_the_device_project_alike() -> None:
    data = factory_data(features=50)
    for width in (64, 16):
        method = Hypervector(width=width, taps=False, levelled=False, seed=4)
        z, taps = tensors(data)
        mine = method.hypervectors(state_of(method, data), z, taps).numpy()
        theirs = project(data.z, width, seed=4)
        assert np.allclose(mine, theirs / np.linalg.norm(theirs, axis=1, keepdims=True), atol=1e-4)


def test_levelled_groups_weigh_the_same_and_a_group_of_zeros_weighs_nothing() -> None:
    data = factory_data()
    loud = FactoryData(1000 * data.z, data.taps, data.y, data.sample_weight, 5)
    method = Hypervector()
    scores = [
        method.novelty(state_of(method, d), *tensors(d), torch.zeros(60, 0)).numpy()
        for d in (data, loud)
    ]
    assert np.allclose(*scores, atol=1e-3)
    silent = FactoryData(data.z, 0 * data.taps, data.y, data.sample_weight, 5)
    assert np.isfinite(
        method.novelty(state_of(method, silent), *tensors(silent), torch.zeros(60, 0)).numpy()
    ).all()


@settings(max_examples=8, deadline=None)
@given(st.integers(1, 59), st.integers(0, 100))
def test_bundles_merge_and_forget_in_any_order(cut: int, seed: int) -> None:
    data, method = factory_data(), Hypervector()
    t = state_of(method, data)
    z, taps = tensors(data)
    y, one = torch.from_numpy(data.y), torch.ones(60)
    order = torch.from_numpy(np.random.default_rng(seed).permutation(60))

    def learned(rows: torch.Tensor, start: torch.Tensor, sign: float) -> torch.Tensor:
        return method.learn(
            {**t, "hypervector.bundle": start}, z[rows], taps[rows], y[rows], sign * one[rows]
        )["hypervector.bundle"]

    empty = torch.zeros_like(t["hypervector.bundle"])
    whole = learned(torch.arange(60), empty, 1.0)
    first, second = order[:cut], order[cut:]
    assert torch.allclose(
        learned(first, empty, 1.0) + learned(second, empty, 1.0), whole, atol=1e-5
    )
    assert torch.allclose(learned(second, whole, -1.0), learned(first, empty, 1.0), atol=1e-5)


def test_sums_of_signs_are_whole_numbers() -> None:
    bundle = Hypervector(bits=1).factory(factory_data())["hypervector.bundle"]
    assert np.array_equal(bundle, np.round(bundle)) and np.abs(bundle[:-1]).max() <= 20


def test_one_bit_in_the_graph_is_what_counting_bits_gives() -> None:
    data, method = factory_data(), Hypervector(width=64, bits=1)
    t = state_of(method, data)
    z, taps = tensors(data)
    h, memory = method.hypervectors(t, z, taps).numpy(), t["hypervector.memory"].numpy()[:3]
    assert np.allclose(
        method.cosines(t, z, taps).numpy()[:, :3],
        binary_cosine(packed(h), packed(memory)),
        atol=1e-5,
    )


def test_few_bits_change_cosines_little() -> None:
    data = factory_data(features=200)
    z, taps = tensors(data)
    exact, eight, one = (
        m.cosines(state_of(m, data), z, taps).numpy()[:, :3]
        for m in (Hypervector(), Hypervector(bits=8), Hypervector(bits=1, width=1024))
    )
    assert np.abs(exact - eight).max() < 0.01
    assert (exact.argmax(axis=1) == one.argmax(axis=1)).mean() > 0.9


def test_bundles_classify() -> None:
    data, method = factory_data(), Hypervector()
    predicted = method.classify(state_of(method, data), *tensors(factory_data(seed=0))).numpy()
    assert (predicted == data.y).mean() > 0.9


def test_without_any_evidence_everything_is_novel() -> None:
    data, method = factory_data(), Hypervector()
    t = state_of(method, data)
    t["hypervector.bundle"] = torch.zeros_like(t["hypervector.bundle"])
    assert torch.equal(
        method.novelty(t, *tensors(data), torch.zeros(60, 0)), torch.full((60,), 2.0)
    )


def test_a_single_sample_of_zeros_gives_finite_scores() -> None:
    data = FactoryData(
        np.zeros((1, 8), np.float32),
        np.zeros((1, 0), np.float32),
        np.zeros(1, np.int64),
        np.ones(1, np.float32),
        3,
    )
    for method in (Hypervector(), Hypervector(bits=1), Hypervector(centred=True, normalised=True)):
        assert bool(
            method.novelty(state_of(method, data), *tensors(data), torch.zeros(1, 0))
            .isfinite()
            .all()
        )


def test_the_width_follows_the_columns_unless_it_is_given() -> None:
    assert [
        Hypervector().width_for(Dims(d, t, 4))
        for d, t in ((96, 96), (24, 0), (1280, 128), (4096, 0))
    ] == [256, 32, 2048, 2048]
    with pytest.raises(InputError, match="power of two"):
        Hypervector(width=1000)
