"""Ridge regression in information form, balanced over classes.

Evidence: G = sum w h h^T, Q = sum w h onehot(y)^T with h = [phi(z), 1]. Both are sums, so the head does not depend on
the order of samples, and a negative weight forgets. The weights W = (G' + lambda I)^-1 Q' are derived in the
background (``balanced_ridge``), where G' and Q' give every class the same mass:

    m_k = Q_k / n_k,   S = G - sum_k n_k m_k m_k^T,   G' = S / N + sum_k m_k m_k^T / K,   Q'_k = m_k / K

With equal counts this is plain ridge; a class of ten labels beside classes of thousands is not drowned. Sources: ridge as
a streaming head: McDonnell et al., RanPAC, NeurIPS 2023 (eq. 3-5). The pooled within-class scatter for rebalancing is
ours: it is exact if classes share their covariance, and it needs no Gram matrix per class.

Low-dimensional inputs take random features phi(z) = relu(z R) of width ``random_features`` (RanPAC, section 3.2).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from edgeadapt.bundle.schema import NumericSpec, TensorSpec
from edgeadapt.host.methods.base import (
    Arrays,
    Dims,
    FactoryData,
    Values,
    accumulate,
    class_moment,
    evidence,
    frozen,
    head_tensors,
    linear_logits,
    with_one,
)  # fmt: skip


@dataclass(frozen=True)
class Ridge:
    """State: ``ridge.gram`` (M + 1, M + 1), ``ridge.moment`` (M + 1, K), ``mean.moment`` (D + 1, K); M = D without random features.

    Args:
        penalty: lambda, relative to the mean diagonal of G'.
        balance: 1 gives classes equal mass, 0 leaves them as counted; above 1 a class of few labels gets more than its share, which
            offsets the shrinking of a mean that rests on few samples.
        random_features: width M of relu random features; 0 for none.
        seed: of the random projection.
    """

    penalty: float = 1e-3
    balance: float = 1.0
    random_features: int = 0
    seed: int = 0
    name: ClassVar[str] = "ridge"

    def tensors(self, dims: Dims) -> list[TensorSpec]:
        width = self.random_features or dims.features
        specs = [
            evidence("ridge.gram", (width + 1, width + 1), None),
            evidence("ridge.moment", (width + 1, dims.slots), 1),
            evidence("mean.moment", (dims.features + 1, dims.slots), 1),
        ]
        if self.random_features:
            specs.append(frozen("ridge.features", (dims.features, self.random_features)))
        return [*specs, *head_tensors(width, dims)]

    def factory(self, data: FactoryData) -> Arrays:
        specs = self.tensors(data.dims)
        state = {s.name: torch.zeros(s.shape) for s in specs if s.kind == "evidence"}
        evidence_names = tuple(state)
        fixed: Arrays = {}
        if self.random_features:
            rng = np.random.default_rng(self.seed)
            scale = 1.0 / np.sqrt(max(float((data.z**2).sum(axis=1).mean()), 1e-12))
            fixed["ridge.features"] = (rng.standard_normal((data.dims.features, self.random_features)) * scale).astype(np.float32)
            state["ridge.features"] = torch.from_numpy(fixed["ridge.features"])
        return {**fixed, **accumulate(self, state, data, evidence_names)}

    def _features(self, t: Values, z: Tensor) -> Tensor:
        return torch.relu(z @ t["ridge.features"]) if self.random_features else z

    def learn(self, t: Values, z: Tensor, taps: Tensor, y: Tensor, sample_weight: Tensor) -> dict[str, Tensor]:
        slots = t["ridge.moment"].shape[1]
        phi = self._features(t, z)
        h = with_one(phi)
        return {
            "ridge.gram": t["ridge.gram"] + h.T @ (h * sample_weight[:, None]),
            "ridge.moment": t["ridge.moment"] + class_moment(phi, y, sample_weight, slots),
            "mean.moment": t["mean.moment"] + class_moment(z, y, sample_weight, slots),
        }

    def predict(self, t: Values, z: Tensor) -> Tensor:
        return linear_logits(t, self._features(t, z))

    def numerics(self) -> list[NumericSpec]:
        return [
            NumericSpec(
                numeric="balanced_ridge", reads=("ridge.gram", "ridge.moment", "mean.moment"),
                writes=("head.weight", "head.mean", "head.active"), arguments={"penalty": self.penalty, "balance": self.balance},
            )
        ]  # fmt: skip
