"""A network with every kind of site, and a task for it."""

from __future__ import annotations

import functools
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from edgeadapt.host.compile import CompiledGraph, compile_inference
from edgeadapt.host.tuning.sites import Site, sites_of
from edgeadapt.host.tuning.statistics import Statistics

CLASSES = 5
ROWS = 24


class ToyNetwork(nn.Module):
    """Images (B, 3, 8, 8) to logits (B, 5): a residual block of convolutions, padded, strided,
    grouped, depth-wise and 1x1, with batch norms, then one of linear layers over 16 places that
    have embeddings.
    """

    def __init__(self) -> None:
        super().__init__()
        self.padded = nn.Conv2d(3, 8, 3, padding=1)
        self.norm = nn.BatchNorm2d(8)
        self.strided = nn.Conv2d(8, 12, 3, stride=2, padding=1, bias=False)
        self.norm_strided = nn.BatchNorm2d(12)
        self.grouped = nn.Conv2d(12, 12, 3, padding=1, groups=3)
        self.depthwise = nn.Conv2d(12, 12, 3, padding=1, groups=12)
        self.pointwise = nn.Conv2d(12, 12, 1)
        self.place = nn.Embedding(16, 12)
        self.register_buffer("places", torch.arange(16))
        self.layer_norm = nn.LayerNorm(12)
        self.wide = nn.Linear(12, 20)
        self.narrow = nn.Linear(20, 12)
        self.head = nn.Linear(12, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        x = functional.silu(self.norm(self.padded(x)))
        x = functional.silu(self.norm_strided(self.strided(x)))
        branch = functional.silu(self.grouped(x))
        x = x + self.pointwise(functional.silu(self.depthwise(branch)))
        x = x.flatten(2).transpose(1, 2) + self.place(self.places)
        x = x + self.narrow(functional.silu(self.wide(self.layer_norm(x))))
        out: Tensor = self.head(x.mean(1))
        return out


@dataclass(frozen=True)
class Toy:
    """Always the same: seeded."""

    network: ToyNetwork
    x: Tensor
    y: Tensor
    sites: tuple[Site, ...]

    @classmethod
    def made(cls) -> Toy:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(5)
            network = ToyNetwork()
            x, y = torch.randn(ROWS, 3, 8, 8), torch.arange(ROWS) % CLASSES
            network(3.0 * x + 1.0)  # norms get statistics of their own
        network.eval()
        return cls(network, x, y, sites_of(network, x[:2]))

    @property
    def weights(self) -> dict[str, Tensor]:
        """Copies of the base's parameters."""
        return {name: value.detach().clone() for name, value in self.network.named_parameters()}

    def statistics(self, wants: frozenset[str], sites: tuple[Site, ...]) -> Statistics:
        """Of two batches."""
        batches = [(self.x[:12], self.y[:12]), (self.x[12:], self.y[12:])]
        return Statistics.collect(self.network, batches, sites, wants)


def compiled(name: str, network: nn.Module) -> CompiledGraph:
    """The graph of a network, for images of the toy.

    Raises:
        CompileError: it does not compile, or computes something else than torch.
    """
    tensors = {f"toy.{name}": value.detach() for name, value in network.state_dict().items()}

    def images(generator: torch.Generator, batch: int) -> dict[str, Tensor]:
        return {"x": torch.randn(batch, 3, 8, 8, generator=generator)}

    def run(
        ports: dict[str, Tensor], values: dict[str, Tensor]
    ) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        own = {name.removeprefix("toy."): value for name, value in values.items()}
        return {"y": torch.func.functional_call(network, own, (ports["x"],))}, {}

    return compile_inference(name, run, images, tensors, dynamic_batch=False)


@functools.cache
def base_nodes() -> int:
    """Of the toy's own graph."""
    return compiled("base", Toy.made().network).nodes


__all__ = ["CLASSES", "Toy", "ToyNetwork", "base_nodes", "compiled"]
