"""Linear adaptor: a full matrix beside the identity, for encoders of few features.

    a(z) = z + s(z) (n(z) M + shift),     M (D, D);  n, s: see ``trained_adaptor``

What the low-rank adaptor is with r = D. It is the most that any linear adaptor can do, at D^2
parameters.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from edgeadapt.host.contracts import Dims, Values
from edgeadapt.host.methods.adaptors.trained import TrainedAdaptor


@dataclass(frozen=True)
class LinearAdaptor(TrainedAdaptor):
    """D^2 + D parameters; as many multiplications per sample."""

    kind: ClassVar[str] = "linear"
    decayed: ClassVar[frozenset[str]] = frozenset({"matrix", "shift"})

    def shapes(self, dims: Dims) -> dict[str, tuple[int, ...]]:
        return {"matrix": (dims.features, dims.features), "shift": (dims.features,)}

    def hidden(self, p: Values, normal: Tensor) -> Tensor:
        return normal + 0.0

    def residual(self, p: Values, normal: Tensor) -> Tensor:
        return normal @ p["matrix"] + p["shift"]
