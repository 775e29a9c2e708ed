"""Novelty scores, larger is more novel. The exporter chooses one per bundle by holding classes out.

All read the class means or logits, so a class that was learned stops being novel.

    cosine       1 - max_k cos(z, m_k)   raw prototypes, 4 D K bytes
    knn          1 - k-th largest cosine to a bank of factory samples
                     Sun et al., ICML 2022 (arXiv 2204.06507), eq. 3
    vim          alpha min_k |(I - V V^T)(z - m_k)| - logsumexp(logits)
                     Wang et al., CVPR 2022 (arXiv 2203.10807), eq. 5-7
    mahalanobis  min_k |(z - mu) P - M_k|^2 over the whitened columns
            Lee et al., NeurIPS 2018 (arXiv 1807.03888), eq. 2
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from edgeadapt.bundle.schema import TensorSpec
from edgeadapt.host.contracts import Arrays, Dims, FactoryData, Values, frozen
from edgeadapt.host.methods.residual_shift import ResidualShift

_FAR = 1e6


def _unit(z: Tensor) -> Tensor:
    return z / torch.sqrt((z * z).sum(dim=1, keepdim=True) + 1e-12)


def nearest_prototype(t: Values, z: Tensor) -> Tensor:
    """(B,) largest cosine to the mean of an active class."""
    cosine = _unit(z) @ _unit(t["head.mean"]).T
    return torch.amax(cosine - (1.0 - t["head.active"]) * _FAR, dim=1)


@dataclass(frozen=True)
class Cosine:
    """1 - cosine to the nearest class mean; uncentred (centring hurt on every encoder measured)."""

    name: ClassVar[str] = "cosine"

    def tensors(self, dims: Dims) -> list[TensorSpec]:
        return []

    def factory(self, data: FactoryData) -> Arrays:
        return {}

    def novelty(self, t: Values, z: Tensor, taps: Tensor, logits: Tensor) -> Tensor:
        return 1.0 - nearest_prototype(t, z)


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
        nearest = torch.topk(_unit(z) @ t["knn.bank"].T, self.neighbours, dim=1).values[:, -1]
        return 1.0 - torch.maximum(nearest, nearest_prototype(t, z))


@dataclass(frozen=True)
class VirtualLogit:
    """ViM without the softmax: residual outside the principal subspace, scaled to the logits, minus
    their energy.

    The residual is taken from the centre or from the nearest class mean, whichever is closer. The
    second half is ours: the frozen subspace does not know a class learned in the field, so all of
    it would stay novel for ever.

    Args:
        subspace: width of the principal subspace; at most half the features.
    """

    subspace: int = 128
    name: ClassVar[str] = "vim"

    def _width(self, dims: Dims) -> int:
        return min(self.subspace, max(1, dims.features // 2))

    def tensors(self, dims: Dims) -> list[TensorSpec]:
        width = self._width(dims)
        return [
            frozen("vim.centre", (dims.features,)),
            frozen("vim.subspace", (dims.features, width)),
            frozen("vim.scale", (1,)),
        ]

    def factory(self, data: FactoryData) -> Arrays:
        centre = data.z.mean(axis=0, dtype=np.float64)
        z = data.z - centre
        vectors = np.linalg.eigh(z.T @ z / len(z))[1][:, ::-1][:, : self._width(data.dims)]
        residual = np.sqrt(np.maximum((z**2).sum(axis=1) - ((z @ vectors) ** 2).sum(axis=1), 0))
        return {
            "vim.centre": centre.astype(np.float32),
            "vim.subspace": vectors.astype(np.float32),
            # a ridge logit is about 1
            "vim.scale": np.array([1.0 / max(float(residual.mean()), 1e-9)], np.float32),
        }

    def novelty(self, t: Values, z: Tensor, taps: Tensor, logits: Tensor) -> Tensor:
        rest, means = self._outside(t, z), self._outside(t, t["head.mean"])
        from_centre = (rest * rest).sum(dim=1)
        from_means = (
            from_centre[:, None] - 2.0 * rest @ means.T + (means * means).sum(dim=1)[None, :]
        )
        nearest = torch.amin(from_means + (1.0 - t["head.active"]) * _FAR, dim=1)
        outside = torch.sqrt(torch.clamp(torch.minimum(from_centre, nearest), min=0.0) + 1e-12)
        return outside * t["vim.scale"] - torch.logsumexp(logits, dim=1)

    def _outside(self, t: Values, z: Tensor) -> Tensor:
        """(B, D) what the principal subspace does not explain."""
        centred = z - t["vim.centre"]
        return centred - (centred @ t["vim.subspace"]) @ t["vim.subspace"].T


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


CANDIDATES = (Cosine, NearestNeighbours, VirtualLogit, Mahalanobis)
