"""A network of three small convolutions, trained here in a second on three kinds of ramps, and what
stands beside it when it is adapted.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn

from edgeadapt.bundle.schema import InputSpec
from edgeadapt.host.contracts import Dims
from edgeadapt.host.encoders.torch_module import ModuleEncoder

CLASSES, SLOTS = 3, 5


def images(count: int, seed: int) -> tuple[Tensor, Tensor]:
    """x (N, 12, 12) uint8, y (N,): a ramp to the right, a ramp downwards, a saddle; with noise."""
    y = torch.arange(count) % CLASSES
    ramp = torch.linspace(-1, 1, 12)
    kinds = torch.stack(
        [
            ramp[None, :].expand(12, 12),
            ramp[:, None].expand(12, 12),
            2 * ramp[None, :] * ramp[:, None],
        ]
    )
    x = (
        90
        + 25 * torch.randn(count, 12, 12, generator=torch.Generator().manual_seed(seed))
        + 50 * kinds[y]
    )
    return x.clamp(0, 255).round().to(torch.uint8), y


def dimmed(x: Tensor) -> Tensor:
    """The same images with a third of their contrast, brighter and noisier."""
    noise = 10 * torch.randn(x.shape, generator=torch.Generator().manual_seed(9))
    return (0.35 * x + 120 + noise).clamp(0, 255).round().to(torch.uint8)


@dataclass(frozen=True)
class Trained:
    """An encoder and the tensors of its head, ``head.weight``, ``head.active`` and class means."""

    encoder: ModuleEncoder
    head: dict[str, Tensor]

    def state(self, method: Any) -> dict[str, Tensor]:
        """Every tensor of the method in its factory state."""
        factory = {
            name: torch.from_numpy(value) for name, value in method.factory(_Slots()).items()
        }
        return {**self.encoder.frozen, **self.head, **method.frozen, **factory}

    def refreshed(
        self,
        method: Any,
        state: dict[str, Tensor],
        x: Tensor,
        weight: Tensor | None = None,
        seed: int = 0,
    ) -> tuple[dict[str, Tensor], float]:
        """State and the largest ``wants_reset`` of one refresh, as a device makes it."""
        generator, wish = torch.Generator().manual_seed(seed), 0.0
        for _ in range(int(getattr(method, "steps", 1))):
            ports = {"x": x, "sample_weight": torch.ones(len(x)) if weight is None else weight}
            if getattr(method, "noise_width", 0):
                ports["noise"] = torch.randn(method.noise_width, generator=generator)
            outputs, new = method.adapt(ports, state)
            state, wish = {**state, **new}, max(wish, float(outputs["wants_reset"]))
        return state, wish

    def features(self, method: Any, state: dict[str, Tensor], x: Tensor) -> Tensor:
        z: Tensor = self.encoder.encode(
            {"x": x}, {**self.encoder.frozen, **method.refold({}, state)[1]}
        )["z"]
        return z

    def logits(self, method: Any, state: dict[str, Tensor], x: Tensor) -> Tensor:
        logits: Tensor = method.head.predict(state, self.features(method, state, x))
        return logits


class _Slots:
    slots = SLOTS
    dims = Dims(16, 8, SLOTS)


@cache
def trained() -> Trained:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        net = nn.Sequential(
            nn.Conv2d(1, 8, 3, stride=2, padding=1, bias=False),
            nn.BatchNorm2d(8),
            nn.ReLU(),
            nn.Conv2d(8, 12, 3, stride=2, padding=1, bias=False),
            nn.BatchNorm2d(12),
            nn.ReLU(),
            nn.Conv2d(12, 16, 3, bias=False),
            nn.BatchNorm2d(16),
            nn.ReLU(),
            nn.Flatten(),
            nn.Linear(16, CLASSES),
        )
        optimiser = torch.optim.Adam(net.parameters(), 3e-3)
        for step in range(80):
            x, y = images(96, 100 + step)
            loss = nn.functional.cross_entropy(net(x[:, None].float()), y)
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
    encoder = ModuleEncoder(net.eval(), InputSpec(layout="NHW", dtype="uint8", shape=(12, 12)))
    weight = torch.zeros(17, SLOTS)
    weight[:16, :CLASSES], weight[16, :CLASSES] = net[-1].weight.detach().T, net[-1].bias.detach()
    active = (torch.arange(SLOTS) < CLASSES).float()
    x, y = images(96, 7)
    z = encoder.encode({"x": x}, encoder.frozen)["z"]
    means = torch.stack(
        [z[y == k].mean(dim=0) if k < CLASSES else torch.zeros(16) for k in range(SLOTS)]
    )
    return Trained(encoder, {"head.weight": weight, "head.active": active, "head.mean": means})
