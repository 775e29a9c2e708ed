"""The best epoch so far, and when to stop waiting for a better one."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from edgeadapt.host.training.records import EpochRecord


class BestWeights:
    """Keeps the weights of the epoch with the highest validation accuracy, the earliest of equals.

    Args:
        patience: epochs without a better one after which training stops; 0 switches all of this
            off.
    """

    def __init__(self, patience: int) -> None:
        self.patience = patience
        self.weights: dict[str, Tensor] = {}

    def consider(self, module: nn.Module, history: Sequence[EpochRecord]) -> None:
        """After an epoch: copy the weights, to the CPU, if it was the best."""
        if self.patience and best_epoch(history) == len(history):
            self.weights = {
                name: value.detach().cpu().clone() for name, value in module.state_dict().items()
            }

    def is_waiting_over(self, history: Sequence[EpochRecord]) -> bool:
        """Were the last ``patience`` epochs all no better than the best before them?"""
        return bool(
            self.patience and history and len(history) - best_epoch(history) >= self.patience
        )


def best_epoch(history: Sequence[EpochRecord]) -> int:
    """Number, from 1, of the earliest epoch with the highest validation accuracy."""
    return max(history, key=lambda record: (record.accuracy, -record.epoch)).epoch


__all__ = ["BestWeights", "best_epoch"]
