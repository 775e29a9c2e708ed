"""LAME: answers of a batch pulled towards those of similar samples (Boudiaf et al., CVPR 2022,
arXiv 2201.05718, "Parameter-free Online Test-time Adaptation", eq. 5-8). It learns nothing and
keeps nothing.

    W_ij = neighbours  w_j e^{x_i . x_j / tau} / sum_{l != i} w_l e^{x_i . x_l / tau},   W_ii = 0
    Y_0 = softmax(s logits),   Y_n+1 = softmax(s logits + W Y_n),   logits' = logits + W Y / s

x are unit directions from the source's mean feature, s = 1 / temperature of the logits. The
iteration is the concave-convex one of the paper, a fixed number of times. Its affinity links the 5
nearest neighbours of the batch; ours spreads the same total weight by similarity, as a radial
kernel normalised per row, because who is among the five nearest is decided by rounding where
samples are alike, and such a graph computes different answers on different engines. Where classes
follow one another this wins much, and where every batch is a fresh mix it loses: a device applies
it behind a detector, ``device/adaptation/temporal_correlation.py``.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from edgeadapt.bundle.schema import TensorSpec
from edgeadapt.host.contracts import Arrays, Dims, FactoryData, Values, frozen
from edgeadapt.host.methods.label_free.feature_space.prototypes import unit


@dataclass(frozen=True)
class Lame:
    """Role ``smooth``; ``lame.centre`` (D,) is its one tensor, and frozen.

    Args:
        sharpness: 1 / temperature of the head's logits.
        neighbours: total weight of the others, in nats.
        tau: of the affinity, in cosines.
        iterations: of the fixed point.
    """

    sharpness: float = 1.0
    neighbours: float = 5.0
    tau: float = 0.1
    iterations: int = 5
    name: ClassVar[str] = "lame"

    def tensors(self, dims: Dims) -> list[TensorSpec]:
        return [frozen("lame.centre", (dims.features,))]

    def factory(self, data: FactoryData) -> Arrays:
        return {"lame.centre": data.z.mean(axis=0, dtype=np.float64).astype(np.float32)}

    def smooth(self, t: Values, z: Tensor, logits: Tensor, sample_weight: Tensor) -> Tensor:
        """(B, K) logits of a batch in the light of each other; rows of weight 0 pull no other row,
        and a row alone stays as it is.
        """
        x = unit(z - t["lame.centre"])
        alike = (
            torch.exp((x @ x.T - 1.0) / self.tau) * (1.0 - torch.eye(x.shape[0])) * sample_weight
        )
        affinity = self.neighbours * alike / (alike.sum(dim=1, keepdim=True) + 1e-20)
        unary = self.sharpness * logits
        chance = torch.softmax(unary, dim=1)
        for _ in range(self.iterations - 1):
            chance = torch.softmax(unary + affinity @ chance, dim=1)
        return logits + affinity @ chance / self.sharpness
