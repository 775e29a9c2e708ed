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
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from edgeadapt.bundle.schema import TensorSpec
from edgeadapt.errors import InputError
from edgeadapt.host.contracts import Arrays, Dims, FactoryData, Values, frozen
from edgeadapt.host.methods.heads.projection import Projection
from edgeadapt.host.methods.heads.second_moments import SecondMoments


@dataclass(frozen=True)
class Ridge(SecondMoments):
    """State: that of ``SecondMoments``; M = D without random features and projection.

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
    numeric: ClassVar[str] = "balanced_ridge"

    def __post_init__(self) -> None:
        if self.random_features and self.projection:
            raise InputError(
                "a ridge head takes random features or a projection, not both; got"
                f" {self.random_features} and {self.projection!r}"
            )
        super().__post_init__()

    @property
    def arguments(self) -> dict[str, float]:
        return {"penalty": self.penalty, "balance": self.balance}

    @property
    def columns(self) -> Any:
        if self.random_features:
            return _RandomFeatures(self.random_features, self.seed)
        return self.projection

    def tensors(self, dims: Dims) -> list[TensorSpec]:
        """Evidence first, as in every manifest."""
        return sorted(super().tensors(dims), key=lambda spec: spec.kind != "evidence")


@dataclass(frozen=True)
class _RandomFeatures:
    """relu(z R), R (D, M) normal from a seed, for features of mean square length 1."""

    width: int
    seed: int

    def tensors(self, features: int) -> list[TensorSpec]:
        return [frozen("ridge.features", (features, self.width))]

    def factory(self, data: FactoryData) -> Arrays:
        scale = 1.0 / np.sqrt(max(float((data.z**2).sum(axis=1).mean()), 1e-12))
        drawn = np.random.default_rng(self.seed).standard_normal((data.z.shape[1], self.width))
        return {"ridge.features": (drawn * scale).astype(np.float32)}

    def apply(self, t: Values, z: Tensor) -> Tensor:
        return torch.relu(z @ t["ridge.features"])
