"""Class prototypes as directions from the source's mean, and answers moved by how far they went:
shared by the methods that adjust.

    x = (z - c) / |z - c|,   P_k = (mean_k - c) / |mean_k - c|,
            logits' = logits + strength / sharpness  x . (W - P)

c is the mean of the source's features, mean_k the head's class means as they are now, W the
prototypes that a condition adapted. What counts is the *difference* to the source: where nothing
moved, the head's own answer stands, whatever its covariance knows that prototypes do not.
"""

from __future__ import annotations

import torch
from torch import Tensor

from edgeadapt.host.contracts import Values

_SMALL = 1e-12


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
