"""Does a stream drift or does it jump? A drift is followed; only a jump can be another condition.

A window's mean is compared with the exponential average of the last ones, in the space of
:class:`~edgeadapt.device.detection.domain_router.RoutingProjection`. There the mean of a clean
window, of whatever class mix, has unit variance in each of S columns, so a step of squared length S
is noise. So is a step that is small beside the distance from the factory condition, and one of up
to four times the stream's usual step, as windows of a condition may scatter more than clean ones.
Following a drift is ours: by novelty or shift scores every few windows of it would open a
condition.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

_FADING = 0.5
_USUAL = 4.0


@dataclass(frozen=True, eq=False)
class GradualDriftTracker:
    """Exponential averages over a stream's windows: ``mean`` (S,) of their means, of which the
    newest weighs most, and ``usual``, the squared step to the next.
    """

    mean: NDArray[np.float64]
    weight: float = 1.0
    usual: float = 0.0

    def is_gradual(self, mean: NDArray[np.float64], route_distance: float) -> bool:
        """True if a window with this mean (S,) is a step and not a jump."""
        gap = mean - self.mean
        scale = float(np.sqrt((mean @ mean) * (self.mean @ self.mean)))
        return float(gap @ gap) <= max(
            len(mean) * (1.0 + 1.0 / self.weight), route_distance * scale, _USUAL * self.usual
        )

    def extended(self, mean: NDArray[np.float64]) -> GradualDriftTracker:
        old, gap = _FADING * self.weight, mean - self.mean
        return GradualDriftTracker(
            (old * self.mean + mean) / (old + 1.0),
            old + 1.0,
            _FADING * self.usual + (1.0 - _FADING) * float(gap @ gap),
        )


__all__ = ["GradualDriftTracker"]
