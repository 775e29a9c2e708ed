"""Novelty as the squared Mahalanobis distance to the nearest class mean: min_k |(z - mu) P - M_k|^2
(Lee et al., NeurIPS 2018, arXiv 1807.03888, eq. 2).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

import torch
from torch import Tensor

from edgeadapt.bundle.schema import TensorSpec
from edgeadapt.host.contracts import Arrays, Dims, FactoryData, Values
from edgeadapt.host.methods.residual_shift import ResidualShift

_FAR = 1e6


@dataclass(frozen=True)
class Mahalanobis:
    """Squared distance to the nearest class mean over the whitened columns that the shift residual
    already has.
    """

    sense: ResidualShift = field(default_factory=ResidualShift)
    name: ClassVar[str] = "mahalanobis"

    def tensors(self, dims: Dims) -> list[TensorSpec]:
        return []

    def factory(self, data: FactoryData) -> Arrays:
        return {}

    def novelty(self, t: Values, z: Tensor, taps: Tensor, logits: Tensor) -> Tensor:
        columns = (z - t["shift.centre"]) @ t["shift.projection"]
        means = t["shift.mean"][:, : columns.shape[1]]
        squared = (
            (columns * columns).sum(dim=1, keepdim=True)
            - 2.0 * columns @ means.T
            + (means * means).sum(dim=1)[None, :]
        )
        return torch.amin(squared + (1.0 - t["head.active"]) * _FAR, dim=1) / columns.shape[1]
