"""Label-free methods that one could pick instead, on the same encoder and head, with the settings
that were published.

All answer a batch of images and may change themselves by it; none sees a label. Those that work on
the frozen encoder's features have a file of their own.

    batch statistics   y = gain (x - mean_B) / sd_B + offset in every batch-norm
                           Schneider et al., NeurIPS 2020, arXiv 2006.16971
    TENT               and one Adam step on the mean entropy, gains and offsets
                           Wang et al., ICLR 2021, arXiv 2006.10726
    EATA               entropies below .4 ln K, weighted exp(.4 ln K - H), cosine to the
                       mean prediction below .4, + sum F (w - w0)^2
                               Niu et al., ICML 2022, arXiv 2204.02610
    SAR                SGD at a sharpness-aware point, entropies below .4 ln K,
                       start over when their average falls below .2
                               Niu et al., ICLR 2023, arXiv 2302.12400

TENT and EATA use the CIFAR-10 settings of the online benchmark of Marsden et al. (WACV 2024: Adam
1e-3; EATA margin .4 ln K, .4, weight 1, 2,000 source images), SAR its own (SGD .00025 for 64
images, momentum .9). As published, TENT, EATA and SAR answer from before their step.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from functools import lru_cache
from typing import Protocol

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from edgeadapt.host.encoders.networks import to_nchw
from edgeadapt.scenarios.orders import batches
from edgeadapt_bench.shift.shift_dataset import Basis, LinearHead
from edgeadapt_bench.shift.shift_feature_baselines import (
    FAST,
    PUBLISHED_BATCH,
    SLOW,
    FeatureMoments,
    Lame,
    T3a,
)

F32 = NDArray[np.float32]
I64 = NDArray[np.int64]
MARGIN, REDUNDANT, FISHER_IMAGES = 0.4, 0.4, 2000
RHO, RESET, SAR_RATE = 0.05, 0.2, 2.5e-4


class ShiftMethod(Protocol):
    """``name``; ``steps``: how often it has changed itself."""

    name: str
    steps: int

    def predict(self, x: NDArray[np.uint8], z: F32) -> I64:
        """Slots (B,) of images, whose features under the frozen encoder are ``z`` (B, D)."""
        ...


class Rated(ShiftMethod, Protocol):
    """One that can also answer without changing itself, as it is obliged to while it is busy."""

    def read(self, x: NDArray[np.uint8]) -> I64: ...


Maker = Callable[[], ShiftMethod]


class Normed(nn.Module):
    """The encoder with its batch-norms on the statistics of the batch, and the head: images (B, C,
    H, W) float -> sharpened logits (B, K).
    """

    def __init__(self, encoder: nn.Module, head: LinearHead) -> None:
        super().__init__()
        self.encoder = copy.deepcopy(encoder).eval().requires_grad_(False)
        self.register_buffer(
            "weight",
            torch.from_numpy(np.ascontiguousarray(head.weight * np.float32(head.sharpness))),
        )
        self.register_buffer("bias", torch.from_numpy(head.bias * np.float32(head.sharpness)))
        for norm in self.norms().values():
            norm.track_running_stats, norm.running_mean, norm.running_var = False, None, None

    def norms(self) -> dict[str, nn.BatchNorm2d]:
        return {
            name: module
            for name, module in self.encoder.named_modules()
            if isinstance(module, nn.BatchNorm2d)
        }

    def trained(self, but: tuple[str, ...] = ()) -> list[nn.Parameter]:
        """Gains and offsets, those of layers whose names begin like ``but`` left out; they want
        gradients from now on.
        """
        found = [
            p
            for name, norm in self.norms().items()
            if not (but and name.startswith(but))
            for p in (norm.weight, norm.bias)
        ]
        for parameter in found:
            parameter.requires_grad_(True)
        return found

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.encoder(x) @ self.weight + self.bias
        return logits


class OnBatchStatistics:
    """What all that run the encoder on the batch's statistics share."""

    name: str
    network: Normed

    def read(self, x: NDArray[np.uint8]) -> I64:
        with torch.no_grad():
            return _slots(self.network(images(x)))


