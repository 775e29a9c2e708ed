"""Biases, norms and a scale per channel of every residual branch: ``W' = diag(1 + s) W``, ``b' = (1
+ s) (b + t)``.

Source: Xie et al. (DiffFit), ICCV 2023, arXiv 2304.06648: ``x + gamma f(x)``, gamma from 1.
Differs: gamma is folded into the layer that ends the branch; a branch that ends in a norm has it
already; the projection beside a branch has one too; embeddings are left alone.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from edgeadapt.host.tuning.contracts import Weights
from edgeadapt.host.tuning.sites import Site


@dataclass(frozen=True)
class ResidualScale:
    """At most two numbers a channel; the size of a site is 0 or 1."""

    name: ClassVar[str] = "residual_scale"

    def sizes(self, site: Site) -> tuple[int, ...]:
        return (0, 1) if self.shapes(site, 1) else ()

    def shapes(self, site: Site, size: int) -> dict[str, tuple[int, ...]]:
        if site.kind == "embedding":
            return {}
        scales = site.kind == "norm" or site.ends_branch
        names = [name for name, has in (("scale", scales), ("shift", site.bias)) if has]
        return dict.fromkeys(names, site.channels)

    def start(self, site: Site, size: int, w: Weights, g: torch.Generator) -> dict[str, Tensor]:
        return {name: torch.zeros(shape) for name, shape in self.shapes(site, size).items()}

    def merged(self, site: Site, w: Weights, p: Weights) -> dict[str, Tensor]:
        if site.kind == "norm":  # weight and bias move as they are
            change = {site.weight: w[site.weight] + p["scale"]}
            return change | ({site.bias: w[site.bias] + p["shift"]} if site.bias else {})
        found = {}
        if site.bias:
            found[site.bias] = w[site.bias] + p["shift"]
        if site.ends_branch:
            scale = 1.0 + p["scale"]
            found = {name: value * scale for name, value in found.items()}
            found[site.weight] = w[site.weight] * site.per_channel(scale)
        return found


__all__ = ["ResidualScale"]
