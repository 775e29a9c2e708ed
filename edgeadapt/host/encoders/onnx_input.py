"""What an ONNX file expects of pixels, said by hand, or by the file; it becomes part of the graph.

Source of the metadata: ONNX, ``docs/MetadataProps.md``.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import ModelProto, NodeProto

from edgeadapt.errors import InputError

Layout = Literal["", "NCHW", "NHWC"]
Colour = Literal["rgb", "bgr"]
_SAME_AXES = {
    "Identity",
    "Cast",
    "Sub",
    "Div",
    "Mul",
    "Add",
    "Clip",
    "QuantizeLinear",
    "DequantizeLinear",
}
_CHANNELS_FIRST = {
    "Conv",
    "BatchNormalization",
    "MaxPool",
    "AveragePool",
    "GlobalAveragePool",
    "InstanceNormalization",
}
_RANGES = {
    "NominalRange_0_255": (1.0, 0.0),
    "Normalized_0_1": (255.0, 0.0),
    "Normalized_1_1": (127.5, 1.0),
}
_ORDERS: dict[str, Colour] = {"Rgb8": "rgb", "Bgr8": "bgr", "Gray8": "rgb"}


@dataclass(frozen=True)
class PixelInput:
    """``(pixel / scale - mean) / std``, pixels from 0 to 255.

    Attributes:
        scale: 255 for a network that was trained on images in [0, 1], 1 for one on pixel values.
        mean, std: one value, or one for every channel in the network's order.
        layout: of the model's input; empty: as its shape, or else its first operators, say.
        colour: the order of three channels.
    """

    scale: float
    mean: tuple[float, ...] = (0.0,)
    std: tuple[float, ...] = (1.0,)
    layout: Layout = ""
    colour: Colour = "rgb"

    def __post_init__(self) -> None:
        values = np.array([self.scale, *self.mean, *self.std], np.float64)
        if not np.isfinite(values).all() or min(self.scale, *self.std) <= 0 or not self.mean:
            raise InputError(
                f"an input has a scale and stds above 0 and finite means; got scale {self.scale:g},"
                f" mean {self.mean}, std {self.std}"
            )

    def moments(self, channels: int) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Mean and standard deviation (C,) in pixel values.

        Raises:
            InputError: another number of channels.
        """
        for name, values in (("mean", self.mean), ("std", self.std)):
            if len(values) not in (1, channels):
                raise InputError(
                    f"input.{name} has {len(values)} values, images {channels} channels"
                )
        if self.colour == "bgr" and channels != 3:
            raise InputError(f'input.colour = "bgr" is of three channels; images have {channels}')
        mean, std = (
            np.resize(np.array(v, np.float64) * self.scale, channels) for v in (self.mean, self.std)
        )
        return mean.astype(np.float32), std.astype(np.float32)

    @property
    def changes_nothing(self) -> bool:
        is_unit = self.scale == 1 and not any(self.mean) and all(v == 1 for v in self.std)
        return is_unit and self.colour == "rgb"

    def applied(self, images: NDArray[np.float32]) -> NDArray[np.float32]:
        """Images (B, C, H, W) of pixel values as the model takes them, step by step as defined."""
        self.moments(images.shape[1])
        shape = (1, -1, 1, 1)
        x = images[:, ::-1] if self.colour == "bgr" else images
        mean, std = (np.array(v, np.float32).reshape(shape) for v in (self.mean, self.std))
        return np.asarray((x / np.float32(self.scale) - mean) / std, np.float32)


@dataclass(frozen=True)
class OnnxFile:
    """An ONNX file with its preprocessing, for ``host.export``.

    >>> pixels = PixelInput(255, (0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    >>> encoder = OnnxFile("net.onnx", pixels)
    """

    path: str | os.PathLike[str]
    input: PixelInput