class BatchStatistics(OnBatchStatistics):
    steps = 0

    def __init__(self, basis: Basis) -> None:
        self.name = "batch statistics"
        self.network = Normed(basis.encoder, basis.head)

    def predict(self, x: NDArray[np.uint8], z: F32) -> I64:
        return self.read(x)


class Tent(OnBatchStatistics):
    def __init__(self, basis: Basis, rate: float = 1e-3) -> None:
        self.name, self.steps = "TENT", 0
        self.network = Normed(basis.encoder, basis.head)
        self.optimiser = torch.optim.Adam(self.network.trained(), rate)

    def predict(self, x: NDArray[np.uint8], z: F32) -> I64:
        logits = self.network(images(x))
        self.optimiser.zero_grad()
        entropy(logits).mean().backward()
        self.optimiser.step()
        self.steps += 1
        return _slots(logits)


class Eata(OnBatchStatistics):
    """With the diagonal of the Fisher matrix of 2,000 source images, as published: gradients of the
    most probable class, squared per batch.
    """

    def __init__(self, basis: Basis, rate: float = 1e-3, weight: float = 1.0) -> None:
        self.name, self.steps, self.weight = "EATA", 0, weight
        self.network = Normed(basis.encoder, basis.head)
        self.parameters = self.network.trained()
        self.margin = MARGIN * math.log(basis.head.bias.size)
        self.start = [p.detach().clone() for p in self.parameters]
        self.fisher = fisher(basis)
        self.optimiser = torch.optim.Adam(self.parameters, rate)
        self.mean: Tensor | None = None

    def predict(self, x: NDArray[np.uint8], z: F32) -> I64:
        logits = self.network(images(x))
        uncertainty, chance = entropy(logits), logits.detach().softmax(1)
        chosen = uncertainty.detach() < self.margin
        if self.mean is not None:
            chosen &= F.cosine_similarity(self.mean[None], chance, dim=1).abs() < REDUNDANT
        if bool(chosen.any()):
            kept = chance[chosen].mean(0)
            self.mean = kept if self.mean is None else 0.9 * self.mean + 0.1 * kept
            picked = uncertainty[chosen]
            loss = (picked * torch.exp(self.margin - picked.detach())).mean()
            loss = loss + self.weight * sum(
                (
                    (f * (p - s) ** 2).sum()
                    for f, p, s in zip(self.fisher, self.parameters, self.start, strict=True)
                ),
                torch.zeros(()),
            )
            self.optimiser.zero_grad()
            loss.backward()
            self.optimiser.step()
            self.steps += 1
        return _slots(logits)


class Sar(OnBatchStatistics):
    """The last stage keeps its norms; a smaller batch has a smaller rate, twice its share below 32
    images, as published.
    """

    def __init__(self, basis: Basis, rate: float = SAR_RATE, reset: float = RESET) -> None:
        self.name, self.steps, self.rate, self.reset = "SAR", 0, rate, reset
        self.network = Normed(basis.encoder, basis.head)
        self.parameters = self.network.trained(basis.top)
        self.margin = MARGIN * math.log(basis.head.bias.size)
        self.start = [p.detach().clone() for p in self.parameters]
        self._begin()

    def _begin(self) -> None:
        self.optimiser = torch.optim.SGD(self.parameters, self.rate, momentum=0.9)
        self.level: float | None = None

    def predict(self, x: NDArray[np.uint8], z: F32) -> I64:
        self.optimiser.param_groups[0]["lr"] = self.rate * (
            2 * len(x) / PUBLISHED_BATCH if len(x) < 32 else 1.0
        )
        logits = self.network(images(x))
        uncertainty = entropy(logits)
        reliable = uncertainty.detach() < self.margin
        if bool(reliable.any()):
            self._step(images(x), uncertainty[reliable].mean(), reliable)
        return _slots(logits)

    def _step(self, x: Tensor, loss: Tensor, reliable: Tensor) -> None:
        """Up along the gradient by ``RHO``, the gradient there, back, and down by it."""
        gradients = torch.autograd.grad(loss, self.parameters)
        length = torch.sqrt(sum(((g * g).sum() for g in gradients), torch.zeros(()))) + 1e-12
        with torch.no_grad():
            before = [p.clone() for p in self.parameters]
            for p, g in zip(self.parameters, gradients, strict=True):
                p += RHO / length * g
        there = entropy(self.network(x))[reliable]
        still = there.detach() < self.margin
        found = (
            torch.autograd.grad(there[still].mean(), self.parameters) if bool(still.any()) else None
        )
        with torch.no_grad():
            for p, b in zip(self.parameters, before, strict=True):
                p.copy_(b)
        if found is None:
            return
        for p, g in zip(self.parameters, found, strict=True):
            p.grad = g
        self.optimiser.step()
        self.steps += 1
        value = float(there.detach()[still].mean())
        self.level = value if self.level is None else 0.9 * self.level + 0.1 * value
        if self.level < self.reset:
            with torch.no_grad():
                for p, s in zip(self.parameters, self.start, strict=True):
                    p.copy_(s)
            self._begin()


