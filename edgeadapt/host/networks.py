"""Networks that our trainer can train, and what stands between pixels and a network: layout, augmentation, normalisation.

A network is the small residual one below, any of torchvision's, or the user's own.

Every trained network is a ``Normalised``: it takes pixel values in [0, 255] and its first layer is the
normalisation, so that mean and standard deviation land in the exported graph and no device repeats them.
"""

from __future__ import annotations

import importlib
import math
from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from edgeadapt.errors import InputError

BUILT_IN = "small-residual"
Augment = Literal["plain", "robust", "none"]
MAX_SHIFT = 2  # pixels


class Normalise(nn.Module):
    """``(x - mean) / std`` per channel.

    Args:
        mean: (C,) in input units, here pixel values in [0, 255].
        std: (C,) in input units, each above 0.

    Raises:
        InputError: different lengths, or a value that is not finite, or a standard deviation that is not positive.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, mean: Sequence[float], std: Sequence[float]) -> None:
        super().__init__()
        if len(mean) != len(std) or not len(mean):
            raise InputError(f"normalisation needs one mean and one std per channel; got {len(mean)} and {len(std)}")
        values = torch.tensor([list(mean), list(std)], dtype=torch.float32)
        if not bool(values.isfinite().all()) or not bool((values[1] > 0).all()):
            raise InputError(f"normalisation needs finite means and positive stds; got mean {list(mean)}, std {list(std)}")
        self.register_buffer("mean", values[0].reshape(1, -1, 1, 1).clone())
        self.register_buffer("std", values[1].reshape(1, -1, 1, 1).clone())

    def forward(self, x: Tensor) -> Tensor:
        """x (B, C, H, W) float32 -> the same shape."""
        return (x - self.mean) / self.std


class Normalised(nn.Module):
    """A network with its normalisation in front: ``network(normalise(x))``.

    Submodules are ``normalise`` and ``network``; taps are hooked on ``network``'s named blocks.
    """

    def __init__(self, network: nn.Module, mean: Sequence[float], std: Sequence[float]) -> None:
        super().__init__()
        self.normalise = Normalise(mean, std)
        self.network = network

    def forward(self, x: Tensor) -> Tensor:
        """x (B, C, H, W) float32 in [0, 255] -> logits (B, classes)."""
        logits: Tensor = self.network(self.normalise(x))
        return logits

    def features(self, x: Tensor) -> Tensor:
        """x (B, C, H, W) float32 in [0, 255] -> the features before the last linear layer (B, D).

        Raises:
            InputError: the network has no ``features`` method (torchvision's have none): hook its taps instead.
        """
        extract = getattr(self.network, "features", None)
        if extract is None or isinstance(extract, nn.Module):
            raise InputError(f"{type(self.network).__name__} has no method features(x) -> (B, D); hook the module you want instead")
        features: Tensor = extract(self.normalise(x))
        return features


def to_nchw(x: NDArray[np.uint8]) -> Tensor:
    """uint8 (N, H, W) or (N, H, W, C) -> uint8 (N, C, H, W), the layout networks take."""
    images = torch.from_numpy(np.ascontiguousarray(x))
    return images.unsqueeze(1) if images.ndim == 3 else images.permute(0, 3, 1, 2).contiguous()


def channel_moments(x: NDArray[np.uint8]) -> tuple[list[float], list[float]]:
    """Mean and standard deviation per channel in pixel values [0, 255]; a constant channel counts as standard deviation 1."""
    histograms = [np.bincount(channel.ravel(), minlength=256) for channel in ([x] if x.ndim == 3 else np.moveaxis(x, 3, 0))]
    values = np.arange(256.0)
    means = [float(h @ values / h.sum()) for h in histograms]
    stds = [math.sqrt(float(h @ (values - m) ** 2 / h.sum())) for h, m in zip(histograms, means, strict=True)]
    return means, [std or 1.0 for std in stds]


def augmented(x: Tensor, kind: Augment) -> Tensor:
    """uint8 (B, C, H, W) -> float32 of the same shape in [0, 255], every image drawn anew from torch's generator."""
    if kind == "none":
        return x.float()
    size, channels, height, width = x.shape
    down, right = torch.randint(-MAX_SHIFT, MAX_SHIFT + 1, (2, size, 1))
    columns = torch.where(torch.rand(size, 1) < 0.5, torch.arange(width - 1, -1, -1), torch.arange(width))
    rows = _reflected(torch.arange(height) + down, height)
    pixels = rows.unsqueeze(2) * width + _reflected(columns + right, width).unsqueeze(1)
    moved = x.flatten(2).gather(2, pixels.reshape(size, 1, -1).expand(-1, channels, -1)).reshape(x.shape).float()
    if kind == "plain":
        return moved
    contrast, brightness, noise = torch.rand(3, size, 1, 1, 1)
    centre = moved.mean((1, 2, 3), keepdim=True)
    moved = centre + (moved - centre) * (0.7 + 0.6 * contrast) + 64.0 * (brightness - 0.5)
    return (moved + 12.0 * noise * torch.randn(x.shape)).clamp_(0.0, 255.0)


def _reflected(index: Tensor, size: int) -> Tensor:
    mirrored = index.abs()
    return torch.clamp((size - 1) - ((size - 1) - mirrored).abs(), min=0)


class ResidualBlock(nn.Module):
    """``relu(bn(conv3x3(relu(bn(conv3x3_stride2(x))))) + bn(conv1x1_stride2(x)))``: halves height and width.

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
    """A residual network for small images: about 174,000 parameters, batch-norm after every convolution.

    stem conv3x3 -> block1 -> block2 -> block3 (each stride 2) -> global average pool -> linear.
    Named submodules for taps: ``stem``, ``block1``, ``block2``, ``block3``; the classifier is ``head``.

    Args:
        classes: number of logits, at least 2.
        in_channels: 1 for gray, 3 for colour.
        widths: channels of the three blocks; the stem has ``widths[0]`` and the features ``widths[2]``.

    Raises:
        InputError: fewer than two classes, no input channel, or not three positive widths.
    """

    def __init__(self, classes: int, in_channels: int = 1, widths: Sequence[int] = (24, 48, 96)) -> None:
        super().__init__()
        if classes < 2 or in_channels < 1 or len(widths) != 3 or min(widths) < 1:
            given = f"{classes}, {in_channels}, {tuple(widths)}"
            raise InputError(f"small-residual needs classes >= 2, in_channels >= 1 and three positive widths; got {given}")
        first, second, third = widths
        self.feature_dim = third
        self.stem = nn.Sequential(nn.Conv2d(in_channels, first, 3, 1, 1, bias=False), nn.BatchNorm2d(first), nn.ReLU())
        self.block1 = ResidualBlock(first, first)
        self.block2 = ResidualBlock(first, second)
        self.block3 = ResidualBlock(second, third)
        self.head = nn.Linear(third, classes)

    def features(self, x: Tensor) -> Tensor:
        """x (B, C, H, W) float32, normalised -> (B, widths[2]), the global average of the last block."""
        last: Tensor = self.block3(self.block2(self.block1(self.stem(x))))
        return last.mean((2, 3))

    def forward(self, x: Tensor) -> Tensor:
        """x (B, C, H, W) float32, normalised -> logits (B, classes)."""
        logits: Tensor = self.head(self.features(x))
        return logits


def build_network(spec: str, classes: int, in_channels: int = 1, *, seed: int = 0, **options: Any) -> nn.Module:
    """A network with random weights that depend on ``seed`` alone; the caller's random state is left as it was.

    Args:
        spec: ``"small-residual"``; ``"torchvision:NAME"`` (``torchvision:resnet18``; no pretrained weights, the
            first convolution is replaced if ``in_channels`` is not 3); or ``"module:factory"``, which is called as
            ``factory(classes=..., in_channels=..., **options)`` and must return a ``torch.nn.Module``.
        classes: number of logits.
        in_channels: channels of the input.
        seed: of the initial weights.
        options: further keyword arguments of the network.

    Raises:
        InputError: the spec has none of the three forms, names nothing that exists, or its factory refuses the arguments.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        if spec == BUILT_IN:
            return _call(spec, SmallResidual, classes=classes, in_channels=in_channels, **options)
        source, colon, name = spec.partition(":")
        if not (source and colon and name):
            raise InputError(f"unknown network {spec!r}; allowed: {BUILT_IN!r}, 'torchvision:NAME', 'module:factory'")
        if source == "torchvision":
            return _torchvision(name, classes, in_channels, options)
        return _call(spec, _factory(spec, source, name), classes=classes, in_channels=in_channels, **options)


def require_classifier(network: nn.Module, image: Tensor, classes: int) -> None:
    """One forward pass of image (1, C, H, W) uint8 in evaluation mode, in which the network is left.

    Raises:
        InputError: the network does not take the image, or does not return logits (1, classes).
    """
    network.eval()
    try:
        with torch.no_grad():
            shape = tuple(network(image.float()).shape)
    except RuntimeError as error:
        raise InputError(f"the network does not take images of shape {tuple(image.shape[1:])}: {error}") from error
    if shape != (1, classes):
        raise InputError(f"the network returns {shape} for one image; training on {classes} classes needs (1, {classes})")


def _torchvision(name: str, classes: int, in_channels: int, options: dict[str, Any]) -> nn.Module:
    import torchvision  # late: a user's own network does not need it

    known = torchvision.models.list_models(module=torchvision.models)
    if name not in known:
        raise InputError(f"torchvision has no classifier {name!r}; it has {', '.join(known)}")
    network = _call(f"torchvision:{name}", torchvision.models.get_model, name, weights=None, num_classes=classes, **options)
    if in_channels != 3:
        _replace_first_convolution(network, in_channels)
    return network


def _replace_first_convolution(network: nn.Module, in_channels: int) -> None:
    path, first = next((path, module) for path, module in network.named_modules() if isinstance(module, nn.Conv2d))
    parent, _, leaf = path.rpartition(".")
    replacement = nn.Conv2d(
        in_channels, first.out_channels, first.kernel_size, first.stride, first.padding, first.dilation, first.groups,
        bias=first.bias is not None, padding_mode=first.padding_mode,
    )  # fmt: skip
    setattr(network.get_submodule(parent), leaf, replacement)


def _factory(spec: str, module: str, name: str) -> Any:
    try:
        factory = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError) as error:
        raise InputError(f"network {spec!r} cannot be imported: {error}") from error
    if not callable(factory):
        raise InputError(f"network {spec!r} is a {type(factory).__name__}, not a function or class that builds a network")
    return factory


def _call(spec: str, factory: Any, *positional: Any, **arguments: Any) -> nn.Module:
    try:
        network = factory(*positional, **arguments)
    except TypeError as error:
        raise InputError(f"network {spec!r} refused its arguments {arguments}: {error}") from error
    if not isinstance(network, nn.Module):
        raise InputError(f"network {spec!r} returned a {type(network).__name__}, not a torch.nn.Module")
    return network


__all__ = [
    "BUILT_IN", "Augment", "Normalise", "Normalised", "ResidualBlock", "SmallResidual", "augmented", "build_network", "channel_moments",
    "require_classifier", "to_nchw",
]  # fmt: skip