def pixel_input(
    file: Path, model: ModelProto, port: str, given: PixelInput | None
) -> PixelInput | None:
    """What was given, or what the file's metadata say; None: pixel values go in as they are.

    Raises:
        InputError: it is given for a model that normalises by itself; a range that is not known.
    """
    own = normalises_by(model, port)
    if given is not None:
        if own is not None and not given.changes_nothing:
            raise InputError(
                f"{file}: begins with {own.op_type} {own.name or own.output[0]!r}, so it normalises"
                " by itself: leave out encoder.input, or give scale = 1 alone"
            )
        return given
    said = {entry.key: entry.value for entry in model.metadata_props}
    span, order = said.get("Image.NominalPixelRange"), said.get("Image.BitmapPixelFormat", "Rgb8")
    if span is None and order == "Rgb8":
        return None
    if span not in (None, *_RANGES) or order not in _ORDERS:
        raise InputError(
            f"{file}: its metadata say {span or order!r}, which is not known; give encoder.input"
        )
    scale, mean = _RANGES[span or "NominalRange_0_255"]
    found = PixelInput(scale, (mean,), colour=_ORDERS[order])
    if own is not None and scale != 1:
        return PixelInput(1, colour=_ORDERS[order])  # the metadata are of what comes behind
    return None if found.changes_nothing else found


def own_size(file: Path) -> tuple[int, int] | None:
    """(height, width) of the images a file takes, where its input's shape fixes them.

    Raises:
        InputError: not a readable model.
    """
    model = _read(file)
    constants = {tensor.name for tensor in model.graph.initializer}
    shapes = [v.type.tensor_type.shape.dim for v in model.graph.input if v.name not in constants]
    if len(shapes) != 1 or len(shapes[0]) != 4:
        return None
    first, height, last = (dim.dim_value for dim in shapes[0][1:])
    pair = (first, height) if last in (1, 3) and first not in (1, 3) else (height, last)
    return pair if min(pair) > 0 else None


def takes_plain_pixels(file: Path) -> bool:
    """Whether nothing in a file says what it expects of pixels: neither operators nor metadata.

    Raises:
        InputError: not a readable model.
    """
    model = _read(file)
    constants = {tensor.name for tensor in model.graph.initializer}
    port = next((v.name for v in model.graph.input if v.name not in constants), "")
    said = {entry.key for entry in model.metadata_props}
    return normalises_by(model, port) is None and "Image.NominalPixelRange" not in said


def _read(file: Path) -> ModelProto:
    try:
        return onnx.load(str(file), load_external_data=False)
    except Exception as error:  # protobuf and file system errors have no common base
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise InputError(f"{file}: not a readable ONNX model: {reason}") from error


def normalises_by(model: ModelProto, port: str) -> NodeProto | None:
    """The first operator between the input and what learns that moves or scales by constants."""
    constants = {tensor.name for tensor in model.graph.initializer}
    constants |= {node.output[0] for node in model.graph.node if node.op_type == "Constant"}
    for node in _behind(model.graph.node, port, {"Identity", "Cast", "Transpose"}):
        if node.op_type in ("Sub", "Div", "Mul", "Add") and constants.intersection(node.input):
            return node
    return None


def layout_of(nodes: Sequence[NodeProto], port: str) -> Layout:
    """What the first operators say of the order of axes; empty if nothing."""
    for node in _behind(nodes, port, _SAME_AXES):
        perm = next((list(a.ints) for a in node.attribute if a.name == "perm"), None)
        if node.op_type in _CHANNELS_FIRST:
            return "NCHW"
        if node.op_type == "Transpose" and perm in ([0, 3, 1, 2], [0, 3, 2, 1]):
            return "NHWC"
    return ""


def _behind(nodes: Sequence[NodeProto], port: str, through: set[str]) -> list[NodeProto]:
    """What reads the input, also behind operators of these types, in order."""
    names, found = {port}, []
    for node in nodes:
        if names.intersection(node.input):
            found.append(node)
            if node.op_type in through:
                names.update(node.output)
    return found


__all__ = [
    "OnnxFile",
    "PixelInput",
    "layout_of",
    "normalises_by",
    "own_size",
    "pixel_input",
    "takes_plain_pixels",
]
