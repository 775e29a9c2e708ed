"""Projections without a stored matrix keep inner products, and one bit per entry keeps cosines
nearly.
"""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgeadapt.device.numerics.hypervectors import (
    binary_cosine,
    factors,
    hadamard,
    packed,
    project,
    signs,
)
from edgeadapt.errors import InputError


def cosines(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    unit = [
        v / np.linalg.norm(v, axis=1, keepdims=True)
        for v in (a.astype(np.float64), b.astype(np.float64))
    ]
    return unit[0] @ unit[1].T


@pytest.mark.parametrize("size", [1, 2, 8, 32])
def test_the_transform_is_orthogonal_and_symmetric(size: int) -> None:
    matrix = hadamard(size)
    assert np.array_equal(matrix, matrix.T) and np.array_equal(matrix @ matrix, size * np.eye(size))


@settings(max_examples=20, deadline=None)
@given(st.integers(1, 100), st.integers(0, 2**31), st.integers(0, 50))
def test_wide_enough_hypervectors_keep_every_inner_product(
    width: int, seed: int, data: int
) -> None:
    v = np.random.default_rng(data).standard_normal((5, width)).astype(np.float32)
    h = project(v, 128, seed)
    assert h.shape == (5, 128) and np.allclose(h @ h.T, v @ v.T, atol=1e-3)


@pytest.mark.parametrize("width", [64, 256, 1024])
def test_a_sketch_keeps_cosines_within_three_over_the_root_of_its_width(width: int) -> None:
    error = []
    for seed in range(20):
        # a few columns carry most of the energy
        v = np.random.default_rng(seed).standard_normal((12, 1408)) * np.geomspace(1, 30, 1408)
        h = project(v.astype(np.float32), width, seed)
        error.append(np.abs(cosines(h, h) - cosines(v, v)))
    assert (np.array(error) < 3 / np.sqrt(width)).mean() > 0.98 and np.max(error) < 5 / np.sqrt(
        width
    )


def test_the_projection_is_the_matrix_of_signs_and_transform() -> None:
    identity = np.eye(24, dtype=np.float32)
    matrix = project(identity, 32, seed=3)
    assert np.allclose(matrix @ matrix.T, identity, atol=1e-5)
    v = np.random.default_rng(0).standard_normal((3, 24)).astype(np.float32)
    assert np.allclose(project(v, 32, seed=3), v @ matrix, atol=1e-4)


def test_the_same_seed_gives_the_same_signs_for_ever() -> None:
    assert np.array_equal(signs(5, 100), signs(5, 100)) and np.array_equal(
        signs(5, 100)[:40], signs(5, 40)
    )
    assert not np.array_equal(signs(5, 100), signs(6, 100)) and not np.array_equal(
        signs(5, 100), signs(5, 100, part=1)
    )
    assert signs(0, 12).tolist() == SIGNS_OF_SEED_0


SIGNS_OF_SEED_0 = [1.0, -1.0, 1.0, -1.0, -1.0, -1.0, -1.0, -1.0, -1.0, 1.0, 1.0, 1.0]


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 1000))
def test_counting_differing_bits_is_the_cosine_of_signs(seed: int) -> None:
    rng = np.random.default_rng(seed)
    a = rng.standard_normal((4, 64)).astype(np.float32)
    b = rng.standard_normal((3, 64)).astype(np.float32)
    assert packed(a).nbytes == 4 * 8
    assert np.allclose(
        binary_cosine(packed(a), packed(b)),
        cosines(np.where(a >= 0, 1, -1), np.where(b >= 0, 1, -1)),
        atol=1e-6,
    )


def test_no_classes_give_no_cosines() -> None:
    assert binary_cosine(np.zeros((2, 8), np.uint8), np.zeros((0, 8), np.uint8)).shape == (2, 0)


def test_factors_are_powers_of_two() -> None:
    assert [factors(width) for width in (8, 64, 128, 2048)] == [(2, 4), (8, 8), (8, 16), (32, 64)]


@pytest.mark.parametrize("width", [0, 4, 100, -8])
def test_a_width_that_is_no_power_of_two_is_refused(width: int) -> None:
    with pytest.raises(InputError, match=f"power of two, 8 or more, got {width}"):
        project(np.zeros((1, 4), np.float32), width, 0)


def test_vectors_of_the_wrong_shape_are_refused() -> None:
    with pytest.raises(InputError, match=r"\(N, C\)"):
        project(np.zeros(4, np.float32), 8, 0)
    with pytest.raises(InputError, match="of one width"):
        binary_cosine(np.zeros((1, 8), np.uint8), np.zeros((1, 4), np.uint8))
