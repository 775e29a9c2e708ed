"""The one reference to the state that answers, and whether it may change."""

from __future__ import annotations

from collections.abc import Callable

from edgeadapt.bundle.schema import AdaptMode
from edgeadapt.device.inference.state import LearnerState


class LiveState:
    """What every part of a learner reads. Publishing is one assignment: a thread that answers has
    the state before or the state after. The worker alone publishes.

    Args:
        state: that answers first.
        mode: what label-free corrections may do, by policy and environment.
        is_frozen: nothing is learned or corrected.
    """

    def __init__(
        self,
        state: LearnerState,
        mode: Callable[[], AdaptMode] = lambda: "act",
        *,
        is_frozen: bool = False,
    ) -> None:
        self.current = state
        self.is_frozen = is_frozen
        self._mode = mode

    def publish(self, state: LearnerState) -> None:
        self.current = state

    @property
    def adapt_mode(self) -> AdaptMode:
        """What corrections may do now."""
        return "off" if self.is_frozen else self._mode()


__all__ = ["LiveState"]
