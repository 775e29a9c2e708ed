"""Encoders of other networks in float16 and int8 beside float32: what a feature loses, and what a
call takes.

Networks with random weights show the cost of kernels; how much of a feature int8 keeps depends on
weights, so EfficientNet-Lite0 has those of its package. Nothing is calibrated but the scales, and
nothing is answered.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import ModelProto

from edgeadapt.errors import RuntimeUnavailable
from edgeadapt.host.assembly.composition import compile_encoder
from edgeadapt.host.encoders.dispatch import as_encoder
from edgeadapt.host.encoders.networks import build_network, normalised
from edgeadapt.host.precision.float16 import halved
from edgeadapt.host.precision.int8 import quantised
from edgeadapt.runtime import Executable, GraphFile, Tensors, open_runtime
from edgeadapt_bench.datasets.image_dataset import ImageDataset
from edgeadapt_bench.datasets.lite0 import lite0, upscaled
from edgeadapt_bench.harness.measure import Row, Say, absent, median_ms, paired

PIXELS = 64
_CALIBRATION, _HELD = 64, 64  # inputs that scales come from, and that features are compared on
_BATCHES = (1, 8)
_ROUNDS = {False: 12, True: 2}
_TURNS = 3  # for the spread of a ratio
_MAKERS: dict[str, Callable[..., ModelProto]] = {"float16": halved, "int8": quantised}


def network_rows(dataset: ImageDataset, say: Say, quick: bool) -> list[Row]:
    """Rows of every network; those whose package is not installed say so."""
    rng = np.random.default_rng(0)
    images = upscaled(
        dataset.known().x[rng.permutation(len(dataset.known().y))[: _CALIBRATION + _HELD]], PIXELS
    )
    signals = rng.standard_normal((_CALIBRATION + _HELD, 6, 128)).astype(np.float32)
    subjects: dict[str, tuple[Callable[[], Any], NDArray[Any]]] = {
        "sensor-cnn, random weights": (
            lambda: normalised(build_network("sensor-cnn", 6, 6), signals),
            signals,
        ),
        "ResNet-18, random weights": (
            lambda: normalised(build_network("torchvision:resnet18", 10, 3), images),
            images,
        ),
        "MobileNetV3-small, random weights": (
            lambda: normalised(build_network("torchvision:mobilenet_v3_small", 10, 3), images),
            images,
        ),
        "EfficientNet-Lite0, ImageNet weights": (lite0, images),
    }
    rows: list[Row] = []
    for name, (make, x) in list(subjects.items())[: 1 if quick else None]:
        say(f"precision: {name}")
        try:
            rows += _rows_of(name, make(), x, quick)
        except RuntimeUnavailable as error:
            rows.append(absent(name, str(error)))
    return rows


def _rows_of(name: str, module: Any, x: NDArray[Any], quick: bool) -> Iterator[Row]:
    encoder = as_encoder(module, x[:_CALIBRATION])
    compiled = compile_encoder(encoder)
    assert compiled is not None  # a module has a graph
    frozen = {tensor: encoder.frozen[tensor].numpy() for tensor in compiled.graph.frozen}
    runtime = open_runtime("onnxruntime")
    whole = runtime.load(GraphFile("encode", compiled.graph.model, frozen))
    held = x[_CALIBRATION:]
    features = _features(whole, held)
    for precision, maker in _MAKERS.items():
        model = maker(
            f"encode_{precision}",
            ModelProto.FromString(compiled.graph.model),
            frozen,
            [x[:_CALIBRATION]],
        )
        variant = runtime.load(GraphFile(f"encode_{precision}", model.SerializeToString(), frozen))
        error = np.linalg.norm(_features(variant, held) - features, axis=1) / np.linalg.norm(
            features, axis=1
        )
        yield Row(
            f"{name}: feature error/{precision}",
            float(np.median(error)),
            f"of its size, median of {len(held)}, worst {error.max():.2g}",
        )
        for batch in _BATCHES:
            own, base = zip(
                *(_times(variant, whole, held[:batch], quick) for _ in range(_TURNS)), strict=True
            )
            ratios = [mine / theirs for mine, theirs in zip(own, base, strict=True)]
            yield Row(
                f"{name}: encode at batch {batch}/{precision}",
                float(np.median(own)),
                f"ms, {min(ratios):.2f} to {max(ratios):.2f} of float32",
                float(np.median(base)),
            )


def _features(encode: Executable, x: NDArray[Any]) -> NDArray[np.float32]:
    parts = [
        encode({"x": x[start : start + 32]}, Tensors())[0]["z"] for start in range(0, len(x), 32)
    ]
    return np.concatenate(parts)


def _times(
    variant: Executable, whole: Executable, x: NDArray[Any], quick: bool
) -> tuple[float, float]:
    """Median ms of both, in turns."""
    own, base = paired(
        lambda _: variant({"x": x}, Tensors()),
        lambda _: whole({"x": x}, Tensors()),
        _ROUNDS[quick],
        block=8,
    )
    return median_ms(own), median_ms(base)
