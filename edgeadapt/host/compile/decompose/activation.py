"""Activations and their gradients in few operators.

A mask is a product with a cast comparison: ``Where`` takes five times as long in ONNX Runtime on
large maps. They differ where the gradient that arrives is infinite: behind a closed gate torch has
0 and the product has no number, as in ``relu(x).sqrt()`` at ``x <= 0``.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch._decomp import get_decompositions

aten = torch.ops.aten
_GENERAL = get_decompositions([aten.gelu_backward])


def threshold_backward(grad: Tensor, x: Tensor, threshold: float) -> Tensor:
    """Gradient of relu, from its input or its output."""
    return grad * (x > threshold).to(grad.dtype)


def hardtanh_backward(grad: Tensor, x: Tensor, low: float, high: float) -> Tensor:
    """Gradient of relu6 and clamp: 1 strictly between the bounds."""
    return grad * ((x > low) & (x < high)).to(grad.dtype)


def leaky_relu_backward(grad: Tensor, x: Tensor, slope: float, self_is_result: bool) -> Tensor:
    return grad * ((x > 0).to(grad.dtype) * (1 - slope) + slope)


def hardswish_backward(grad: Tensor, x: Tensor) -> Tensor:
    """``x / 3 + 1/2`` strictly between -3 and 3, and 1 from 3 on."""
    inside = ((x > -3) & (x < 3)).to(grad.dtype)
    return grad * (inside * (x / 3 + 0.5) + (x >= 3).to(grad.dtype))


def hardsigmoid_backward(grad: Tensor, x: Tensor) -> Tensor:
    return grad * (((x > -3) & (x < 3)).to(grad.dtype) / 6)


def gelu_backward(grad: Tensor, x: Tensor, approximate: str = "none") -> Tensor:
    """``Phi(x) + x phi(x)``, written so that it shares ``1 + erf(x / sqrt 2)`` with the forward
    pass; the density's factor is in its exponent.
    """
    if approximate != "none":
        return _GENERAL[aten.gelu_backward.default](grad, x, approximate=approximate)  # type: ignore[no-any-return]
    scaled = x / math.sqrt(2)
    cumulative = 0.5 * (torch.erf(scaled) + 1)
    density = torch.exp(-0.5 * math.log(2 * math.pi) - scaled * scaled)
    return grad * (cumulative + x * density)


def gelu(x: Tensor, approximate: str = "none") -> Tensor:
    """``x Phi(x)`` in the order of operators that ONNX Runtime fuses into one where nothing else
    reads the parts.
    """
    if approximate != "none":
        return NotImplemented
    return x * (torch.erf(x / math.sqrt(2)) + 1) * 0.5


__all__ = [
    "gelu",
    "gelu_backward",
    "hardsigmoid_backward",
    "hardswish_backward",
    "hardtanh_backward",
    "leaky_relu_backward",
    "threshold_backward",
]
