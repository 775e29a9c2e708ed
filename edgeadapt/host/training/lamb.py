"""LAMB for training: Adam whose step in every tensor is as long as a share of that tensor.

    m <- b1 m + (1 - b1) g;   s <- b2 s + (1 - b2) g^2
    u = (m / (1 - b1^t)) / (sqrt(s / (1 - b2^t)) + eps) + wd p
    p <- p - lr (||p|| / ||u||) u

Source: You et al., ICLR 2020, arXiv 1904.00962, algorithm 2. As in the authors' BERT runs, tensors
of fewer than two dimensions (biases, the weights of a norm) take Adam's step with neither trust
ratio nor decay. The ratio is 1 where either norm is 0: without that a tensor of zeros never leaves
zero, and one without gradient becomes NaN. The same rule as a pure function is
``edgeadapt.host.steps.optimisers.LAMB``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor


class Lamb(torch.optim.Optimizer):
    """LAMB on the tensors of a parameter group; a group with ``trust_ratio=False`` takes Adam's
    step without decay.

    Args:
        params: parameters, or groups of them.
        lr: above 0; a step moves a tensor by ``lr`` times its own norm.
        betas: decay of the two moments, each in [0, 1).
        eps: added to the root of the second moment.
        weight_decay: added to the direction before its norm is taken, at least 0.
    """

    def __init__(
        self,
        params: Iterable[Any],
        lr: float,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-6,
        weight_decay: float = 0.0,
    ) -> None:
        super().__init__(
            params,
            {
                "lr": lr,
                "betas": betas,
                "eps": eps,
                "weight_decay": weight_decay,
                "trust_ratio": True,
            },
        )

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        """One step on the gradients that are there."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            for p in group["params"]:
                if p.grad is not None:
                    self._move(p, group)
        return loss

    def _move(self, p: Tensor, group: dict[str, Any]) -> None:
        state, (beta1, beta2) = self.state[p], group["betas"]
        if not state:
            state["step"] = torch.zeros(())
            state["exp_avg"], state["exp_avg_sq"] = torch.zeros_like(p), torch.zeros_like(p)
        first, second = state["exp_avg"], state["exp_avg_sq"]
        state["step"] += 1
        count = int(state["step"])
        first.lerp_(p.grad, 1 - beta1)
        second.mul_(beta2).addcmul_(p.grad, p.grad, value=1 - beta2)
        direction = (
            first / (1 - beta1**count) / ((second / (1 - beta2**count)).sqrt_().add_(group["eps"]))
        )
        rate: Tensor | float = group["lr"]
        if group["trust_ratio"]:
            direction.add_(p, alpha=group["weight_decay"])
            length, reach = direction.norm(), p.norm()
            rate = rate * torch.where(
                (length > 0) & (reach > 0), reach / length, torch.ones_like(reach)
            )
        p.sub_(rate * direction)


__all__ = ["Lamb"]
