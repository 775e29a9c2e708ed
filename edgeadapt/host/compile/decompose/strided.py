"""Views by strides, which the exporter would gather element by element: those that are plain
reshapes, and the gradient of a diagonal.

Autograd makes a strided view where it follows an in-place sum into a view, as ``linear`` with bias
does on an input that is not contiguous.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor


def as_strided(
    x: Tensor, size: Sequence[int], stride: Sequence[int], storage_offset: int | None = None
) -> Any:
    """``x.view(size)`` where the strides are those of contiguous memory and all of ``x`` is
    covered; else left as it is.
    """
    covers = (
        not storage_offset
        and x.is_contiguous()
        and list(stride) == _contiguous(size)
        and _count(size) == _count(x.shape)
    )
    return x.view(size) if covers else NotImplemented


def diagonal_backward(
    grad: Tensor, sizes: Sequence[int], offset: int, dim1: int, dim2: int
) -> Tensor:
    """``grad`` on the diagonal of zeros.

    Raises:
        NotImplementedError: the two axes differ in size.
    """
    if sizes[dim1] != sizes[dim2]:
        raise NotImplementedError(
            f"gradient of the diagonal of a matrix that is not square, {list(sizes)}"
        )
    return torch.diag_embed(grad, offset, dim1, dim2)


def _contiguous(size: Sequence[int]) -> list[int]:
    strides = [1]
    for length in reversed(size[1:]):
        strides.insert(0, strides[0] * length)
    return strides[: len(size)]


def _count(size: Sequence[int]) -> int:
    total = 1
    for length in size:
        total *= length
    return total


__all__ = ["as_strided", "diagonal_backward"]
