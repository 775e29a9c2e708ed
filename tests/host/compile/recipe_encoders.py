"""Tiny encoders of every kind that ``export`` takes, each with inputs that it can tell apart.
Weights are random: what is built is a graph, not its accuracy.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from torch import Tensor, nn

from edgeadapt.host import Identity
from edgeadapt.host.encoders.networks import SmallResidual
from edgeadapt.host.encoders.sensor_networks import SensorCnn, SensorMlp

CLASSES = ("ash", "birch", "cedar", "elm")
_ROWS = 80
Source = tuple[Any, NDArray[Any]]
"""What ``export`` takes as an encoder, and its calibration inputs (N, ...)."""


def labels() -> NDArray[np.int64]:
    return np.arange(_ROWS) % len(CLASSES)


def _noise(*shape: int) -> NDArray[np.float32]:
    """(N, ...) float32: noise around one place per class."""
    rng = np.random.default_rng(0)
    places = 2.0 * rng.standard_normal((len(CLASSES), *shape))
    return (places[labels()] + 0.5 * rng.standard_normal((_ROWS, *shape))).astype(np.float32)


def _pixels(*shape: int) -> NDArray[np.uint8]:
    return np.clip(128 + 30 * _noise(*shape), 0, 255).astype(np.uint8)


class Convolutions(nn.Module):
    """Two convolutions over images (B, C, H, W), the second with ``width`` channels; features (B,
    6).
    """

    def __init__(
        self, in_channels: int, width: int = 6, unit: float = 1.0, *, has_norms: bool = True
    ) -> None:
        super().__init__()
        norm = nn.BatchNorm2d if has_norms else lambda _: nn.Identity()
        self.unit = unit
        self.stem = nn.Sequential(
            nn.Conv2d(in_channels, width, 3, 2, 1, bias=False), norm(width), nn.ReLU()
        )
        self.block = nn.Sequential(nn.Conv2d(width, 6, 3, 2, 1, bias=False), norm(6), nn.ReLU())
        self.head = nn.Linear(6, len(CLASSES))

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.head(self.block(self.stem(x / self.unit)).mean((2, 3)))
        return logits


def features(folder: Path) -> Source:
    return Identity(12), _noise(12)


def vectors(folder: Path) -> Source:
    return SensorMlp(len(CLASSES), 8, (10, 6)), _noise(8)


def signals(folder: Path) -> Source:
    return SensorCnn(len(CLASSES), 3, (4, 6), 3), _noise(3, 16)


def gray_images(folder: Path) -> Source:
    return Convolutions(1, unit=255.0), _pixels(12, 12)


def colour_images(folder: Path) -> Source:
    return SmallResidual(len(CLASSES), 3, (4, 4, 6)), _pixels(12, 12, 3)


def channels_first(folder: Path) -> Source:
    return Convolutions(2), _noise(2, 12, 12)


def wide_taps(folder: Path) -> Source:
    """More tap columns than travel as they are, so a projection of them is part of the graph."""
    return Convolutions(1, width=136, unit=255.0), _pixels(8, 8)


def program(folder: Path) -> Source:
    """A ``torch.export`` program; its batch-norms are operators by then."""
    x = _pixels(12, 12)
    batch = torch.export.Dim("batch", min=1, max=4096)
    with torch.no_grad():
        exported = torch.export.export(
            Convolutions(1, unit=255.0, has_norms=False).eval(),
            (torch.zeros(2, 1, 12, 12),),
            dynamic_shapes=({0: batch},),
        )
    return exported, x


def onnx_file(folder: Path) -> Source:
    """An ONNX file that torch never saw: two convolutions, an average, a classifier."""
    rng = np.random.default_rng(1)
    shapes = {"first": (6, 3, 3, 3), "second": (8, 6, 3, 3), "classifier": (8, len(CLASSES))}
    weights = [
        numpy_helper.from_array(rng.standard_normal(shape).astype(np.float32) / 9, name)
        for name, shape in shapes.items()
    ]
    strided = {"strides": [2, 2], "pads": [1, 1, 1, 1]}
    nodes = [
        helper.make_node("Conv", ["x", "first"], ["a"], **strided),
        helper.make_node("Relu", ["a"], ["b"]),
        helper.make_node("Conv", ["b", "second"], ["c"], **strided),
        helper.make_node("Relu", ["c"], ["d"]),
        helper.make_node("GlobalAveragePool", ["d"], ["e"]),
        helper.make_node("Flatten", ["e"], ["f"]),
        helper.make_node("MatMul", ["f", "classifier"], ["logits"]),
    ]
    ports = (
        helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)
        for name, shape in (("x", ["batch", 3, 12, 12]), ("logits", ["batch", len(CLASSES)]))
    )
    graph = helper.make_graph(nodes, "foreign", [next(ports)], [next(ports)], weights)
    path = folder / "foreign.onnx"
    path.write_bytes(
        helper.make_model(
            graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9
        ).SerializeToString()
    )
    return path, _noise(3, 12, 12)


SOURCES: dict[str, Callable[[Path], Source]] = {
    "feature vectors": features,
    "vectors, perceptron": vectors,
    "signals, convolutions over time": signals,
    "gray images": gray_images,
    "colour images, residual": colour_images,
    "float images": channels_first,
    "gray images, projected taps": wide_taps,
    "a torch.export program": program,
    "an ONNX file": onnx_file,
}


def source(kind: str, folder: Path) -> Source:
    """The encoder and its inputs; the same weights every time."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        encoder, x = SOURCES[kind](folder)
    return (encoder.eval() if isinstance(encoder, nn.Module) else encoder), x
