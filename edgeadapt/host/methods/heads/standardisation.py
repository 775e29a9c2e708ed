"""Columns brought to one scale before a second-order head sums them, and random features of what
was scaled.

    standardised      p = (z - c) / s                z (B, D), c and s (D,) of the factory features
    random features   p = relu([(z - c) / s, 1] R)   R (D + 1, M), normal from a seed

A penalty or a shrinkage is one number for all columns, so a column in large units would be
penalised least. The scale s_j^2 = v_j + floor mean(v) lies between that of all columns (floor
large: one scale) and that of each column (floor 0: unit variance). Features of one layer of a
network have one unit, and their columns of small variance are noise: they want a floor. Raw
measurements do not.

Random features give a linear head of few inputs something to separate: RanPAC (McDonnell et al.,
NeurIPS 2023, section 3.2). Where we differ: inputs are standardised first, and there is a bias.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from edgeadapt.bundle.schema import TensorSpec
from edgeadapt.errors import InputError
from edgeadapt.host.contracts import Arrays, FactoryData, Values, frozen, with_one

_CENTRE, _SCALE = "projection.centre", "projection.scale"
# of the mean square of a column: less variance than this is rounding, and it is left as it is
_DEAD = 1e-6


def centre_and_scale(
    z: NDArray[np.float32], floor: float
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """c and s (D,) of features (N, D); a column that does not vary is scaled by 1.

    Raises:
        InputError: no features.
    """
    if len(z) == 0:
        raise InputError("columns are scaled by factory features, and there are none")
    exact = z.astype(np.float64)
    centre, variance = exact.mean(axis=0), exact.var(axis=0)
    is_dead = variance <= _DEAD * np.square(exact).mean(axis=0)
    raised = variance + floor * (variance[~is_dead].mean() if not is_dead.all() else 1.0)
    scale = np.sqrt(np.where(is_dead & (floor == 0.0), 1.0, raised))
    return centre.astype(np.float32), np.maximum(scale, 1e-12).astype(np.float32)


@dataclass(frozen=True)
class Standardisation:
    """``projection.centre`` and ``projection.scale`` (D,): every feature, none projected away.

    Args:
        features: D. floor: share of the mean variance that is added to each column's.
    """

    features: int
    floor: float = 0.0
    name: ClassVar[str] = "standardisation"
    names: ClassVar[tuple[str, ...]] = (_CENTRE, _SCALE)

    @property
    def width(self) -> int:
        return self.features

    def tensors(self, features: int) -> list[TensorSpec]:
        return [frozen(_CENTRE, (features,)), frozen(_SCALE, (features,))]

    def factory(self, data: FactoryData) -> Arrays:
        return dict(zip(self.names, centre_and_scale(data.z, self.floor), strict=True))

    def apply(self, t: Values, z: Tensor) -> Tensor:
        return (z - t[_CENTRE]) / t[_SCALE]


@dataclass(frozen=True)
class RandomFeatures:
    """M rectified random features of standardised columns; ``projection.random`` (D + 1, M) beside
    centre and scale.

    Args:
        width: M.
        seed: of R, whose rows are drawn for unit variance.
        floor: as for ``Standardisation``.
    """

    width: int
    seed: int = 0
    floor: float = 0.0
    name: ClassVar[str] = "random features"
    names: ClassVar[tuple[str, ...]] = (_CENTRE, _SCALE, "projection.random")

    def tensors(self, features: int) -> list[TensorSpec]:
        matrix = frozen("projection.random", (features + 1, self.width))
        return [frozen(_CENTRE, (features,)), frozen(_SCALE, (features,)), matrix]

    def factory(self, data: FactoryData) -> Arrays:
        rows = data.z.shape[1] + 1
        drawn = np.random.default_rng(self.seed).standard_normal((rows, self.width)) / np.sqrt(rows)
        values = (*centre_and_scale(data.z, self.floor), drawn.astype(np.float32))
        return dict(zip(self.names, values, strict=True))

    def apply(self, t: Values, z: Tensor) -> Tensor:
        scaled = (z - t[_CENTRE]) / t[_SCALE]
        return torch.relu(with_one(scaled) @ t["projection.random"])


__all__ = ["RandomFeatures", "Standardisation", "centre_and_scale"]
