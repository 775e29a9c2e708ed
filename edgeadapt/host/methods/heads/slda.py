"""Streaming linear discriminant analysis: one covariance for all classes, one mean each (Hayes and
Kanan, CVPR workshops 2020, arXiv 1909.01520).

    logits_k(z) = W_k^T p + b_k,   W_k = A^-1 (m_k - mu),   A = S + lambda I
            p (B, M) the features or their projection

S is the pooled covariance within classes and m_k the class mean; ``slda`` in ``device/linalg.py``
derives both from sums. Where we differ from the paper: its running mean and covariance are
order-dependent and cannot forget; G = sum w h h^T and the class sums give the same covariance up to
rounding, in any order, and a negative weight forgets. Its shrinkage (1 - e) S + e I depends on the
scale of the features; ours is relative to them and safe at one label per class. Priors are equal,
and a class of few labels is not passed over (``balance``).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from edgeadapt.bundle.schema import NumericSpec, TensorSpec
from edgeadapt.errors import InputError
from edgeadapt.host.contracts import (
    Arrays,
    Dims,
    FactoryData,
    Values,
    accumulate,
    class_moment,
    evidence,
    linear_logits,
    with_one,
)
from edgeadapt.host.methods.heads.packed_gram import added_gram, gram_evidence, with_symmetric
from edgeadapt.host.methods.heads.projected_means import added_means, mean_numerics, mean_tensors
from edgeadapt.host.methods.heads.projection import Projection


@dataclass(frozen=True)
class StreamingLDA:
    """State: ``slda.gram`` packed (about 9/16 (M + 1)^2), ``slda.moment`` (M + 1, K),
    ``mean.moment`` (D + 1, K) or (M + 1, K) if compact.

    Args:
        shrinkage: epsilon, relative to the mean variance within classes (or a tenth of the total,
            if that is more).
        balance: share of the correction for classes of few labels.
        projection: to M dimensions; None for the features themselves.
        compact: keep the means that novelty scores read in the space of the projection, see
            ``projected_means``.

    Raises:
        InputError: compact means without a projection.
    """

    shrinkage: float = 1e-2
    balance: float = 1.0
    projection: Projection | None = None
    compact: bool = False
    name: ClassVar[str] = "slda"

    def __post_init__(self) -> None:
        if self.compact and not self.projection:
            raise InputError(
                "compact means are kept in the space of a projection, and this head has none"
            )

    def tensors(self, dims: Dims) -> list[TensorSpec]:
        width = self.projection.width if self.projection else dims.features
        fixed = self.projection.tensors(dims.features) if self.projection else []
        return [
            gram_evidence("slda.gram", width + 1, packed=True),
            evidence("slda.moment", (width + 1, dims.slots), 1),
            *fixed,
            *mean_tensors(self.projection, width, dims, compact=self.compact),
        ]

    def factory(self, data: FactoryData) -> Arrays:
        fixed = self.projection.factory(data) if self.projection else {}
        zero = {
            spec.name: torch.zeros(spec.shape)
            for spec in self.tensors(data.dims)
            if spec.kind == "evidence"
        }
        state = {**zero, **{name: torch.from_numpy(value) for name, value in fixed.items()}}
        return {**fixed, **with_symmetric("slda.gram", accumulate(self, state, data, tuple(zero)))}

    def _features(self, t: Values, z: Tensor) -> Tensor:
        return self.projection.apply(t, z) if self.projection else z

    def learn(
        self, t: Values, z: Tensor, taps: Tensor, y: Tensor, sample_weight: Tensor
    ) -> dict[str, Tensor]:
        p = self._features(t, z)
        return {
            "slda.gram": added_gram(t["slda.gram"], with_one(p), sample_weight),
            "slda.moment": (
                t["slda.moment"] + class_moment(p, y, sample_weight, t["slda.moment"].shape[1])
            ),
            **self.learn_means(t, z, y, sample_weight),
        }

    def learn_means(
        self, t: Values, z: Tensor, y: Tensor, sample_weight: Tensor
    ) -> dict[str, Tensor]:
        """``mean.moment`` alone: what labels of the factory condition teach the novelty scores."""
        return added_means(self.projection, t, z, y, sample_weight, compact=self.compact)

    def predict(self, t: Values, z: Tensor) -> Tensor:
        return linear_logits(t, self._features(t, z))

    def numerics(self) -> list[NumericSpec]:
        head = NumericSpec(
            numeric="slda",
            reads=("slda.gram", "slda.moment", "mean.moment"),
            writes=("head.weight", "head.mean", "head.active"),
            arguments={"shrinkage": self.shrinkage, "balance": self.balance},
        )
        return mean_numerics(self.projection, head, compact=self.compact)


__all__ = ["StreamingLDA"]
