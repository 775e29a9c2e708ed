"""Scale and shift: one gain and one offset per feature, the smallest adaptor.

    a(z) = z + s(z) (n(z) * gain + shift);     n, s: see ``trained_adaptor``

After SSF: Lian et al., NeurIPS 2022 (arXiv 2210.08823, eq. 3), which puts y = gamma x + beta behind
every operation of a network. Here it stands once, behind the encoder; gain = gamma - 1 acts on the
normalised sample, so the mean of its features is left where it is.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from edgeadapt.host.contracts import Dims, Values
from edgeadapt.host.methods.adaptors.trained import TrainedAdaptor


@dataclass(frozen=True)
class ScaleShift(TrainedAdaptor):
    """2 D parameters; as many multiplications per sample. ``probe`` gives all D features, of which
    it trains a diagonal read-out only.
    """

    kind: ClassVar[str] = "scale_shift"
    decayed: ClassVar[frozenset[str]] = frozenset({"gain", "shift"})

    def shapes(self, dims: Dims) -> dict[str, tuple[int, ...]]:
        return {"gain": (dims.features,), "shift": (dims.features,)}

    def hidden(self, p: Values, normal: Tensor) -> Tensor:
        return normal + 0.0

    def residual(self, p: Values, normal: Tensor) -> Tensor:
        return normal * p["gain"] + p["shift"]
