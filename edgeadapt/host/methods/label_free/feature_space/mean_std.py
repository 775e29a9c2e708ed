"""Mean and deviation of a condition's features, moved back to where the source had them.

    z' = mu_source + (z - mu_condition) sd_source / sd_condition

    mu <- mu + a (m - mu),   sd^2 <- (1 - a) sd^2 + a v + a (1 - a) (m - mu)^2,
            a = min(rate * sum(w), 1)

m and v are the weighted moments of a refresh; the last term is what two groups with different means
add to a variance, so that the average is exact. Second moments beside the first, as batch-norm has
them (Sun et al., Deep CORAL, 2016, arXiv 1607.01719, with a diagonal covariance), after the encoder
and without its gradients. ``smallest`` and ``largest`` bound sd_source / sd_condition: a column
that is dead under a condition must not be blown up. Features are re-scaled as well as moved, so
this gains more than a shift where classes arrive mixed and loses more where they arrive sorted: a
run of one class has a small deviation of its own.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from edgeadapt.bundle.schema import TensorSpec
from edgeadapt.host.contracts import Arrays, Dims, FactoryData, Values, frozen, statistic

# of the mean deviation: columns that are constant on the source have no scale of their own
_FLOOR = 1e-3


@dataclass(frozen=True)
class MeanStd:
    """Domain state ``correct.mean`` and ``correct.variance`` (D,) start at the source's, so an
    unused domain corrects nothing.

    Args:
        rate: share of the averages that one sample of weight 1 takes; a refresh brings up to 64.
        smallest, largest: bounds of sd_source / sd_condition.
    """

    rate: float = 0.003
    smallest: float = 0.25
    largest: float = 4.0
    name: ClassVar[str] = "mean_std"
    can_shrink: ClassVar[bool] = True
    home: ClassVar[float] = 0.97
    """A slow average comes home a step at a time; the factory's 0.85 would refuse the first of
    them, and there would be no second.
    """

    def tensors(self, dims: Dims) -> list[TensorSpec]:
        return [
            frozen("correct.source", (dims.features,)),
            frozen("correct.source_variance", (dims.features,)),
            statistic("correct.mean", (dims.features,)),
            statistic("correct.variance", (dims.features,), bound=1e12),
        ]

    def factory(self, data: FactoryData) -> Arrays:
        mean = data.z.mean(axis=0, dtype=np.float64)
        variance = data.z.var(axis=0, dtype=np.float64)
        variance = np.maximum(variance, (_FLOOR * np.sqrt(variance).mean()) ** 2 + 1e-12).astype(
            np.float32
        )
        mean = mean.astype(np.float32)
        return {
            "correct.source": mean,
            "correct.source_variance": variance,
            "correct.mean": mean.copy(),
            "correct.variance": variance.copy(),
        }

    def correct(self, t: Values, z: Tensor) -> Tensor:
        floor = t["correct.source_variance"] * (1.0 / self.largest**2)
        ratio = torch.sqrt(
            t["correct.source_variance"] / torch.maximum(t["correct.variance"], floor)
        )
        return t["correct.source"] + (z - t["correct.mean"]) * torch.clamp(ratio, min=self.smallest)

    def adapt(
        self, t: Values, z: Tensor, sample_weight: Tensor
    ) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """One refresh from a batch of uncorrected features; rows of weight 0 change nothing."""
        total = sample_weight.sum()
        share = (sample_weight / torch.clamp(total, min=1e-6))[:, None]
        mean = (share * z).sum(dim=0)
        centred = z - mean
        variance = (share * centred * centred).sum(dim=0)
        step = torch.clamp(self.rate * total, max=1.0)
        moved = mean - t["correct.mean"]
        new_mean = t["correct.mean"] + step * moved
        new_variance = (
            (1.0 - step) * t["correct.variance"]
            + step * variance
            + step * (1.0 - step) * moved * moved
        )
        is_live = total > 0
        new = {
            "correct.mean": torch.where(is_live, new_mean, t["correct.mean"]),
            "correct.variance": torch.where(is_live, new_variance, t["correct.variance"]),
        }
        return {"used": (sample_weight > 0).to(torch.float32), "wants_reset": total * 0.0}, new
