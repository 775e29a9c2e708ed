"""How one feature vector becomes one query per book, with as little stored as possible.

    x = z or its projection        whitened: x <- x M, M frozen, from factory features
    signs     q = blocks of H_a (s_r x X) H_b / sqrt(n), r = 1, 2, ...
                  X the padded x as an (a, b) matrix, s_r seeded signs: n bytes for every n / d
                  books
    random    q_c = x R_c, the columns of R_c normal and of length 1
                  as published (Traeuble et al., section 3); R in bytes, one scale for all
    chunk     q_c = the c-th part of x                                   stores nothing

A round of signs and a Walsh-Hadamard transform is a rotation, so the books of one round look at
orthogonal directions, and two rounds are as good as random to each other.
"""

from __future__ import annotations

from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from edgeadapt.bundle.schema import TensorSpec
from edgeadapt.errors import InputError
from edgeadapt.host.contracts import Arrays, FactoryData, Values, frozen
from edgeadapt.host.methods.heads.projection import walsh_hadamard
from edgeadapt.host.methods.whole_bytes import byte_tensor, from_bytes, to_bytes

Split = Literal["signs", "random", "chunk"]
Whitening = Literal["none", "scale", "total", "within"]
# of the mean variance: directions that the factory features hardly show are not blown up
_FLOOR = 1e-3


def _sides(width: int) -> tuple[int, int]:
    bits = int(np.ceil(np.log2(width))) if width > 1 else 0
    return 1 << bits // 2, 1 << (bits - bits // 2)


# -- whitening -------------------------------------------------------------------------------------
def whitening_tensors(kind: Whitening, width: int) -> list[TensorSpec]:
    return (
        []
        if kind == "none"
        else [frozen("keys.whitening", (width,) if kind == "scale" else (width, width))]
    )


def whitening_factory(kind: Whitening, x: NDArray[np.float64], data: FactoryData) -> Arrays:
    """``scale``: 1 / standard deviation of each column. ``total``: principal components of unit
    variance. ``within``: unit scatter within the factory's classes, then rotated to principal
    components (linear discriminants first). The first two read no label."""
    if kind == "none":
        return {}
    centred = x - x.mean(axis=0)
    if kind == "scale":
        variance = (centred**2).mean(axis=0)
        return {"keys.whitening": (1.0 / np.sqrt(variance + _floor(variance))).astype(np.float32)}
    matrix = np.eye(x.shape[1])
    if kind == "within":
        rest = np.concatenate([x[data.y == k] - x[data.y == k].mean(axis=0) for k in data.classes])
        matrix = _unit_scatter(rest)
        centred = centred @ matrix
    vectors = np.linalg.eigh(centred.T @ centred / len(x))[1][:, ::-1]
    vectors = vectors * np.sign(vectors[np.abs(vectors).argmax(axis=0), np.arange(len(vectors))])
    matrix = matrix @ vectors if kind == "within" else vectors / np.sqrt(_spread(centred @ vectors))
    return {"keys.whitening": matrix.astype(np.float32)}


def _floor(variance: NDArray[np.float64]) -> float:
    return _FLOOR * float(variance.mean()) or 1.0


def _spread(columns: NDArray[np.float64]) -> NDArray[np.float64]:
    variance = (columns**2).mean(axis=0)
    spread: NDArray[np.float64] = variance + _floor(variance)
    return spread


def _unit_scatter(rest: NDArray[np.float64]) -> NDArray[np.float64]:
    values, vectors = np.linalg.eigh(rest.T @ rest / len(rest))
    values = np.maximum(values, 0.0)
    matrix: NDArray[np.float64] = vectors / np.sqrt(values + 10.0 * _floor(values))
    return matrix


def whiten(kind: Whitening, t: Values, x: Tensor) -> Tensor:
    if kind == "none":
        return x
    return x * t["keys.whitening"] if kind == "scale" else x @ t["keys.whitening"]


# -- one query per book ----------------------------------------------------------------------------
def split_tensors(kind: Split, width: int, books: int, key_dim: int) -> list[TensorSpec]:
    """Frozen tensors of the split.

    Raises:
        InputError: parts of width ``key_dim`` that do not make up the width.
    """
    if kind == "chunk":
        if books * key_dim != width:
            raise InputError(
                f"split 'chunk' cuts {width} features into {books} books of key_dim {key_dim};"
                f" {books} x {key_dim} = {books * key_dim}"
            )
        return []
    if kind == "random":
        return [byte_tensor("keys.random", (width, books * key_dim))]
    a, b = _sides(width)
    if key_dim > a * b or (a * b) % key_dim:
        raise InputError(
            f"split 'signs' cuts blocks of {a * b} into queries, so key_dim divides {a * b}; got"
            f" {key_dim}"
        )
    return [
        byte_tensor("keys.signs", (-(-books * key_dim // (a * b)), a * b)),
        byte_tensor("keys.left", (a, a)),
        byte_tensor("keys.right", (b, b)),
    ]


def split_factory(kind: Split, width: int, books: int, key_dim: int, seed: int) -> Arrays:
    rng = np.random.default_rng(seed)
    if kind == "chunk":
        return {}
    if kind == "random":
        columns = rng.standard_normal((width, books * key_dim))
        columns /= np.sqrt((columns**2).sum(axis=0))
        return {"keys.random": to_bytes(np.rint(127.0 * columns / np.abs(columns).max()))}
    signs, left, right = split_tensors(kind, width, books, key_dim)
    drawn = to_bytes(2 * rng.integers(0, 2, signs.shape) - 1)
    return {
        signs.name: drawn,
        left.name: to_bytes(walsh_hadamard(left.shape[0])),
        right.name: to_bytes(walsh_hadamard(right.shape[0])),
    }


def split(kind: Split, t: Values, x: Tensor, books: int, key_dim: int) -> Tensor:
    """(B, width) -> (B, C, d)."""
    if kind == "random":
        x = x @ (from_bytes(t["keys.random"]) * (1.0 / 127.0))
    if kind == "signs":
        signs, left, right = (from_bytes(t[f"keys.{name}"]) for name in ("signs", "left", "right"))
        size = signs.shape[1]
        if size > x.shape[1]:
            x = torch.cat([x, torch.zeros_like(x[:, :1]).expand(-1, size - x.shape[1])], dim=1)
        mixed = (
            left
            @ (x[:, None, :] * signs).reshape(-1, signs.shape[0], left.shape[0], right.shape[0])
            @ right
        )
        x = mixed.reshape(-1, signs.shape[0] * size)[:, : books * key_dim] * (
            1.0 / float(np.sqrt(size))
        )
    return x.reshape(-1, books, key_dim)


__all__ = [
    "Split",
    "Whitening",
    "split",
    "split_factory",
    "split_tensors",
    "whiten",
    "whitening_factory",
    "whitening_tensors",
]
