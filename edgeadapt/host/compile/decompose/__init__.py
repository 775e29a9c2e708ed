"""The decomposition table of the compiler: what torch operators become before they are exported.

It is the core ATen table with three kinds of changes, each for a fault that was measured:

- ``eye`` is taken out: its decomposition counts in uint8/uint16, which neither the exporter nor
  TensorRT accepts.
- ``native_layer_norm`` and ``native_group_norm`` are added: their gradients need the second and
  third output, which TensorRT refuses.
- What the exporter cannot translate, translates wrongly, or translates into slow operators is
  written out, one family per file.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch._decomp import core_aten_decompositions, get_decompositions

from edgeadapt.host.compile.decompose import (
    activation,
    attention,
    convolution,
    lookup,
    loss,
    normalisation,
    pooling,
    strided,
    transposed,
)

aten = torch.ops.aten
Table = dict[Any, Callable[..., Any]]


def decompositions() -> Table:
    """A fresh table ``{operator overload: python function}`` for ``make_fx``."""
    table: Table = dict(core_aten_decompositions())
    table.pop(aten.eye.default, None)
    table.pop(aten.eye.m, None)
    table.update(get_decompositions([aten.native_group_norm, aten.nll_loss2d_forward]))
    table[aten.empty_permuted.default] = _empty_permuted
    for family in (
        activation,
        attention,
        convolution,
        lookup,
        loss,
        normalisation,
        pooling,
        strided,
        transposed,
    ):
        table.update(
            {getattr(aten, name).default: getattr(family, name) for name in family.__all__}
        )
    table[aten._native_batch_norm_legit.default] = normalisation.native_batch_norm
    table[aten._native_batch_norm_legit.no_stats] = normalisation.batch_norm_without_statistics
    # the exporter has no translation, and would trace again
    table[aten.squeeze.dims] = _squeeze_dims
    table.pop(aten.squeeze.dim, None)
    return table


def _squeeze_dims(x: Tensor, dims: Sequence[int]) -> Tensor:
    dropped = sorted({dim % x.dim() for dim in dims if x.shape[dim] == 1}, reverse=True)
    if not dropped:
        return aten.alias.default(x)
    for dim in dropped:
        x = aten.squeeze.dim(x, dim)
    return x


def _empty_permuted(
    size: Sequence[int], order: Sequence[int], *, dtype: torch.dtype | None = None, **_: Any
) -> Tensor:
    """Zeros: the gradients of silu and bce allocate with it and then overwrite every element."""
    return torch.zeros(size, dtype=dtype)
