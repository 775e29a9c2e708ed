"""A start that is not zero: the part of a weight that matters least, or most, to what passes.

Source: Yang et al. (CorDA), NeurIPS 2024, arXiv 2406.05223, eq. 2 to 5: ``W C = U S V^T`` with C
the second moment of the inputs, ``down = sqrt(S) V^T C^-1`` and ``up = U sqrt(S)`` of the smallest
singular values (``keep``) or of the largest (``learn``). Differs: the weight stays as it is, and
the first product is taken away in the merge, so base and file stay apart; convolutions by patches;
the ridge on C is a share of its mean diagonal, doubled until the inverse is one.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor

from edgeadapt.errors import InputError
from edgeadapt.host.tuning.contracts import Weights
from edgeadapt.host.tuning.sites import Site
from edgeadapt.host.tuning.statistics import Statistics

_RIDGE, _OFF = 0.01, 0.05


@dataclass(frozen=True)
class ContextOriented:
    """For ``low_rank`` with a scale of 1.

    Attributes:
        part: ``"keep"`` trains the directions that calibration inputs use least, so that what the
            network does with those changes little; ``"learn"`` those that they use most.
    """

    name: ClassVar[str] = "context_oriented"
    delta: ClassVar[str] = "low_rank"
    stored: ClassVar[int] = 2
    wants: ClassVar[frozenset[str]] = frozenset({"second_moment"})
    part: Literal["keep", "learn"] = "keep"

    def __post_init__(self) -> None:
        if self.part not in ("keep", "learn"):
            raise InputError(f"context_oriented has part 'keep' or 'learn', got {self.part!r}")

    def __call__(
        self, site: Site, size: int, w: Weights, s: Statistics, g: torch.Generator
    ) -> dict[str, Tensor]:
        moment, inverse = _invertible(s.of("second_moment", site).double())
        weight = site.matrix(w[site.weight].detach()).double()
        u, singular, vh = torch.linalg.svd(weight @ moment, full_matrices=False)
        take = slice(-size, None) if self.part == "keep" else slice(size)
        root = singular[:, take].sqrt()
        down = (root[:, :, None] * (vh[:, take] @ inverse)).float().contiguous()
        up = (u[:, :, take] * root[:, None]).float().contiguous()
        zero = {"down": torch.zeros_like(down), "up": torch.zeros_like(up)}
        return {**zero, "down0": down, "up0": up}


def _invertible(moment: Tensor) -> tuple[Tensor, Tensor]:
    """The moment with as much of a ridge as its inverse needs, and the inverse."""
    eye = torch.eye(moment.shape[-1], dtype=moment.dtype)
    mean = moment.diagonal(dim1=1, dim2=2).mean(1)[:, None, None].clamp(min=1e-12)
    ridge = _RIDGE
    while True:
        ridged = moment + ridge * mean * eye
        inverse = torch.linalg.inv(ridged)
        if bool(((ridged @ inverse - eye).flatten(1).norm(dim=1) < _OFF).all()):
            return ridged, inverse
        ridge *= 2.0


__all__ = ["ContextOriented"]
