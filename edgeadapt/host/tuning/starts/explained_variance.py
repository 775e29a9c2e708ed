"""``down`` starts as the directions along which a site's inputs are largest.

Source: Paischer et al. (EVA), arXiv 2410.07170, section 3. Differs: the eigenvectors of the whole
second moment in place of an incremental SVD over batches, which it approximates; convolutions have
patches as inputs; nothing is divided by the singular values.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from edgeadapt.host.tuning.contracts import Weights
from edgeadapt.host.tuning.sites import Site
from edgeadapt.host.tuning.statistics import Statistics


@dataclass(frozen=True)
class ExplainedVariance:
    """For ``low_rank``: orthonormal rows of ``down``, ``up`` zero."""

    name: ClassVar[str] = "explained_variance"
    delta: ClassVar[str] = "low_rank"
    stored: ClassVar[int] = 1
    wants: ClassVar[frozenset[str]] = frozenset({"second_moment"})

    def __call__(
        self, site: Site, size: int, w: Weights, s: Statistics, g: torch.Generator
    ) -> dict[str, Tensor]:
        directions = torch.linalg.eigh(s.of("second_moment", site).double()).eigenvectors
        down = directions[..., -size:].flip(-1).transpose(1, 2).float().contiguous()
        groups, m, _ = site.matrix_shape
        return {"down": down, "up": torch.zeros(groups, m, size)}


__all__ = ["ExplainedVariance"]
