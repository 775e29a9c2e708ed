"""A change of low rank: ``W' = W + scale * up down``, per group of a convolution.

Source: Hu et al., ICLR 2022, arXiv 2106.09685, eq. 3; the scale by the square root of the rank:
Kalajdzievski, arXiv 2312.03732. Differs: a rank counts per group, and one that has as many numbers
as the matrix itself is not offered, so depth-wise convolutions are left alone.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from edgeadapt.errors import InputError
from edgeadapt.host.tuning.contracts import Weights
from edgeadapt.host.tuning.sites import Site

MOST = 64


@dataclass(frozen=True)
class LowRank:
    """Matrices (m, n) change by a product of (m, r) and (r, n); the size of a site is r.

    A start that is not zero gives constants ``up0`` and ``down0``; the numbers are differences from
    them, so that a coarse codec rounds what was learned and not what was there.

    Attributes:
        scale: of the product; the learning rate of ``up`` and ``down`` grows with its root.
        by_rank: divide the scale by the square root of r, so that one rate fits all ranks.
    """

    name: ClassVar[str] = "low_rank"
    scale: float = 1.0
    by_rank: bool = False

    def __post_init__(self) -> None:
        if not self.scale > 0:
            raise InputError(f"low_rank has a scale above 0, got {self.scale}")

    def sizes(self, site: Site) -> tuple[int, ...]:
        """0 to 64, while the factors have fewer numbers than the matrix."""
        if site.kind == "norm":
            return ()
        _, m, n = site.matrix_shape
        most = min(MOST, (m * n - 1) // (m + n))
        return tuple(range(most + 1)) if most else ()

    def shapes(self, site: Site, size: int) -> dict[str, tuple[int, ...]]:
        groups, m, n = site.matrix_shape
        return {"down": (groups, size, n), "up": (groups, m, size)}

    def start(self, site: Site, size: int, w: Weights, g: torch.Generator) -> dict[str, Tensor]:
        """``down`` of rows with an expected length of 1, ``up`` zero."""
        shapes = self.shapes(site, size)
        down = torch.randn(shapes["down"], generator=g) / math.sqrt(shapes["down"][-1])
        return {"down": down, "up": torch.zeros(shapes["up"])}

    def merged(self, site: Site, w: Weights, p: Weights) -> dict[str, Tensor]:
        up, down = p["up"], p["down"]
        if "up0" in p:  # (up0 + up) (down0 + down) without the product that the start had
            change = p["up0"] @ down + up @ (p["down0"] + down)
        else:
            change = up @ down
        rank = p["down"].shape[-2]
        scale = self.scale / math.sqrt(rank) if self.by_rank else self.scale
        return {site.weight: w[site.weight] + site.tensor(scale * change)}


__all__ = ["MOST", "LowRank"]
