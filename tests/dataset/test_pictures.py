"""Which inputs a PNG holds bit for bit, and which go into the side file as well."""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image

from edgeadapt.bundle.schema import InputSpec
from edgeadapt.dataset.class_folders import folders_of
from edgeadapt.dataset.label_studio import picture_of
from edgeadapt.dataset.pictures import is_whole, written
from edgeadapt.errors import InputError

BYTES = np.random.default_rng(0).integers(0, 256, (6, 5, 3), np.uint8)


@pytest.mark.parametrize(
    ("layout", "colour", "x"),
    [
        ("NHWC", "rgb", BYTES),
        ("NHWC", "bgr", BYTES),
        ("NHW", "gray", BYTES[..., 0]),
        ("NCHW", "rgb", np.ascontiguousarray(BYTES.transpose(2, 0, 1))),
    ],
)
def test_bytes_in_any_layout_and_order_of_colours_come_back_from_their_png(
    layout: str, colour: str, x: np.ndarray
) -> None:
    spec = InputSpec(layout=layout, dtype="uint8", shape=x.shape, colour=colour)
    png = written(x, spec)
    assert png is not None and is_whole(png, x, spec)
    shown = np.asarray(Image.open(io.BytesIO(png)))
    true_colours = BYTES[..., ::-1] if colour == "bgr" else BYTES
    assert np.array_equal(shown, true_colours[..., 0] if colour == "gray" else true_colours)
    assert not is_whole(png, x + np.uint8(1), spec)


def test_floats_are_shown_and_not_said_to_be_whole_and_vectors_are_no_pictures() -> None:
    x = np.random.default_rng(1).random((6, 5, 3), np.float32)
    spec = InputSpec(layout="NHWC", dtype="float32", shape=x.shape, range=(0.0, 1.0), colour="rgb")
    png = written(x, spec)
    assert png is not None and not is_whole(png, x, spec)
    assert abs(np.asarray(Image.open(io.BytesIO(png))) / 255.0 - x).max() < 0.003
    assert written(x[0, 0], InputSpec(layout="NC", dtype="float32", shape=(3,))) is None


def test_no_two_classes_share_a_folder_on_any_file_system() -> None:
    names = ["a/b", "A/B", "..", ".", "a%2Fb", "readme.txt", "x" * 300, "x" * 301, "é", "CON ", ""]
    folders = folders_of(names)
    assert len({folder.lower() for folder in folders.values()}) == len(names)
    assert all("/" not in f and not f.startswith(".") and len(f) <= 210 for f in folders.values())
    assert folders["readme.txt"].lower() != "readme.txt"


@pytest.mark.parametrize("uri", ["data:image/png,AAAA", "data:image/png;base64,@@@@"])
def test_a_picture_in_a_task_that_is_not_base64_is_named(uri: str, tmp_path: object) -> None:
    with pytest.raises(ValueError, match="base64") as caught:
        picture_of({"image": uri}, "task 1", tmp_path)  # type: ignore[arg-type]
    assert not isinstance(caught.value, InputError)
