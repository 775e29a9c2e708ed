"""An ONNX file with its preprocessing: a device gives plain pixels, and the graph does the rest."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper

from edgeadapt.commands._recipe_steps import finished_encoder, say_plain_pixels
from edgeadapt.errors import InputError, RecipeError
from edgeadapt.host import OnnxFile, PixelInput
from edgeadapt.host.compile.emit import Emitted
from edgeadapt.host.compile.session import open_session
from edgeadapt.host.encoders.dispatch import as_encoder
from edgeadapt.host.recipe import load_recipe

RNG = np.random.default_rng(0)
IMAGES = RNG.integers(0, 256, (3, 16, 16, 3), dtype=np.uint8)
KERNEL = RNG.normal(size=(4, 3, 3, 3)).astype(np.float32)
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
FIXED, FREE = ["n", 3, 16, 16], ["n", "a", "b", "c"]
node = helper.make_node
HEAD = [node("Conv", ["x", "kernel"], ["map"]), node("GlobalAveragePool", ["map"], ["out"])]


def written(
    path: Path,
    shape: list[Any] = FIXED,
    before: list[Any] | None = None,
    kind: int = TensorProto.FLOAT,
    said: dict[str, str] | None = None,
    nodes: list[Any] = HEAD,
) -> Path:
    constants = {"kernel": KERNEL, "mean": np.float32(120), "std": np.float32(60)}
    graph = helper.make_graph(
        [*(before or []), *nodes],
        "g",
        [helper.make_tensor_value_info("image" if before else "x", kind, shape)],
        [helper.make_tensor_value_info("out", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(np.asarray(v), name) for name, v in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)
    helper.set_model_props(model, said or {})
    onnx.save(model, str(path))
    return path


def original(file: Path, x: np.ndarray) -> np.ndarray:
    session = onnxruntime.InferenceSession(str(file), providers=["CPUExecutionProvider"])
    out = session.run(None, {session.get_inputs()[0].name: x})[0]
    return np.asarray(out).reshape(len(x), -1)


def encoded(source: Any) -> np.ndarray:
    """Features of plain uint8 images by the graph that ships, with its weights."""
    encoder: Any = as_encoder(source, IMAGES)
    graph = encoder.graph()
    assert graph.ports[0].dtype == "uint8"
    model = onnx.load_from_string(graph.model)
    emitted = Emitted(model, ("x",), (), graph.frozen, ("z", "taps"), ())
    session = open_session("encode", emitted, encoder.frozen, optimised=True)
    return session({"x": torch.from_numpy(IMAGES)}, {})["z"].numpy()


def unit(layout: str = "NCHW", colour: str = "rgb") -> np.ndarray:
    x = IMAGES[..., ::-1] if colour == "bgr" else IMAGES
    x = (x / 255 - np.array(MEAN)) / np.array(STD)
    return np.ascontiguousarray(x.transpose(0, 3, 1, 2) if layout == "NCHW" else x).astype(
        np.float32
    )


@pytest.mark.parametrize("colour", ["rgb", "bgr"])
@pytest.mark.parametrize("layout", ["NCHW", "NHWC"])
def test_plain_images_give_what_the_model_gives_on_preprocessed_ones(
    tmp_path: Path, layout: str, colour: Any
) -> None:
    last = [node("Transpose", ["image"], ["x"], perm=[0, 3, 1, 2])]
    file = written(tmp_path / "net.onnx", FREE, last if layout == "NHWC" else None)
    got = encoded(OnnxFile(file, PixelInput(255, MEAN, STD, colour=colour)))
    want = original(file, unit(layout, colour))
    assert np.abs(got - want).max() < 1e-4 * np.abs(want).max()
    assert np.abs(encoded(str(file)) - want).max() > np.abs(want).max(), (
        "without it the feature is another"
    )


def test_a_layout_that_the_file_leaves_open_or_contradicts_is_refused_by_name(
    tmp_path: Path,
) -> None:
    flat = [node("Flatten", ["x"], ["out"])]
    file = written(tmp_path / "open.onnx", FREE, nodes=flat)
    with pytest.raises(InputError, match=r"where its channels are; give encoder\.input\.layout"):
        as_encoder(file, IMAGES)
    got = encoded(OnnxFile(file, PixelInput(255, layout="NHWC")))
    assert np.allclose(got, IMAGES.reshape(3, -1) / 255, atol=1e-6)
    fixed = written(tmp_path / "fixed.onnx")
    with pytest.raises(
        InputError, match=r"encoder\.input\.layout = 'NHWC' would be \(B, 16, 16, 3\)"
    ):
        as_encoder(OnnxFile(fixed, PixelInput(255, layout="NHWC")), IMAGES)


def test_a_model_that_normalises_is_left_alone_and_not_normalised_twice(tmp_path: Path) -> None:
    own = [node("Sub", ["image", "mean"], ["a"]), node("Div", ["a", "std"], ["x"])]
    file = written(tmp_path / "own.onnx", before=own)
    want = original(file, IMAGES.transpose(0, 3, 1, 2).astype(np.float32))
    assert np.allclose(encoded(str(file)), want, atol=1e-4 * np.abs(want).max())
    with pytest.raises(InputError, match="begins with Sub 'a', so it normalises by itself"):
        as_encoder(OnnxFile(file, PixelInput(255, MEAN, STD)), IMAGES)


def test_a_model_that_takes_bytes_and_casts_them_is_an_encoder(tmp_path: Path) -> None:
    own = [
        node("Transpose", ["image"], ["t"], perm=[0, 3, 1, 2]),
        node("Cast", ["t"], ["c"], to=1),
        node("Div", ["c", "std"], ["x"]),
    ]
    file = written(tmp_path / "bytes.onnx", ["n", 16, 16, 3], own, TensorProto.UINT8)
    want = original(file, IMAGES)
    assert np.allclose(encoded(str(file)), want, atol=1e-4 * np.abs(want).max())


@pytest.mark.parametrize(
    ("span", "scale", "mean"),
    [("NominalRange_0_255", 1, 0), ("Normalized_0_1", 255, 0), ("Normalized_1_1", 127.5, 1)],
)
def test_the_range_and_colour_that_the_metadata_name_are_taken(
    tmp_path: Path, span: str, scale: float, mean: float
) -> None:
    said = {"Image.NominalPixelRange": span, "Image.BitmapPixelFormat": "Bgr8"}
    file = written(tmp_path / "net.onnx", said=said)
    x = IMAGES[..., ::-1].transpose(0, 3, 1, 2).astype(np.float32) / scale - mean
    want = original(file, np.ascontiguousarray(x, np.float32))
    assert np.allclose(encoded(str(file)), want, atol=1e-4 * np.abs(want).max())


def test_metadata_or_values_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    said = {"Image.NominalPixelRange": "NominalRange_16_235"}
    with pytest.raises(
        InputError, match=r"say 'NominalRange_16_235', which is not known; give encoder\.input"
    ):
        as_encoder(written(tmp_path / "net.onnx", said=said), IMAGES)
    file = written(tmp_path / "net.onnx")
    with pytest.raises(InputError, match=r"input\.mean has 2 values, images 3 channels"):
        as_encoder(OnnxFile(file, PixelInput(255, (0.1, 0.2))), IMAGES)
    with pytest.raises(InputError, match="for uint8 images"):
        as_encoder(OnnxFile(file, PixelInput(255)), unit())
    with pytest.raises(InputError, match="above 0 and finite"):
        PixelInput(255, std=(0.0,))


def test_images_have_the_size_that_a_file_fixes_and_plain_pixels_are_said(tmp_path: Path) -> None:
    text = (
        '[encoder]\nfile = "net.onnx"\n[data]\nkind = "folder"\npath = "p"\n[export]\nname = "x"\n'
    )
    (tmp_path / "r.toml").write_text(text)
    file = written(tmp_path / "net.onnx", ["n", 3, 20, 24])
    assert load_recipe(tmp_path / "r.toml").data.size == (20, 24)
    lines: list[str] = []
    say_plain_pixels(file, lines.append)
    assert "gets pixel values from 0 to 255" in lines[0] and "[encoder.input]" in lines[0]
    own = [node("Sub", ["image", "mean"], ["a"]), node("Div", ["a", "std"], ["x"])]
    say_plain_pixels(written(tmp_path / "net.onnx", ["n", 20, 24, 3], own), lines.append)
    assert len(lines) == 1 and load_recipe(tmp_path / "r.toml").data.size == (20, 24)
    written(tmp_path / "net.onnx", FREE)
    assert load_recipe(tmp_path / "r.toml").data.size == (96, 96)


def test_a_recipe_says_what_its_file_expects_and_has_its_size(tmp_path: Path) -> None:
    file = written(tmp_path / "net.onnx")
    text = (
        '[encoder]\nfile = "{}"\n[encoder.input]\nscale = 255\nmean = [0.485, 0.456, 0.406]\nsize ='
        " [16, 16]\n"
    )
    text += '[data]\nkind = "folder"\npath = "p"\n[export]\nname = "x"\n'
    (tmp_path / "r.toml").write_text(text.format("net.onnx"))
    recipe = load_recipe(tmp_path / "r.toml")
    assert recipe.data.size == (16, 16)
    assert finished_encoder(recipe, None) == OnnxFile(str(file), PixelInput(255, MEAN))  # type: ignore[arg-type]
    (tmp_path / "r.toml").write_text(text.format("net.pt2"))
    with pytest.raises(RecipeError, match=r"encoder\.input is what an ONNX file expects"):
        load_recipe(tmp_path / "r.toml")
    (tmp_path / "r.toml").write_text(text.replace("scale = 255\n", "").format("net.onnx"))
    with pytest.raises(RecipeError, match="scale"):
        load_recipe(tmp_path / "r.toml")
