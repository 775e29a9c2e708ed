"""Does a stream drift or does it jump? A condition that moves slowly is followed; only a jump can
be another condition.

Every window is compared with where the stream was in its last few windows, forgetting the older
ones by half each time. In the space of
:class:`~edgeadapt.device.detection.domain_router.RoutingProjection` the mean of a clean window, of
whatever class mix, has unit variance in each of S columns, so a step of squared length S is noise;
a step that is small beside the distance from the factory condition is none either; and under a
condition windows may scatter more than clean ones, so four times the usual step of this stream is
none. Following instead of opening is ours: novelty and shift scores alike would open a condition at
every few windows of a drift.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

_FADING = 0.5
_USUAL = 4.0


@dataclass(frozen=True, eq=False)
class GradualDriftTracker:
    """Where a stream was lately: the mean place (S,) of its last windows, of which the newest
    weighs most, and the usual squared step to the next.
    """

    mean: NDArray[np.float64]
    weight: float = 1.0
    usual: float = 0.0

    def is_gradual(self, place: NDArray[np.float64], route_distance: float) -> bool:
        """True if a window with this mean place (S,) is a step and not a jump."""
        gap = place - self.mean
        scale = float(np.sqrt((place @ place) * (self.mean @ self.mean)))
        return float(gap @ gap) <= max(
            len(place) * (1.0 + 1.0 / self.weight), route_distance * scale, _USUAL * self.usual
        )

    def extended(self, place: NDArray[np.float64]) -> GradualDriftTracker:
        old, gap = _FADING * self.weight, place - self.mean
        return GradualDriftTracker(
            (old * self.mean + place) / (old + 1.0),
            old + 1.0,
            _FADING * self.usual + (1.0 - _FADING) * float(gap @ gap),
        )


__all__ = ["GradualDriftTracker"]
