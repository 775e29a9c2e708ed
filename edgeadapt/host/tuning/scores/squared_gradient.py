"""How much of the loss's slope a site's numbers reach.

Source: He et al. (SPT), ICCV 2023, arXiv 2303.08566, eq. 3 and 4: an entry's sensitivity is its
squared gradient, and the most sensitive of the whole network are tuned. Differs: the allocator
shares a budget of numbers among sites by those sums, where the paper cuts at one threshold and
then sweeps it until the budget is met.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch

from edgeadapt.host.tuning.contracts import Delta
from edgeadapt.host.tuning.plan import numbers_at
from edgeadapt.host.tuning.sites import Site
from edgeadapt.host.tuning.statistics import Statistics


@dataclass(frozen=True)
class SquaredGradient:
    """Minus the sum of the site's k largest squared gradients, k the numbers that the size has."""

    name: ClassVar[str] = "squared_gradient"
    wants: ClassVar[frozenset[str]] = frozenset({"squared_gradient"})

    def cost(self, site: Site, delta: Delta, s: Statistics) -> list[float]:
        squares = s.of("squared_gradient", site).double().flatten().sort(descending=True).values
        reached = torch.cat([squares.new_zeros(1), squares.cumsum(0)])
        return [
            -float(reached[min(numbers_at(delta, site, size), len(squares))])
            for size in delta.sizes(site)
        ]


__all__ = ["SquaredGradient"]
