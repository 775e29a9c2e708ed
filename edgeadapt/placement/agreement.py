"""Do two runtimes say the same? Numbers relative to the size of the output, tensors relative to the
size of the change.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Arrays = Mapping[str, NDArray[Any]]
TIES = 0.01
"""Share of whole numbers that a tie may decide otherwise; of few numbers, one."""
_ROUNDING = 4 * float(np.finfo(np.float32).eps)


@dataclass(frozen=True)
class Agreement:
    """What a comparison of one call came to.

    Attributes:
        error: the largest difference, relative.
        why: what does not agree; empty if all does.
        is_tie: nothing can be said: whole numbers differ in so few places that a tie may have
            decided them, and all else agrees.
    """

    error: float
    why: str = ""
    is_tie: bool = False


def compare(expected: Arrays, found: Arrays, before: Arrays, tolerance: float) -> Agreement:
    """Outputs and written tensors of one call.

    Where the reference is not finite the other must not be, either, in the same way. A float array
    that holds whole numbers alone is a flag or a count and compared as such. A tie excuses whole
    numbers alone: scores that decide a label nearly agree where the label is a matter of rounding.

    Args:
        expected, found: of the reference and of the other, by name.
        before: old values of the tensors that are written, as far as they were read: what is
            compared is the change.
        tolerance: relative difference that is rounding.
    """
    if expected.keys() != found.keys():
        return Agreement(
            float("inf"),
            f"it gives {', '.join(sorted(found)) or 'nothing'} instead of"
            f" {', '.join(sorted(expected)) or 'nothing'}",
        )
    worst, why, is_tie = 0.0, "", False
    for name, right in expected.items():
        one = _compare(name, right, found[name], before.get(name), tolerance)
        worst, why, is_tie = max(worst, one.error), why or one.why, is_tie or one.is_tie
        if one.error == float("inf"):
            return one
    return Agreement(worst, why, is_tie and not why)


def _compare(
    name: str,
    right: NDArray[Any],
    other: NDArray[Any],
    before: NDArray[Any] | None,
    tolerance: float,
) -> Agreement:
    if right.shape != other.shape or right.dtype != other.dtype:
        return Agreement(
            float("inf"),
            f"{name} is {other.dtype}{list(other.shape)} instead of"
            f" {right.dtype}{list(right.shape)}",
        )
    if not right.size:
        return Agreement(0.0)
    if right.dtype.kind != "f":
        return _compare_whole(name, right, other)
    finite = np.isfinite(right)
    if not np.array_equal(finite, np.isfinite(other)):
        return Agreement(
            float("inf"),
            f"{name} is not finite in other places than the reference"
            f" ({int((~np.isfinite(other)).sum())} of {other.size})",
        )
    if not np.array_equal(right[~finite], other[~finite], equal_nan=True):
        return Agreement(float("inf"), f"{name} has other infinities than the reference")
    a, b = right[finite].astype(np.float64), other[finite].astype(np.float64)
    if not a.size:
        return Agreement(0.0)
    if before is None and np.array_equal(a, np.rint(a)) and np.array_equal(b, np.rint(b)):
        return _compare_whole(name, a, b)
    size = float(np.abs(a).max())
    scale = size if before is None else float(np.abs(a - before[finite].astype(np.float64)).max())
    slack = 0.0 if before is None else _ROUNDING * size
    difference = max(0.0, float(np.abs(a - b).max()) - slack)
    error = difference / scale if scale > 0 else (float("inf") if difference > _ROUNDING else 0.0)
    of = "its size" if before is None else "its change"
    return Agreement(error, f"{name} differs by {error:.1e} of {of}" if error > tolerance else "")


def _compare_whole(name: str, right: NDArray[Any], other: NDArray[Any]) -> Agreement:
    differ = int((right != other).sum())
    if not differ:
        return Agreement(0.0)
    share = differ / right.size
    if differ <= max(1.0, TIES * right.size):
        return Agreement(share, is_tie=True)
    return Agreement(share, f"{name} differs in {differ} of {right.size} places")


__all__ = ["TIES", "Agreement", "compare"]