@lru_cache(maxsize=4)
def fisher(basis: Basis) -> list[Tensor]:
    """The diagonal per gain and offset, from batches of 64 source images."""
    network = Normed(basis.encoder, basis.head)
    parameters = network.trained()
    x = basis.tuning_x[np.random.default_rng(0).permutation(len(basis.tuning_x))[:FISHER_IMAGES]]
    total = [torch.zeros_like(p) for p in parameters]
    parts = list(batches(len(x) // PUBLISHED_BATCH * PUBLISHED_BATCH, PUBLISHED_BATCH))
    for rows in parts:
        logits = network(images(x[rows]))
        gradients = torch.autograd.grad(F.cross_entropy(logits, logits.argmax(1)), parameters)
        total = [t + g * g / len(parts) for t, g in zip(total, gradients, strict=True)]
    return total


STEPPED: dict[str, tuple[Callable[..., Rated], tuple[float, float, float]]] = {
    "TENT": (Tent, (3e-4, 1e-3, 3e-3)),
    "EATA": (Eata, (3e-4, 1e-3, 3e-3)),
    "SAR": (Sar, (2.5e-4, 2.5e-3, 2.5e-2)),
}
"""Methods with a learning rate: how they are made, and the three rates of which a validation stream
may choose.
"""
PUBLISHED = {"TENT": 1e-3, "EATA": 1e-3, "SAR": SAR_RATE}
CHOSEN = ", rate chosen"
BARRED = ("batch statistics", "TENT", "EATA")
"""What the learner is held against on shuffled streams, with either rate."""


def makers(basis: Basis, chosen: dict[str, float] | None = None) -> dict[str, Maker]:
    """Contenders by name, each made anew for a stream. ``chosen`` rates that are the published ones
    make no second contender.
    """
    found: dict[str, Maker] = {**rated(basis)}
    for name, rate in (chosen or {}).items():
        if rate != PUBLISHED[name]:
            found[name + CHOSEN] = lambda make=STEPPED[name][0], rate=rate: make(basis, rate)  # type: ignore[misc]
    found["LAME"] = lambda: Lame(basis)
    found["T3A"] = lambda: T3a(basis)
    found["slow feature shift"] = lambda: FeatureMoments(basis, SLOW, is_scaled=False)
    found["mean and sd"] = lambda: FeatureMoments(basis, FAST, is_scaled=True)
    return found


def rated(basis: Basis) -> dict[str, Callable[[], Rated]]:
    """Those that a stream at a constant rate is hard for, with published rates."""
    steps = {
        name: lambda make=make, rate=PUBLISHED[name]: make(basis, rate)
        for name, (make, _) in STEPPED.items()
    }  # type: ignore[misc]
    return {"batch statistics": lambda: BatchStatistics(basis), **steps}


def images(x: NDArray[np.uint8]) -> Tensor:
    """(B, H, W[, C]) uint8 -> (B, C, H, W) float32, the channels last in memory: the quicker way on
    a CPU.
    """
    return to_nchw(x).float().contiguous(memory_format=torch.channels_last)


def entropy(logits: Tensor) -> Tensor:
    """(B, K) -> (B,) nats."""
    logs = logits.log_softmax(1)
    return -(logs.exp() * logs).sum(1)


def _slots(logits: Tensor) -> I64:
    slots: I64 = logits.detach().argmax(1).numpy()
    return slots
