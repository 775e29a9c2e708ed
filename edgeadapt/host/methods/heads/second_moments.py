"""What the heads have in common that solve for their weights: second moments of all samples, first
moments of every class.

    G = sum w h h^T,   Q = sum w h onehot(y)^T,   h = [p, 1]
            p (B, M) the features, or columns made of them

Both are sums, so a head does not depend on the order of samples, and a negative weight forgets. A
numeric derives the weights in the background.
"""

from __future__ import annotations

from typing import Any, ClassVar

from torch import Tensor

from edgeadapt.bundle.schema import NumericSpec, TensorSpec
from edgeadapt.errors import InputError
from edgeadapt.host.contracts import (
    Arrays,
    Dims,
    FactoryData,
    Values,
    class_moment,
    evidence,
    linear_logits,
    with_evidence,
    with_one,
)
from edgeadapt.host.methods.heads.packed_gram import added_gram, gram_evidence, with_symmetric
from edgeadapt.host.methods.heads.projected_means import added_means, mean_numerics, mean_tensors
from edgeadapt.host.methods.heads.projection import Projection


class SecondMoments:
    """State: ``<name>.gram`` (M + 1, M + 1) or packed, about 9/16 of it; ``<name>.moment`` (M + 1,
    K); ``mean.moment`` (D + 1, K), or (M + 1, K) if compact.

    ``numeric`` names what derives the weights, ``arguments`` what it is told.

    Raises:
        InputError: compact means without a projection.
    """

    name: ClassVar[str]
    numeric: ClassVar[str]
    packed: bool
    projection: Projection | None
    compact: bool

    def __post_init__(self) -> None:
        if self.compact and not self.projection:
            raise InputError(
                f"compact means are kept in the space of a projection, and this {self.name} head"
                " has none"
            )

    @property
    def arguments(self) -> dict[str, float]:
        raise NotImplementedError

    @property
    def columns(self) -> Any:
        """What makes M columns of features, as a ``Projection``; None for the features
        themselves.
        """
        return self.projection

    def tensors(self, dims: Dims) -> list[TensorSpec]:
        width = self.columns.width if self.columns else dims.features
        return [
            gram_evidence(f"{self.name}.gram", width + 1, packed=self.packed),
            evidence(f"{self.name}.moment", (width + 1, dims.slots), 1),
            *(self.columns.tensors(dims.features) if self.columns else []),
            *mean_tensors(self.projection, width, dims, compact=self.compact),
        ]

    def factory(self, data: FactoryData) -> Arrays:
        fixed = self.columns.factory(data) if self.columns else {}
        return with_symmetric(f"{self.name}.gram", with_evidence(self, fixed, data))

    def _features(self, t: Values, z: Tensor) -> Tensor:
        return self.columns.apply(t, z) if self.columns else z

    def learn(
        self, t: Values, z: Tensor, taps: Tensor, y: Tensor, sample_weight: Tensor
    ) -> dict[str, Tensor]:
        p, gram, moment = self._features(t, z), f"{self.name}.gram", f"{self.name}.moment"
        return {
            gram: added_gram(t[gram], with_one(p), sample_weight),
            moment: t[moment] + class_moment(p, y, sample_weight, t[moment].shape[1]),
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
            numeric=self.numeric,
            reads=(f"{self.name}.gram", f"{self.name}.moment", "mean.moment"),
            writes=("head.weight", "head.mean", "head.active"),
            arguments=self.arguments,
        )
        return mean_numerics(self.projection, head, compact=self.compact)


__all__ = ["SecondMoments"]
