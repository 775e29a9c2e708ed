"""Novelty as what the principal subspace does not explain, against the energy of the logits (ViM,
Wang et al., CVPR 2022, arXiv 2203.10807, eq. 5-7).

    alpha min_k |(I - V V^T)(z - m_k)| - logsumexp(logits)
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from edgeadapt.bundle.schema import TensorSpec
from edgeadapt.host.contracts import Arrays, Dims, FactoryData, Values, frozen

_FAR = 1e6


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
