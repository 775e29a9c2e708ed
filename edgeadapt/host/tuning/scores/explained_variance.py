"""What a rank leaves unexplained of a site's inputs.

Source: Paischer et al. (EVA), arXiv 2410.07170, section 3: ranks go where the next direction
explains most. Differs: chosen by the allocator under a budget of numbers, not as a global top list
of directions, so a wide site has to earn its wide rows.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch

from edgeadapt.host.tuning.contracts import Delta
from edgeadapt.host.tuning.sites import Site
from edgeadapt.host.tuning.statistics import Statistics


@dataclass(frozen=True)
class ExplainedVariance:
    """The share of the second moment outside its ``size`` largest directions; a mean over groups.
    Sizes are ranks.
    """

    name: ClassVar[str] = "explained_variance"
    wants: ClassVar[frozenset[str]] = frozenset({"second_moment"})

    def cost(self, site: Site, delta: Delta, s: Statistics) -> list[float]:
        values = torch.linalg.eigvalsh(s.of("second_moment", site).double()).clamp(min=0).flip(-1)
        left = 1.0 - values.cumsum(-1) / values.sum(-1, keepdim=True).clamp(min=1e-30)
        mean = [1.0, *left.mean(0).tolist()]
        return [mean[min(size, len(mean) - 1)] for size in delta.sizes(site)]


__all__ = ["ExplainedVariance"]
