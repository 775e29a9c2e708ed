"""A symmetric matrix of sums with its lower blocks left out: about 9/16 of the bytes and of the multiplications.

    G = sum w h h^T  (n, n),   h cut into ``BLOCKS`` runs of columns h_1, h_2, ...:   store [h_i^T (w h_j)] for j >= i only

A block on the diagonal is stored whole, so the share is (b + 1) / (2 b) of the square for b equal runs; a true triangle would need
one product per row. The pieces lie one after the other in a vector, which adds, merges and forgets like the square. ``unpacked`` in
``device/packed_gram.py`` gives the square back, for the numerics that derive weights from it.
"""

from __future__ import annotations

import torch
from torch import Tensor

from edgeadapt.bundle.schema import TensorSpec
from edgeadapt.device.packed_gram import packed_runs, packed_size
from edgeadapt.host.methods.base import evidence


def gram_evidence(name: str, width: int, *, packed: bool) -> TensorSpec:
    """The evidence tensor of a Gram matrix (width, width), whole or packed."""
    return evidence(name, (packed_size(width),) if packed else (width, width), None)


def added_gram(gram: Tensor, h: Tensor, sample_weight: Tensor) -> Tensor:
    """``gram`` plus sum w h h^T, in the form that ``gram`` has.

    Args:
        gram: (n, n) or (packed_size(n),). h: (B, n). sample_weight: (B,).
    """
    weighted = h * sample_weight[:, None]
    if gram.dim() == 2:
        return gram + h.T @ weighted
    pieces = [(h[:, start:end].T @ weighted[:, start:]).reshape(-1) for start, end in packed_runs(h.shape[1])]
    return gram + torch.cat(pieces)


__all__ = ["added_gram", "gram_evidence"]
