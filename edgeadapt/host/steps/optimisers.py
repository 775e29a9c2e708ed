"""Optimisers as pure functions, to be written into a learning step: parameters, gradients and state
in, parameters and state out.

    SGD        p <- p - lr g
    Momentum   v <- beta v - lr g;  p <- p + v
    Adam       m <- b1 m + (1 - b1) g;  s <- b2 s + (1 - b2) g^2;
               p <- p - lr (m / (1 - b1^t)) / (sqrt(s / (1 - b2^t)) + eps)
    AdamW      p <- (1 - lr wd) p first, then Adam
               (Loshchilov and Hutter, ICLR 2019, arXiv 1711.05101)
    LAMB       u = Adam's direction + wd p;  p <- p - lr (||p|| / ||u||) u

``Momentum`` is the classical form (Polyak 1964; Sutskever et al., ICML 2013, eq. 1), in which the
velocity already holds the learning rate. With a constant rate it takes the same steps as
``torch.optim.SGD(momentum=beta)``; when the rate changes, a velocity keeps the rate it was made
with. It is chosen because the whole update of a weight matrix is then one ``Gemm`` and one ``Add``.

>>> import torch
>>> adam = Adam()
>>> parameters = {"head.weight": torch.ones(2, 3)}
>>> state = adam.state(parameters)
>>> sorted(state)
['adam.steps', 'first_moment.head.weight', 'second_moment.head.weight']
>>> new, state = adam.update(parameters, {"head.weight": torch.full((2, 3), 0.5)}, state, 0.1)
>>> round(float(new["head.weight"][0, 0]), 4), float(state["adam.steps"])
(0.9, 1.0)
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

Values = Mapping[str, Tensor]
Updated = tuple[dict[str, Tensor], dict[str, Tensor]]


class Optimiser(Protocol):
    """What a learning step asks of an optimiser."""

    def state(self, parameters: Values) -> dict[str, Tensor]:
        """The optimiser's own tensors before the first step, by name; names have a dot, as all
        tensors do.
        """
        ...

    def update(
        self,
        parameters: Values,
        gradients: Values,
        state: Values,
        learning_rate: Tensor | float,
        live: Tensor | None = None,
    ) -> Updated:
        """New parameters and new state.

        Args:
            parameters, gradients: float32, the same names and shapes.
            state: from :meth:`state` or from the last step.
            learning_rate: a number, which is folded into the graph, or a port ``()``. For SGD and
                Momentum, which are linear in the gradient, it is cheaper to take the gradients of
                ``learning_rate * loss`` and to give 1.0 here: the rate then multiplies one number
                instead of every gradient.
            live: ``() float32``, 0 or 1. At 0 every result equals its old value bit for bit: a
                batch whose weights are all 0 must change nothing. None where no such batch can
                come; the update of a large matrix is then cheaper by two passes.
        """
        ...


@dataclass(frozen=True)
class SGD:
    """Gradient descent: ``p <- p - lr g``. No state."""

    def state(self, parameters: Values) -> dict[str, Tensor]:
        return {}

    def update(
        self,
        parameters: Values,
        gradients: Values,
        state: Values,
        learning_rate: Tensor | float,
        live: Tensor | None = None,
    ) -> Updated:
        rate = learning_rate if live is None else learning_rate * live
        return {name: p - _times(rate, gradients[name]) for name, p in parameters.items()}, {}


@dataclass(frozen=True)
class Momentum:
    """Momentum in the classical form: ``v <- beta v - lr g; p <- p + v``."""

    beta: float = 0.9

    def state(self, parameters: Values) -> dict[str, Tensor]:
        return {f"momentum.{name}": torch.zeros_like(p) for name, p in parameters.items()}

    def update(
        self,
        parameters: Values,
        gradients: Values,
        state: Values,
        learning_rate: Tensor | float,
        live: Tensor | None = None,
    ) -> Updated:
        new, velocity = {}, {}
        for name, p in parameters.items():
            old = state[f"momentum.{name}"]
            if live is None:
                v = self.beta * old - _times(learning_rate, gradients[name])
                new[name] = p + v
            else:
                v = (1 + live * (self.beta - 1)) * old - (learning_rate * live) * gradients[name]
                new[name] = p + live * v
            velocity[f"momentum.{name}"] = v
        return new, velocity


@dataclass(frozen=True)
class Adam:
    """Adam (Kingma and Ba, ICLR 2015, arXiv 1412.6980, algorithm 1); with ``weight_decay`` AdamW.

    ``eps`` is 1e-6 and not the paper's 1e-8: where a gradient is about as small as eps the first
    step divides rounding error by itself, and two engines then differ by 1.5% of the learning rate
    at 1e-8 and by 0.2% at 1e-6.
    """

    beta1: float = 0.9
    beta2: float = 0.999
    eps: float = 1e-6
    weight_decay: float = 0.0

    def state(self, parameters: Values) -> dict[str, Tensor]:
        moments = {
            f"{moment}.{name}": torch.zeros_like(p)
            for name, p in parameters.items()
            for moment in ("first_moment", "second_moment")
        }
        return {"adam.steps": torch.zeros(()), **moments}

    def update(
        self,
        parameters: Values,
        gradients: Values,
        state: Values,
        learning_rate: Tensor | float,
        live: Tensor | None = None,
    ) -> Updated:
        steps = state["adam.steps"] + (1.0 if live is None else live)
        # before the first live batch there is nothing to correct, and nothing moves
        counted = steps.clamp(min=1.0)
        correction1 = 1 - torch.pow(torch.full_like(counted, self.beta1), counted)
        correction2 = 1 - torch.pow(torch.full_like(counted, self.beta2), counted)
        rate = learning_rate if live is None else learning_rate * live
        gain1, gain2 = (
            (1 - b) if live is None else (1 - b) * live for b in (self.beta1, self.beta2)
        )
        new: dict[str, Tensor] = {}
        after: dict[str, Tensor] = {"adam.steps": steps}
        for name, p in parameters.items():
            g = gradients[name]
            old1 = state[f"first_moment.{name}"]
            old2 = state[f"second_moment.{name}"]
            first = old1 + gain1 * (g - old1)
            second = old2 + gain2 * (g * g - old2)
            new[name] = self._moved(
                name, p, rate, first, correction1, torch.sqrt(second / correction2) + self.eps
            )
            after[f"first_moment.{name}"], after[f"second_moment.{name}"] = first, second
        return new, after

    def _moved(
        self,
        name: str,
        p: Tensor,
        rate: Tensor | float,
        first: Tensor,
        correction: Tensor,
        scale: Tensor,
    ) -> Tensor:
        step = (rate / correction) * first / scale
        return ((1 - rate * self.weight_decay) * p if self.weight_decay else p) - step


@dataclass(frozen=True)
class LAMB(Adam):
    """Adam whose step in every tensor is ``lr`` times as long as the tensor itself (You et al.,
    ICLR 2020, arXiv 1904.00962, algorithm 2).

    As in the authors' BERT runs, tensors of fewer than two dimensions (biases, weights of a norm)
    take Adam's step, without trust ratio and decay; and so do those in ``excluded``. Name there
    every tensor that begins at zero (the second factor of a low-rank adaptor): steps in proportion
    to the norm let it grow by a factor only, so it stays small for long. The ratio is 1 where
    either norm is 0.

    The state has Adam's names. For training a whole network in torch there is
    ``edgeadapt.host.training.lamb.Lamb``.
    """

    excluded: tuple[str, ...] = ()

    def _moved(
        self,
        name: str,
        p: Tensor,
        rate: Tensor | float,
        first: Tensor,
        correction: Tensor,
        scale: Tensor,
    ) -> Tensor:
        if p.ndim < 2 or name in self.excluded:
            return p - (rate / correction) * first / scale
        direction = first / correction / scale + self.weight_decay * p
        length, reach = torch.sqrt((direction * direction).sum()), torch.sqrt((p * p).sum())
        has_both = (length > 0) & (reach > 0)
        ratio = torch.where(
            has_both,
            reach / torch.where(has_both, length, torch.ones_like(length)),
            torch.ones_like(length),
        )
        return p - (rate * ratio) * direction


def _times(rate: Tensor | float, gradient: Tensor) -> Tensor:
    return gradient if isinstance(rate, float) and rate == 1.0 else rate * gradient


def AdamW(weight_decay: float = 0.01, **settings: float) -> Adam:
    """Adam with decoupled weight decay."""
    return Adam(weight_decay=weight_decay, **settings)


__all__ = ["LAMB", "SGD", "Adam", "AdamW", "Momentum", "Optimiser"]
