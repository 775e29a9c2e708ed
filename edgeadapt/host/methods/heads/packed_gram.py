"""A symmetric matrix of sums with its lower blocks left out: about 9/16 of the bytes and of the
multiplications.

    G = sum w h h^T  (n, n),   h cut into ``BLOCKS`` runs of columns h_1, h_2, ...:
            store [h_i^T (w h_j)] for j >= i only

A block on the diagonal is stored whole, so the share is (b + 1) / (2 b) of the square for b equal
runs; a true triangle would need one product per row. The pieces lie one after the other in a
vector, which adds, merges and forgets like the square. ``unpacked`` in ``bundle/packed_gram.py``
gives the square back, for the numerics that derive weights from it.
"""

from __future__ import annotations

import torch
from torch import Tensor

from edgeadapt.bundle.packed_gram import mirrored, packed_runs, packed_size, packed_width
from edgeadapt.bundle.schema import TensorSpec
from edgeadapt.host.contracts import Arrays, evidence


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
    pieces = [
        (h[:, start:end].T @ weighted[:, start:]).reshape(-1)
        for start, end in packed_runs(h.shape[1])
    ]
    return gram + torch.cat(pieces)


def with_symmetric(name: str, values: Arrays) -> Arrays:
    """``values`` with the Gram matrix called ``name`` equal to its transpose bit for bit, so that a
    file keeps a triangle of it.

    h_i (w h_j) and (w h_i) h_j round apart: of each pair the one above the diagonal is kept.

    Args:
        values: of a head; the matrix is (n, n), or packed (packed_size(n),).
    """
    gram = values[name]
    if gram.ndim == 2:
        return {**values, name: mirrored(gram)}
    width = packed_width(gram.size)
    made, at = gram.copy(), 0
    for start, end in packed_runs(width):
        run = made[at : (at := at + (end - start) * (width - start))].reshape(end - start, -1)
        run[:, : end - start] = mirrored(run[:, : end - start])
    return {**values, name: made}


__all__ = ["added_gram", "gram_evidence", "with_symmetric"]
