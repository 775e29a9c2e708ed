"""Novelty as the angle to the nearest class mean: 1 - max_k cos(z, m_k), 4 D K bytes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from edgeadapt.bundle.schema import TensorSpec
from edgeadapt.host.contracts import Arrays, Dims, FactoryData, Values

_FAR = 1e6


def unit(z: Tensor) -> Tensor:
    """(B, D) rows scaled to length 1."""
    return z / torch.sqrt((z * z).sum(dim=1, keepdim=True) + 1e-12)


def nearest_prototype(t: Values, z: Tensor) -> Tensor:
    """(B,) largest cosine to the mean of an active class."""
    cosine = unit(z) @ unit(t["head.mean"]).T
    return torch.amax(cosine - (1.0 - t["head.active"]) * _FAR, dim=1)


@dataclass(frozen=True)
class Cosine:
    """1 - cosine to the nearest class mean; uncentred (centring hurt on every encoder measured)."""

    name: ClassVar[str] = "cosine"

    def tensors(self, dims: Dims) -> list[TensorSpec]:
        return []

    def factory(self, data: FactoryData) -> Arrays:
        return {}

    def novelty(self, t: Values, z: Tensor, taps: Tensor, logits: Tensor) -> Tensor:
        return 1.0 - nearest_prototype(t, z)
