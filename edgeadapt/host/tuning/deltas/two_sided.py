"""Low rank on inputs and outputs of a layer: ``W' = (I + B A) W + D C``, ``b' = (I + B A) b``.

Source: Kim et al. (Hydra), arXiv 2309.06922: a branch beside the layer and one behind it. Differs:
the branches have no biases; convolutions per group; a size that has as many numbers as the matrix
itself is not offered; embeddings are left alone, since their outputs lie along the other axis.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from edgeadapt.errors import InputError
from edgeadapt.host.tuning.contracts import Weights
from edgeadapt.host.tuning.deltas.low_rank import MOST
from edgeadapt.host.tuning.sites import Site


@dataclass(frozen=True)
class TwoSided:
    """``down`` (r, n) and ``up`` (m, r) are C and D, of the inputs; ``down_after`` (q, m) and
    ``up_after`` (m, q) are A and B, of the outputs. The size of a site is r + q.

    Attributes:
        after: share of the size that q has, rounded down; 0 is ``low_rank``.
    """

    name: ClassVar[str] = "two_sided"
    after: float = 0.5

    def __post_init__(self) -> None:
        if not 0 <= self.after <= 1:
            raise InputError(f"two_sided has after from 0 to 1, got {self.after}")

    def sizes(self, site: Site) -> tuple[int, ...]:
        """0 to 64, while the factors have fewer numbers than the matrix, and q is at most m."""
        if site.kind not in ("linear", "conv"):
            return ()
        groups, m, n = site.matrix_shape
        most = 0
        while most < MOST and self._ranks(most + 1)[1] <= m:
            if sum(map(math.prod, self.shapes(site, most + 1).values())) >= groups * m * n:
                break
            most += 1
        return tuple(range(most + 1)) if most else ()

    def shapes(self, site: Site, size: int) -> dict[str, tuple[int, ...]]:
        groups, m, n = site.matrix_shape
        r, q = self._ranks(size)
        found: dict[str, tuple[int, ...]] = {}
        if r:
            found |= {"down": (groups, r, n), "up": (groups, m, r)}
        if q:
            found |= {"down_after": (groups, q, m), "up_after": (groups, m, q)}
        return found

    def start(self, site: Site, size: int, w: Weights, g: torch.Generator) -> dict[str, Tensor]:
        """Rows of ``down`` with an expected length of 1, ``up`` zero; those behind alike."""
        return {
            name: torch.randn(shape, generator=g) / math.sqrt(shape[-1])
            if name.startswith("down")
            else torch.zeros(shape)
            for name, shape in self.shapes(site, size).items()
        }

    def merged(self, site: Site, w: Weights, p: Weights) -> dict[str, Tensor]:
        weight = w[site.weight]
        change = torch.zeros(())
        found: dict[str, Tensor] = {}
        if "down" in p:
            change = site.tensor(p["up"] @ p["down"])
        if "down_after" in p:
            after = p["up_after"] @ (p["down_after"] @ site.matrix(weight))
            change = change + site.tensor(after)
            if site.bias:
                groups, m, _ = site.matrix_shape
                bias = w[site.bias].reshape(groups, m, 1)
                shift = p["up_after"] @ (p["down_after"] @ bias)
                found[site.bias] = w[site.bias] + shift.flatten()
        return found | {site.weight: weight + change}

    def _ranks(self, size: int) -> tuple[int, int]:
        """(r, q); the small number keeps a product like .29 * 100 from falling short."""
        after = math.floor(size * self.after + 1e-9)
        return size - after, after


__all__ = ["TwoSided"]
