"""A start that is not zero: the Kronecker products that are nearest to the weight itself.

Source: Chong and Qu (SoKA), arXiv 2506.15251: the largest terms of the weight's Kronecker SVD, as
many as hold a share of its energy or as lie before the elbow of the spectrum. The rearrangement,
after which a Kronecker product is a matrix of rank 1, is that of Van Loan and Pitsianis, 1993; a
plain reshape to (m1 n1, m2 n2) does not have this property. Differs: the weight stays as it is and
the first sum is taken away in the merge; the elbow is the value farthest below the line from the
first to the last one.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor

from edgeadapt.errors import InputError
from edgeadapt.host.tuning.contracts import Weights
from edgeadapt.host.tuning.deltas.kronecker import Kronecker, factors
from edgeadapt.host.tuning.sites import Site
from edgeadapt.host.tuning.statistics import Statistics

By = Literal["size", "energy", "elbow"]


@dataclass(frozen=True)
class KroneckerSVD:
    """For ``kronecker``.

    Attributes:
        by: how many terms start as the weight's own: ``"size"``, all that the site has; otherwise
            those of :meth:`terms`, and the rest as the delta starts them.
        energy: share of the squared singular values, above 0 and up to 1, for ``"energy"``.
    """

    name: ClassVar[str] = "kronecker_svd"
    delta: ClassVar[str] = "kronecker"
    stored: ClassVar[int] = 2
    wants: ClassVar[frozenset[str]] = frozenset()
    by: By = "size"
    energy: float = 0.9

    def __post_init__(self) -> None:
        if self.by not in ("size", "energy", "elbow"):
            raise InputError(f"kronecker_svd has by size, energy or elbow, got {self.by!r}")
        if not 0 < self.energy <= 1:
            raise InputError(f"kronecker_svd has an energy above 0 and up to 1, got {self.energy}")

    def __call__(
        self, site: Site, size: int, w: Weights, s: Statistics, g: torch.Generator
    ) -> dict[str, Tensor]:
        u, singular, vh = torch.linalg.svd(_rearranged(site, w), full_matrices=False)
        terms = min(size, singular.shape[-1])
        if self.by != "size":
            terms = min(terms, _terms(singular, self.by, self.energy))
        root = singular[:, :terms, None].sqrt()
        (m1, m2), (n1, n2) = factors(site)
        left = (root * u[:, :, :terms].transpose(1, 2)).unflatten(2, (m1, n1)).float()
        right = (root * vh[:, :terms]).unflatten(2, (m2, n2)).float()
        rest = Kronecker().start(site, size, w, g)
        right_of_rest = rest["right"].clone()
        right_of_rest[:, :terms] = 0.0
        return {
            "left": rest["left"],
            "right": right_of_rest,
            "left0": _padded(left, size),
            "right0": _padded(right, size),
        }

    def terms(self, site: Site, w: Weights) -> int:
        """How many terms the weight needs by ``energy`` or ``elbow``; all that there are by
        ``size``.
        """
        singular = torch.linalg.svdvals(_rearranged(site, w))
        return _terms(singular, self.by, self.energy)


def _padded(terms: Tensor, size: int) -> Tensor:
    """With terms of zero behind, up to ``size``."""
    return torch.nn.functional.pad(terms, (0, 0, 0, 0, 0, size - terms.shape[1])).contiguous()


def _rearranged(site: Site, w: Weights) -> Tensor:
    """(groups, m1 n1, m2 n2) float64: row (a, b) is the block of the weight at (a, b)."""
    (m1, m2), (n1, n2) = factors(site)
    weight = site.matrix(w[site.weight].detach()).double()
    blocks = weight.reshape(-1, m1, m2, n1, n2).transpose(2, 3)
    return blocks.reshape(-1, m1 * n1, m2 * n2)


def _terms(singular: Tensor, by: By, energy: float) -> int:
    """The most that any group needs."""
    if by == "size":
        return singular.shape[-1]
    if by == "energy":
        squares = singular**2
        share = squares.cumsum(-1) / squares.sum(-1, keepdim=True).clamp(min=1e-300)
        needed = (share < energy - 1e-12).sum(-1) + 1
        return min(int(needed.max()), singular.shape[-1])
    line = torch.linspace(0.0, 1.0, singular.shape[-1], dtype=singular.dtype)
    chord = singular[:, :1] + line * (singular[:, -1:] - singular[:, :1])
    return max(1, int((chord - singular).argmax(-1).max()))


__all__ = ["KroneckerSVD"]
