"""Bottleneck adaptor: a small residual network between encoder and head, trained by gradient steps
on the device.

    a(z) = z + s(z) (gelu((n(z) * gain + offset) down + down_bias) up + up_bias),
            down (D, r), up (r, D);  n, s: see ``trained_adaptor``

Adapters after Houlsby et al., ICML 2019 (arXiv 1902.00751, section 2.1); ``up`` starts at 0. Ours
reads normalised features and writes in units of their deviation, because between a frozen encoder
and a linear head no other layer sets the scale.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from edgeadapt.host.contracts import Arrays, Dims, Values
from edgeadapt.host.methods.adaptors.trained import TrainedAdaptor


@dataclass(frozen=True)
class Bottleneck(TrainedAdaptor):
    """2 D r + 3 D + r parameters, r = ``width``; as many multiplications per sample."""

    width: int = 32
    kind: ClassVar[str] = "bottleneck"
    decayed: ClassVar[frozenset[str]] = frozenset({"up", "up_bias"})

    @property
    def name(self) -> str:
        return f"{self.kind}_{self.width}"

    def shapes(self, dims: Dims) -> dict[str, tuple[int, ...]]:
        d, r = dims.features, self.width
        return {
            "gain": (d,),
            "offset": (d,),
            "down": (d, r),
            "down_bias": (r,),
            "up": (r, d),
            "up_bias": (d,),
        }

    def starts(self, dims: Dims, rng: np.random.Generator) -> Arrays:
        return {
            "gain": np.ones(dims.features),
            "down": rng.standard_normal((dims.features, self.width)) / np.sqrt(dims.features),
        }

    def hidden(self, p: Values, normal: Tensor) -> Tensor:
        return torch.nn.functional.gelu(
            (normal * p["gain"] + p["offset"]) @ p["down"] + p["down_bias"]
        )

    def residual(self, p: Values, normal: Tensor) -> Tensor:
        return self.hidden(p, normal) @ p["up"] + p["up_bias"]
