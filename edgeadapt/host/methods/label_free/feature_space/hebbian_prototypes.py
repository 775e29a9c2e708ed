"""Hebbian prototypes: class prototypes behind the frozen encoder compete for a condition's
features, and move towards what they win.

    u = x W^T,   y = softmax(u / tau)   lateral inhibition between the K prototypes
    m = max(0, exp(E0 - H) - 1),   E0 = 0.4 ln K
            three factors: pre x, post y, and how certain the answer was
    W_k <- unit(W_k + rate  sum_i m_i y_ik (x_i - u_ik W_k) / (sum_i m_i y_ik + few))
            Oja's rule; the length of W stays 1
    W_k <- unit((1 - anchor) W_k + anchor P_k),    logits' = logits + s x . (W - P)

x, P and s: see ``prototypes.py``. **A reconstruction**, not a published method: soft Hebbian
competition from SoftHebb (Journe et al., ICLR 2023, arXiv 2209.11883), the idea of Hebbian
adaptation under neuro-modulation from NHL (Tang et al., CVPR 2023, arXiv 2303.00914), which adapts
the first convolution with gradients of the entropy; the sample filter and its weight from EATA (Niu
et al., ICML 2022), less 1, so that a sample on the edge counts for nothing whichever engine
computes it. Put behind the encoder the rule needs no backward pass, leaves every stored feature
valid, and costs what a prototype classifier costs. Oja's term alone pulls lengths to 1; source
prototypes have that length already, so the update turns them and does nothing else.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from edgeadapt.bundle.schema import TensorSpec
from edgeadapt.host.contracts import INACTIVE, Dims, Head, Values, frozen, statistic
from edgeadapt.host.methods.label_free.feature_space.prototypes import (
    AdaptsPrototypes,
    posterior,
    source_prototypes,
    unit,
)


@dataclass(frozen=True)
class HebbianPrototypes(AdaptsPrototypes):
    """Domain state ``hebbian.offset`` (K, D): W - P, zeros for the factory and for classes that
    nobody added yet.

    Args:
        head: of the bundle. sharpness: 1 / temperature of its logits.
        temperature: tau of the competition, in cosines.
        rate: of one step.
        few: samples that the resistance of a prototype is worth.
        anchor: share of the source that returns at each step.
        margin: E0 / ln K.
        strength: nats per unit of cosine.
        steps: per refresh.
    """

    head: Head
    sharpness: float = 1.0
    temperature: float = 0.2
    rate: float = 0.5
    few: float = 1.0
    anchor: float = 0.2
    margin: float = 0.4
    strength: float = 3.0
    steps: int = 2
    name: ClassVar[str] = "hebbian_prototypes"
    prefix: ClassVar[str] = "hebbian"

    def tensors(self, dims: Dims) -> list[TensorSpec]:
        return [
            frozen("hebbian.centre", (dims.features,)),
            statistic("hebbian.offset", (dims.slots, dims.features), bound=1e3, class_axis=0),
        ]

    def adapt(
        self, t: Values, z: Tensor, sample_weight: Tensor
    ) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """One step of the rule on a batch; rows of weight 0 change nothing."""
        active = t["head.active"]
        x, source = unit(z - t["hebbian.centre"]), source_prototypes(t, t["hebbian.centre"])
        prototypes = unit(source + t["hebbian.offset"]) * active[:, None]
        excited = x @ prototypes.T
        response = torch.softmax(excited / self.temperature + (active - 1.0) * -INACTIVE, dim=1)
        _, entropy = posterior(self.adjust(t, z, self.head.predict(t, z)), self.sharpness)
        limit = self.margin * torch.log(torch.clamp(active.sum(), min=2.0))
        is_reliable = (entropy < limit).to(torch.float32) * (sample_weight > 0).to(torch.float32)
        modulator = torch.clamp(
            torch.exp(torch.clamp(limit - entropy, max=10.0)) - 1.0, min=0.0
        ) * torch.clamp(sample_weight, min=0.0)
        won = response * modulator[:, None]  # (B, K)
        mass = won.sum(dim=0)[:, None]
        pull = won.T @ x - (won * excited).sum(dim=0)[:, None] * prototypes
        turned = unit(prototypes + self.rate * pull / (mass + self.few))
        turned = unit((1.0 - self.anchor) * turned + self.anchor * source)
        offset = torch.where(
            is_reliable.sum() > 0, (turned - source) * active[:, None], t["hebbian.offset"]
        )
        return {"used": is_reliable, "wants_reset": sample_weight.sum() * 0.0}, {
            "hebbian.offset": offset
        }
