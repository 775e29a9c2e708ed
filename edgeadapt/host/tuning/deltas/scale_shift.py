"""A scale and a shift per channel behind a layer, folded into it: ``W' = diag(1 + s) W, b' = (1 +
s) b + t``.

Source: Lian et al., NeurIPS 2022, arXiv 2210.08823, eq. 2 to 4. Differs: both start at zero where
the paper draws them with standard deviation .02, so the start is the base; a convolution without a
bias is left to the norm behind it, which does the same; embeddings are left alone.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from edgeadapt.host.tuning.contracts import Weights
from edgeadapt.host.tuning.sites import Site


@dataclass(frozen=True)
class ScaleShift:
    """Two numbers a channel; the size of a site is 0 or 1."""

    name: ClassVar[str] = "scale_shift"

    def sizes(self, site: Site) -> tuple[int, ...]:
        return (0, 1) if site.bias and site.kind != "embedding" else ()

    def shapes(self, site: Site, size: int) -> dict[str, tuple[int, ...]]:
        return {"scale": site.channels, "shift": site.channels}

    def start(self, site: Site, size: int, w: Weights, g: torch.Generator) -> dict[str, Tensor]:
        return {name: torch.zeros(shape) for name, shape in self.shapes(site, size).items()}

    def merged(self, site: Site, w: Weights, p: Weights) -> dict[str, Tensor]:
        scale = 1.0 + p["scale"]
        return {
            site.weight: w[site.weight] * site.per_channel(scale),
            site.bias: w[site.bias] * scale + p["shift"],
        }


__all__ = ["ScaleShift"]
