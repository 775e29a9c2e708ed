"""Transposed convolutions that are both strided and dilated, which TensorRT's compiler refuses, as
plain convolutions.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from edgeadapt.host.compile.decompose.convolution import input_gradient, per_axis

Sizes = Sequence[int]


def convolution(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    stride: Sizes,
    padding: Sizes,
    dilation: Sizes,
    transposed: bool,
    output_padding: Sizes,
    groups: int,
) -> Any:
    """The input gradient of the convolution that it transposes. Every other convolution stays what
    it is.

    TensorRT for RTX 1.7 parses a ``ConvTranspose`` with a stride and a dilation above 1, on any
    axes, and then fails to build it: "Strided & Dilated Deconv are currently not supported".

    Args:
        x: ``(B, Ci, *in)``.
        weight: ``(Ci, Co / groups, *kernel)``.
    """
    if not (transposed and max(stride) > 1 and max(dilation) > 1):
        return NotImplemented
    rank = weight.dim() - 2
    stride, padding, dilation, extra = per_axis(rank, stride, padding, dilation, output_padding)
    size = [
        (x.shape[2 + i] - 1) * stride[i]
        - 2 * padding[i]
        + dilation[i] * (weight.shape[2 + i] - 1)
        + extra[i]
        + 1
        for i in range(rank)
    ]
    # only its shape is used
    like = x.new_zeros(()).expand(x.shape[0], weight.shape[1] * groups, *size)
    out = input_gradient(x, like, weight, stride, padding, dilation, groups)
    return out if bias is None else out + bias.reshape(-1, *[1] * rank)


__all__ = ["convolution"]
