"""The door by itself: shapes, labels, and what the first frames give away."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import pytest

from edgeadapt.bundle.schema import InputSpec
from edgeadapt.errors import InputError, InputWarning, UnknownClassError
from edgeadapt.inputs import (
    FirstFrames,
    check_batch,
    check_features,
    check_finite,
    check_labels,
    chunks,
    to_numpy,
    unknown_class_message,
)

RGB = InputSpec(
    layout="NHWC",
    dtype="uint8",
    shape=(8, 8, 3),
    colour="rgb",
    mean=(120.0, 100.0, 60.0),
    std=(30.0, 30.0, 30.0),
)
FLOAT = InputSpec(
    layout="NCHW",
    dtype="float32",
    shape=(3, 8, 8),
    range=(0.0, 1.0),
    colour="rgb",
    mean=(0.5, 0.4, 0.2),
    std=(0.1, 0.1, 0.1),
)
CLASSES = {"cat": 0, "dog": 2, "doe": 5}


def frames(count: int, seed: int = 0) -> Any:
    """(N, 8, 8, 3) uint8 with the channel means of calibration."""
    noise = np.random.default_rng(seed).normal(0, 30, (count, 8, 8, 3))
    return np.clip(noise + np.array(RGB.mean), 0, 255).astype(np.uint8)


def warned(spec: InputSpec, x: Any, size: int = 16) -> str:
    first_frames = FirstFrames(spec)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for part in chunks(len(x), size):
            if first_frames.is_active:
                first_frames.add(x[part])
    assert all(issubclass(w.category, InputWarning) for w in caught) and len(caught) <= 1
    return str(caught[0].message) if caught else ""


def test_frames_like_calibration_pass_in_silence_and_it_stops_looking() -> None:
    assert warned(RGB, frames(200)) == ""
    first_frames = FirstFrames(RGB, frames=10)
    first_frames.add(frames(10))
    assert not first_frames.is_active


def test_swapped_channels_are_named() -> None:
    told = warned(RGB, frames(64)[..., ::-1])
    assert "the first 64 inputs have channel means" in told and told.endswith(
        "swap the colour channels (rgb <-> bgr)"
    )


def test_a_missing_and_a_superfluous_factor_of_255_are_named() -> None:
    low = frames(64).transpose(0, 3, 1, 2).astype(np.float32) / 255
    over = InputSpec(layout="NCHW", dtype="float32", shape=(3, 8, 8), mean=RGB.mean, std=RGB.std)
    assert warned(over, low).endswith("multiply the inputs by 255")
    under = InputSpec(
        layout="NCHW",
        dtype="float32",
        shape=(3, 8, 8),
        mean=tuple(m / 255 for m in RGB.mean),
        std=tuple(s / 255 for s in RGB.std),
    )
    assert warned(under, low * 255).endswith("divide the inputs by 255")


def test_darkness_is_not_a_swapped_channel() -> None:
    assert warned(RGB, frames(64) // 2) == ""


def test_gray_and_vector_inputs_are_looked_at_without_channels_or_not_at_all() -> None:
    gray = InputSpec(layout="NHW", dtype="uint8", shape=(8, 8), mean=(100.0,), std=(30.0,))
    assert warned(gray, np.full((64, 8, 8), 110, np.uint8)) == ""
    assert not FirstFrames(
        InputSpec(layout="NC", dtype="float32", shape=(3,), mean=(0.0,), std=(1.0,))
    ).is_active
    assert not FirstFrames(InputSpec(layout="NHWC", dtype="uint8", shape=(8, 8, 3))).is_active


def test_values_outside_the_range_of_the_model_are_refused_with_both() -> None:
    x = np.zeros((2, 3, 8, 8), np.float32)
    assert check_batch(x, FLOAT).shape == x.shape
    x[0, 0, 0, 0] = 200
    with pytest.raises(InputError, match=r"inputs lie in 0\.\.1, got 0\.\.200"):
        check_batch(x, FLOAT)
    with pytest.raises(InputError, match=r"got -1\.\.0"):
        check_batch(np.minimum(-x, 0) / 200, FLOAT)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_a_value_that_is_not_finite_is_named_with_its_place(bad: float) -> None:
    x = np.zeros((2, 3, 8, 8), np.float32)
    x[1, 2, 3, 4] = bad
    with pytest.raises(InputError, match=rf"input has the value {bad} at \(1, 2, 3, 4\)"):
        check_batch(x, FLOAT)


def test_finite_values_whose_sum_overflows_are_accepted() -> None:
    with np.errstate(over="ignore"):
        check_finite(np.full(4, 3e38, np.float32), "input")


def test_the_other_memory_layout_is_recognised() -> None:
    with pytest.raises(InputError, match=r"this looks like NHWC: transpose\(0, 3, 1, 2\)"):
        check_batch(np.zeros((2, 8, 8, 3), np.float32), FLOAT)
    with pytest.raises(InputError, match=r"this looks like NCHW: transpose\(0, 2, 3, 1\)"):
        check_batch(np.zeros((2, 3, 8, 8), np.uint8), RGB)


def test_wider_floats_are_narrowed_and_integers_are_not_guessed() -> None:
    for dtype in (np.float64, np.float16):
        assert check_batch(np.zeros((1, 3, 8, 8), dtype), FLOAT).dtype == np.float32
    with pytest.raises(InputError, match="inputs are float32, got uint8"):
        check_batch(np.zeros((1, 3, 8, 8), np.uint8), FLOAT)


def test_what_comes_out_is_contiguous() -> None:
    x = frames(4)[::2, :, ::-1]
    got = check_batch(x, RGB)
    assert got.flags.c_contiguous
    np.testing.assert_array_equal(got, x)


def test_anything_with_dlpack_is_taken() -> None:
    class Foreign:
        def __init__(self, array: Any) -> None:
            self.array = array

        def __dlpack__(self, **settings: Any) -> Any:
            return self.array.__dlpack__(**settings)

        def __dlpack_device__(self) -> Any:
            return self.array.__dlpack_device__()

    np.testing.assert_array_equal(to_numpy(Foreign(frames(2))), frames(2))

    class Elsewhere(Foreign):
        def __dlpack__(self, **settings: Any) -> Any:
            raise BufferError("it lies on a GPU")

    with pytest.raises(
        InputError,
        match="cannot take Elsewhere through DLPack: it lies on a GPU; move it to the host first",
    ):
        to_numpy(Elsewhere(frames(2)))


def test_one_feature_vector_is_a_batch_of_one() -> None:
    z, taps = check_features({"z": np.zeros(4)}, 4, 0)
    assert z.shape == (1, 4) and z.dtype == np.float32 and taps.shape == (1, 0)


@pytest.mark.parametrize(
    "labels",
    [
        ["cat", "doe"],
        ("cat", "doe"),
        np.array(["cat", "doe"]),
        [0, 5],
        np.array([0, 5]),
        [np.int64(0), np.str_("doe")],
    ],
    ids=repr,
)
def test_labels_are_names_or_ids(labels: Any) -> None:
    assert check_labels(labels, 2, CLASSES) == ("cat", "doe")


@pytest.mark.parametrize("label", ["dog", 2, np.int64(2), np.uint8(2)], ids=repr)
def test_one_label_needs_no_list(label: Any) -> None:
    assert check_labels(label, 1, CLASSES) == ("dog",)


@pytest.mark.parametrize("label", [1.0, None, True, np.bool_(False), b"cat", ("cat",)], ids=repr)
def test_what_is_neither_is_refused(label: Any) -> None:
    with pytest.raises(InputError, match="a label is a class name or a class id"):
        check_labels([label], 1, CLASSES)


def test_unknown_labels_are_told_what_is_closest_and_which_ids_there_are() -> None:
    with pytest.raises(UnknownClassError) as told:
        check_labels("dgo", 1, CLASSES)
    assert (
        str(told.value) == "unknown class 'dgo'; closest: 'dog'; learner.add_class('dgo') adds it"
    )
    with pytest.raises(UnknownClassError, match=r"no class has the id 1; ids are 0\.\.5"):
        check_labels([1], 1, CLASSES)
    with pytest.raises(UnknownClassError, match="no class has the id -1"):
        check_labels([-1], 1, CLASSES)
    assert (
        unknown_class_message("zebra", [])
        == "unknown class 'zebra'; learner.add_class('zebra') adds it"
    )
    assert check_labels(["cat", "zebra"], 2, CLASSES, refuse_unknown=False) == ("cat", "zebra")


def test_chunks_cover_everything_once() -> None:
    assert [(c.start, c.stop) for c in chunks(70, 32)] == [(0, 32), (32, 64), (64, 70)]
    assert list(chunks(0, 32)) == []
