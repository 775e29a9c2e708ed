"""Layer norm and training-mode batch norm with their gradients, in as few passes over the data as
they need.

Both write the centred value once and let the gradient share it. Variances are means of squares of
centred values: the cheaper ``mean(x^2) - mean(x)^2`` cancels where the mean is large.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch._decomp import get_decompositions

aten = torch.ops.aten
_GENERAL = get_decompositions([aten.native_batch_norm, aten.native_batch_norm_backward])


def native_layer_norm(
    x: Tensor, shape: Sequence[int], weight: Tensor | None, bias: Tensor | None, eps: float
) -> tuple[Tensor, Tensor, Tensor]:
    """``(normalised, mean, 1 / standard deviation)``; the last two keep the normalised axes with
    size 1.
    """
    axes = list(range(x.dim() - len(shape), x.dim()))
    mean = x.mean(axes, keepdim=True)
    centred = x - mean
    rstd = torch.rsqrt((centred * centred).mean(axes, keepdim=True) + eps)
    out = centred * rstd
    if weight is not None:
        out = out * weight
    return (out if bias is None else out + bias), mean, rstd


def native_layer_norm_backward(
    grad: Tensor,
    x: Tensor,
    shape: Sequence[int],
    mean: Tensor,
    rstd: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    mask: Sequence[bool],
) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
    """Gradients of input, weight and bias: ``dx = rstd (g - mean(g) - n mean(g n))`` with ``g =
    grad weight`` and ``n`` normalised.
    """
    axes = list(range(x.dim() - len(shape), x.dim()))
    outer = list(range(x.dim() - len(shape)))
    normal = (x - mean) * rstd
    dx = None
    if mask[0]:
        g = grad if weight is None else grad * weight
        dx = rstd * (
            g - g.mean(axes, keepdim=True) - normal * (g * normal).mean(axes, keepdim=True)
        )
    dw = _sum(grad * normal, outer) if mask[1] and weight is not None else None
    db = _sum(grad, outer) if mask[2] and bias is not None else None
    return dx, dw, db


def native_batch_norm(
    x: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    training: bool,
    momentum: float,
    eps: float,
) -> tuple[Tensor, Tensor, Tensor]:
    """``(normalised, mean, 1 / standard deviation)`` of ``x (B, C, ...)`` on the statistics of the
    batch.

    The mean has shape ``(1, C, 1, ...)``, so that the gradient can share the centred value. Running
    statistics are written in place, as torch does, with the variance divided by n - 1: a step hands
    over copies and returns them as new tensors.
    """
    if not training:
        return _GENERAL[aten.native_batch_norm.default](  # type: ignore[no-any-return]
            x, weight, bias, running_mean, running_var, training, momentum, eps
        )
    axes, channels = _all_but_channels(x), x.shape[1]
    mean = x.mean(axes, keepdim=True)
    centred = x - mean
    var = (centred * centred).mean(axes)
    gain = torch.ones(channels) if weight is None else weight
    offset = torch.zeros(channels) if bias is None else bias
    out = aten._native_batch_norm_legit_no_training.default(
        centred, gain, offset, torch.zeros(channels), var, 0.0, eps
    )[0]
    if running_mean is not None:
        running_mean.copy_((1 - momentum) * running_mean + momentum * mean.reshape(-1))
    if running_var is not None:
        count = x.numel() / channels
        running_var.copy_((1 - momentum) * running_var + momentum * var * (count / (count - 1)))
    return out, mean, torch.rsqrt(var + eps)


def batch_norm_without_statistics(
    x: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    training: bool,
    momentum: float,
    eps: float,
) -> tuple[Tensor, Tensor, Tensor]:
    """What :func:`native_batch_norm` becomes inside torch where there are no running statistics."""
    return native_batch_norm(x, weight, bias, None, None, training, momentum, eps)


def native_batch_norm_backward(
    grad: Tensor,
    x: Tensor,
    weight: Tensor | None,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    mean: Tensor | None,
    rstd: Tensor | None,
    training: bool,
    eps: float,
    mask: Sequence[bool],
) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
    """Gradients of input, weight and bias: ``dx = a g + (k c + m)`` with ``c`` the centred input
    and three numbers per channel,

        a = w rstd,   k = -a rstd^2 sum(g c) / n,   m = -a sum(g) / n
                (Ioffe and Szegedy, ICML 2015, the gradient after algorithm 1)

    so that the gradient is three passes over the data after its two sums.
    """
    if not training:
        return _GENERAL[aten.native_batch_norm_backward.default](  # type: ignore[no-any-return]
            grad, x, weight, running_mean, running_var, mean, rstd, training, eps, mask
        )
    assert mean is not None and rstd is not None
    axes = _all_but_channels(x)
    centred = x - mean
    total, slope = grad.sum(axes), (grad * centred).sum(axes) * rstd
    dx = None
    if mask[0]:
        scale = rstd if weight is None else rstd * weight
        share = scale * (-x.shape[1] / x.numel())
        dx = grad * scale.reshape(mean.shape) + _affine(
            centred, share * rstd * slope, share * total
        )
    return dx, slope if mask[1] and weight is not None else None, total if mask[2] else None


def _affine(x: Tensor, gain: Tensor, offset: Tensor) -> Tensor:
    """``gain x + offset`` per channel in one pass, by a batch norm whose mean is 0 and whose
    deviation is 1.
    """
    zeros, ones = torch.zeros(x.shape[1]), torch.ones(x.shape[1])
    return aten._native_batch_norm_legit_no_training.default(
        x, gain, offset, zeros, ones, 0.0, 0.0
    )[0]  # type: ignore[no-any-return]


def _all_but_channels(x: Tensor) -> list[int]:
    return [0, *range(2, x.dim())]


def _sum(value: Tensor, axes: list[int]) -> Tensor:
    return value.sum(axes) if axes else value


__all__ = [
    "native_batch_norm",
    "native_batch_norm_backward",
    "native_layer_norm",
    "native_layer_norm_backward",
]
