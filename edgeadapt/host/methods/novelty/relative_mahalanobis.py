"""Relative Mahalanobis distance (Ren et al., arXiv 2106.09022, eq. 4-5), in the few columns that
matter.

    novelty(x) = min_k |c - M_k|^2 - sum_j c_j^2 / l_j,   c = (z - mu) W   (B, R); (B,) unbounded

The paper takes the distance to the nearest class Gaussian minus the distance to one Gaussian over
all classes. W diagonalises both covariances at once: W^T S_within W = I, W^T S_total W = diag(l).
Because S_total = S_within + S_between, l_j = 1 in all but K - 1 columns, and there c_j^2 cancels:
what is left are the K - 1 discriminant directions. So W holds those, and after them leading
principal axes, orthogonal to them under S_within and with l_j = 1, in which a class learned later
can lie. Where we differ: S_within is fitted inside the ``subspace`` of largest total variance and
shrunk, S_total is that plus S_between. With 1280 features and R = 32 that is 164 kB; the two
covariances of the paper are 13 MB. M_k comes from additive evidence, so a class that was learned
stops being novel; W and l stay those of the factory.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from edgeadapt.bundle.schema import TensorSpec
from edgeadapt.device.numerics.linalg import FEWEST
from edgeadapt.host.contracts import (
    Arrays,
    Dims,
    FactoryData,
    Values,
    class_moment,
    evidence,
    frozen,
    with_evidence,
)

F64 = NDArray[np.float64]
_FAR = 1e6


@dataclass(frozen=True)
class RelativeMahalanobis:
    """State ``rmds.moment`` (R + 1, K): class sums in whitened columns, and counts.

    Args:
        columns: R, at most the features.
        subspace: of largest total variance, in which covariances are fitted; at least R are taken.
        shrinkage: share of the average variance mixed into the covariance within classes.
    """

    columns: int = 32
    subspace: int = 256
    shrinkage: float = 0.1
    name: ClassVar[str] = "rmds"
    fewest_classes: ClassVar[int] = 2
    """Of a single class the distance to the class is the distance to everything, and the score is
    nothing.
    """

    def _width(self, dims: Dims) -> int:
        return min(self.columns, dims.features)

    def tensors(self, dims: Dims) -> list[TensorSpec]:
        width = self._width(dims)
        return [
            frozen("rmds.centre", (dims.features,)),
            frozen("rmds.projection", (dims.features, width)),
            frozen("rmds.precision", (width,)),
            evidence("rmds.moment", (width + 1, dims.slots), 1),
        ]

    def factory(self, data: FactoryData) -> Arrays:
        centre = data.z.mean(axis=0, dtype=np.float64)
        z = data.z - centre
        basis = np.linalg.eigh(z.T @ z / len(z))[1][:, ::-1][:, : max(self.subspace, self.columns)]
        projection, spread = self._columns(z @ basis, data.y, self._width(data.dims))
        fixed: Arrays = {
            "rmds.centre": centre.astype(np.float32),
            "rmds.projection": (basis @ projection).astype(np.float32),
            "rmds.precision": (1.0 / spread).astype(np.float32),
        }
        return with_evidence(self, fixed, data)

    def _columns(self, z: F64, y: NDArray[np.int64], width: int) -> tuple[F64, F64]:
        """Projection (r, R) of centred features (N, r) and total variances l (R,): discriminants,
        then principal axes.
        """
        classes, slots, counts = np.unique(y, return_inverse=True, return_counts=True)
        means = (np.eye(len(classes))[slots].T @ z) / counts[:, None]
        within = z - means[slots]
        covariance = within.T @ within / len(z)
        average = max(float(np.trace(covariance)) / len(covariance), 1e-12)
        covariance = (1.0 - self.shrinkage) * covariance + self.shrinkage * average * np.eye(
            len(covariance)
        )
        variances, axes = np.linalg.eigh(covariance)
        deviations = np.sqrt(np.maximum(variances, 1e-9 * average))
        whitening = axes / deviations
        white = means @ whitening
        between = np.linalg.eigh((white.T * (counts / len(y))) @ white)
        kept = min(len(classes) - 1, width)
        directions = np.hstack(
            [between[1][:, ::-1][:, :kept], (axes * deviations).T[:, : width - kept]]
        )
        spread = np.concatenate(
            [1.0 + np.maximum(between[0][::-1][:kept], 0.0), np.ones(width - kept)]
        )
        return whitening @ np.linalg.qr(directions)[0], spread

    def learn(
        self, t: Values, z: Tensor, taps: Tensor, y: Tensor, sample_weight: Tensor
    ) -> dict[str, Tensor]:
        columns = (z - t["rmds.centre"]) @ t["rmds.projection"]
        return {
            "rmds.moment": (
                t["rmds.moment"]
                + class_moment(columns, y, sample_weight, t["rmds.moment"].shape[1])
            )
        }

    def novelty(self, t: Values, z: Tensor, taps: Tensor, logits: Tensor) -> Tensor:
        columns = (z - t["rmds.centre"]) @ t["rmds.projection"]
        counts = t["rmds.moment"][-1]
        active = (counts > FEWEST).to(torch.float32)
        means = (t["rmds.moment"][:-1] * active / (counts * active + (1.0 - active))).T
        squared = columns * columns
        nearest = (
            squared.sum(dim=1, keepdim=True)
            - 2.0 * columns @ means.T
            + (means * means).sum(dim=1)[None, :]
        )
        return torch.amin(nearest + (1.0 - active) * _FAR, dim=1) - squared @ t["rmds.precision"]
