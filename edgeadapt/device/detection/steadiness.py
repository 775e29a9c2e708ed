"""Is a window under a correction like the last one that was analysed? Then its analysis, which
costs the encoder once more, can wait.

    differs  if  (mean a - mean b)^2 > 9 (var a / n + var b / n)
            of the distances from the classes, or of the novelty scores

This is Welch's statistic (Biometrika 34, 1947) at three standard errors: one steady window in some
two hundred seems to differ, and is analysed. Distances and scores are known from predicting.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from edgeadapt.device.detection.window import WindowView

_ERRORS = 3.0


class WindowStats(NamedTuple):
    """Known of a window from predicting: its correction, and distances and scores (W,) under it."""

    correction: Any
    distances: NDArray[np.float32]
    scores: NDArray[np.float32]

    @classmethod
    def of(cls, view: WindowView) -> WindowStats:
        return cls(view.correction, view.distances, view.scores)

    def same_distribution_as(self, other: WindowStats) -> bool:
        """Both are under the same correction, and their distances and scores do not differ."""
        if self.correction is None or self.correction is not other.correction:
            return False
        return _are_alike(self.distances, other.distances) and _are_alike(self.scores, other.scores)


def _are_alike(one: NDArray[np.float32], other: NDArray[np.float32]) -> bool:
    apart = float(one.mean() - other.mean())
    return apart * apart <= _ERRORS * _ERRORS * float(
        one.var() / len(one) + other.var() / len(other)
    )


__all__ = ["WindowStats"]
