"""Gradients of pooling."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from edgeadapt.host.compile.decompose.convolution import input_gradient


def avg_pool2d_backward(
    grad: Tensor,
    x: Tensor,
    kernel: Sequence[int],
    stride: Sequence[int],
    padding: Sequence[int],
    ceil_mode: bool,
    count_include_pad: bool,
    divisor: int | None = None,
) -> Tensor:
    """Gradient of average pooling: it is a depthwise convolution with a constant kernel.

    Raises:
        NotImplementedError: ``ceil_mode``, or padding that is not counted.
    """
    if ceil_mode or (any(padding) and not count_include_pad):
        raise NotImplementedError("gradient of avg_pool2d with ceil_mode, or with padding and count_include_pad=False")
    channels = x.shape[1]
    weight = torch.full((channels, 1, *kernel), 1.0 / (divisor or kernel[0] * kernel[1]), dtype=x.dtype)
    return input_gradient(grad, x, weight, list(stride) or list(kernel), padding, [1, 1], channels)
