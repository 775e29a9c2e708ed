"""Relative distance inside a subspace, residual outside of it, in the columns that the shift
residual already has.

    c = (z - mu) P    (B, d), d <= 96: ``shift.projection`` whitens the covariance within classes
    inside(x)  = min_k |c - M_k|^2 - |c|^2 + |c E|^2
            relative Mahalanobis distance; E E^T = I - S_total^-1 in these columns
    outside(x) = min(|rest(z)|, min_k |rest(z) - rest(m_k)|),   |rest|^2 = |z - mu|^2 - |c T|^2
    novelty(x) = inside / s_i + weight * outside / s_o + angle * (1 - max_k cos(z, m_k)) / s_a
            (B,) unbounded

s are deviations over factory samples. ``inside`` is RMDS (Ren et al., arXiv 2106.09022): since
S_total = S_within + S_between, it lives in the K - 1 discriminant directions, so it tells classes
apart that lie close together and misses what lies off in all other directions. ``outside`` is the
residual of ViM (Wang et al., CVPR 2022, eq. 5) outside the T-span, the leading principal axes, and
is the reverse. What depends on the head alone is derived once per label, not per batch
(``device/numerics/class_residual.py``): with Q = M T and R = Q T^T, |rest(z) - rest(m_k)|^2 =
|rest(z)|^2 + (|m_k - mu|^2 - |Q_k|^2) - 2 ((z - mu) (m_k - mu) - c R_k). Where we differ: both read
one shared projection instead of a covariance of 6.6 MB and a subspace of 1.3 MB; the residual may
start from a class mean, so a learned class stops being novel; the sum of the two is ours. No paper
is reproduced.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from edgeadapt.bundle.schema import NumericSpec, TensorSpec
from edgeadapt.device.numerics.class_residual import class_residual
from edgeadapt.device.numerics.linalg import class_mean
from edgeadapt.host.contracts import Arrays, Dims, FactoryData, Values, derived, frozen
from edgeadapt.host.methods.novelty.cosine import nearest_prototype
from edgeadapt.host.methods.residual_shift import ResidualShift

F64 = NDArray[np.float64]
_FAR = 1e6
_DERIVED = ("relative.inner", "relative.offset")


@dataclass(frozen=True)
class RelativeResidual:
    """State (frozen): E ``relative.between`` (d, R), T ``relative.span`` (d, w), ``relative.scale``
    (3,). No evidence of its own.

    Derived from the class means: ``relative.inner`` (K, d), ``relative.offset`` (K, 2).

    Args:
        discriminants: R, at most this many; those beyond the factory's K - 1 are zero.
        weight: of the residual.
        angle: of the cosine to the nearest prototype; 0.5 gains on far data what it loses near the
            classes.
    """

    discriminants: int = 32
    weight: float = 1.0
    angle: float = 0.0
    sense: ResidualShift = field(default_factory=ResidualShift)

    @property
    def name(self) -> str:
        return "relative_residual_angle" if self.angle else "relative_residual"

    def _sizes(self, dims: Dims) -> tuple[int, int, int]:
        """Columns d, discriminants R, axes w of the span: at most half the features, so that
        something is left outside.
        """
        columns = self.sense.columns(dims)[0]
        return columns, min(self.discriminants, columns), min(columns, max(1, dims.features // 2))

    def tensors(self, dims: Dims) -> list[TensorSpec]:
        columns, between, span = self._sizes(dims)
        widths = (columns, 2)
        return [
            frozen("relative.between", (columns, between)),
            frozen("relative.span", (columns, span)),
            frozen("relative.scale", (3,)),
            *(
                derived(name, (dims.slots, width), 0, bound=1e9)
                for name, width in zip(_DERIVED, widths, strict=True)
            ),
        ]

    def numerics(self) -> list[NumericSpec]:
        reads = ("head.mean", "shift.mean", "shift.centre", "relative.span")
        return [NumericSpec(numeric="class_residual", reads=reads, writes=_DERIVED)]

    def factory(self, data: FactoryData) -> Arrays:
        width, span = self._sizes(data.dims)[1:]
        sensed = self.sense.factory(data)
        projection = sensed["shift.projection"].astype(np.float64)
        z = (data.z - sensed["shift.centre"]).astype(np.float64)
        fixed: Arrays = {
            "relative.between": _between(z @ projection, data.y, width).astype(np.float32),
            "relative.span": _span(z, projection, span).astype(np.float32),
            "relative.scale": np.ones(3, np.float32),
        }
        known = {
            "head.mean": data.class_means(data.z).astype(np.float32),
            "head.active": np.isin(np.arange(data.slots), data.classes).astype(np.float32),
            "shift.mean": class_mean(sensed["shift.moment"])[0],
        }
        found = class_residual(
            known["head.mean"], known["shift.mean"], sensed["shift.centre"], fixed["relative.span"]
        )
        given = {**sensed, **known, **fixed, **dict(zip(_DERIVED, found, strict=True))}
        t = {name: torch.from_numpy(np.ascontiguousarray(value)) for name, value in given.items()}
        spreads = np.array([float(part.std()) for part in self._parts(t, torch.from_numpy(data.z))])
        fixed["relative.scale"] = (
            np.array([1.0, self.weight, self.angle]) / np.maximum(spreads, 1e-9)
        ).astype(np.float32)
        return fixed

    def _parts(self, t: Values, z: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """(B,) each: relative distance inside, residual outside, angle to the nearest prototype."""
        # not in the offsets: a condition's own head has classes of its own
        inactive = (1.0 - t["head.active"]) * _FAR
        centred = z - t["shift.centre"]
        c = centred @ t["shift.projection"]
        offset = t["relative.offset"].T
        to_means = offset[:1] - 2.0 * c @ t["shift.mean"][:, : c.shape[1]].T
        between, spanned = c @ t["relative.between"], c @ t["relative.span"]
        inside = torch.amin(to_means + inactive, dim=1) + (between * between).sum(dim=1)
        from_centre = (centred * centred).sum(dim=1) - (spanned * spanned).sum(dim=1)
        shared = centred @ t["head.mean"].T - c @ t["relative.inner"].T
        nearest = torch.amin(offset[1:] - 2.0 * shared + inactive, dim=1) + 2.0 * (
            centred @ t["shift.centre"]
        )
        outside = from_centre + torch.clamp(nearest, max=0.0)
        return (
            inside,
            torch.sqrt(torch.clamp(outside, min=0.0) + 1e-12),
            1.0 - nearest_prototype(t, z),
        )

    def novelty(self, t: Values, z: Tensor, taps: Tensor, logits: Tensor) -> Tensor:
        scale = t["relative.scale"]
        inside, outside, angle = self._parts(t, z)
        summed = inside * scale[0] + outside * scale[1]
        return summed + angle * scale[2] if self.angle else summed


def _between(c: F64, y: NDArray[np.int64], width: int) -> F64:
    """E (d, R) with E E^T = I - S_total^-1, where S_total = I + S_between in whitened columns; at
    most ``width`` directions.
    """
    _, slots, counts = np.unique(y, return_inverse=True, return_counts=True)
    means = (np.eye(len(counts))[slots].T @ (c - c.mean(axis=0))) / counts[:, None]
    spread, directions = np.linalg.eigh((means.T * (counts / len(y))) @ means)
    spread, directions = np.maximum(spread[::-1][:width], 0.0), directions[:, ::-1][:, :width]
    result: F64 = directions * np.sqrt(spread / (1.0 + spread))
    return result


def _span(z: F64, projection: F64, width: int) -> F64:
    """T (d, w) with z P T the coordinates of centred z on the leading principal axes that P
    spans.
    """
    basis, upper = np.linalg.qr(projection)
    inside = z @ basis
    axes = np.linalg.eigh(inside.T @ inside / len(z))[1][:, ::-1][:, :width]
    return np.linalg.solve(upper, axes)
