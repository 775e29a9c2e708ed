"""T3A: class prototypes re-averaged from a condition's most certain samples (Iwasawa and Matsuo,
NeurIPS 2021, "Test-Time Classifier Adjustment Module for Model-Agnostic Domain Generalization",
section 3).

    S_k <- the M of {S_k, new samples predicted as k} with the lowest entropy,
    W_k = unit(prior P_k + sum S_k),
    logits' = logits + s x . (W - P)

x, P and s: see ``prototypes.py``. Where we differ: the paper answers by the prototypes alone, which
gives up what a head with a covariance knows before anything is adapted; the answer here moves by
what the *adapted* prototypes say beyond the *source* ones. Its supports are kept as unit
directions, and an input that is in the memory of two refreshes counts once.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from edgeadapt.bundle.schema import TensorSpec
from edgeadapt.host.contracts import (
    Arrays,
    Dims,
    FactoryData,
    Head,
    Values,
    frozen,
    one_hot,
    statistic,
)
from edgeadapt.host.methods.label_free.feature_space.prototypes import (
    AdaptsPrototypes,
    posterior,
    source_prototypes,
    unit,
)

_EMPTY = 1e3  # entropy of a place without a support
_SAME = 1e-5  # squared distance of two directions that are one sample


@dataclass(frozen=True)
class AdjustedPrototypes(AdaptsPrototypes):
    """Domain state ``t3a.support`` (K, M, D), ``t3a.entropy`` (K, M) and ``t3a.offset`` (K, D),
    which is all that answering reads.

    Args:
        head: of the bundle. sharpness: 1 / temperature of its logits.
        supports: M per class.
        prior: supports that the source prototype counts as.
        strength: nats per unit of cosine.
    """

    head: Head
    sharpness: float = 1.0
    supports: int = 8
    prior: float = 4.0
    strength: float = 3.0
    name: ClassVar[str] = "t3a"
    prefix: ClassVar[str] = "t3a"

    def tensors(self, dims: Dims) -> list[TensorSpec]:
        shapes = {
            "t3a.support": (dims.slots, self.supports, dims.features),
            "t3a.entropy": (dims.slots, self.supports),
            "t3a.offset": (dims.slots, dims.features),
        }
        domain = [
            statistic(name, shape, class_axis=0, merge="replace") for name, shape in shapes.items()
        ]
        return [frozen("t3a.centre", (dims.features,)), *domain]

    def factory(self, data: FactoryData) -> Arrays:
        shape = (data.slots, self.supports)
        return {
            **super().factory(data),
            "t3a.support": np.zeros((*shape, data.dims.features), np.float32),
            "t3a.entropy": np.full(shape, _EMPTY, np.float32),
        }

    def adapt(
        self, t: Values, z: Tensor, sample_weight: Tensor
    ) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """Certain samples take the places of less certain supports; rows of weight 0 change
        nothing.
        """
        x = unit(z - t["t3a.centre"])
        logits = self.head.predict(t, z)
        _, entropy = posterior(logits, self.sharpness)
        predicted = one_hot(torch.argmax(logits, dim=1), logits.shape[1]).T  # (K, B)
        # (K, M, B): squared distance of unit directions
        is_kept = 2.0 - 2.0 * t["t3a.support"] @ x.T < _SAME
        may_enter = (
            predicted
            * (sample_weight > 0).to(torch.float32)
            * (1.0 - is_kept.to(torch.float32).amax(dim=1))
        )
        offered = may_enter * entropy + (1.0 - may_enter) * _EMPTY
        lowest, places = torch.topk(
            torch.cat([t["t3a.entropy"], offered], dim=1), self.supports, dim=1, largest=False
        )
        # (K, M, M + B)
        picked = (places[:, :, None] == torch.arange(self.supports + x.shape[0])).to(torch.float32)
        support = (
            picked[:, :, : self.supports] @ t["t3a.support"] + picked[:, :, self.supports :] @ x
        )
        support = support * (lowest < _EMPTY).to(torch.float32)[:, :, None]
        source = source_prototypes(t, t["t3a.centre"])
        offset = (unit(self.prior * source + support.sum(dim=1)) - source) * t["head.active"][
            :, None
        ]
        is_live = sample_weight.sum() > 0
        new = {"t3a.support": support, "t3a.entropy": lowest, "t3a.offset": offset}
        new = {name: torch.where(is_live, value, t[name]) for name, value in new.items()}
        return {
            "used": (sample_weight > 0).to(torch.float32),
            "wants_reset": sample_weight.sum() * 0.0,
        }, new
