"""Scaled dot-product attention and its gradient in matmuls; torch's fused kernel for the CPU has no
translation.

    S = scale Q K^T + M,  P = exp(S - lse),  O = P V
    dV = P^T dO,  dS = P (dO V^T - rowsum(dO O)),  dQ = scale dS K,  dK = scale dS^T Q
            (Dao et al., 2022, arXiv 2205.14135, B.2)
"""

from __future__ import annotations

import math

import torch
from torch import Tensor


def _scaled_dot_product_flash_attention_for_cpu(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    *,
    attn_mask: Tensor | None = None,
    scale: float | None = None,
) -> tuple[Tensor, Tensor]:
    """``(output (B, H, L, E), log-sum-exp of the scores (B, H, L))`` for query (B, H, L, E), key
    and value (B, H, S, E).

    Raises:
        NotImplementedError: dropout.
    """
    if dropout_p:
        raise NotImplementedError(
            "attention with dropout: a graph draws no random numbers; use the module in eval mode"
        )
    scores = _scores(query, key, is_causal, attn_mask, scale)
    return _probabilities(scores, attn_mask) @ value, torch.logsumexp(scores, -1)


def _scaled_dot_product_flash_attention_for_cpu_backward(
    grad: Tensor,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    out: Tensor,
    logsumexp: Tensor,
    dropout_p: float,
    is_causal: bool,
    *,
    attn_mask: Tensor | None = None,
    scale: float | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of query, key and value; the probabilities are those of the forward pass, which the
    graph shares.
    """
    factor = _factor(query, scale)
    probabilities = _probabilities(_scores(query, key, is_causal, attn_mask, scale), attn_mask)
    along = grad @ value.transpose(-2, -1) - (grad * out).sum(-1, keepdim=True)
    slope = probabilities * along * factor
    return slope @ key, slope.transpose(-2, -1) @ query, probabilities.transpose(-2, -1) @ grad


def _scores(
    query: Tensor, key: Tensor, is_causal: bool, mask: Tensor | None, scale: float | None
) -> Tensor:
    scores = (query * _factor(query, scale)) @ key.transpose(-2, -1)
    if is_causal:
        before = torch.arange(key.shape[-2]) <= torch.arange(query.shape[-2]).unsqueeze(1)
        scores = torch.where(before, scores, -math.inf)
    return scores if mask is None else scores + mask


def _probabilities(scores: Tensor, mask: Tensor | None) -> Tensor:
    """Softmax over the keys; 0 for a query whose mask hides every key, as torch has it."""
    if mask is None:
        return torch.softmax(scores, -1)
    sees = scores.amax(-1, keepdim=True) > -math.inf
    return torch.softmax(torch.where(sees, scores, 0.0), -1) * sees.to(scores.dtype)


def _factor(query: Tensor, scale: float | None) -> float:
    return 1 / math.sqrt(query.shape[-1]) if scale is None else scale


__all__ = [
    "_scaled_dot_product_flash_attention_for_cpu",
    "_scaled_dot_product_flash_attention_for_cpu_backward",
]
