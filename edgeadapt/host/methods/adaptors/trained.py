"""What the adaptors that a device trains have in common: a residual between encoder and head, and
one step of momentum SGD on it.

    a(z) = z + s(z) f(n(z)),   n(z) = (z - m(z)) / s(z),
            m, s: mean and deviation over the features of this sample
    L = sum_i w_i CE(scale head(a(z_i)), y_i) / sum_i w_i;   v <- beta v + dL/dp,
            p <- p - lr (v + decay p)

f is 0 at the factory, so a fresh adaptor changes nothing, and decay pulls it back there. It sees
and writes features in units of their own deviation: a(c z) = c a(z), so one learning rate serves
encoders whose features differ in size. The head's weights are read, not trained. One call is one
step: gradient and update are inside the graph.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from edgeadapt.bundle.schema import TensorSpec
from edgeadapt.host.contracts import Arrays, Dims, FactoryData, Values, linear_logits, one_hot

Predict = Callable[[Values, Tensor], Tensor]
_TINY = 1e-12


@dataclass(frozen=True, kw_only=True)
class TrainedAdaptor(ABC):
    """Domain state ``<name>.*`` and, while it is trained, ``<name>.momentum_*``.

    Args:
        momentum: beta.
        decay: pull of what ``decayed`` names back to 0, where the adaptor is the identity.
        scale: inverse temperature of the head's logits. seed: of what starts at random.
    """

    momentum: float = 0.9
    decay: float = 0.0
    scale: float = 10.0
    seed: int = 0
    kind: ClassVar[str]
    decayed: ClassVar[frozenset[str]]

    @property
    def name(self) -> str:
        """Unique among the candidates of a bundle, and the prefix of its tensors."""
        return self.kind

    @abstractmethod
    def shapes(self, dims: Dims) -> dict[str, tuple[int, ...]]:
        """Its parameters."""

    @abstractmethod
    def residual(self, p: Values, normal: Tensor) -> Tensor:
        """f: (B, D) -> (B, D), from its parameters by their own names."""

    @abstractmethod
    def hidden(self, p: Values, normal: Tensor) -> Tensor:
        """(B, P) what f is a linear read-out of."""

    def starts(self, dims: Dims, rng: np.random.Generator) -> Arrays:
        """Parameters that do not start at 0."""
        return {}

    def tensors(self, dims: Dims) -> list[TensorSpec]:
        return [
            TensorSpec(
                name=f"{self.name}.{prefix}{name}",
                dtype="float32",
                shape=shape,
                kind="parameter",
                scope="domain",
                merge="mean",
                bound=1e4,
                # momentum starts at 0 and ends with the training
                persist="never" if prefix else "checkpoint",
            )
            for prefix in ("", "momentum_")
            for name, shape in self.shapes(dims).items()
        ]

    def factory(self, data: FactoryData) -> Arrays:
        values = {spec.name: np.zeros(spec.shape, np.float32) for spec in self.tensors(data.dims)}
        starts = self.starts(data.dims, np.random.default_rng(self.seed))
        return {
            **values,
            **{f"{self.name}.{name}": value.astype(np.float32) for name, value in starts.items()},
        }

    def parameter_count(self, dims: Dims) -> int:
        """Without momentum."""
        return sum(int(np.prod(shape)) for shape in self.shapes(dims).values())

    def correct(self, t: Values, z: Tensor) -> Tensor:
        return self._corrected(self.parameters(t), z)

    def probe(self, t: Values, z: Tensor) -> Tensor:
        """(B, P) features whose linear read-out it trains; before training they tell what it could
        learn.
        """
        return self.hidden(self.parameters(t), normalised(z)[0])

    def fit(
        self,
        t: Values,
        z: Tensor,
        y: Tensor,
        sample_weight: Tensor,
        learning_rate: Tensor,
        predict: Predict = linear_logits,
    ) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """One step; a batch whose weights are all 0 changes nothing, momentum included.

        Args:
            z: (B, D).
            y: (B,) int64.
            sample_weight: (B,), not negative.
            learning_rate: ().
            predict: the head, (tensors, (B, D)) -> (B, K).
        """
        parameters = self.parameters(t)
        gradient, loss = torch.func.grad_and_value(
            lambda p: self.loss(p, t, z, y, sample_weight, predict)
        )(parameters)
        return {"loss": loss}, self.moved(t, parameters, gradient, sample_weight, learning_rate)

    def loss(
        self,
        p: Values,
        t: Values,
        z: Tensor,
        y: Tensor,
        sample_weight: Tensor,
        predict: Predict = linear_logits,
    ) -> Tensor:
        """L of the parameters ``p``."""
        log_probability = torch.log_softmax(self.scale * predict(t, self._corrected(p, z)), dim=1)
        of_label = (one_hot(y, log_probability.shape[1]) * log_probability).sum(dim=1)
        return -(sample_weight * of_label).sum() / torch.clamp(sample_weight.sum(), min=1e-6)

    def moved(
        self,
        t: Values,
        parameters: Values,
        gradient: Values,
        sample_weight: Tensor,
        learning_rate: Tensor,
    ) -> dict[str, Tensor]:
        """Parameters and momentum after one step along a gradient."""
        live = (sample_weight.sum() > 0).to(torch.float32)
        new: dict[str, Tensor] = {}
        for name, value in parameters.items():
            old = t[f"{self.name}.momentum_{name}"]
            velocity = old + live * ((self.momentum - 1.0) * old + gradient[name])
            pull = (
                velocity + self.decay * value if self.decay and name in self.decayed else velocity
            )
            new[f"{self.name}.momentum_{name}"] = velocity
            new[f"{self.name}.{name}"] = value - live * learning_rate * pull
        return new

    def parameters(self, t: Values) -> dict[str, Tensor]:
        """By their own names, without momentum."""
        prefix = f"{self.name}."
        return {
            name[len(prefix) :]: value
            for name, value in t.items()
            if name.startswith(prefix) and not name.startswith(f"{prefix}momentum_")
        }

    def _corrected(self, p: Values, z: Tensor) -> Tensor:
        normal, deviation = normalised(z)
        return z + deviation * self.residual(p, normal)


def normalised(z: Tensor) -> tuple[Tensor, Tensor]:
    """n (B, D) and s (B, 1): each sample with mean 0 and mean square 1 over its features; a
    constant one becomes 0.
    """
    centred = z - z.mean(dim=1, keepdim=True)
    deviation = torch.sqrt((centred * centred).mean(dim=1, keepdim=True) + _TINY)
    return centred / deviation, deviation


__all__ = ["Predict", "TrainedAdaptor", "normalised"]
