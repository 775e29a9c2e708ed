"""Gradients of convolutions, written with plain convolutions, slices and matmuls."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

aten = torch.ops.aten


def convolution_backward(
    grad: Tensor,
    x: Tensor,
    weight: Tensor,
    bias_sizes: Sequence[int] | None,
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    transposed: bool,
    output_padding: Sequence[int],
    groups: int,
    mask: Sequence[bool],
) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
    """Gradients of a 1-D or 2-D convolution, any stride, dilation and groups, without ``ConvTranspose``.

    Args:
        grad: gradient of the output, ``(B, Co, *out)``.
        x: input ``(B, Ci, *in)``; weight ``(Co, Ci / groups, *kernel)``.
        mask: which of (input, weight, bias) gradients are wanted.

    Raises:
        NotImplementedError: transposed or 3-D convolution, or padding wider than the dilated kernel reaches.
    """
    rank = weight.dim() - 2
    if transposed or rank not in (1, 2):
        raise NotImplementedError(f"gradient of a {'transposed' if transposed else f'{rank}-D'} convolution")
    if rank == 1:
        wide = [v.unsqueeze(2) for v in (grad, x, weight)]
        gi, gw, gb = convolution_backward(*wide, bias_sizes, [1, *stride], [0, *padding], [1, *dilation], False, [0, 0], groups, mask)
        return (gi.squeeze(2) if gi is not None else None), (gw.squeeze(2) if gw is not None else None), gb
    return (
        input_gradient(grad, x, weight, stride, padding, dilation, groups) if mask[0] else None,
        weight_gradient(grad, x, weight, stride, padding, dilation, groups) if mask[1] else None,
        grad.sum((0, 2, 3)) if mask[2] else None,
    )


def input_gradient(
    grad: Tensor, x: Tensor, weight: Tensor, stride: Sequence[int], padding: Sequence[int], dilation: Sequence[int], groups: int
) -> Tensor:
    """Full correlation of the zero-stuffed gradient with the flipped kernel. Faster in ONNX Runtime than ``ConvTranspose`` with groups."""
    kernel = weight.shape[2:]
    reach = [dilation[i] * (kernel[i] - 1) for i in (0, 1)]
    if any(padding[i] > reach[i] for i in (0, 1)):
        raise NotImplementedError(f"gradient of a convolution with padding {list(padding)} for kernel {list(kernel)}")
    for axis, step in ((2, stride[0]), (3, stride[1])):
        if step > 1:
            gaps = torch.zeros_like(grad).unsqueeze(axis + 1)
            stuffed = torch.cat([grad.unsqueeze(axis + 1)] + [gaps] * (step - 1), axis + 1)
            grad = stuffed.flatten(axis, axis + 1)
    need = [x.shape[2 + i] + 2 * padding[i] - reach[i] for i in (0, 1)]  # size of the output at stride 1
    grad = grad[:, :, : need[0], : need[1]]
    missing = [need[i] - grad.shape[2 + i] for i in (0, 1)]
    if any(missing):
        grad = torch.constant_pad_nd(grad, [0, missing[1], 0, missing[0]])
    co, ci = weight.shape[0] // groups, weight.shape[1]
    flipped = weight.flip(2, 3).reshape(groups, co, ci, *kernel).transpose(1, 2).reshape(groups * ci, co, *kernel)
    pads = [reach[i] - padding[i] for i in (0, 1)]
    return aten.convolution.default(grad, flipped.contiguous(), None, [1, 1], pads, list(dilation), False, [0, 0], groups)


def weight_gradient(
    grad: Tensor, x: Tensor, weight: Tensor, stride: Sequence[int], padding: Sequence[int], dilation: Sequence[int], groups: int
) -> Tensor:
    """``sum_b grad_b patches_b^T`` per group, patches as k*k strided slices of the padded input."""
    height, width = grad.shape[2:]
    padded = torch.constant_pad_nd(x, [padding[1], padding[1], padding[0], padding[0]]) if any(padding) else x
    patches = []
    for i in range(weight.shape[2]):
        for j in range(weight.shape[3]):
            top, left = i * dilation[0], j * dilation[1]
            bottom, right = top + stride[0] * (height - 1) + 1, left + stride[1] * (width - 1) + 1
            patches.append(padded[:, :, top : bottom : stride[0], left : right : stride[1]])
    taps, co, ci, area = len(patches), weight.shape[0] // groups, weight.shape[1], height * width
    rows = torch.stack(patches, 2).reshape(-1, groups, ci * taps, area)
    product = grad.reshape(-1, groups, co, area) @ rows.transpose(2, 3)
    return product.sum(0).reshape(weight.shape)
