"""Numbers of a delta as bytes and back: exact sizes, stated errors, and damage found."""

from __future__ import annotations

import math
from itertools import pairwise
from statistics import NormalDist

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgeadapt.errors import InputError
from edgeadapt.host.tuning.codecs import CODECS, codebook, codec, whole_codec

BITS = {"8bit": 8, "4bit": 4, "2bit": 2, "1bit": 1}
shapes = st.lists(st.integers(1, 9), max_size=3).map(tuple)


def drawn(shape: tuple[int, ...], seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(0.3, 2.0, shape).astype(np.float32)


@pytest.mark.parametrize("name", CODECS)
@given(shape=shapes, seed=st.integers(0, 99))
def test_sizes_are_exact_and_shapes_come_back(name: str, shape: tuple[int, ...], seed: int) -> None:
    one, value = codec(name), drawn(shape, seed)
    data = one.encode(value)
    count = math.prod(shape)
    each = {"float32": 4 * count, "float16": 2 * count}
    assert len(data) == one.nbytes(shape)
    assert len(data) == each.get(name, math.ceil(count * BITS.get(name, 0) / 8) + 8)
    back = one.decode(data, shape)
    assert back.shape == shape and back.dtype == np.float32 and np.isfinite(back).all()
    assert one.encode(value) == data and np.array_equal(one.decode(data, shape), back)


@pytest.mark.parametrize("bits", BITS.values())
def test_codes_are_medians_of_their_cells_and_boundaries_lie_halfway(bits: int) -> None:
    normal, codes = NormalDist(), codebook(bits).astype(float)
    assert len(codes) == 2**bits and np.array_equal(codes, -codes[::-1])
    inner = (codes[1:] + codes[:-1]) / 2
    mass = [0.0, *(normal.cdf(one) for one in inner), 1.0]
    medians = [normal.inv_cdf((low + high) / 2) for low, high in pairwise(mass)]
    assert np.abs(codes - medians).max() < 3e-6


def test_one_bit_is_the_published_code() -> None:
    assert np.allclose(codebook(1), [-0.6745, 0.6745], atol=1e-4)


def test_the_mean_error_of_a_normal_is_that_of_the_rule() -> None:
    value = np.random.default_rng(0).normal(size=200_000).astype(np.float32)
    error = {
        bits: float(
            np.abs(codec(name).decode(codec(name).encode(value), value.shape) - value).mean()
        )
        for name, bits in BITS.items()
    }
    assert error[1] == pytest.approx(0.473, abs=1e-3)  # the centroid, +-0.7979, has .482
    assert np.abs(np.abs(value) - 0.7979).mean() > error[1] + 5e-3
    assert error[2] < error[1] / 1.7 and error[4] < error[2] / 3 and error[8] < error[4] / 12


@pytest.mark.parametrize("name", BITS)
def test_every_value_gets_the_nearest_of_the_codes(name: str) -> None:
    value = drawn((7, 11))
    back = codec(name).decode(codec(name).encode(value), value.shape)
    table = codebook(BITS[name]) * np.float32(value.astype(float).std()) + np.float32(
        value.astype(float).mean()
    )
    nearest = np.abs(value[..., None].astype(float) - table.astype(float)).min(-1)
    assert np.isin(back, table).all()
    assert np.allclose(np.abs(back.astype(float) - value), nearest, atol=0, rtol=0)


def test_floats_round_to_the_nearest() -> None:
    value = drawn((5, 3))
    assert np.array_equal(codec("float32").decode(codec("float32").encode(value), (5, 3)), value)
    half = codec("float16").decode(codec("float16").encode(value), (5, 3))
    assert np.array_equal(half, value.astype(np.float16).astype(np.float32))


@pytest.mark.parametrize("name", BITS)
@given(
    value=st.floats(width=32, allow_nan=False, allow_infinity=False),
    count=st.integers(1, 33),
)
def test_one_element_zeros_and_constants_come_back_exactly(
    name: str, value: float, count: int
) -> None:
    constant = np.full(count, value, np.float32)
    back = codec(name).decode(codec(name).encode(constant), (count,))
    assert np.array_equal(back, constant)


@pytest.mark.parametrize("name", CODECS)
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_what_is_not_finite_is_refused(name: str, bad: float) -> None:
    with pytest.raises(InputError, match=name):
        codec(name).encode(np.array([1.0, bad], np.float32))


def test_what_a_codec_cannot_hold_is_refused() -> None:
    with pytest.raises(InputError, match="float16 cannot hold"):
        codec("float16").encode(np.array([70_000.0], np.float32))
    with pytest.raises(InputError, match="8bit cannot hold values as large as 3e"):
        codec("8bit").encode(np.array([3e38, -3e38], np.float32))
    with pytest.raises(InputError, match="no codec 'int8'; there are float32, float16, 8bit"):
        codec("int8")


def test_a_classifier_that_float16_cannot_hold_is_kept_in_float32() -> None:
    small, large = np.ones((2, 3), np.float32), np.full((2, 3), -7e4, np.float32)
    assert whole_codec([]) == whole_codec([small, np.zeros(0)]) == "float16"
    assert whole_codec([small, large]) == "float32"


@pytest.mark.parametrize("name", CODECS)
@pytest.mark.parametrize("change", [-1, 1])
def test_another_length_is_refused(name: str, change: int) -> None:
    data = codec(name).encode(drawn((3, 5)))
    other = data[:change] if change < 0 else data + b"\0"
    with pytest.raises(InputError, match=r"bytes for a tensor \(3, 5\)"):
        codec(name).decode(other, (3, 5))


@pytest.mark.parametrize("name", CODECS)
def test_bytes_that_no_value_has_are_refused(name: str) -> None:
    infinite = np.array([np.inf, 1.0], "<f2" if name == "float16" else "<f4").tobytes()
    data = infinite + codec(name).encode(np.zeros(2))[len(infinite) :]
    with pytest.raises(InputError, match=f"{name}: damaged"):
        codec(name).decode(data, (2,))


@pytest.mark.parametrize("name", BITS)
def test_moments_that_make_no_values_are_refused(name: str) -> None:
    for mean, deviation in [(0.0, -1.0), (3e38, 3e38), (0.0, math.nan)]:
        start = np.array([mean, deviation], "<f4").tobytes()
        data = start + b"\xff" * (codec(name).nbytes((8,)) - 8)
        with pytest.raises(InputError, match=f"{name}: damaged"):
            codec(name).decode(data, (8,))


def test_bits_behind_the_last_value_are_refused() -> None:
    data = codec("1bit").encode(drawn((3,)))
    with pytest.raises(InputError, match="bits behind the last value are set"):
        codec("1bit").decode(data[:-1] + bytes([data[-1] | 0x80]), (3,))


def test_bytes_of_one_bit_adapters_are_the_published_ones() -> None:
    """Twelve adapters of width h in a ViT-B, two matrices each, and the mean head of 19 tasks."""
    one, head = codec("1bit"), codec("1bit").nbytes((495, 768)) / 10
    kib = {h: (12 * 2 * (one.nbytes((768, h)) - 8) + head) / 1024 for h in (1, 32)}
    assert kib[32] == pytest.approx(76.6, abs=0.05) and kib[1] == pytest.approx(6.9, abs=0.05)
