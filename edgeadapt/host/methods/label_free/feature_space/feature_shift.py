"""Slow feature shift: move the mean of a condition's features back to where the source had it.

    z' = z + g (mu_source - mu_condition),
            mu_condition <- (1 - a) mu_condition + a mean_w(z),  a = rate * mean(w)

Forward-only first-moment alignment (Niu et al., FOA, ICML 2024, arXiv 2404.01650, eq. 7-9), with a
slow average. ``rate`` is per sample: a refresh from 64 inputs takes 18% of the average, and a fast
average follows the classes of a label-sorted stream instead of its condition. ``g`` is 0 for the
source and 1 in a domain. See ``mean_std`` for the second moment.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from edgeadapt.bundle.schema import TensorSpec
from edgeadapt.host.contracts import Arrays, Dims, FactoryData, Values, frozen, statistic


@dataclass(frozen=True)
class FeatureShift:
    """Domain state ``correct.mean`` (D,) starts at the source mean, so an unused domain corrects
    nothing.
    """

    rate: float = 0.003
    name: ClassVar[str] = "feature_shift"
    can_shrink: ClassVar[bool] = True
    home: ClassVar[float] = 0.97
    """A slow average comes home a step at a time; the factory's 0.85 would refuse the first of
    them, and there would be no second.
    """

    def tensors(self, dims: Dims) -> list[TensorSpec]:
        return [
            frozen("correct.source", (dims.features,)),
            statistic("correct.mean", (dims.features,)),
        ]

    def factory(self, data: FactoryData) -> Arrays:
        mean = data.z.mean(axis=0, dtype=np.float64).astype(np.float32)
        return {"correct.source": mean, "correct.mean": mean.copy()}

    def correct(self, t: Values, z: Tensor) -> Tensor:
        return z + (t["correct.source"] - t["correct.mean"])

    def adapt(
        self, t: Values, z: Tensor, sample_weight: Tensor
    ) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """One refresh from a batch of uncorrected features; rows of weight 0 change nothing."""
        total = sample_weight.sum()
        mean = (sample_weight[:, None] * z).sum(dim=0) / torch.clamp(total, min=1e-6)
        step = self.rate * torch.clamp(total, max=float(1 / self.rate))
        updated = t["correct.mean"] + torch.clamp(step, max=1.0) * (mean - t["correct.mean"])
        moved = torch.where(total > 0, updated, t["correct.mean"])
        used = (sample_weight > 0).to(torch.float32)
        return {"used": used, "wants_reset": total * 0.0}, {"correct.mean": moved}
