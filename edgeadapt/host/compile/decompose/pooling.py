"""Pooling and its gradients, without indices and without scatters: windows as slices, their overlap
added up by shifts.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from edgeadapt.host.compile.decompose.convolution import patches, per_axis

aten = torch.ops.aten
Sizes = Sequence[int]

# slices are up to twice as fast in ONNX Runtime, but every position of the window adds ten
# operators
_MOST_SLICES = 16


def max_pool2d_with_indices_backward(
    grad: Tensor,
    x: Tensor,
    kernel: Sizes,
    stride: Sizes,
    padding: Sizes,
    dilation: Sizes,
    ceil_mode: bool,
    indices: Tensor,
) -> Tensor:
    """Gradient of max pooling, to the first maximum of each window, as torch does. ``indices`` is
    not read.

    Ties are common (a window of zeros behind a rectifier), so the first one is found by comparisons
    and not by an arg-max, whose choice engines are free to make. A window that holds a NaN passes
    nothing on.
    """
    if x.dim() == 3:
        return max_pool2d_with_indices_backward(
            grad.unsqueeze(0), x.unsqueeze(0), kernel, stride, padding, dilation, ceil_mode, indices
        ).squeeze(0)
    kernel, stride, padding, dilation = per_axis(2, kernel, stride or kernel, padding, dilation)
    is_tiled = (
        kernel == stride == _equal_windows(x, list(grad.shape[2:]))
        and not any(padding)
        and dilation == [1, 1]
    )
    if is_tiled and kernel[0] * kernel[1] > _MOST_SLICES:
        return _spread_in_tiles(grad, x, kernel)
    largest = aten.max_pool2d_with_indices.default(x, kernel, stride, padding, dilation, ceil_mode)[
        0
    ]
    lowest = torch.finfo(x.dtype).min
    parts, taken = [], None
    for seen in patches(x, kernel, stride, padding, dilation, list(grad.shape[2:]), lowest):
        hit = seen == largest
        first = hit if taken is None else hit & ~taken
        taken = hit if taken is None else hit | taken
        parts.append(grad * first.to(grad.dtype))
    return _add_windows(parts, list(x.shape[2:]), kernel, stride, padding, dilation)


def _spread_in_tiles(grad: Tensor, x: Tensor, kernel: Sizes) -> Tensor:
    """The same where windows lie side by side and cover the input: the first hit is where the
    running count of hits is 1.
    """
    rows, columns = grad.shape[2:]
    tiles = (
        x.reshape(-1, rows, kernel[0], columns, kernel[1])
        .permute(0, 1, 3, 2, 4)
        .reshape(-1, rows, columns, kernel[0] * kernel[1])
    )
    hit = (tiles == tiles.amax(3, keepdim=True)).to(grad.dtype)
    first = hit * (hit.cumsum(3) == 1).to(grad.dtype)
    spread = first * grad.reshape(-1, rows, columns, 1)
    return spread.reshape(-1, rows, columns, *kernel).permute(0, 1, 3, 2, 4).reshape(x.shape)


def avg_pool2d(
    x: Tensor,
    kernel: Sizes,
    stride: Sizes = (),
    padding: Sizes = (0,),
    ceil_mode: bool = False,
    count_include_pad: bool = True,
    divisor: int | None = None,
) -> Any:
    """Without padding there is none to count; ONNX Runtime 1.23 counts what ``ceil_mode`` adds
    unless it is told not to count.

    The exporter drops the divisor, so it is multiplied in.

    Raises:
        NotImplementedError: a divisor of its own where windows differ in what they count.
    """
    if divisor is not None:
        if ceil_mode or (any(padding) and not count_include_pad):
            raise NotImplementedError(
                "average pooling with divisor_override and ceil_mode, or padding that is not"
                " counted"
            )
        rows, columns = per_axis(2, kernel)[0]
        return aten.avg_pool2d.default(x, kernel, stride, padding) * (rows * columns / divisor)
    if ceil_mode and count_include_pad and divisor is None and not any(padding):
        return aten.avg_pool2d.default(x, kernel, stride, padding, True, False)
    return NotImplemented


def avg_pool2d_backward(
    grad: Tensor,
    x: Tensor,
    kernel: Sizes,
    stride: Sizes,
    padding: Sizes,
    ceil_mode: bool,
    count_include_pad: bool,
    divisor: int | None = None,
) -> Tensor:
    """Gradient of average pooling: every window spreads its gradient evenly over what it
    averaged.
    """
    if x.dim() == 3:
        return avg_pool2d_backward(
            grad.unsqueeze(0),
            x.unsqueeze(0),
            kernel,
            stride,
            padding,
            ceil_mode,
            count_include_pad,
            divisor,
        ).squeeze(0)
    kernel, stride, padding = per_axis(2, kernel, stride or kernel, padding)
    counts = [
        _counts(
            x.shape[2 + i], grad.shape[2 + i], kernel[i], stride[i], padding[i], count_include_pad
        )
        for i in (0, 1)
    ]
    share = torch.tensor(
        [[1.0 / (divisor or rows * columns) for columns in counts[1]] for rows in counts[0]],
        dtype=grad.dtype,
    )
    is_even = divisor is not None or all(len(set(found)) == 1 for found in counts)
    spread = grad * (1.0 / (divisor or counts[0][0] * counts[1][0]) if is_even else share)
    return _add_windows(
        [spread] * (kernel[0] * kernel[1]), list(x.shape[2:]), kernel, stride, padding, [1, 1]
    )


def _adaptive_avg_pool2d(x: Tensor, size: Sizes) -> Tensor:
    """Average pooling to a fixed size: a plain one where the windows are equal, else a product with
    the averages of each axis.
    """
    if (kernel := _equal_windows(x, size)) is not None:
        return aten.avg_pool2d.default(x, kernel, kernel)
    rows, columns = (_averages(x.shape[axis - 2], size[axis]).to(x.dtype) for axis in (0, 1))
    return rows @ x @ columns.T


def _adaptive_avg_pool2d_backward(grad: Tensor, x: Tensor) -> Tensor:
    """Gradient of :func:`_adaptive_avg_pool2d`."""
    size = list(grad.shape[-2:])
    if (kernel := _equal_windows(x, size)) is not None:
        return avg_pool2d_backward(grad, x, kernel, kernel, [0, 0], False, True)
    rows, columns = (_averages(x.shape[axis - 2], size[axis]).to(grad.dtype) for axis in (0, 1))
    return rows.T @ grad @ columns


def adaptive_max_pool2d(x: Tensor, size: Sizes) -> tuple[Tensor, Tensor]:
    """Max pooling to a fixed size that divides the input's.

    Raises:
        NotImplementedError: the windows are not equal.
    """
    kernel = _equal_windows(x, size)
    if kernel is None:
        raise NotImplementedError(
            f"adaptive max pooling of {list(x.shape[-2:])} to {list(size)}, whose windows differ in"
            " size"
        )
    found: tuple[Tensor, Tensor] = aten.max_pool2d_with_indices.default(x, kernel, kernel)
    return found


def adaptive_max_pool2d_backward(grad: Tensor, x: Tensor, indices: Tensor) -> Tensor:
    """Gradient of :func:`adaptive_max_pool2d`."""
    kernel = [x.shape[axis] // grad.shape[axis] for axis in (-2, -1)]
    return max_pool2d_with_indices_backward(grad, x, kernel, kernel, [0, 0], [1, 1], False, indices)


def _add_windows(
    parts: list[Tensor], size: Sizes, kernel: Sizes, stride: Sizes, padding: Sizes, dilation: Sizes
) -> Tensor:
    """The sum over windows of what each position of the kernel passes on, ``(B, C, *size)``: the
    transpose of ``patches``.

    Args:
        parts: for each position of the kernel, row by row, ``(B, C, *out)``.
        size: of the input that was pooled.
    """
    for axis in reversed(range(len(kernel))):
        width = kernel[axis]
        rows = [parts[start : start + width] for start in range(0, len(parts), width)]
        parts = [
            _add_along(row, axis + 2, size[axis], stride[axis], padding[axis], dilation[axis])
            for row in rows
        ]
    return parts[0]


def _add_along(
    parts: list[Tensor], axis: int, size: int, stride: int, padding: int, dilation: int
) -> Tensor:
    """``out[s u + d i - p] = sum of parts[i][u]`` along one axis: shifted sums for each phase of
    the stride, interleaved.
    """
    count = parts[0].shape[axis]
    length = max(count + dilation * (len(parts) - 1) // stride, -(-(size + padding) // stride))
    phases = []
    for phase in range(stride):
        shifted = [
            _placed(part, axis, offset // stride, length)
            for offset, part in zip(range(0, dilation * len(parts), dilation), parts, strict=True)
            if offset % stride == phase
        ]
        phases.append(sum(shifted[1:], shifted[0]) if shifted else None)
    empty = (
        torch.zeros_like(next(value for value in phases if value is not None))
        if None in phases
        else None
    )
    whole = [value if value is not None else empty for value in phases]
    joined = whole[0] if stride == 1 else torch.stack(whole, axis + 1).flatten(axis, axis + 1)  # type: ignore[arg-type]
    assert joined is not None
    return joined if joined.shape[axis] == size else joined.narrow(axis, padding, size)


def _placed(value: Tensor, axis: int, before: int, length: int) -> Tensor:
    after = length - before - value.shape[axis]
    if not (before or after):
        return value
    return torch.constant_pad_nd(value, [*[0, 0] * (value.dim() - axis - 1), before, after])


def _counts(
    size: int, out: int, kernel: int, stride: int, padding: int, count_include_pad: bool
) -> list[int]:
    """How many elements each window averages along one axis; padding counts or not, what lies
    beyond the padding never does.
    """
    low, high = (-padding, size + padding) if count_include_pad else (0, size)
    starts = [step * stride - padding for step in range(out)]
    return [min(start + kernel, high) - max(start, low) for start in starts]


def _equal_windows(x: Tensor, size: Sizes) -> list[int] | None:
    """The kernel, if the windows of adaptive pooling are equal and side by side."""
    sizes = list(x.shape[-2:])
    return (
        None
        if any(whole % part for whole, part in zip(sizes, size, strict=True))
        else [w // p for w, p in zip(sizes, size, strict=True)]
    )


def _averages(size: int, out: int) -> Tensor:
    """``(out, size)``: row ``i`` averages from ``floor(i size / out)`` to ``ceil((i + 1) size /
    out)``.
    """
    rows = [(i * size // out, -(-(i + 1) * size // out)) for i in range(out)]
    return torch.tensor(
        [
            [1.0 / (end - start) if start <= at < end else 0.0 for at in range(size)]
            for start, end in rows
        ]
    )


__all__ = [
    "_adaptive_avg_pool2d",
    "_adaptive_avg_pool2d_backward",
    "adaptive_max_pool2d",
    "adaptive_max_pool2d_backward",
    "avg_pool2d",
    "avg_pool2d_backward",
    "max_pool2d_with_indices_backward",
]
