"""Bottleneck adaptor: a small residual network between encoder and head, trained by gradient steps on the device.

    a(z) = z + gelu(norm(z) D + b) U + c,     norm: LayerNorm with gain and offset,  D (d, r), U (r, d)
    loss = sum_i w_i CE(head(a(z_i)), y_i) / sum_i w_i;   momentum:  v <- beta v + grad,  p <- p - lr v

Adapters after Houlsby et al., ICML 2019 (arXiv 1902.00751); U starts at 0, so a fresh adaptor changes nothing. The head's
weights are read, not trained. One call is one step: gradient and update are inside the graph.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from edgeadapt.bundle.schema import TensorSpec
from edgeadapt.host.methods.base import Arrays, Dims, FactoryData, Values, linear_logits, one_hot

_PARAMETERS = ("gain", "offset", "down", "down_bias", "up", "up_bias")


@dataclass(frozen=True)
class Bottleneck:
    """Domain state ``adaptor.*`` and ``adaptor.momentum_*``; 2 d r + 3 d + r parameters."""

    width: int = 32
    momentum: float = 0.9
    scale: float = 10.0
    seed: int = 0
    name: ClassVar[str] = "bottleneck"

    def _shapes(self, dims: Dims) -> dict[str, tuple[int, ...]]:
        d, r = dims.features, self.width
        return {"gain": (d,), "offset": (d,), "down": (d, r), "down_bias": (r,), "up": (r, d), "up_bias": (d,)}

    def tensors(self, dims: Dims) -> list[TensorSpec]:
        return [
            TensorSpec(name=f"adaptor.{prefix}{name}", dtype="float32", shape=shape, kind="parameter", scope="domain", merge="mean", bound=1e4)
            for prefix in ("", "momentum_")
            for name, shape in self._shapes(dims).items()
        ]

    def factory(self, data: FactoryData) -> Arrays:
        rng = np.random.default_rng(self.seed)
        shapes = self._shapes(data.dims)
        values: Arrays = {f"adaptor.{name}": np.zeros(shape, np.float32) for name, shape in shapes.items()}
        values["adaptor.gain"] += 1.0
        values["adaptor.down"] = (rng.standard_normal(shapes["down"]) / np.sqrt(shapes["down"][0])).astype(np.float32)
        return values | {f"adaptor.momentum_{name}": np.zeros(shape, np.float32) for name, shape in shapes.items()}

    def correct(self, t: Values, z: Tensor) -> Tensor:
        return self._forward({name: t[f"adaptor.{name}"] for name in _PARAMETERS}, z)

    def _forward(self, p: Values, z: Tensor) -> Tensor:
        centred = z - z.mean(dim=1, keepdim=True)
        normal = centred / torch.sqrt((centred * centred).mean(dim=1, keepdim=True) + 1e-5)
        hidden = torch.nn.functional.gelu((normal * p["gain"] + p["offset"]) @ p["down"] + p["down_bias"])
        return z + hidden @ p["up"] + p["up_bias"]

    def fit(self, t: Values, z: Tensor, y: Tensor, sample_weight: Tensor, learning_rate: Tensor) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """One step of momentum SGD; a batch whose weights are all 0 changes nothing, momentum included."""
        parameters = {name: t[f"adaptor.{name}"] for name in _PARAMETERS}
        total = sample_weight.sum()
        target = one_hot(y, t["head.active"].shape[0])

        def loss_of(p: dict[str, Tensor]) -> Tensor:
            log_probability = torch.log_softmax(self.scale * linear_logits(t, self._forward(p, z)), dim=1)
            return -(sample_weight * (target * log_probability).sum(dim=1)).sum() / torch.clamp(total, min=1e-6)

        gradient, loss = torch.func.grad_and_value(loss_of)(parameters)
        live = (total > 0).to(torch.float32)
        new: dict[str, Tensor] = {}
        for name in _PARAMETERS:
            old = t[f"adaptor.momentum_{name}"]
            velocity = old + live * ((self.momentum - 1.0) * old + gradient[name])
            new[f"adaptor.momentum_{name}"] = velocity
            new[f"adaptor.{name}"] = parameters[name] - live * learning_rate * velocity
        return {"loss": loss}, new
