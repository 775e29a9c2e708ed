"""How sure a difference is: a paired bootstrap over test samples, and the spread over seeds.

Source: Efron and Tibshirani, An Introduction to the Bootstrap, 1993, chapter 13 (percentile
interval). Paired: both methods answered the same samples, so a resample takes both answers of a
sample together.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike

from edgeadapt.errors import InputError


def paired_interval(
    right_a: ArrayLike, right_b: ArrayLike, seed: int = 0, rounds: int = 2000, level: float = 0.95
) -> tuple[float, float, float]:
    """``(difference, low, high)`` of the accuracy of A minus that of B.

    The mean difference depends on how often each distinct difference is drawn and on nothing else,
    so a resample of N units is one multinomial draw over the distinct differences: exact, and fast
    for any N.

    Args:
        right_a, right_b: (N,) bool, whether each answered unit i rightly; or its share of right
            answers in [0, 1] where a unit is several orders of a stream, a draw, or a group of
            samples that are no independent evidence.
        rounds: resamples. level: of the interval.

    Raises:
        InputError: no units, shapes that differ, a share outside [0, 1], or a level outside (0, 1).
    """
    a, b = np.asarray(right_a, np.float64), np.asarray(right_b, np.float64)
    if a.ndim != 1 or a.shape != b.shape or not len(a):
        raise InputError(
            "a paired comparison needs two (N,) arrays over the same units, N at least 1; got"
            f" {a.shape} and {b.shape}"
        )
    if not all(np.isfinite(part).all() and part.min() >= 0 and part.max() <= 1 for part in (a, b)):
        raise InputError("a paired comparison needs right or wrong, or shares between 0 and 1")
    if not 0.0 < level < 1.0 or rounds < 1:
        raise InputError(
            f"level must be between 0 and 1 and rounds at least 1; got {level} and {rounds}"
        )
    values, counts = np.unique(np.round(a - b, 12), return_counts=True)
    drawn = (
        np.random.default_rng(seed).multinomial(len(a), counts / len(a), size=rounds)
        @ values
        / len(a)
    )
    low, high = np.quantile(drawn, [(1 - level) / 2, (1 + level) / 2])
    return float((a - b).mean()), float(low), float(high)


def mean_and_spread(values: Sequence[float] | ArrayLike) -> tuple[float, float]:
    """Mean and sample standard deviation; the deviation of a single value is 0.

    Raises:
        InputError: no value, or one that is not finite.
    """
    numbers = np.asarray(values, np.float64).ravel()
    if not len(numbers) or not np.isfinite(numbers).all():
        raise InputError(f"a mean needs at least one finite value; got {numbers.tolist()}")
    return float(numbers.mean()), float(numbers.std(ddof=1)) if len(numbers) > 1 else 0.0
