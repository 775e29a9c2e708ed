"""What the other deltas are held against: only the classifier, only biases, everything."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from edgeadapt.host.tuning.contracts import Weights
from edgeadapt.host.tuning.sites import Site


@dataclass(frozen=True)
class Head:
    """No site changes; what is trained whole is the classifier."""

    name: ClassVar[str] = "head"

    def sizes(self, site: Site) -> tuple[int, ...]:
        return ()

    def shapes(self, site: Site, size: int) -> dict[str, tuple[int, ...]]:
        return {}

    def start(self, site: Site, size: int, w: Weights, g: torch.Generator) -> dict[str, Tensor]:
        return {}

    def merged(self, site: Site, w: Weights, p: Weights) -> dict[str, Tensor]:
        return {}


@dataclass(frozen=True)
class Bias:
    """Every bias moves, those of norms too.

    Source: Ben Zaken et al., ACL 2022, arXiv 2106.10199.
    """

    name: ClassVar[str] = "bias"

    def sizes(self, site: Site) -> tuple[int, ...]:
        return (0, 1) if site.bias else ()

    def shapes(self, site: Site, size: int) -> dict[str, tuple[int, ...]]:
        return {"shift": site.channels}

    def start(self, site: Site, size: int, w: Weights, g: torch.Generator) -> dict[str, Tensor]:
        return {"shift": torch.zeros(site.channels)}

    def merged(self, site: Site, w: Weights, p: Weights) -> dict[str, Tensor]:
        return {site.bias: w[site.bias] + p["shift"]}


@dataclass(frozen=True)
class Full:
    """Every weight and bias moves, as a difference, so that decay pulls towards the base."""

    name: ClassVar[str] = "full"

    def sizes(self, site: Site) -> tuple[int, ...]:
        return (0, 1)

    def shapes(self, site: Site, size: int) -> dict[str, tuple[int, ...]]:
        shift = {"shift": site.channels} if site.bias else {}
        return {"change": site.shape, **shift}

    def start(self, site: Site, size: int, w: Weights, g: torch.Generator) -> dict[str, Tensor]:
        return {name: torch.zeros(shape) for name, shape in self.shapes(site, size).items()}

    def merged(self, site: Site, w: Weights, p: Weights) -> dict[str, Tensor]:
        shift = {site.bias: w[site.bias] + p["shift"]} if site.bias else {}
        return {site.weight: w[site.weight] + p["change"], **shift}


__all__ = ["Bias", "Full", "Head"]
