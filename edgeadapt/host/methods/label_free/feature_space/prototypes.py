"""Class prototypes as directions from the source's mean, and answers moved by how far they went:
shared by the methods that adjust.

    x = (z - c) / |z - c|,   P_k = (mean_k - c) / |mean_k - c|,
            logits' = logits + strength / sharpness  x . (W - P)

c is the mean of the source's features, mean_k the head's class means as they are now, W the
prototypes that a condition adapted. What counts is the *difference* to the source: where nothing
moved, the head's own answer stands, whatever its covariance knows that prototypes do not.
"""

from __future__ import annotations

from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from edgeadapt.host.contracts import Arrays, FactoryData, Head, Values

_SMALL = 1e-12


class AdaptsPrototypes:
    """A method with the frozen tensor ``<prefix>.centre`` (D,), c, and the domain state
    ``<prefix>.offset`` (K, D), W - P, which is all that answering reads.
    """

    prefix: ClassVar[str]
    home: ClassVar[float] = 1.01
    """Features stay where they are, so that they cannot come home; collapse and dispute still
    suspend it.
    """
    head: Head
    sharpness: float
    strength: float

    def factory(self, data: FactoryData) -> Arrays:
        return {
            f"{self.prefix}.centre": data.z.mean(axis=0, dtype=np.float64).astype(np.float32),
            f"{self.prefix}.offset": np.zeros((data.slots, data.dims.features), np.float32),
        }

    def adjust(self, t: Values, z: Tensor, logits: Tensor) -> Tensor:
        moved = unit(z - t[f"{self.prefix}.centre"]) @ t[f"{self.prefix}.offset"].T
        return logits + (self.strength / self.sharpness) * moved * t["head.active"]


def unit(rows: Tensor) -> Tensor:
    """Rows scaled to length 1; rows of zeros stay zeros."""
    return rows / torch.sqrt(torch.clamp((rows * rows).sum(dim=-1, keepdim=True), min=_SMALL))


def source_prototypes(t: Values, centre: Tensor) -> Tensor:
    """(K, D) unit directions of the head's class means; zeros for unused slots."""
    return unit(t["head.mean"] - centre) * t["head.active"][:, None]


def posterior(logits: Tensor, sharpness: float) -> tuple[Tensor, Tensor]:
    """Probabilities (B, K) and entropies (B,) in nats."""
    log_chance = torch.log_softmax(sharpness * logits, dim=1)
    chance = torch.exp(log_chance)
    return chance, -(chance * torch.clamp(log_chance, min=-1e4)).sum(dim=1)
