"""Projections of features to M dimensions, so that the square state of a second-order head is M^2
and not D^2.

    p = (z - c) P        z (B, D), c (D,) the mean of the factory features, P (D, M)

    signs      P = +-1 / sqrt(M) from a seed, stored five entries to a byte
                   Achlioptas, JCSS 2003
    hadamard   P = rows of a Walsh-Hadamard matrix after seeded signs, never stored
                   Ailon and Chazelle, SIAM J. Comput. 2009; Tropp, AADA 2011
    principal  P = the leading eigenvectors of the factory covariance, cut to -1, 0, +1
                   the cut is ours

The first two know nothing of the data and keep inner products up to about 1 / sqrt(M). The third is
fitted once, on factory features without their labels, and frozen: the class means and the scatter
of a head stay valid for ever. Cutting eigenvectors to three values costs nothing measurable in
accuracy (docs/methods/heads.md) and makes them sixteen to twenty times smaller than float32.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Protocol, runtime_checkable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from edgeadapt.bundle.schema import TensorSpec
from edgeadapt.device.numerics.back_projection import DIGITS_PER_BYTE
from edgeadapt.errors import InputError
from edgeadapt.host.contracts import Arrays, FactoryData, Values, frozen
from edgeadapt.host.methods.whole_bytes import byte_tensor, from_bytes, to_bytes

_CUT = 0.8  # entries below this share of the root mean square of their eigenvector become 0
_RANK = 1e-6  # of the largest eigenvalue; float32 products have no smaller ones
_CENTRE = "projection.centre"


@runtime_checkable
class Projection(Protocol):
    """Frozen tensors, their names (the centre first), and the function that applies them."""

    name: ClassVar[str]
    names: ClassVar[tuple[str, ...]]

    @property
    def width(self) -> int: ...

    def tensors(self, features: int) -> list[TensorSpec]: ...

    def factory(self, data: FactoryData) -> Arrays: ...

    def apply(self, t: Values, z: Tensor) -> Tensor:
        """(B, D) -> (B, M)."""
        ...


def _integers(name: str, dtype: str, shape: tuple[int, ...]) -> TensorSpec:
    return TensorSpec(name=name, dtype=dtype, shape=shape, kind="frozen", persist="never")  # type: ignore[arg-type]


def _centre(data: FactoryData) -> NDArray[np.float32]:
    if len(data.z) == 0:
        raise InputError("a projection is centred on factory features, and there are none")
    centre: NDArray[np.float32] = data.z.mean(axis=0, dtype=np.float64).astype(np.float32)
    return centre


def _checked(width: int, features: int, most: int) -> None:
    if not 1 <= width <= most:
        raise InputError(
            f"a projection of {features} features has a width from 1 to {most}, got {width}"
        )


# -- three values, five to a byte ------------------------------------------------------------------
def pack_digits(signs: NDArray[np.int8]) -> NDArray[np.uint8]:
    """(D, M) of -1, 0, 1 -> (ceil(D / 5), M) uint8: byte g holds rows g, G + g, 2 G + g, ... as
    digits to base 3, the first one lowest.
    """
    height = -(-len(signs) // DIGITS_PER_BYTE)
    padded = np.zeros((DIGITS_PER_BYTE * height, signs.shape[1]), np.int64)
    padded[: len(signs)] = signs
    powers = 3 ** np.arange(DIGITS_PER_BYTE)
    packed: NDArray[np.uint8] = np.tensordot(
        powers, padded.reshape(DIGITS_PER_BYTE, height, -1) + 1, 1
    ).astype(np.uint8)
    return packed


def _digits(packed: Tensor, rows: int) -> Tensor:
    """(G, M) uint8 -> (rows, M) float32 of -1, 0, 1. Whole numbers below 243 and thirds of them are
    told apart exactly in float32.
    """
    rest = packed.to(torch.float32)
    planes = []
    for _ in range(DIGITS_PER_BYTE):
        quotient = torch.floor((rest + 0.5) * (1.0 / 3.0))
        planes.append(rest - 3.0 * quotient - 1.0)
        rest = quotient
    return torch.cat(planes)[:rows]


@dataclass(frozen=True)
class _Digits:
    """P in three values. ``projection.digits`` (ceil(D / 5), M) uint8, ``projection.centre``
    (D,).
    """

    width: int
    seed: int = 0
    names: ClassVar[tuple[str, ...]] = (_CENTRE, "projection.digits")

    def tensors(self, features: int) -> list[TensorSpec]:
        _checked(self.width, features, features)
        return [
            frozen(_CENTRE, (features,)),
            _integers("projection.digits", "uint8", (-(-features // DIGITS_PER_BYTE), self.width)),
        ]

    def apply(self, t: Values, z: Tensor) -> Tensor:
        return ((z - t[_CENTRE]) @ _digits(t["projection.digits"], z.shape[1])) * (
            1.0 / float(np.sqrt(self.width))
        )

    def _random(self, features: int, width: int) -> NDArray[np.int8]:
        # column by column: a wider one begins with a narrower one
        drawn = np.random.default_rng(self.seed).integers(0, 2, (width, features)).T
        return np.ascontiguousarray(2 * drawn - 1, np.int8)


@dataclass(frozen=True)
class SignProjection(_Digits):
    """P = +-1 / sqrt(M), drawn from ``seed``: E[p p'] = (z - c)(z' - c). Cost D M MACs; D M / 5 + 4
    D bytes.
    """

    name: ClassVar[str] = "signs"

    def factory(self, data: FactoryData) -> Arrays:
        return {
            _CENTRE: _centre(data),
            "projection.digits": pack_digits(self._random(data.z.shape[1], self.width)),
        }


@dataclass(frozen=True)
class PrincipalProjection(_Digits):
    """P = sign(v) where |v| > 0.8 rms(v), else 0, for the M leading eigenvectors v of the factory
    covariance; cost and bytes as for signs.

    Where the factory features span fewer than M directions, the rest are random signs from
    ``seed``.
    """

    name: ClassVar[str] = "principal"

    def factory(self, data: FactoryData) -> Arrays:
        centre = _centre(data)
        leading = principal_signs(data.z, centre, self.width)
        others = self._random(data.z.shape[1], self.width - leading.shape[1])
        return {_CENTRE: centre, "projection.digits": pack_digits(np.hstack([leading, others]))}


def principal_signs(
    z: NDArray[np.float32], centre: NDArray[np.float32], most: int
) -> NDArray[np.int8]:
    """(D, R) the leading eigenvectors of the covariance of ``z`` (N, D) in three values; R <=
    ``most``, and no more than the samples span.
    """
    centred = z - centre
    is_wide = len(z) < z.shape[1]  # the smaller of the two products has the same eigenvalues
    values, vectors = np.linalg.eigh(
        (centred @ centred.T if is_wide else centred.T @ centred).astype(np.float64)
    )
    spanned = int(min(most, (values > _RANK * max(float(values[-1]), 1e-30)).sum()))
    leading = vectors[:, ::-1][:, :spanned]
    leading = centred.T.astype(np.float64) @ leading if is_wide else leading
    # LAPACK is free to choose the sign
    leading = leading * np.sign(leading[np.abs(leading).argmax(axis=0), np.arange(spanned)])
    kept = np.abs(leading) > _CUT * np.sqrt((leading**2).mean(axis=0))
    signs: NDArray[np.int8] = (np.sign(leading) * kept).astype(np.int8)
    return signs


# -- without a matrix ------------------------------------------------------------------------------
def walsh_hadamard(size: int) -> NDArray[np.int8]:
    """(size, size) of +-1 with H H^T = size I; ``size`` is a power of two."""
    matrix = np.ones((1, 1), np.int8)
    while len(matrix) < size:
        matrix = np.block([[matrix, matrix], [matrix, -matrix]])
    return matrix


@dataclass(frozen=True)
class HadamardProjection:
    """P = M rows, drawn from ``seed``, of diag(signs) (H_a x H_b) / sqrt(M), with z padded to n = a
    b, a power of two.

    H_a X H_b of the (a, b) matrix X of a padded sample is the exact Walsh-Hadamard transform of
    size n, so that no (D, M) matrix exists: (a + b) n MACs, and D + a^2 + b^2 + 4 M + 4 D bytes (7
    + 5 kB at D = 1280, M = 256). Where D is a power of two the rows are orthogonal: P^T P = (n / M)
    I; for other D they are as good as drawn at random.
    """

    width: int
    seed: int = 0
    name: ClassVar[str] = "hadamard"
    names: ClassVar[tuple[str, ...]] = (
        _CENTRE,
        "projection.signs",
        "projection.left",
        "projection.right",
        "projection.rows",
    )

    @staticmethod
    def _sides(features: int) -> tuple[int, int]:
        bits = max(1, int(np.ceil(np.log2(features))))
        return 1 << bits // 2, 1 << (bits - bits // 2)

    def tensors(self, features: int) -> list[TensorSpec]:
        _checked(self.width, features, features)
        a, b = self._sides(features)
        return [
            frozen(_CENTRE, (features,)),
            byte_tensor("projection.signs", (features,)),
            byte_tensor("projection.left", (a, a)),
            byte_tensor("projection.right", (b, b)),
            _integers("projection.rows", "int32", (self.width,)),
        ]

    def factory(self, data: FactoryData) -> Arrays:
        features = data.z.shape[1]
        a, b = self._sides(features)
        rng = np.random.default_rng(self.seed)
        signs = to_bytes(2 * rng.integers(0, 2, features) - 1)
        rows = np.sort(rng.permutation(a * b)[: self.width]).astype(np.int32)
        return {
            _CENTRE: _centre(data),
            "projection.signs": signs,
            "projection.left": to_bytes(walsh_hadamard(a)),
            "projection.right": to_bytes(walsh_hadamard(b)),
            "projection.rows": rows,
        }

    def apply(self, t: Values, z: Tensor) -> Tensor:
        left, right = from_bytes(t["projection.left"]), from_bytes(t["projection.right"])
        signed = (z - t[_CENTRE]) * from_bytes(t["projection.signs"])
        size = left.shape[0] * right.shape[0]
        if size > z.shape[1]:
            signed = torch.cat(
                [signed, torch.zeros_like(signed[:, :1]).expand(-1, size - z.shape[1])], dim=1
            )
        mixed = left @ signed.reshape(-1, left.shape[0], right.shape[0]) @ right
        return torch.index_select(mixed.reshape(-1, size), 1, t["projection.rows"]) * (
            1.0 / float(np.sqrt(self.width))
        )


__all__ = [
    "HadamardProjection",
    "PrincipalProjection",
    "Projection",
    "SignProjection",
    "pack_digits",
    "walsh_hadamard",
]
