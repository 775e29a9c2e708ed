"""Projections keep what they promise: the same from the same seed, inner products, orthogonal rows,
and a way back for class means.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from edgeadapt.bundle.packed_gram import packed_size, unpacked
from edgeadapt.device.numerics.back_projection import back_projection, projected_matrix
from edgeadapt.errors import InputError
from edgeadapt.host.contracts import FactoryData
from edgeadapt.host.methods.heads.packed_gram import added_gram
from edgeadapt.host.methods.heads.projection import (
    HadamardProjection,
    PrincipalProjection,
    Projection,
    SignProjection,
    pack_digits,
    walsh_hadamard,
)

KINDS: list[Any] = [SignProjection, HadamardProjection, PrincipalProjection]
SEEDED: list[Any] = KINDS[:2]


def data_of(z: Any) -> FactoryData:
    z = np.asarray(z, np.float32)
    return FactoryData(
        z,
        np.zeros((len(z), 0), np.float32),
        np.zeros(len(z), np.int64),
        np.ones(len(z), np.float32),
        4,
    )


def made(projection: Projection, z: Any) -> dict[str, Any]:
    return {name: torch.from_numpy(value) for name, value in projection.factory(data_of(z)).items()}


def matrix(projection: Projection, z: Any) -> Any:
    """(D, M) as the torch function applies it."""
    t = made(projection, z)
    return projection.apply(t, torch.eye(np.shape(z)[1]) + t["projection.centre"]).numpy()


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=10, deadline=None)
@given(features=st.integers(3, 70), seed=st.integers(0, 9), share=st.floats(0.1, 1.0))
def test_the_same_seed_gives_the_same_projection_whose_tensors_are_declared(
    kind: Any, features: int, seed: int, share: float
) -> None:
    projection = kind(max(1, int(share * features)), seed)
    z = np.random.default_rng(seed).standard_normal((40, features))
    one, two = projection.factory(data_of(z)), projection.factory(data_of(z))
    declared = {spec.name: (spec.dtype, spec.shape) for spec in projection.tensors(features)}
    assert {
        name: (str(value.dtype), value.shape) for name, value in one.items()
    } == declared and set(projection.names) == set(declared)
    assert all(np.array_equal(one[name], two[name]) for name in one)
    exact = projected_matrix(
        features, projection.width, *(one[name] for name in projection.names[1:])
    )
    # numpy on the device reads the same P as the graph
    np.testing.assert_allclose(matrix(projection, z), exact, atol=1e-5)


@pytest.mark.parametrize("kind", SEEDED)
def test_another_seed_gives_another_projection(kind: Any) -> None:
    z = np.zeros((1, 30))
    assert not np.array_equal(matrix(kind(8, 0), z), matrix(kind(8, 1), z))


@pytest.mark.parametrize("kind", SEEDED)
@pytest.mark.parametrize("width", [64, 192])
def test_inner_products_are_kept_up_to_three_over_the_root_of_the_width(
    kind: Any, width: int
) -> None:
    z = np.random.default_rng(1).standard_normal((30, 300)).astype(np.float32)
    z /= np.sqrt((z**2).sum(axis=1, keepdims=True))
    z -= z.mean(axis=0)
    projection = kind(width, 5)
    t = made(projection, np.zeros((1, 300)))
    p = projection.apply(t, torch.from_numpy(z)).numpy() * np.sqrt(
        width * np.var(matrix(projection, np.zeros((1, 300))))
    )
    error = np.abs(p @ p.T - z @ z.T)[np.triu_indices(30)]
    assert np.mean(error < 3.0 / np.sqrt(width)) > 0.99 and np.sqrt(
        (error**2).mean()
    ) < 1.5 / np.sqrt(width)


@pytest.mark.parametrize("features", [8, 64, 128])
def test_hadamard_rows_are_orthogonal_where_the_width_of_the_features_is_a_power_of_two(
    features: int,
) -> None:
    width = features // 2
    p = matrix(HadamardProjection(width, 3), np.zeros((1, features))) * np.sqrt(width / features)
    np.testing.assert_allclose(p.T @ p, np.eye(width), atol=1e-5)


def test_two_small_matrices_make_the_whole_walsh_hadamard_transform() -> None:
    np.testing.assert_array_equal(np.kron(walsh_hadamard(4), walsh_hadamard(8)), walsh_hadamard(32))
    np.testing.assert_array_equal(walsh_hadamard(32) @ walsh_hadamard(32).T, 32 * np.eye(32))


@settings(max_examples=20, deadline=None)
@given(st.integers(1, 23), st.integers(1, 6), st.integers(0, 99))
def test_five_digits_to_a_byte_come_back_exactly(rows: int, columns: int, seed: int) -> None:
    signs = np.random.default_rng(seed).integers(-1, 2, (rows, columns)).astype(np.int8)
    assert pack_digits(signs).shape == (-(-rows // 5), columns)
    np.testing.assert_array_equal(
        np.round(projected_matrix(rows, columns, pack_digits(signs)) * np.sqrt(columns)), signs
    )


def test_principal_directions_find_the_plane_that_the_samples_lie_in() -> None:
    rng = np.random.default_rng(0)
    plane = np.zeros((2, 40))
    plane[0, :20], plane[1, 20:] = 1.0, -1.0
    z = rng.standard_normal((200, 2)) * [3.0, 1.0] @ plane + 0.01 * rng.standard_normal((200, 40))
    p = matrix(PrincipalProjection(2), z)
    kept = p @ np.linalg.pinv(p) @ plane.T
    np.testing.assert_allclose(kept, plane.T, atol=0.3)


@pytest.mark.parametrize(
    "z",
    [np.ones((1, 20)), np.ones((50, 20)), np.eye(20)[:3]],
    ids=["one sample", "duplicates", "three samples"],
)
def test_directions_that_the_factory_samples_do_not_span_are_drawn_from_the_seed(z: Any) -> None:
    p = matrix(PrincipalProjection(10, 4), z)
    assert np.isfinite(p).all() and (np.abs(p).max(axis=0) > 0).all()
    assert np.linalg.matrix_rank(p) == 10


@pytest.mark.parametrize("kind", KINDS)
def test_a_class_mean_in_the_span_comes_back_and_an_inactive_one_stays_zero(kind: Any) -> None:
    rng = np.random.default_rng(2)
    z = rng.standard_normal((100, 32)) + 3.0
    projection = kind(12, 1)
    made_of = projection.factory(data_of(z))
    p = projected_matrix(32, 12, *(made_of[name] for name in projection.names[1:]))
    mean = made_of["projection.centre"] + p @ rng.standard_normal(12)
    places = np.stack([(mean - made_of["projection.centre"]) @ p, np.zeros(12)]).astype(np.float32)
    (back,) = back_projection(places, *(made_of[name] for name in projection.names))
    np.testing.assert_allclose(back[0], mean, atol=1e-2)
    assert not back[1].any() and back.dtype == np.float32


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("width", [0, 21])
def test_a_width_that_is_no_projection_is_refused(kind: Any, width: int) -> None:
    with pytest.raises(InputError, match=f"width from 1 to 20, got {width}"):
        kind(width).tensors(20)


@pytest.mark.parametrize("kind", KINDS)
def test_no_factory_samples_are_refused(kind: Any) -> None:
    with pytest.raises(InputError, match="there are none"):
        kind(2).factory(data_of(np.zeros((0, 5))))


@settings(max_examples=20, deadline=None)
@given(width=st.integers(1, 40), seed=st.integers(0, 99))
def test_a_packed_gram_matrix_is_the_square_one(width: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    h = torch.from_numpy(rng.standard_normal((9, width)).astype(np.float32))
    weight = torch.from_numpy(rng.standard_normal(9).astype(np.float32))
    packed = added_gram(torch.zeros(packed_size(width)), h, weight)
    square = added_gram(torch.zeros(width, width), h, weight)
    np.testing.assert_allclose(unpacked(packed.numpy(), width), square, atol=1e-4)
    assert np.array_equal(unpacked(square.numpy(), width), square)


@pytest.mark.parametrize("width", [65, 257, 513])
def test_packing_saves_four_tenths(width: int) -> None:
    assert packed_size(width) < 0.585 * width**2
