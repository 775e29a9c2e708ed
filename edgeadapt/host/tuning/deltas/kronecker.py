"""A change that is a sum of Kronecker products: ``W' = W + sum_k left_k (x) right_k``.

Source: Chong and Qu (SoKA), arXiv 2506.15251. Differs: convolutions per group, as matrices; the
factors' shapes are those nearest to the roots of m and n, the smaller factor of the rows with the
larger of the columns, so that both have about as many numbers.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from edgeadapt.host.tuning.contracts import Weights
from edgeadapt.host.tuning.deltas.low_rank import MOST
from edgeadapt.host.tuning.sites import Site


@dataclass(frozen=True)
class Kronecker:
    """``left`` (groups, k, m1, n1) and ``right`` (groups, k, m2, n2), ``m = m1 m2``, ``n = n1 n2``;
    the size of a site is k, the number of terms.
    """

    name: ClassVar[str] = "kronecker"

    def sizes(self, site: Site) -> tuple[int, ...]:
        """0 to 64, while the factors have fewer numbers than the matrix."""
        if site.kind == "norm":
            return ()
        (m1, m2), (n1, n2) = factors(site)
        most = min(MOST, (m1 * m2 * n1 * n2 - 1) // (m1 * n1 + m2 * n2))
        return tuple(range(most + 1)) if most else ()

    def shapes(self, site: Site, size: int) -> dict[str, tuple[int, ...]]:
        (m1, m2), (n1, n2) = factors(site)
        return {"left": (site.groups, size, m1, n1), "right": (site.groups, size, m2, n2)}

    def start(self, site: Site, size: int, w: Weights, g: torch.Generator) -> dict[str, Tensor]:
        """``left`` zero, ``right`` of rows with an expected length of 1."""
        shapes = self.shapes(site, size)
        right = torch.randn(shapes["right"], generator=g) / math.sqrt(shapes["right"][-1])
        return {"left": torch.zeros(shapes["left"]), "right": right}

    def merged(self, site: Site, w: Weights, p: Weights) -> dict[str, Tensor]:
        left, right = p["left"], p["right"]
        if "left0" in p:  # numbers are differences from the start, whose own sum is taken away
            change = kronecker_sum(p["left0"], right) + kronecker_sum(left, p["right0"] + right)
        else:
            change = kronecker_sum(left, right)
        return {site.weight: w[site.weight] + site.tensor(change)}


def kronecker_sum(left: Tensor, right: Tensor) -> Tensor:
    """(groups, m1 m2, n1 n2) of (groups, k, m1, n1) and (groups, k, m2, n2)."""
    product = torch.einsum("gkab,gkcd->gacbd", left, right)
    return product.flatten(3, 4).flatten(1, 2)


def factors(site: Site) -> tuple[tuple[int, int], tuple[int, int]]:
    """((m1, m2), (n1, n2)) of the site's matrices; m1 and n2 are the smaller ones."""
    _, m, n = site.matrix_shape
    m1, n2 = _nearest(m), _nearest(n)
    return (m1, m // m1), (n // n2, n2)


def _nearest(number: int) -> int:
    """The largest divisor up to the root."""
    return next(one for one in range(math.isqrt(number), 0, -1) if number % one == 0)


__all__ = ["Kronecker", "factors", "kronecker_sum"]
