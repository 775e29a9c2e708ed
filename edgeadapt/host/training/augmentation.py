"""Augmentation of training inputs, by kind: ``plain``, ``robust`` or ``none``; images in pixel
values, sensor data in its own units.

Every draw is made by torch's CPU generator, on which a resume relies, and every input is drawn
anew. torchvision's v2 transforms draw once per batch, and one call per image takes tens of times as
long as a gather over all of them: flips, shifts, light and noise are vectorised here, and v2's
kernels do blur, sharpness and posterising, each at one strength per group of ``GROUP`` images.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

Augment = Literal["plain", "robust", "none"]
MAX_SHIFT = 2  # pixels
MAX_DRIFT = 0.05  # of a signal's length
GROUP = 16  # images that share the strength of an operation of v2


def augmented(x: Tensor, kind: Augment) -> Tensor:
    """A batch of training inputs, changed at random; ``none`` changes nothing.

    *Images*: ``plain`` flips left-right and shifts by up to 2 pixels. ``robust`` adds contrast 0.6
    to 1.4 and brightness +-0.2 for every image, Gaussian noise of up to 0.08 for half of them, and
    for a third each Gaussian blur of up to 0.03 of the height, sharpness 0 to 2, and 3 to 6 bits
    per pixel. Every one is milder than at severity 3 of the corruptions of ``edgeadapt bench``; but
    Gaussian noise, brightness and contrast, which are reported there, and Gaussian blur, which is
    for choosing and a relative of defocus, are among them: an encoder trained so has seen these,
    and its table is to be read with that in mind.

    *Sensor data*, in standard deviations of the channel over the batch: ``plain`` adds jitter of
    0.02 and moves signals in time by up to 1/20 of their length, reflected. ``robust`` adds a gain
    of 0.7 to 1.3 per sample and channel, noise of up to 0.3 per sample, and in every tenth channel,
    of several, the mean in place of what was measured.

    Args:
        x: images (B, C, H, W) uint8, or signals (B, C, L) or vectors (B, F) float32.
        kind: how much.

    Returns:
        float32 of the same shape; images stay in [0, 255].
    """
    if kind == "none":
        return x.float()
    if x.dim() == 4:
        moved = _flipped_and_shifted(x).float()
        return moved if kind == "plain" else _robust_images(moved)
    return _sensors(x, kind == "robust")


def _flipped_and_shifted(x: Tensor) -> Tensor:
    size, channels, height, width = x.shape
    down, right = torch.randint(-MAX_SHIFT, MAX_SHIFT + 1, (2, size, 1))
    columns = torch.where(
        torch.rand(size, 1) < 0.5, torch.arange(width - 1, -1, -1), torch.arange(width)
    )
    rows = _reflected(torch.arange(height) + down, height)
    pixels = rows.unsqueeze(2) * width + _reflected(columns + right, width).unsqueeze(1)
    return (
        x.flatten(2)
        .gather(2, pixels.to(x.device).reshape(size, 1, -1).expand(-1, channels, -1))
        .reshape(x.shape)
    )


def _robust_images(x: Tensor) -> Tensor:
    # late: nothing else here needs it, and it takes a second to load
    from torchvision.transforms.v2 import functional as kernels

    size, height = len(x), x.shape[2]
    contrast, brightness, noise = (draw.to(x.device) for draw in torch.rand(3, size, 1, 1, 1))
    x = x / 255.0
    centre = x.mean((1, 2, 3), keepdim=True)
    x = (centre + (x - centre) * (0.6 + 0.8 * contrast) + 0.4 * (brightness - 0.5)).clamp_(0.0, 1.0)
    widest = 0.03 * height
    # the reflected border is narrower than the image
    kernel = [2 * min(max(1, round(2 * widest)), min(x.shape[2:]) - 1) + 1] * 2
    parts = []
    for part in x.split(GROUP):
        sigma, sharpness = 0.1 + widest * torch.rand(()).item(), 2.0 * torch.rand(()).item()
        bits = int(torch.randint(3, 7, ()))
        part = torch.where(
            _chosen(part, 1 / 3), kernels.gaussian_blur(part, kernel, [sigma, sigma]), part
        )
        part = torch.where(_chosen(part, 1 / 3), kernels.adjust_sharpness(part, sharpness), part)
        parts.append(torch.where(_chosen(part, 1 / 3), kernels.posterize(part, bits), part))
    x = torch.cat(parts)
    strength = 0.16 * (noise - 0.5).clamp_(min=0.0)
    return (x + strength * torch.randn(x.shape).to(x.device)).clamp_(0.0, 1.0) * 255.0


def _sensors(x: Tensor, is_robust: bool) -> Tensor:
    over, per_sample = (0, *range(2, x.dim())), (len(x), *[1] * (x.dim() - 1))
    mean, std = x.mean(over, keepdim=True), x.std(over, correction=0, keepdim=True)
    if x.dim() == 3:
        x = _moved_in_time(x)
    strength = torch.full(per_sample, 0.02)
    if is_robust:
        per_channel = (*x.shape[:2], *[1] * (x.dim() - 2))
        x = mean + (x - mean) * (0.7 + 0.6 * torch.rand(per_channel)).to(x.device)
        if x.shape[1] > 1:
            x = torch.where((torch.rand(per_channel) < 0.1).to(x.device), mean, x)
        strength = 0.3 * torch.rand(per_sample)
    return x + std * (strength * torch.randn(x.shape)).to(x.device)


def _moved_in_time(x: Tensor) -> Tensor:
    size, channels, length = x.shape
    reach = round(MAX_DRIFT * length)
    moments = _reflected(torch.arange(length) + torch.randint(-reach, reach + 1, (size, 1)), length)
    return x.gather(2, moments.to(x.device).unsqueeze(1).expand(-1, channels, -1))


def _chosen(x: Tensor, share: float) -> Tensor:
    return (torch.rand(len(x), 1, 1, 1) < share).to(x.device)


def _reflected(index: Tensor, size: int) -> Tensor:
    mirrored = index.abs()
    return torch.clamp((size - 1) - ((size - 1) - mirrored).abs(), min=0)


__all__ = ["MAX_SHIFT", "Augment", "augmented"]
