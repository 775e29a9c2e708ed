"""Ridge regression in information form, balanced over classes.

Evidence: G = sum w h h^T, Q = sum w h onehot(y)^T with h = [phi(z), 1]. Both are sums, so the head
does not depend on the order of samples, and a negative weight forgets. The weights W = (G' + lambda
I)^-1 Q' are derived in the background (``balanced_ridge``), where G' and Q' give every class the
same mass:

    m_k = Q_k / n_k,   S = G - sum_k n_k m_k m_k^T,   G' = S / N + sum_k m_k m_k^T / K,
            Q'_k = m_k / K

With equal counts this is plain ridge; a class of ten labels beside classes of thousands is not
drowned. Sources: ridge as a streaming head: McDonnell et al., RanPAC, NeurIPS 2023 (eq. 3-5). The
pooled within-class scatter for rebalancing is ours: it is exact if classes share their covariance,
and it needs no Gram matrix per class.

Low-dimensional inputs take random features phi(z) = relu(z R) of width ``random_features`` (RanPAC,
section 3.2); wide ones may take a linear projection phi(z) = (z - c) P to M < D dimensions
(``projection.py``), for M^2 bytes in place of D^2.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
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
    frozen,
    linear_logits,
    with_one,
)
from edgeadapt.host.methods.heads.packed_gram import added_gram, gram_evidence, with_symmetric
from edgeadapt.host.methods.heads.projected_means import added_means, mean_numerics, mean_tensors
from edgeadapt.host.methods.heads.projection import Projection


@dataclass(frozen=True)
class Ridge:
    """State: ``ridge.gram`` (M + 1, M + 1), ``ridge.moment`` (M + 1, K), ``mean.moment`` (D + 1,
    K); M = D without random features and projection.

    Args:
        penalty: lambda, relative to the mean diagonal of G'.
        balance: 1 gives classes equal mass, 0 leaves them as counted; above 1 a class of few labels
            gets more than its share, which offsets the shrinking of a mean that rests on few
            samples.
        random_features: width M of relu random features; 0 for none.
        seed: of the random features.
        projection: to M dimensions, instead of random features.
        packed: keep about 9/16 of the Gram matrix, which is symmetric.
        compact: with a projection, keep the means that novelty scores read in its space, see
            ``projected_means``.

    Raises:
        InputError: random features and a projection, or compact means without a projection.
    """

    penalty: float = 1e-3
    balance: float = 1.0
    random_features: int = 0
    seed: int = 0
    projection: Projection | None = None
    packed: bool = False
    compact: bool = False
    name: ClassVar[str] = "ridge"

    def __post_init__(self) -> None:
        if self.random_features and self.projection:
            raise InputError(
                "a ridge head takes random features or a projection, not both; got"
                f" {self.random_features} and {self.projection!r}"
            )
        if self.compact and not self.projection:
            raise InputError(
                "compact means are kept in the space of a projection, and this ridge head has none"
            )

    def tensors(self, dims: Dims) -> list[TensorSpec]:
        width = self.projection.width if self.projection else self.random_features or dims.features
        moment, *derived = mean_tensors(self.projection, width, dims, compact=self.compact)
        fixed = self.projection.tensors(dims.features) if self.projection else []
        if self.random_features:
            fixed = [frozen("ridge.features", (dims.features, self.random_features))]
        return [
            gram_evidence("ridge.gram", width + 1, packed=self.packed),
            evidence("ridge.moment", (width + 1, dims.slots), 1),
            moment,
            *fixed,
            *derived,
        ]

    def factory(self, data: FactoryData) -> Arrays:
        specs = self.tensors(data.dims)
        state = {s.name: torch.zeros(s.shape) for s in specs if s.kind == "evidence"}
        evidence_names = tuple(state)
        fixed: Arrays = {}
        if self.random_features:
            rng = np.random.default_rng(self.seed)
            scale = 1.0 / np.sqrt(max(float((data.z**2).sum(axis=1).mean()), 1e-12))
            fixed["ridge.features"] = (
                rng.standard_normal((data.dims.features, self.random_features)) * scale
            ).astype(np.float32)
            state["ridge.features"] = torch.from_numpy(fixed["ridge.features"])
        if self.projection:
            fixed |= self.projection.factory(data)
            state |= {name: torch.from_numpy(fixed[name]) for name in self.projection.names}
        return {
            **fixed,
            **with_symmetric("ridge.gram", accumulate(self, state, data, evidence_names)),
        }

    def _features(self, t: Values, z: Tensor) -> Tensor:
        if self.projection:
            return self.projection.apply(t, z)
        return torch.relu(z @ t["ridge.features"]) if self.random_features else z

    def learn(
        self, t: Values, z: Tensor, taps: Tensor, y: Tensor, sample_weight: Tensor
    ) -> dict[str, Tensor]:
        slots = t["ridge.moment"].shape[1]
        phi = self._features(t, z)
        return {
            "ridge.gram": added_gram(t["ridge.gram"], with_one(phi), sample_weight),
            "ridge.moment": t["ridge.moment"] + class_moment(phi, y, sample_weight, slots),
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
            numeric="balanced_ridge",
            reads=("ridge.gram", "ridge.moment", "mean.moment"),
            writes=("head.weight", "head.mean", "head.active"),
            arguments={"penalty": self.penalty, "balance": self.balance},
        )
        return mean_numerics(self.projection, head, compact=self.compact)
