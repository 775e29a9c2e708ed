"""Networks that our trainer can train, and what stands between inputs and a network: layout and
normalisation.

A network is the small residual one below, one for sensors, EfficientNet-Lite0, any of torchvision's
or timm's, or the user's own.

Every trained network is a ``Normalised``: it takes pixel values in [0, 255], or a sensor's own
units, and its first layer is the normalisation, so that mean and standard deviation land in the
exported graph and no device repeats them.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from edgeadapt.errors import InputError
from edgeadapt.host.data.import_object import imported
from edgeadapt.host.encoders.base import moments_per_channel
from edgeadapt.host.encoders.efficientnet_lite import efficientnet_lite0
from edgeadapt.host.encoders.hugging_face_networks import folder_network
from edgeadapt.host.encoders.sensor_networks import SensorCnn, SensorMlp
from edgeadapt.host.encoders.timm_networks import timm_network
from edgeadapt.host.encoders.torchvision_networks import torchvision_network


class Normalise(nn.Module):
    """``(x - mean) / std`` per channel.

    Args:
        mean: (C,) in input units: pixel values in [0, 255], or those of a sensor.
        std: (C,) in input units, each above 0.

    Raises:
        InputError: different lengths, or a value that is not finite, or a standard deviation that
            is not positive.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, mean: Sequence[float], std: Sequence[float]) -> None:
        super().__init__()
        if len(mean) != len(std) or not len(mean):
            raise InputError(
                f"normalisation needs one mean and one std per channel; got {len(mean)} and"
                f" {len(std)}"
            )
        values = torch.tensor([list(mean), list(std)], dtype=torch.float32)
        if not bool(values.isfinite().all()) or not bool((values[1] > 0).all()):
            raise InputError(
                f"normalisation needs finite means and positive stds; got mean {list(mean)}, std"
                f" {list(std)}"
            )
        self.register_buffer("mean", values[0].reshape(1, -1, 1, 1).clone())
        self.register_buffer("std", values[1].reshape(1, -1, 1, 1).clone())

    def forward(self, x: Tensor) -> Tensor:
        """x (B, C, H, W), (B, C, L) or (B, C) float32 -> the same shape."""
        if x.dim() == 4:
            return (x - self.mean) / self.std
        per_channel = (1, -1, *[1] * (x.dim() - 2))
        return (x - self.mean.reshape(per_channel)) / self.std.reshape(per_channel)


class Normalised(nn.Module):
    """A network with its normalisation in front: ``network(normalise(x))``.

    Submodules are ``normalise`` and ``network``; taps are hooked on ``network``'s named blocks.
    """

    def __init__(self, network: nn.Module, mean: Sequence[float], std: Sequence[float]) -> None:
        super().__init__()
        self.normalise = Normalise(mean, std)
        self.network = network

    def forward(self, x: Tensor) -> Tensor:
        """x (B, C, H, W) float32 in [0, 255], or signals (B, C, L) or vectors (B, F) -> logits (B,
        classes).
        """
        logits: Tensor = self.network(self.normalise(x))
        return logits

    def features(self, x: Tensor) -> Tensor:
        """x as in ``forward`` -> the features before the last linear layer (B, D).

        Raises:
            InputError: the network has no ``features`` method (torchvision's have none): hook its
                taps instead.
        """
        extract = getattr(self.network, "features", None)
        if extract is None or isinstance(extract, nn.Module):
            raise InputError(
                f"{type(self.network).__name__} has no method features(x) -> (B, D); hook the"
                " module you want instead"
            )
        features: Tensor = extract(self.normalise(x))
        return features


def normalised(network: nn.Module, x: NDArray[Any]) -> Normalised:
    """The network behind its normalisation: its own if it has one, else with the moments it was
    pretrained with, else with those of x.

    Args:
        network: one whose weights were trained on inputs of other moments has them as
            ``input_moments = (mean, std)``.
        x: training inputs, as in ``channel_moments``.
    """
    if isinstance(network, Normalised):
        return network
    return Normalised(network, *(getattr(network, "input_moments", None) or channel_moments(x)))


