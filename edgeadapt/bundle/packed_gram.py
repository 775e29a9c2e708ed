"""Half of a symmetric matrix of sums: the square without the blocks below its diagonal, as a vector
that adds and merges like the square.

The columns are cut into eight runs; of the rows of a run, the columns from its first one on are
kept, one run after the other: 9/16 of the square. Blocks on the diagonal are kept whole, because a
true triangle would need one product per row where it is summed.

>>> packed_size(16), unpacked(np.arange(3), 2).tolist()
(144, [[0.0, 1.0], [1.0, 2.0]])
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]
F64 = NDArray[np.float64]
_RUNS = 8


def packed_runs(width: int) -> list[tuple[int, int]]:
    """The runs of columns in which a symmetric matrix (width, width) is packed: eight, or as many
    as there are columns.
    """
    step = -(-width // _RUNS)
    return [(start, min(start + step, width)) for start in range(0, width, step)]


def packed_size(width: int) -> int:
    """How many numbers are left of width^2 when each run of rows starts at its own first column."""
    return sum((end - start) * (width - start) for start, end in packed_runs(width))


def packed_width(size: int) -> int:
    """The width of a packed matrix of so many numbers; 0 if none has as many."""
    # of a square at least 9/16 is left, and at most half a row more
    most = math.isqrt(16 * size // 9)
    return next(
        (width for width in (most, most - 1) if width > 0 and packed_size(width) == size), 0
    )


def mirrored(square: Array) -> Array:
    """(n, n) with what is above the diagonal below it too, bit for bit."""
    made = np.array(square)
    below = np.tril_indices(len(made), -1)
    made[below] = made.T[below]
    return made


def unpacked(gram: Array, width: int) -> F64:
    """The square (width, width) of a Gram matrix that may be packed: rows of each run, from the
    run's first column on, one run after the other.
    """
    if np.ndim(gram) == 2:
        return np.asarray(gram, np.float64)
    square = np.zeros((width, width))
    at = 0
    for start, end in packed_runs(width):
        size = (end - start) * (width - start)
        square[start:end, start:] = np.asarray(gram[at : at + size], np.float64).reshape(
            end - start, width - start
        )
        square[start:, start:end] = square[start:end, start:].T
        at += size
    return square
