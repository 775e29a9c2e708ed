"""Hyperdimensional novelty: features and taps fused into one hypervector per sample, one bundle per
class.

    u = [(z - m_z) / r_z, (taps - m_t) / r_t]
            groups of columns; m scalars (0 unless centred), r their scales (1 unless levelled)
    h = P u    P from ``device/numerics/hypervectors.py``: seeded signs and a Hadamard transform
    d_k = sum_{i in class k} w_i h_i / |h_i|^p
            evidence: order-free, mergeable, forgets by negative weight
    novelty(x) = 1 - max_k cos(h, d_k)                 over classes with evidence; (B,) in [0, 2]

The published ancestor is HDFF (Wilson et al., WACV 2023): one random orthogonal matrix per layer,
sums over layers, sums over samples, the largest cosine. EAR (Daniels et al., arXiv 2308.02084) uses
hyperdimensional codes for the same gate; its equations were not reachable, so what is here is a
reconstruction on HDFF. Where we differ: the projection needs no stored matrix and keeps the inner
products of all groups without cross terms as long as D >= columns; samples are bundled as unit
vectors (p = 1); mean pooling; the scalar centring of the paper and a normalisation per group of
every sample are options and off (neither gained on validation splits). As long as D >= columns and
the memory is float32 the score equals the cosine to class means of u: hypervectors change what is
stored (fixed width, any number of taps, one bit per entry), not what is computed.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np
import torch
from torch import Tensor

from edgeadapt.bundle.schema import NumericSpec, TensorSpec
from edgeadapt.device.numerics.hypervectors import (
    factors,
    hadamard,
    power_of_two,
    signs,
    transform_width,
)
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
from edgeadapt.host.methods.novelty.cosine import unit
from edgeadapt.host.methods.whole_bytes import byte_tensor, from_bytes, to_bytes

Bits = Literal[1, 8, 32]
_FAR, _WIDEST = 1e6, 2048


@dataclass(frozen=True)
class Hypervector:
    """State ``hypervector.bundle`` (D + 1, K): sums of hypervectors per class, and counts in the
    last row.

    Args:
        width: D, a power of two; at least the columns of z and taps for exact cosines, less for a
            sketch. 0 takes the smallest that holds all columns, 2048 at most.
        taps: whether taps are fused in.
        levelled: divide each group by its root mean square over factory samples.
        centred: subtract one scalar mean per group.
        normalised: scale each group of each sample to unit norm.
        bits: of the memory that is compared: 32 reads the bundles; 8 and 1 read a derived copy, and
            1 takes the signs of h too.
        seed: of the projection.
    """

    width: int = 0
    taps: bool = True
    levelled: bool = True
    centred: bool = False
    normalised: bool = False
    bits: Bits = 32
    seed: int = 0
    name: ClassVar[str] = "hypervector"

    def __post_init__(self) -> None:
        if self.width:
            power_of_two(self.width)

    def width_for(self, dims: Dims) -> int:
        """D."""
        return self.width or min(_WIDEST, transform_width(sum(self._groups(dims)), 8))

    def _groups(self, dims: Dims) -> tuple[int, ...]:
        return (dims.features, dims.taps) if self.taps and dims.taps else (dims.features,)

    def tensors(self, dims: Dims) -> list[TensorSpec]:
        columns, width = sum(self._groups(dims)), self.width_for(dims)
        wide = transform_width(columns, width)
        side = factors(wide)[1]
        specs = [
            frozen("hypervector.gain", (columns,)),
            byte_tensor("hypervector.transform", (side, side)),
        ]
        if self.centred:
            specs.append(frozen("hypervector.centre", (columns,)))
        if wide > width:
            specs.append(frozen("hypervector.fold", (wide,)))
        specs.append(evidence("hypervector.bundle", (width + 1, dims.slots), 1))
        if self.bits < 32:
            specs.append(
                TensorSpec(
                    name="hypervector.memory",
                    dtype="int8",
                    shape=(dims.slots, width),
                    kind="derived",
                    class_axis=0,
                    persist="never",
                )
            )
        return specs

    def factory(self, data: FactoryData) -> Arrays:
        columns, width = sum(self._groups(data.dims)), self.width_for(data.dims)
        wide = transform_width(columns, width)
        parts = (data.z, data.taps)[: len(self._groups(data.dims))]
        centres = [float(part.mean()) if self.centred else 0.0 for part in parts]
        scales = [
            float(np.sqrt(((part - m) ** 2).sum(axis=1).mean())) if self.levelled else 1.0
            for part, m in zip(parts, centres, strict=True)
        ]
        # a group that is zero everywhere stays zero
        scales = [scale if scale > 1e-12 else 1.0 for scale in scales]
        inverse = np.concatenate(
            [np.full(part.shape[1], 1.0 / scale) for part, scale in zip(parts, scales, strict=True)]
        )
        fixed: Arrays = {
            "hypervector.gain": (signs(self.seed, columns) * inverse).astype(np.float32),
            "hypervector.transform": to_bytes(hadamard(factors(wide)[1])),
        }
        if self.centred:
            fixed["hypervector.centre"] = np.concatenate(
                [np.full(part.shape[1], m) for part, m in zip(parts, centres, strict=True)]
            ).astype(np.float32)
        if wide > width:
            fixed["hypervector.fold"] = signs(self.seed, wide, 1)
        return with_evidence(self, fixed, data)

    def hypervectors(self, t: Values, z: Tensor, taps: Tensor) -> Tensor:
        """(B, D) hypervectors of unit norm; +1 and -1 with a memory of one bit."""
        dims = Dims(z.shape[1], taps.shape[1], 0)
        width, groups = self.width_for(dims), self._groups(dims)
        fused = torch.cat([z, taps], dim=1) if len(groups) == 2 else z
        if self.centred:
            fused = fused - t["hypervector.centre"]
        fused = fused * t["hypervector.gain"]
        if self.normalised:
            fused = torch.cat([unit(part) for part in torch.split(fused, groups, dim=1)], dim=1)
        wide = transform_width(fused.shape[1], width)
        a, b = factors(wide)
        if wide > fused.shape[1]:
            fused = torch.cat(
                [fused, torch.zeros_like(fused[:, :1]).expand(-1, wide - fused.shape[1])], dim=1
            )
        right = from_bytes(t["hypervector.transform"])
        h = torch.matmul(torch.matmul(right[:a, :a], fused.reshape(-1, a, b)), right).reshape(
            -1, wide
        )
        if wide > width:
            h = (h * t["hypervector.fold"]).reshape(-1, wide // width, width).sum(dim=1)
        return _sign(h) if self.bits == 1 else unit(h)

    def learn(
        self, t: Values, z: Tensor, taps: Tensor, y: Tensor, sample_weight: Tensor
    ) -> dict[str, Tensor]:
        bundle = t["hypervector.bundle"]
        added = class_moment(self.hypervectors(t, z, taps), y, sample_weight, bundle.shape[1])
        return {"hypervector.bundle": bundle + added}

    def cosines(self, t: Values, z: Tensor, taps: Tensor) -> Tensor:
        """(B, K) cosine to every class bundle; far below -1 for classes without evidence."""
        h, bundle = self.hypervectors(t, z, taps), t["hypervector.bundle"]
        active = (bundle[-1] > FEWEST).to(torch.float32)
        memory = bundle[:-1].T if self.bits == 32 else t["hypervector.memory"].to(torch.float32)
        return unit(h) @ unit(memory).T - (1.0 - active) * _FAR

    def novelty(self, t: Values, z: Tensor, taps: Tensor, logits: Tensor) -> Tensor:
        return 1.0 - torch.clamp(torch.amax(self.cosines(t, z, taps), dim=1), min=-1.0)

    def classify(self, t: Values, z: Tensor, taps: Tensor) -> Tensor:
        """(B,) class slot of the nearest bundle: the joint gate and classifier of EAR."""
        return torch.argmax(self.cosines(t, z, taps), dim=1)

    def numerics(self) -> list[NumericSpec]:
        if self.bits == 32:
            return []
        return [
            NumericSpec(
                numeric="class_direction",
                reads=("hypervector.bundle",),
                writes=("hypervector.memory",),
                arguments={"bits": float(self.bits)},
            )
        ]


def _sign(values: Tensor) -> Tensor:
    """+1 where not negative, else -1."""
    return torch.where(values >= 0, torch.ones_like(values), -torch.ones_like(values))
