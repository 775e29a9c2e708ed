"""Makes ``second.edge``: ``python make_second.py`` writes it beside this file. Needs the host
extra; the kept file is what the tests use.

Another encoder for the demo's clothes, small enough to be kept: two convolutions and a linear
layer, trained here on the first 200 sample images of each of the six known classes and calibrated
on the next 80. What is left, and the four other classes, it has never seen.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import nn

from edgeadapt import host
from edgeadapt.demo.sample import KNOWN, load_sample

HERE = Path(__file__).parent
TRAINED, CALIBRATED = 200, 80  # images of a class
EPOCHS = 60


def rows(first: int, last: int) -> np.ndarray:
    y = load_sample().y
    return np.concatenate([np.flatnonzero(y == k)[first:last] for k in range(len(KNOWN))])


def network() -> nn.Module:
    """Pixels, one channel, to 20 features, the input of the last layer."""
    return nn.Sequential(
        nn.Conv2d(1, 8, 3, stride=2, padding=1, bias=False),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.Conv2d(8, 16, 3, stride=2, padding=1, bias=False),
        nn.BatchNorm2d(16),
        nn.ReLU(),
        nn.AvgPool2d(3, stride=2),
        nn.Flatten(),
        nn.Linear(16 * 9, 20),
        nn.ReLU(),
        nn.Linear(20, len(KNOWN)),
    )


def train(whole: nn.Module, x: np.ndarray, y: np.ndarray) -> None:
    optimiser = torch.optim.SGD(whole.parameters(), lr=0.05, momentum=0.9, weight_decay=5e-4)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, EPOCHS)
    images, labels = torch.from_numpy(x).float()[:, None] / 255, torch.from_numpy(y)
    for _ in range(EPOCHS):
        for some in torch.randperm(len(y)).split(64):
            optimiser.zero_grad()
            nn.functional.cross_entropy(whole(images[some]), labels[some]).backward()
            optimiser.step()
        schedule.step()


def main() -> None:
    torch.manual_seed(0)
    sample, whole = load_sample(), network()
    some = rows(0, TRAINED)
    train(whole, sample.x[some], sample.y[some])
    whole[0].weight.data /= 255  # the shipped graph takes pixels as they are
    whole.eval()
    rest = rows(TRAINED, TRAINED + CALIBRATED)
    bundle = host.export(
        HERE / "second.edge",
        whole,
        calibration=(sample.x[rest], sample.y[rest]),
        classes=KNOWN,
        name="second",
        class_slots=12,
        domain_slots=4,
        random_features=0,
        guard_per_class=10,
        adapt="none",
        novelty="cosine",
        progress=print,
    )
    print(bundle.bytes, bundle.card["held_out_accuracy"])


if __name__ == "__main__":
    main()
