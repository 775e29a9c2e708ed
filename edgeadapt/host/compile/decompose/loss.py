"""Negative log-likelihood by a one-hot comparison: no gather, no scatter, and half the nodes of the
reference decomposition.

A label that is no class (the usual ``ignore_index`` of -100, or one beyond the last class) matches
no column, so its row counts neither in the loss nor in the mean.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch._decomp import get_decompositions

aten = torch.ops.aten
_MEAN, _SUM = 1, 2
_GENERAL = get_decompositions([aten.nll_loss_forward, aten.nll_loss_backward])


def nll_loss_forward(
    x: Tensor, target: Tensor, weight: Tensor | None, reduction: int, ignore_index: int
) -> tuple[Tensor, Tensor]:
    """``(-x[i, target_i]`` reduced, number of counted rows``)`` for log-probabilities ``x (B, K)``
    and ``target (B,)``.
    """
    if not _is_plain(x, weight, ignore_index):
        return _GENERAL[aten.nll_loss_forward.default](x, target, weight, reduction, ignore_index)  # type: ignore[no-any-return]
    hit = _hits(x, target)
    picked = torch.where(hit, x, 0.0)  # not a product: a masked log-probability may be -inf
    total = hit.to(x.dtype).sum()
    if reduction == _MEAN:
        return -picked.sum() / total, total
    return (-picked.sum() if reduction == _SUM else -picked.sum(1)), total


def nll_loss_backward(
    grad: Tensor,
    x: Tensor,
    target: Tensor,
    weight: Tensor | None,
    reduction: int,
    ignore_index: int,
    total_weight: Tensor,
) -> Tensor:
    """``-grad`` at the target, 0 elsewhere, ``(B, K)``."""
    if not _is_plain(x, weight, ignore_index):
        return _GENERAL[aten.nll_loss_backward.default](
            grad, x, target, weight, reduction, ignore_index, total_weight
        )  # type: ignore[no-any-return]
    share = (
        -grad / total_weight
        if reduction == _MEAN
        else -grad
        if reduction == _SUM
        else -grad.unsqueeze(1)
    )
    # not a product: where no row counts the share is infinite
    return torch.where(_hits(x, target), share, 0.0)


def _is_plain(x: Tensor, weight: Tensor | None, ignore_index: int) -> bool:
    return weight is None and x.dim() == 2 and not 0 <= ignore_index < x.shape[1]


def _hits(x: Tensor, target: Tensor) -> Tensor:
    return target.unsqueeze(1) == torch.arange(x.shape[1])


__all__ = ["nll_loss_backward", "nll_loss_forward"]
