"""Gradients of convolutions of any rank, written with plain convolutions, slices and matmuls."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product

import torch
from torch import Tensor

aten = torch.ops.aten
Sizes = Sequence[int]


def convolution_backward(
    grad: Tensor,
    x: Tensor,
    weight: Tensor,
    bias_sizes: Sizes | None,
    stride: Sizes,
    padding: Sizes,
    dilation: Sizes,
    transposed: bool,
    output_padding: Sizes,
    groups: int,
    mask: Sequence[bool],
) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
    """Gradients of a convolution or a transposed convolution, any stride, padding, dilation and
    groups, without ``ConvTranspose``.

    A transposed convolution is the input gradient of a convolution, so its own input gradient is
    that convolution, and its weight gradient is the one of that convolution with input and output
    gradient swapped.

    Args:
        grad: gradient of the output, ``(B, Co, *out)``.
        x: input ``(B, Ci, *in)``.
        weight: ``(Co, Ci / groups, *kernel)``, of a transposed convolution ``(Ci, Co / groups,
            *kernel)``.
        mask: which of (input, weight, bias) gradients are wanted.
    """
    rank = weight.dim() - 2
    stride, padding, dilation = per_axis(rank, stride, padding, dilation)
    gi = gw = None
    if mask[0] and transposed:
        gi = aten.convolution.default(
            grad, weight, None, stride, padding, dilation, False, [0] * rank, groups
        )
        # more only where the output was padded by a stride or more
        gi = _cut(gi, [0] * rank, list(x.shape[2:]))
    elif mask[0]:
        gi = input_gradient(grad, x, weight, stride, padding, dilation, groups)
    if mask[1]:
        out, inner = (x, grad) if transposed else (grad, x)
        gw = weight_gradient(out, inner, weight, stride, padding, dilation, groups)
    return gi, gw, grad.sum([0, *range(2, rank + 2)]) if mask[2] else None


def per_axis(rank: int, *given: Sizes) -> list[list[int]]:
    """Arguments of a window with one number for each axis; a single number stands for all axes."""
    return [list(sizes) * rank if len(sizes) == 1 else list(sizes) for sizes in given]


def input_gradient(
    grad: Tensor,
    x: Tensor,
    weight: Tensor,
    stride: Sizes,
    padding: Sizes,
    dilation: Sizes,
    groups: int,
) -> Tensor:
    """Full correlation of the zero-stuffed gradient with the flipped kernel. Faster in ONNX Runtime
    than ``ConvTranspose`` with groups.
    """
    kernel, axes = list(weight.shape[2:]), range(weight.dim() - 2)
    reach = [dilation[i] * (kernel[i] - 1) for i in axes]
    for axis, step in enumerate(stride, 2):
        if step > 1:
            # concatenated: padding an axis of size 1 is 20 times slower in ONNX Runtime
            gaps = torch.zeros_like(grad).unsqueeze(axis + 1)
            grad = torch.cat([grad.unsqueeze(axis + 1)] + [gaps] * (step - 1), axis + 1).flatten(
                axis, axis + 1
            )
    # size of the output at stride 1
    need = [x.shape[2 + i] + 2 * padding[i] - reach[i] for i in axes]
    outside = [max(padding[i] - reach[i], 0) for i in axes]  # outputs that see padding only
    grad = _cut(grad, [0 for _ in axes], need)
    grad = _extend(grad, [need[i] - grad.shape[2 + i] for i in axes])
    grad = _cut(grad, outside, [need[i] - 2 * outside[i] for i in axes])
    co, ci = weight.shape[0] // groups, weight.shape[1]
    # flipping an axis of size 1 changes nothing, and folding it costs a copy of the weights
    turned = [2 + i for i in axes if kernel[i] > 1]
    flipped = (
        (weight.flip(turned) if turned else weight)
        .reshape(groups, co, ci, *kernel)
        .transpose(1, 2)
        .reshape(groups * ci, co, *kernel)
    )
    pads = [max(reach[i] - padding[i], 0) for i in axes]
    ones, zeros = [1 for _ in axes], [0 for _ in axes]
    return aten.convolution.default(
        grad, flipped.contiguous(), None, ones, pads, list(dilation), False, zeros, groups
    )


def weight_gradient(
    grad: Tensor,
    x: Tensor,
    weight: Tensor,
    stride: Sizes,
    padding: Sizes,
    dilation: Sizes,
    groups: int,
) -> Tensor:
    """``sum_b grad_b patches_b^T`` per group, patches as strided slices of the padded input, one
    for each position of the kernel.
    """
    kernel, area = list(weight.shape[2:]), grad.shape[2:].numel()
    rows = torch.stack(patches(x, kernel, stride, padding, dilation, list(grad.shape[2:])), 2)
    co, ci, taps = weight.shape[0] // groups, weight.shape[1], weight.shape[2:].numel()
    rows = rows.reshape(-1, groups, ci * taps, area)
    summed = (grad.reshape(-1, groups, co, area) @ rows.transpose(2, 3)).sum(0)
    return summed.reshape(weight.shape)


def patches(
    x: Tensor,
    kernel: Sizes,
    stride: Sizes,
    padding: Sizes,
    dilation: Sizes,
    out: Sizes,
    fill: float = 0.0,
) -> list[Tensor]:
    """What each position of a window sees: for every position, row by row, ``(B, C, *out)``;
    ``fill`` outside the input.
    """
    axes = range(len(kernel))
    last = [dilation[i] * (kernel[i] - 1) + stride[i] * (out[i] - 1) + 1 for i in axes]
    sides = [(padding[i], max(last[i] - x.shape[2 + i] - padding[i], 0)) for i in axes]
    if any(left or right for left, right in sides):
        x = torch.constant_pad_nd(x, [pad for pair in reversed(sides) for pad in pair], fill)
    found = []
    for position in product(*(range(size) for size in kernel)):
        part = x
        for i in axes:
            start = position[i] * dilation[i]
            part = (
                part.narrow(2 + i, start, stride[i] * (out[i] - 1) + 1)
                if stride[i] == 1
                else _every(part, 2 + i, start, stride[i], out[i])
            )
        found.append(part)
    return found


def _every(value: Tensor, axis: int, start: int, step: int, count: int) -> Tensor:
    return aten.slice.Tensor(value, axis, start, start + step * (count - 1) + 1, step)


def _cut(value: Tensor, start: Sizes, size: Sizes) -> Tensor:
    """At most ``size`` elements from ``start`` on, along the axes after the first two."""
    for axis, (first, count) in enumerate(zip(start, size, strict=True), 2):
        if first or value.shape[axis] > count:
            value = value.narrow(axis, first, min(count, value.shape[axis] - first))
    return value


def _extend(value: Tensor, missing: Sizes) -> Tensor:
    if not any(missing):
        return value
    return torch.constant_pad_nd(value, [pad for count in reversed(missing) for pad in (0, count)])


__all__ = ["convolution_backward"]