def to_nchw(x: NDArray[Any]) -> Tensor:
    """The layout that networks take: uint8 (N, H, W) or (N, H, W, C) -> uint8 (N, C, H, W); float32
    signals and vectors as they are.
    """
    inputs = torch.from_numpy(np.ascontiguousarray(x))
    if inputs.dtype != torch.uint8:
        return inputs
    return inputs.unsqueeze(1) if inputs.ndim == 3 else inputs.permute(0, 3, 1, 2).contiguous()


def channel_moments(x: NDArray[Any]) -> tuple[list[float], list[float]]:
    """Mean and standard deviation per channel, in the units of x; a constant channel counts as
    standard deviation 1.

    Args:
        x: images (N, H, W[, C]) uint8, signals (N, C, L) float32, or vectors (N, F) float32, of
            which every value is a channel.
    """
    if x.dtype != np.uint8:
        mean, std = moments_per_channel(x)
        return mean.tolist(), std.tolist()
    channels = [x] if x.ndim == 3 else np.moveaxis(x, 3, 0)
    # bincount makes int64 of what it counts, and the data may fill memory
    parts = 1 + x.size // (1 << 20)
    histograms = [
        sum(np.bincount(part.ravel(), minlength=256) for part in np.array_split(channel, parts))
        for channel in channels
    ]
    values = np.arange(256.0)
    means = [float(h @ values / h.sum()) for h in histograms]
    stds = [
        math.sqrt(float(h @ (values - m) ** 2 / h.sum()))
        for h, m in zip(histograms, means, strict=True)
    ]
    return means, [std or 1.0 for std in stds]


class ResidualBlock(nn.Module):
    """``relu(bn(conv3x3(relu(bn(conv3x3_stride2(x))))) + bn(conv1x1_stride2(x)))``: halves height
    and width.

    Source: He et al., CVPR 2016, the basic block with a projection shortcut.
    """

    def __init__(self, in_channels: int, out_channels: int, stride: int = 2) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, out_channels, 3, stride, 1, bias=False)
        self.norm1 = nn.BatchNorm2d(out_channels)
        self.conv2 = nn.Conv2d(out_channels, out_channels, 3, 1, 1, bias=False)
        self.norm2 = nn.BatchNorm2d(out_channels)
        self.skip = nn.Conv2d(in_channels, out_channels, 1, stride, bias=False)
        self.skip_norm = nn.BatchNorm2d(out_channels)

    def forward(self, x: Tensor) -> Tensor:
        """x (B, in, H, W) -> (B, out, ceil(H / stride), ceil(W / stride))."""
        inner = torch.relu(self.norm1(self.conv1(x)))
        return torch.relu(self.norm2(self.conv2(inner)) + self.skip_norm(self.skip(x)))


class SmallResidual(nn.Module):
    """A residual network for small images: about 174,000 parameters, batch-norm after every
    convolution.

    stem conv3x3 -> block1 -> block2 -> block3 (each stride 2) -> global average pool -> linear.
    Named submodules for taps: ``stem``, ``block1``, ``block2``, ``block3``; the classifier is
    ``head``.

    Args:
        classes: number of logits, at least 2.
        in_channels: 1 for gray, 3 for colour.
        widths: channels of the three blocks; the stem has ``widths[0]`` and the features
            ``widths[2]``.

    Raises:
        InputError: fewer than two classes, no input channel, or not three positive widths.
    """

    def __init__(
        self, classes: int, in_channels: int = 1, widths: Sequence[int] = (24, 48, 96)
    ) -> None:
        super().__init__()
        if classes < 2 or in_channels < 1 or len(widths) != 3 or min(widths) < 1:
            given = f"{classes}, {in_channels}, {tuple(widths)}"
            raise InputError(
                "small-residual needs classes >= 2, in_channels >= 1 and three positive widths;"
                f" got {given}"
            )
        first, second, third = widths
        self.feature_dim = third
        self.stem = nn.Sequential(
            nn.Conv2d(in_channels, first, 3, 1, 1, bias=False), nn.BatchNorm2d(first), nn.ReLU()
        )
        self.block1 = ResidualBlock(first, first)
        self.block2 = ResidualBlock(first, second)
        self.block3 = ResidualBlock(second, third)
        self.head = nn.Linear(third, classes)

    def features(self, x: Tensor) -> Tensor:
        """x (B, C, H, W) float32, normalised -> (B, widths[2]), the global average of the last
        block.
        """
        last: Tensor = self.block3(self.block2(self.block1(self.stem(x))))
        return last.mean((2, 3))

    def forward(self, x: Tensor) -> Tensor:
        """x (B, C, H, W) float32, normalised -> logits (B, classes)."""
        logits: Tensor = self.head(self.features(x))
        return logits


