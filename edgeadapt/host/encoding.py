"""What export needs of an encoder, and the input contract between images and a network."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from edgeadapt.bundle.schema import InputSpec
from edgeadapt.errors import InputError
from edgeadapt.host.methods.base import Values

TAP_LIMIT = 128
"""Taps are at most this wide, so that residuals stay within 256 columns."""


@dataclass(frozen=True)
class NormLayer:
    """One batch-norm: where its scale and shift live, and what it was trained with."""

    path: str
    channels: int
    eps: float
    gain: Tensor
    offset: Tensor
    mean: Tensor
    variance: Tensor


class Encoder(Protocol):
    """What ``export`` needs of an encoder."""

    name: str
    input: InputSpec
    dim: int
    tap_dim: int
    signature: tuple[int, int]  # tap columns from early layers, where a condition shows and a class does not
    frozen: dict[str, Tensor]  # named ``encoder.*``
    norms: tuple[NormLayer, ...]  # empty: no statistics to adapt

    def encode(self, ports: Values, t: Values) -> dict[str, Tensor]: ...


def to_images(x: Tensor, spec: InputSpec) -> Tensor:
    """A batch in the layout of the input contract -> (B, C, H, W) float32; feature vectors pass through."""
    x = x.to(torch.float32)
    if spec.layout == "NHW":
        return x[:, None]
    if spec.layout == "NHWC":
        return x.permute(0, 3, 1, 2)
    return x


def example_input(spec: InputSpec, batch: int, generator: torch.Generator | None = None) -> Tensor:
    """A random batch that the contract accepts."""
    shape = (batch, *spec.shape)
    if spec.dtype == "uint8":
        return torch.randint(0, 256, shape, generator=generator, dtype=torch.uint8)
    low, high = spec.range or (-1.0, 1.0)
    return torch.rand(shape, generator=generator) * (high - low) + low


def input_spec(
    sample: NDArray[Any], *, colour: str | None = None, range: tuple[float, float] | None = None, resize: str | None = None
) -> InputSpec:
    """The input contract that calibration inputs imply: uint8 NHW / NHWC images, float NCHW images, or float vectors."""
    x = np.asarray(sample)
    if x.ndim < 2 or len(x) == 0:
        raise InputError(f"calibration inputs are (N, ...) with N >= 1, got shape {x.shape}")
    if x.dtype == np.uint8 and x.ndim == 3:
        layout, channels, axes = "NHW", 1, (0, 1, 2)
    elif x.dtype == np.uint8 and x.ndim == 4 and x.shape[3] in (1, 3):
        layout, channels, axes = "NHWC", x.shape[3], (0, 1, 2)
    elif x.dtype == np.float32 and x.ndim == 4:
        layout, channels, axes = "NCHW", x.shape[1], (0, 2, 3)
    elif x.dtype == np.float32:
        return InputSpec(layout="NC", dtype="float32", shape=tuple(x.shape[1:]), range=range)
    else:
        raise InputError(f"calibration inputs are uint8 (N, H, W[, C]) or float32 (N, C, H, W) or (N, ...), got {x.dtype} {x.shape}")
    mean = np.atleast_1d(x.mean(axis=axes, dtype=np.float64))
    std = np.atleast_1d(x.std(axis=axes, dtype=np.float64))
    default = "gray" if channels == 1 else "rgb" if channels == 3 else "none"
    return InputSpec(
        layout=layout, dtype="uint8" if x.dtype == np.uint8 else "float32", shape=tuple(x.shape[1:]), range=range,  # type: ignore[arg-type]
        colour=colour or default, resize=resize or "bilinear", mean=tuple(map(float, mean)), std=tuple(map(float, std)),  # type: ignore[arg-type]
    )  # fmt: skip
