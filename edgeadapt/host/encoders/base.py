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
from edgeadapt.host.contracts import Values

TAP_LIMIT = 128
"""Taps are at most this wide, so that residuals stay within 256 columns."""

_PART = 1 << 20  # values that are converted at a time

SIGNATURE_LIMIT = 48
"""Of an encoder without taps, at most so many columns of the feature tell conditions apart."""


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
    # tap columns from early layers, where a condition shows and a class does not; without taps, of
    # the feature
    signature: tuple[int, int]
    frozen: dict[str, Tensor]  # named ``encoder.*``
    norms: tuple[NormLayer, ...]  # empty: no statistics to adapt

    def encode(self, ports: Values, t: Values) -> dict[str, Tensor]: ...


def to_images(x: Tensor, spec: InputSpec) -> Tensor:
    """A batch in the layout of the input contract -> (B, C, H, W) float32; signals (B, C, L) and
    vectors (B, F) pass through.
    """
    x = x.to(torch.float32)
    if spec.layout == "NHW":
        return x[:, None]
    if spec.layout == "NHWC":
        return x.permute(0, 3, 1, 2)
    return x


def is_map(rank: int, spec: InputSpec) -> bool:
    """Whether a module's output of this rank is a feature map: (B, C, H, W), or (B, C, L) where the
    input is a signal.

    Of an image, three axes are tokens (B, T, D), and their last is no place to average over.
    """
    return rank == 4 or (rank == 3 and is_signal(spec))


def is_signal(spec: InputSpec) -> bool:
    """Inputs are (C, L): channels over time."""
    return spec.layout == "NC" and len(spec.shape) == 2


def pooled(value: Tensor) -> Tensor:
    """The mean of a feature map over space or time, (B, C, ...) -> (B, C)."""
    return value.mean(dim=tuple(range(2, value.dim())))


def example_input(spec: InputSpec, batch: int, generator: torch.Generator | None = None) -> Tensor:
    """A random batch that the contract accepts; signals and vectors have the moments of the
    calibration inputs, as their units are anyone's.
    """
    shape = (batch, *spec.shape)
    if spec.dtype == "uint8":
        return torch.randint(0, 256, shape, generator=generator, dtype=torch.uint8)
    low, high = spec.range or (-1.0, 1.0)
    if spec.layout == "NC" and spec.mean:
        mean, std = (
            torch.tensor(v, dtype=torch.float32).reshape(-1, *[1] * (len(spec.shape) - 1))
            for v in (spec.mean, spec.std)
        )
        x = mean + std * torch.randn(shape, generator=generator)
        return x if spec.range is None else x.clamp(low, high)
    return torch.rand(shape, generator=generator) * (high - low) + low


def moments_per_channel(x: NDArray[np.float32]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Mean and standard deviation (C,) of (N, C, ...) per channel, in the units of x; a constant
    channel counts as standard deviation 1.
    """
    over, per_channel = (0, *range(2, x.ndim)), (-1, *[1] * (x.ndim - 2))
    mean = x.mean(axis=over, dtype=np.float64)
    # float64 copies of parts: the data may fill memory
    parts = np.array_split(x, 1 + x.size // _PART)
    std = np.sqrt(
        sum(np.square(part - mean.reshape(per_channel)).sum(axis=over) for part in parts)
        * len(mean)
        / x.size
    )
    return mean, np.where(std > 1e-7 * np.abs(mean), std, 1.0)  # less is rounding


def input_spec(
    sample: NDArray[Any],
    *,
    colour: str | None = None,
    range: tuple[float, float] | None = None,
    resize: str | None = None,
) -> InputSpec:
    """The input contract that calibration inputs imply: uint8 NHW / NHWC images, float NCHW images,
    float signals (C, L) or vectors.
    """
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
        moments = [tuple(map(float, v)) for v in moments_per_channel(x)]
        return InputSpec(
            layout="NC",
            dtype="float32",
            shape=tuple(x.shape[1:]),
            range=range,
            mean=moments[0],
            std=moments[1],
        )
    else:
        raise InputError(
            "calibration inputs are uint8 (N, H, W[, C]) or float32 (N, C, H, W) or (N, ...), got"
            f" {x.dtype} {x.shape}"
        )
    mean = np.atleast_1d(x.mean(axis=axes, dtype=np.float64))
    std = np.atleast_1d(x.std(axis=axes, dtype=np.float64))
    default = "gray" if channels == 1 else "rgb" if channels == 3 else "none"
    return InputSpec(
        layout=layout,
        dtype="uint8" if x.dtype == np.uint8 else "float32",
        shape=tuple(x.shape[1:]),
        range=range,  # type: ignore[arg-type]
        colour=colour or default,
        resize=resize or "bilinear",
        mean=tuple(map(float, mean)),
        std=tuple(map(float, std)),  # type: ignore[arg-type]
    )
