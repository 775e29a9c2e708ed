"""Random hypervectors without a stored matrix: seeded signs and a Hadamard transform, in numpy.

    n >= C:   h = H_n (s * pad(v)) / sqrt(n)   an isometry: every inner product is kept exactly
    n <  C:   h = fold_n(s' * H_N (s * pad(v))) / sqrt(N)
            N the power of two from C on; inner products up to O(1 / sqrt(n))

for v (N, C), s and s' signs drawn from a seed, and fold_n adding the blocks of n entries. H is
Sylvester's Hadamard matrix of a power of two; as a Kronecker product H_a x H_b of two small ones it
costs n (a + b) multiplications instead of n C, and nothing is stored but C signs. Source: Ailon and
Chazelle, STOC 2006 (signs, transform, sampling); signs and sums in place of sampled rows: Charikar,
Chen and Farach-Colton, ICALP 2002. Hyperdimensional fusion of layers draws one orthogonal matrix
per layer instead (Wilson et al., WACV 2023); laying the layers one behind the other in v gives the
same inner products without cross terms.

>>> v = np.array([[3.0, 0.0, 4.0]], np.float32)
>>> float((project(v, 8, seed=1) ** 2).sum().round(4))
25.0
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from edgeadapt.errors import InputError

F32 = NDArray[np.float32]
U8 = NDArray[np.uint8]
# set bits of a byte; np.bitwise_count needs numpy 2
_ONES = np.array([bin(byte).count("1") for byte in range(256)], np.uint8)


def power_of_two(width: int) -> int:
    """``width`` if it is a power of two and at least 8.

    Raises:
        InputError: it is not.
    """
    if width < 8 or width & (width - 1):
        raise InputError(f"the width of a hypervector is a power of two, 8 or more, got {width}")
    return width


def signs(seed: int, count: int, part: int = 0) -> F32:
    """(count,) +1 or -1, from the raw words of PCG64: the same on every machine and numpy
    version.
    """
    words = np.random.PCG64(np.random.SeedSequence([seed, part])).random_raw(-(-count // 64))
    bits = np.unpackbits(np.asarray(words, "<u8").view(np.uint8))[:count]
    return (1.0 - 2.0 * bits).astype(np.float32)


def hadamard(size: int) -> F32:
    """(size, size) Sylvester's Hadamard matrix, +1 and -1, symmetric."""
    matrix = np.ones((1, 1), np.float32)
    while len(matrix) < size:
        matrix = np.block([[matrix, matrix], [matrix, -matrix]])
    return matrix


def factors(width: int) -> tuple[int, int]:
    """Powers of two a <= b with a b = width, as equal as they can be."""
    a = 1 << ((width.bit_length() - 1) // 2)
    return a, width // a


def transform_width(count: int, width: int) -> int:
    """Width of the Hadamard transform for ``count`` inputs: the hypervector's own, or the power of
    two that holds all inputs.
    """
    return max(width, 1 << max(count - 1, 0).bit_length())


def project(v: F32, width: int, seed: int) -> F32:
    """(N, C) -> hypervectors (N, width) float32.

    Raises:
        InputError: not a matrix, or a width that is no power of two.
    """
    if v.ndim != 2 or not v.shape[1]:
        raise InputError(f"vectors to project are (N, C) with C at least 1, got {v.shape}")
    count, wide = v.shape[1], transform_width(v.shape[1], power_of_two(width))
    a, b = factors(wide)
    padded = np.zeros((len(v), wide), np.float32)
    padded[:, :count] = v * signs(seed, count)
    mixed = (hadamard(a) @ padded.reshape(-1, a, b) @ hadamard(b)).reshape(-1, wide)
    mixed /= np.float32(np.sqrt(wide))
    if wide > width:
        mixed = (mixed * signs(seed, wide, 1)).reshape(len(v), -1, width).sum(axis=1)
    return np.asarray(mixed, np.float32)


def packed(h: F32) -> U8:
    """(N, D) -> (N, D / 8) bytes: one bit per entry, set where it is not negative."""
    return np.packbits(h >= 0, axis=1)


def binary_cosine(a: U8, b: U8) -> F32:
    """(N, K) cosine of the +-1 vectors behind packed bits: 1 - 2 (differing bits) / D, by exclusive
    or and a count of set bits.
    """
    if a.ndim != 2 or b.ndim != 2 or a.shape[1] != b.shape[1]:
        raise InputError(
            f"packed hypervectors are (N, D / 8) of one width, got {a.shape} and {b.shape}"
        )
    differing = np.zeros((len(a), len(b)), np.int32)
    for column, row in enumerate(b):
        differing[:, column] = _ONES[a ^ row].sum(axis=1, dtype=np.int32)
    return np.asarray(1.0 - 2.0 * differing / (8 * a.shape[1]), np.float32)
