"""Nearest class mean: the smallest head, and the class means that novelty scores read.

logits_k(z) = 2 m_k . z - |m_k|^2, largest for the mean nearest in Euclidean distance (Mensink et
al., TPAMI 2013). It is linear in z, so it shares the read-out of the other linear heads; the
numeric ``nearest_mean`` derives the weights.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from edgeadapt.bundle.schema import NumericSpec, TensorSpec
from edgeadapt.host.contracts import (
    Arrays,
    Dims,
    FactoryData,
    Values,
    class_moment,
    evidence,
    head_tensors,
    linear_logits,
    with_evidence,
)


@dataclass(frozen=True)
class NearestMean:
    """State ``mean.moment`` (D + 1, K): class sums, and counts in the last row. Order-free and
    exactly mergeable.
    """

    name: ClassVar[str] = "nearest_mean"

    def tensors(self, dims: Dims) -> list[TensorSpec]:
        return [
            evidence("mean.moment", (dims.features + 1, dims.slots), 1),
            *head_tensors(dims.features, dims),
        ]

    def factory(self, data: FactoryData) -> Arrays:
        return with_evidence(self, {}, data)

    def learn(
        self, t: Values, z: Tensor, taps: Tensor, y: Tensor, sample_weight: Tensor
    ) -> dict[str, Tensor]:
        slots = t["mean.moment"].shape[1]
        return {"mean.moment": t["mean.moment"] + class_moment(z, y, sample_weight, slots)}

    def predict(self, t: Values, z: Tensor) -> Tensor:
        return linear_logits(t, z)

    def numerics(self) -> list[NumericSpec]:
        return [
            NumericSpec(
                numeric="nearest_mean",
                reads=("mean.moment",),
                writes=("head.weight", "head.mean", "head.active"),
            )
        ]