BUILT_IN = "small-residual"
NETWORKS: dict[str, Callable[..., nn.Module]] = {
    BUILT_IN: SmallResidual,
    "sensor-cnn": SensorCnn,
    "sensor-mlp": SensorMlp,
    "efficientnet-lite0": efficientnet_lite0,
}


def build_network(
    spec: str, classes: int, in_channels: int = 1, *, seed: int = 0, **options: Any
) -> nn.Module:
    """A network with random weights that depend on ``seed`` alone; the caller's random state is
    left as it was.

    Args:
        spec: ``"small-residual"``; ``"sensor-cnn"`` for signals, ``"sensor-mlp"`` for vectors;
            ``"efficientnet-lite0"`` (option ``pretrained``); ``"torchvision:NAME"``
            (``torchvision:resnet18``; no pretrained weights, the first convolution is replaced if
            ``in_channels`` is not 3); ``"timm:NAME"`` (extra ``timm``); ``"hf:FOLDER"`` (extra
            ``transformers``; with the folder's weights, for three channels); or
            ``"module:factory"``, which is called as ``factory(classes=..., in_channels=...,
            **options)`` and must return a ``torch.nn.Module``.
        classes: number of logits.
        in_channels: channels of the input.
        seed: of the initial weights.
        options: further keyword arguments of the network.

    Raises:
        InputError: the spec has none of these forms, names nothing that exists, or its factory
            refuses the arguments.
        RuntimeUnavailable: a package that the network comes from is not installed.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        if spec in NETWORKS:
            return _call(spec, NETWORKS[spec], classes=classes, in_channels=in_channels, **options)
        source, colon, name = spec.partition(":")
        if not (source and colon and name):
            others = ", ".join(repr(name) for name in NETWORKS if name != BUILT_IN)
            raise InputError(
                f"unknown network {spec!r}; allowed: {BUILT_IN!r}, 'torchvision:NAME', 'timm:NAME',"
                f" 'hf:FOLDER', 'module:factory', {others}"
            )
        if source == "torchvision":
            return torchvision_network(name, classes, in_channels, options)
        if source == "timm":
            return timm_network(name, classes, in_channels, options)
        if source == "hf":
            return folder_network(name, classes, options)
        return _call(
            spec, imported(spec, "network"), classes=classes, in_channels=in_channels, **options
        )


def require_classifier(network: nn.Module, example: Tensor, classes: int) -> None:
    """One forward pass of an example (1, ...), as ``to_nchw`` gives it, in evaluation mode, in
    which the network is left.

    Raises:
        InputError: the network does not take the example, or does not return logits (1, classes).
    """
    noun = "image" if example.dim() == 4 else "signal" if example.dim() == 3 else "vector"
    network.eval()
    try:
        with torch.no_grad():
            shape = tuple(network(example.float()).shape)
    except (RuntimeError, ValueError) as error:
        raise InputError(
            f"the network does not take {noun}s of shape {tuple(example.shape[1:])}: {error}"
        ) from error
    if shape != (1, classes):
        raise InputError(
            f"the network returns {shape} for one {noun}; training on {classes} classes needs (1,"
            f" {classes})"
        )


def _call(spec: str, factory: Any, *positional: Any, **arguments: Any) -> nn.Module:
    try:
        network = factory(*positional, **arguments)
    except TypeError as error:
        raise InputError(f"network {spec!r} refused its arguments {arguments}: {error}") from error
    if not isinstance(network, nn.Module):
        raise InputError(
            f"network {spec!r} returned a {type(network).__name__}, not a torch.nn.Module"
        )
    return network


__all__ = [
    "BUILT_IN",
    "NETWORKS",
    "Normalise",
    "Normalised",
    "ResidualBlock",
    "SmallResidual",
    "build_network",
    "channel_moments",
    "normalised",
    "require_classifier",
    "to_nchw",
]
