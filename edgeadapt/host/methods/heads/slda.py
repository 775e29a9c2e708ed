"""Streaming linear discriminant analysis: one covariance for all classes, one mean each (Hayes and
Kanan, CVPR workshops 2020, arXiv 1909.01520).

    logits_k(z) = W_k^T p + b_k,   W_k = A^-1 (m_k - mu),   A = S + lambda I
            p (B, M) the features or their projection

S is the pooled covariance within classes and m_k the class mean; ``slda`` in
``device/numerics/linalg.py`` derives both from sums. Where we differ from the paper: its running
mean and covariance are order-dependent and cannot forget; G = sum w h h^T and the class sums give
the same covariance up to rounding, in any order, and a negative weight forgets. Its shrinkage (1 -
e) S + e I depends on the scale of the features; ours is relative to them and safe at one label per
class. Priors are equal, and a class of few labels is not passed over (``balance``).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from edgeadapt.host.methods.heads.projection import Projection
from edgeadapt.host.methods.heads.second_moments import SecondMoments


@dataclass(frozen=True)
class StreamingLDA(SecondMoments):
    """State: that of ``SecondMoments``, ``slda.gram`` packed.

    Args:
        shrinkage: epsilon, relative to the mean variance within classes (or a tenth of the total,
            if that is more).
        balance: share of the correction for classes of few labels.
        projection: to M dimensions; None for the features themselves.
        compact: keep the means that novelty scores read in the space of the projection, see
            ``projected_means``.

    Raises:
        InputError: compact means without a projection.
    """

    shrinkage: float = 1e-2
    balance: float = 1.0
    projection: Projection | None = None
    compact: bool = False
    name: ClassVar[str] = "slda"
    numeric: ClassVar[str] = "slda"
    packed: ClassVar[bool] = True

    @property
    def arguments(self) -> dict[str, float]:
        return {"shrinkage": self.shrinkage, "balance": self.balance}


__all__ = ["StreamingLDA"]
