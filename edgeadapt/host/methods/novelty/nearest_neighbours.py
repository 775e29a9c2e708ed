"""Novelty as the angle to the k-th nearest of some factory samples: 1 - k-th largest cosine to them
(Sun et al., ICML 2022, arXiv 2204.06507, eq. 3).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from edgeadapt.bundle.schema import TensorSpec
from edgeadapt.host.contracts import Arrays, Dims, FactoryData, Values, frozen
from edgeadapt.host.methods.novelty.cosine import nearest_prototype, unit


@dataclass(frozen=True)
class NearestNeighbours:
    """1 - k-th largest cosine to ``bank`` factory samples, or to the nearest class mean if that is
    closer.

    The second half is ours: a class learned in the field has no samples in the frozen bank.
    """

    neighbours: int = 10
    bank: int = 256
    seed: int = 0
    name: ClassVar[str] = "knn"

    def tensors(self, dims: Dims) -> list[TensorSpec]:
        return [frozen("knn.bank", (self.bank, dims.features))]

    def factory(self, data: FactoryData) -> Arrays:
        rng = np.random.default_rng(self.seed)
        rows = rng.choice(len(data.z), self.bank, replace=len(data.z) < self.bank)
        z = data.z[rows]
        return {"knn.bank": z / np.sqrt((z**2).sum(axis=1, keepdims=True) + 1e-12)}

    def novelty(self, t: Values, z: Tensor, taps: Tensor, logits: Tensor) -> Tensor:
        nearest = torch.topk(unit(z) @ t["knn.bank"].T, self.neighbours, dim=1).values[:, -1]
        return 1.0 - torch.maximum(nearest, nearest_prototype(t, z))
