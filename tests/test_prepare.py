"""From frame to model input: checked by definition, on every form a frame comes in."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import edgeadapt
from edgeadapt._prepare import resize_bilinear
from edgeadapt.bundle.schema import InputSpec
from edgeadapt.errors import InputError

RGB = InputSpec(layout="NHWC", dtype="uint8", shape=(6, 8, 3), colour="rgb", resize="bilinear")
GRAY = InputSpec(layout="NHW", dtype="uint8", shape=(6, 8), colour="gray", resize="bilinear")
FIRST = InputSpec(layout="NCHW", dtype="float32", shape=(3, 6, 8), range=(0.0, 1.0), colour="rgb")


def frame(height: int = 6, width: int = 8, channels: int = 3, seed: int = 0) -> Any:
    return np.random.default_rng(seed).integers(0, 256, (height, width, channels), np.uint8)


def test_a_frame_that_fits_is_passed_as_it_is() -> None:
    x = edgeadapt.prepare(frame(), RGB)
    np.testing.assert_array_equal(x, frame())
    assert x.dtype == np.uint8 and x.flags.c_contiguous


def test_bgr_frames_are_turned_and_bgr_models_get_bgr() -> None:
    bgr = InputSpec(layout="NHWC", dtype="uint8", shape=(6, 8, 3), colour="bgr")
    np.testing.assert_array_equal(edgeadapt.prepare(frame(), RGB, colour="bgr"), frame()[..., ::-1])
    np.testing.assert_array_equal(edgeadapt.prepare(frame(), bgr), frame()[..., ::-1])
    np.testing.assert_array_equal(edgeadapt.prepare(frame(), bgr, colour="bgr"), frame())


@pytest.mark.parametrize("colour", ["BGR", "gray", "", "yuv"])
def test_an_unknown_colour_order_is_refused_not_guessed(colour: str) -> None:
    with pytest.raises(InputError, match=f"colour is 'rgb' or 'bgr', got '{colour}'"):
        edgeadapt.prepare(frame(), RGB, colour=colour)


def test_gray_is_the_luma_of_colour_and_colour_repeats_gray() -> None:
    expected = np.round(frame().astype(float) @ [0.299, 0.587, 0.114])
    np.testing.assert_allclose(edgeadapt.prepare(frame(), GRAY), expected, atol=1)
    assert edgeadapt.prepare(frame(), GRAY).shape == (6, 8)
    one = frame(channels=1)
    for given in (one, one[..., 0]):
        np.testing.assert_array_equal(edgeadapt.prepare(given, RGB), np.repeat(one, 3, axis=2))
        np.testing.assert_array_equal(edgeadapt.prepare(given, GRAY), one[..., 0])


def test_an_alpha_channel_is_left_out() -> None:
    np.testing.assert_array_equal(
        edgeadapt.prepare(frame(channels=4), RGB), frame(channels=4)[..., :3]
    )


def test_floats_in_0_to_1_are_bytes_over_255() -> None:
    for dtype in (np.float64, np.float32):
        np.testing.assert_array_equal(edgeadapt.prepare(frame().astype(dtype) / 255, RGB), frame())
    mask = frame() > 128
    np.testing.assert_array_equal(edgeadapt.prepare(mask, RGB), mask * 255)


def test_channels_first_and_the_range_of_the_model() -> None:
    x = edgeadapt.prepare(frame(), FIRST)
    assert x.shape == (3, 6, 8) and x.dtype == np.float32 and x.flags.c_contiguous
    np.testing.assert_allclose(x, frame().transpose(2, 0, 1) / 255, atol=1e-6)
    symmetric = InputSpec(
        layout="NHWC", dtype="float32", shape=(6, 8, 3), range=(-1.0, 1.0), colour="rgb"
    )
    np.testing.assert_allclose(
        edgeadapt.prepare(frame(), symmetric), frame() / 127.5 - 1, atol=1e-5
    )


@pytest.mark.parametrize(
    ("bad", "match"),
    [
        (np.zeros((6, 8, 2), np.uint8), r"got shape \(6, 8, 2\)"),
        (np.zeros((1, 6, 8, 3), np.uint8), r"got shape \(1, 6, 8, 3\)"),
        (np.zeros((0, 8, 3), np.uint8), r"got shape \(0, 8, 3\)"),
        ("photo.png", r"got shape \(\)"),
        (None, r"got shape \(\)"),
        (np.zeros((6, 8, 3), np.int32), "got dtype int32"),
        (np.full((6, 8, 3), 2.0), r"lies in 0\.\.1, got 2\.\.2; divide by 255"),
        (np.full((6, 8, 3), -0.1), "lies in 0"),
        (np.full((6, 8, 3), np.nan), "not finite"),
        (np.full((6, 8, 3), np.inf), "not finite"),
    ],
    ids=[
        "two channels",
        "batch",
        "empty",
        "path",
        "nothing",
        "integers",
        "over 1",
        "below 0",
        "nan",
        "inf",
    ],
)
def test_what_is_no_frame_is_refused(bad: Any, match: str) -> None:
    with pytest.raises(InputError, match=match):
        edgeadapt.prepare(bad, RGB)


def test_a_bundle_that_does_not_resize_says_the_size_it_takes() -> None:
    with pytest.raises(InputError, match="takes 6 x 8 frames and does not resize, got 12 x 16"):
        edgeadapt.prepare(frame(12, 16), FIRST)


def test_a_bundle_of_vectors_takes_no_frames() -> None:
    with pytest.raises(InputError, match=r"takes NC vectors of shape \(5,\), not frames"):
        edgeadapt.prepare(frame(), InputSpec(layout="NC", dtype="float32", shape=(5,)))


def test_channels_are_never_dropped_in_silence() -> None:
    plain = InputSpec(layout="NHW", dtype="uint8", shape=(6, 8))
    np.testing.assert_array_equal(
        edgeadapt.prepare(frame(channels=1), plain), frame(channels=1)[..., 0]
    )
    with pytest.raises(
        InputError, match="takes 1 channels without a colour order, got a frame of 3"
    ):
        edgeadapt.prepare(frame(), plain)


def triangle(x: Any, size: int) -> Any:
    """Resize the first axis by the textbook: a triangle of the shrink factor's width around each
    half-pixel centre.
    """
    scale = len(x) / size
    out = np.zeros((size, *x.shape[1:]))
    for i in range(size):
        centre, total = (i + 0.5) * scale - 0.5, 0.0
        for j in range(len(x)):
            weight = max(0.0, 1.0 - abs(j - centre) / max(scale, 1.0))
            out[i] += weight * x[j]
            total += weight
        out[i] /= total
    return out


@pytest.mark.parametrize("size", [(3, 4), (12, 16), (7, 5), (1, 1), (6, 8), (13, 3)], ids=str)
def test_resizing_is_the_textbooks_triangle_filter(size: tuple[int, int]) -> None:
    given = frame().astype(float)
    expected = np.clip(
        np.round(triangle(triangle(given, size[0]).transpose(1, 0, 2), size[1]).transpose(1, 0, 2)),
        0,
        255,
    )
    np.testing.assert_allclose(resize_bilinear(frame(), *size), expected, atol=1)


def test_a_constant_frame_stays_constant_and_stripes_average_out() -> None:
    assert (resize_bilinear(np.full((50, 70, 3), 77, np.uint8), 9, 11) == 77).all()
    stripes = np.zeros((64, 64, 1), np.uint8)
    stripes[::2] = 200
    assert np.abs(resize_bilinear(stripes, 8, 8).astype(int) - 100).max() <= 4
