"""Novelty read from the logits alone: no bytes, no multiplications beyond the head's.

    energy       -T log sum_k exp(logits_k / T)   Liu et al., NeurIPS 2020 (arXiv 2010.03759), eq. 4
    max_logit    -max_k logits_k   Hendrycks et al., ICML 2022 (arXiv 1911.11132): energy at T -> 0
    max_softmax  1 - max_k softmax(logits / T)_k
            Hendrycks and Gimpel, ICLR 2017 (arXiv 1610.02136)

All (B,), larger is more novel. A linear head grows without bound away from the data, so samples far
from every class can read as well known: ``check_method`` refuses ``max_logit`` and ``max_softmax``
for that, and they are comparisons, not candidates.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from edgeadapt.bundle.schema import TensorSpec
from edgeadapt.host.contracts import Arrays, Dims, FactoryData, Values


class _OfLogits:
    """No tensors of its own."""

    def tensors(self, dims: Dims) -> list[TensorSpec]:
        return []

    def factory(self, data: FactoryData) -> Arrays:
        return {}


@dataclass(frozen=True)
class Energy(_OfLogits):
    """Free energy of the logits; ``temperature`` in units of a logit (a ridge logit of the right
    class is about 1).
    """

    temperature: float = 0.1
    name: ClassVar[str] = "energy"

    def novelty(self, t: Values, z: Tensor, taps: Tensor, logits: Tensor) -> Tensor:
        return -self.temperature * torch.logsumexp(logits / self.temperature, dim=1)


@dataclass(frozen=True)
class MaxLogit(_OfLogits):
    """Minus the largest logit."""

    name: ClassVar[str] = "max_logit"

    def novelty(self, t: Values, z: Tensor, taps: Tensor, logits: Tensor) -> Tensor:
        return -torch.amax(logits, dim=1)


@dataclass(frozen=True)
class MaxSoftmax(_OfLogits):
    """One minus the largest class probability."""

    temperature: float = 0.1
    name: ClassVar[str] = "max_softmax"

    def novelty(self, t: Values, z: Tensor, taps: Tensor, logits: Tensor) -> Tensor:
        return 1.0 - torch.amax(torch.softmax(logits / self.temperature, dim=1), dim=1)
