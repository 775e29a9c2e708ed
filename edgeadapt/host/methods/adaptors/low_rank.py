"""Low-rank adaptor: a linear map of rank r beside the identity.

    a(z) = z + s(z) ((n(z) down) up + shift),
            down (D, r), up (r, D);  n, s: see ``trained_adaptor``

After LoRA: Hu et al., ICLR 2022 (arXiv 2106.09685, eq. 3). There it is added to a weight matrix of
the network and can be merged into it; here the matrix is the identity between encoder and head, the
input is normalised per sample, and a shift is trained along, as a condition moves features before
it turns them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from torch import Tensor

from edgeadapt.host.contracts import Arrays, Dims, Values
from edgeadapt.host.methods.adaptors.trained import TrainedAdaptor


@dataclass(frozen=True)
class LowRank(TrainedAdaptor):
    """2 D r + D parameters, r = ``rank``; as many multiplications per sample."""

    rank: int = 8
    kind: ClassVar[str] = "low_rank"
    decayed: ClassVar[frozenset[str]] = frozenset({"up", "shift"})

    @property
    def name(self) -> str:
        return f"{self.kind}_{self.rank}"

    def shapes(self, dims: Dims) -> dict[str, tuple[int, ...]]:
        d, r = dims.features, self.rank
        return {"down": (d, r), "up": (r, d), "shift": (d,)}

    def starts(self, dims: Dims, rng: np.random.Generator) -> Arrays:
        return {"down": rng.standard_normal((dims.features, self.rank)) / np.sqrt(dims.features)}

    def hidden(self, p: Values, normal: Tensor) -> Tensor:
        return normal @ p["down"]

    def residual(self, p: Values, normal: Tensor) -> Tensor:
        return self.hidden(p, normal) @ p["up"] + p["shift"]
