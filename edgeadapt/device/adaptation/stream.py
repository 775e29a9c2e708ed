"""One camera or sensor, and everything that is remembered of it between windows."""

from __future__ import annotations

import threading
from collections.abc import Collection
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from edgeadapt.device.adaptation.replay_buffer import ReplayBuffer
from edgeadapt.device.detection.accuracy_estimate import RecentAccuracy
from edgeadapt.device.detection.gradual_drift import GradualDriftTracker
from edgeadapt.device.detection.policy import NOVEL, UNCERTAIN, StreamState
from edgeadapt.device.detection.steadiness import WindowStats
from edgeadapt.device.detection.window import StreamWindow
from edgeadapt.device.querying.strategy import Asking
from edgeadapt.results import AccuracyEstimate

_BACK = 8  # windows after which a stream that left a condition is no longer on its way back


@dataclass(eq=False)
class Stream:
    """Its window, its condition, and recent inputs per condition; in memory only. The worker alone
    changes it, but for the window, which ``lock`` guards.

    Attributes:
        trail: means of its last windows.
        left, left_ago: the condition it was in before the factory's came back, and windows since.
        last_window: its statistics, if it was under a condition.
        source_shift: the shift of the last full window under the factory encoder.
        accuracy: as estimated at the last full window.
    """

    name: str
    window: StreamWindow
    state: StreamState = field(default_factory=StreamState)
    trail: GradualDriftTracker | None = None
    left: str = ""
    left_ago: int = 0
    last_window: WindowStats | None = None
    source_shift: float = 0.0
    recent: RecentAccuracy = field(default_factory=RecentAccuracy)
    accuracy: AccuracyEstimate | None = None
    memories: dict[str, ReplayBuffer] = field(default_factory=dict)
    asking: Asking = field(default_factory=Asking)
    lock: threading.Lock = field(default_factory=threading.Lock)

    @property
    def domain(self) -> str:
        return self.state.domain

    def enter(self, domain: str) -> None:
        self.state = replace(self.state, domain=domain)

    def decided(self, state: StreamState) -> None:
        """Take over what was decided; a new condition is entered when it is open."""
        self.state = state if state.domain else replace(state, domain=self.state.domain)

    def asked(self, topic: str, count: int) -> None:
        self.state = replace(self.state, asked={**self.state.asked, topic: count})

    def keep_only(self, domains: Collection[str]) -> None:
        """Forget conditions that are gone."""
        self.memories = {name: kept for name, kept in self.memories.items() if name in domains}
        asked = {
            topic: count
            for topic, count in self.state.asked.items()
            if topic in domains or topic in (NOVEL, UNCERTAIN)
        }
        self.state = replace(self.state, asked=asked)

    # -- where it was ------------------------------------------------------------------------------
    def drifts_to(self, mean: NDArray[np.float64], route_distance: float) -> bool:
        """Whether a window with this mean (S,) is a step and not a jump."""
        is_gradual = self.trail is not None and self.trail.is_gradual(mean, route_distance)
        if not is_gradual:
            self.left = ""  # it jumped: the way back is another way
        return is_gradual

    def moved_to(self, mean: NDArray[np.float64], *, is_gradual: bool) -> None:
        """Take in the mean of its last window, unless that may be of another condition."""
        if not self.state.away:
            self.trail = (
                self.trail.extended(mean)
                if is_gradual and self.trail is not None
                else GradualDriftTracker(mean)
            )
        self.left_ago += 1

    def leave(self, domain: str) -> None:
        self.left, self.left_ago = domain, 0

    def is_on_its_way_back(self, domains: Collection[str]) -> bool:
        """Whether the condition that it left is there, and not long ago."""
        return self.left in domains and self.left_ago <= _BACK


__all__ = ["Stream"]
