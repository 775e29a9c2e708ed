"""A task: a trained base, few labels of where it is used, and what it must not lose."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from edgeadapt.host.data.labelled import Labelled
from edgeadapt.host.encoders.networks import to_nchw


@dataclass(frozen=True, eq=False)
class Task:
    """One base at one place.

    Attributes:
        name: ``task/place``, of the rows.
        base: makes the network, in evaluation mode.
        fit, test: of the place. control: of where the base comes from; None without one.
        bytes: of the budget. epochs: of tuning, in batches of 32.
    """

    name: str
    base: Callable[[], nn.Module]
    fit: Labelled
    test: Labelled
    control: Labelled | None
    bytes: int
    epochs: int


@torch.no_grad()
def logits(network: nn.Module, data: Labelled) -> Tensor:
    """(N, K) of a network in evaluation mode; images in [0, 255]."""
    return torch.cat([network(part.float()) for part in to_nchw(data.x).split(256)])


__all__ = ["Task", "logits"]
