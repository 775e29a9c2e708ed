"""A residual network trained here in seconds on three kinds of ramps, and exported with every
precision.

``python tests/host/precision/precise.py tests/device/golden/precise.edge`` writes the bundle that
device tests open.
"""

from __future__ import annotations

import sys
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from edgeadapt import host
from edgeadapt.bundle import Bundle

CLASSES = ("right", "down", "saddle")


def images(count: int, seed: int, noise: float = 25.0) -> tuple[np.ndarray, np.ndarray]:
    """x (N, 12, 12) uint8, y (N,): a ramp to the right, a ramp downwards, a saddle; with noise. As
    in ``tests/support/ramp_images.py``.
    """
    y = np.arange(count) % len(CLASSES)
    ramp = np.linspace(-1, 1, 12)
    kinds = np.stack(
        [np.tile(ramp, (12, 1)), np.tile(ramp[:, None], (1, 12)), 2 * ramp[None, :] * ramp[:, None]]
    )
    x = 90 + noise * np.random.default_rng(seed).standard_normal((count, 12, 12)) + 50 * kinds[y]
    return x.clip(0, 255).round().astype(np.uint8), y


class Precise(nn.Module):
    """Convolutions with batch-norms, one of them in groups, a residual sum, a linear layer, and a
    classifier whose input is the feature.
    """

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(
            nn.Conv2d(1, 16, 3, stride=2, padding=1, bias=False), nn.BatchNorm2d(16), nn.ReLU()
        )
        self.body = nn.Sequential(
            nn.Conv2d(16, 16, 3, padding=1, groups=16, bias=False),
            nn.BatchNorm2d(16),
            nn.ReLU6(),
            nn.Conv2d(16, 16, 1, bias=False),
            nn.BatchNorm2d(16),
        )
        self.down = nn.Sequential(
            nn.Conv2d(16, 32, 3, stride=2, padding=1), nn.BatchNorm2d(32), nn.ReLU()
        )
        self.hidden = nn.Linear(32, 32)
        self.classifier = nn.Linear(32, len(CLASSES))

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem((x - 90.0) / 50.0)
        x = torch.relu(x + self.body(x))
        x = torch.relu(self.hidden(self.down(x).mean(dim=(2, 3))))
        return self.classifier(x)


@cache
def trained() -> Precise:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = Precise()
        optimiser = torch.optim.Adam(network.parameters(), 3e-3)
        for step in range(60):
            x, y = images(96, 100 + step)
            loss = nn.functional.cross_entropy(
                network(torch.from_numpy(x)[:, None].float()), torch.from_numpy(y)
            )
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
    return network.eval()


def exported(path: Path, network: nn.Module | None = None, **settings: Any) -> Bundle:
    """The bundle, on calibration images with enough noise that some are named wrongly."""
    chosen: dict[str, Any] = {
        "name": "precise",
        "stress": False,
        "novelty": "cosine",
        "class_slots": 8,
        "random_features": 0,
        "precisions": ("float16", "int8"),
    }
    return host.export(
        path, network or trained(), images(600, 7, noise=60.0), CLASSES, **{**chosen, **settings}
    )


if __name__ == "__main__":
    exported(Path(sys.argv[1]))
