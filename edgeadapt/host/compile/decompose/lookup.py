"""The gradient of an embedding as a one-hot product: TensorRT takes no scatter that adds."""

from __future__ import annotations

import torch
from torch import Tensor


def embedding_dense_backward(
    grad: Tensor, indices: Tensor, num_weights: int, padding_idx: int, scale_grad_by_freq: bool
) -> Tensor:
    """``onehot(indices)^T grad``, ``(num_weights, E)`` for grad ``(..., E)`` and int64 indices
    ``(...)``.

    Costs ``num_weights`` products for each index, so it is meant for tables of a few thousand rows.
    """
    hot = (indices.flatten().unsqueeze(0) == torch.arange(num_weights).unsqueeze(1)).to(grad.dtype)
    if 0 <= padding_idx < num_weights:
        hot = hot * (torch.arange(num_weights) != padding_idx).to(grad.dtype).unsqueeze(1)
    summed = hot @ grad.reshape(-1, grad.shape[-1])
    return summed / hot.sum(1, keepdim=True).clamp(min=1) if scale_grad_by_freq else summed


__all__ = ["embedding_dense_backward"]
