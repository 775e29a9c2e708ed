"""The decomposition table of the compiler: what torch operators become before they are exported.

It is the core ATen table with three kinds of changes, each for a fault that was measured:

- ``eye`` is taken out: its decomposition counts in uint8/uint16, which neither the exporter nor TensorRT accepts.
- ``native_layer_norm`` and ``native_group_norm`` are added: their gradients need the second and third output, which TensorRT refuses.
- Convolution and average-pool gradients are written out with plain convolutions, slices and matmuls.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch._decomp import core_aten_decompositions, get_decompositions

aten = torch.ops.aten
Table = dict[Any, Callable[..., Any]]


def decompositions() -> Table:
    """A fresh table ``{operator overload: python function}`` for ``make_fx``."""
    table: Table = dict(core_aten_decompositions())
    table.pop(aten.eye.default, None)
    table.pop(aten.eye.m, None)
    table.update(get_decompositions([aten.native_layer_norm, aten.native_group_norm, aten.nll_loss_forward, aten.nll_loss2d_forward]))
    table[aten.empty_permuted.default] = _empty_permuted
    table[aten.convolution_backward.default] = convolution_backward
    table[aten.avg_pool2d_backward.default] = avg_pool2d_backward
    return table


def _empty_permuted(size: Sequence[int], order: Sequence[int], *, dtype: torch.dtype | None = None, **_: Any) -> Tensor:
    """Zeros: the gradients of silu and bce allocate with it and then overwrite every element."""
    return torch.zeros(size, dtype=dtype)


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
        _input_gradient(grad, x, weight, stride, padding, dilation, groups) if mask[0] else None,
        _weight_gradient(grad, x, weight, stride, padding, dilation, groups) if mask[1] else None,
        grad.sum((0, 2, 3)) if mask[2] else None,
    )


def _input_gradient(
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


def _weight_gradient(
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
    return _input_gradient(grad, x, weight, list(stride) or list(kernel), padding, [1, 1], channels)
