"""Small training tasks of images and signals, and a network that draws from the same generator as
order and augmentation.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import nn

from edgeadapt.host.data.images import ImageData
from edgeadapt.host.data.sensors import SensorData
from edgeadapt.host.encoders.networks import SmallResidual
from edgeadapt.host.training.train import TrainResult, train


def stripes(count: int = 96, seed: int = 0) -> ImageData:
    """Two classes that no single pixel and no mean brightness tells apart: horizontal and vertical
    stripes in noise.
    """
    draw = np.random.default_rng(seed)
    y = np.arange(count, dtype=np.int64) % 2
    wave = 60.0 * np.sin(np.arange(12)[None] * np.pi / 2 + draw.uniform(0, 2 * np.pi, (count, 1)))
    x = (
        np.where(y[:, None, None] == 0, wave[:, :, None], wave[:, None, :])
        + 128.0
        + draw.normal(0, 25, (count, 12, 12))
    )
    return ImageData(x.clip(0, 255).astype(np.uint8), y, ("horizontal", "vertical"))


def tones(count: int = 96, seed: int = 0) -> SensorData:
    """Two classes of signals with two channels, in units far from 1: slow and fast waves of any
    phase.
    """
    draw = np.random.default_rng(seed)
    y = np.arange(count, dtype=np.int64) % 2
    phase = draw.uniform(0, 2 * np.pi, (count, 2, 1))
    wave = np.sin(np.arange(32) * np.where(y == 0, 0.4, 1.2)[:, None, None] + phase)
    x = np.array([900.0, -0.02])[:, None] + np.array([50.0, 0.001])[:, None] * (
        wave + draw.normal(0, 0.3, wave.shape)
    )
    return SensorData(x.astype(np.float32), y, ("slow", "fast"))


class WithDropout(SmallResidual):
    """Dropout draws from the same generator as order and augmentation, which a resume must
    restore.
    """

    def features(self, x: torch.Tensor) -> torch.Tensor:
        return nn.functional.dropout(super().features(x), 0.2, self.training)


class WithoutNorm(nn.Module):
    """No batch norm and no dropout: the gradient of a batch is the mean of those of its parts."""

    def __init__(self, classes: int = 2, in_channels: int = 1) -> None:
        super().__init__()
        self.convolution, self.head = nn.Conv2d(in_channels, 6, 3, 2), nn.Linear(6, classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self.head(torch.relu(self.convolution(x)).mean((2, 3)))
        return logits


def network(seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    return WithDropout(2, widths=(4, 6, 8))


def run(net: nn.Module, **options: object) -> TrainResult:
    settings: dict = {
        "epochs": 4,
        "batch": 16,
        "lr": 0.1,
        "progress": None,
        "threads": 1,
        "augment": "robust",
        "seed": 5,
    }
    return train(net, stripes(), stripes(64, 1), **(settings | options))


def same(a: nn.Module, b: nn.Module) -> bool:
    return all(
        torch.equal(x, y)
        for x, y in zip(a.state_dict().values(), b.state_dict().values(), strict=True)
    )


def interrupt_at(text: str) -> Callable[[str], None]:
    def progress(line: str) -> None:
        if text in line:
            raise KeyboardInterrupt

    return progress
