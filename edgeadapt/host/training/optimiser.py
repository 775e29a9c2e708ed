"""An optimiser for the parameters of a network."""

from __future__ import annotations

import torch
from torch import nn

from edgeadapt.errors import InputError
from edgeadapt.host.training.lamb import Lamb
from edgeadapt.host.training.settings import Settings


def build_optimiser(module: nn.Module, settings: Settings) -> torch.optim.Optimizer:
    """The optimiser of the settings; ``momentum`` is that of SGD and the first beta of the other
    two.

    SGD (Nesterov) and AdamW decay every parameter; LAMB those with at least two dimensions, which
    also have its trust ratio.

    Raises:
        InputError: no parameter asks for a gradient.
    """
    trained = [p for p in module.parameters() if p.requires_grad]
    if not trained:
        raise InputError("the network has no parameter to train: none asks for a gradient")
    lr, decay, betas = settings.lr, settings.weight_decay, (settings.momentum, 0.999)
    if settings.optimiser == "sgd":
        return torch.optim.SGD(
            trained, lr, settings.momentum, weight_decay=decay, nesterov=settings.momentum > 0
        )
    if settings.optimiser == "adamw":
        return torch.optim.AdamW(trained, lr, betas, weight_decay=decay)
    return Lamb(
        [
            {"params": [p for p in trained if p.ndim >= 2], "weight_decay": decay},
            {
                "params": [p for p in trained if p.ndim < 2],
                "weight_decay": 0.0,
                "trust_ratio": False,
            },
        ],
        lr,
        betas,
    )


__all__ = ["build_optimiser"]
