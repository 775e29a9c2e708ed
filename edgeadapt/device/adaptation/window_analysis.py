"""One full window as the factory encoder and the conditions see it. Each part is worked out once,
when it is asked for.
"""

from __future__ import annotations

from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from edgeadapt.device.adaptation.health import distance_from
from edgeadapt.device.detection.domain_router import RoutingProjection, predicted_in
from edgeadapt.device.detection.window import WindowView, shift_ratio
from edgeadapt.device.inference.program import HeadOutput, Program
from edgeadapt.device.inference.state import Domain, LearnerState

F32 = NDArray[np.float32]
I64 = NDArray[np.int64]


class WindowAnalysis:
    """Computed on the worker, from the state at that time.

    Args:
        factory_residuals: (W, R) if that encoder was in use; else the window is encoded once more.
        is_stuck: its frames do not change.
    """

    def __init__(
        self,
        program: Program,
        projection: RoutingProjection,
        state: LearnerState,
        view: WindowView,
        factory_residuals: F32 | None,
        is_stuck: bool,
    ) -> None:
        self._program, self._projection = program, projection
        self._factory_residuals = factory_residuals
        self.state, self.view, self.is_stuck = state, view, is_stuck

    @cached_property
    def _factory(self) -> HeadOutput:
        z, taps = self.view.features(self._program)
        return self._program.forward_head(z, taps, self.state.tensors)

    @property
    def residuals(self) -> F32:
        """(W, R) under the factory encoder."""
        known = self._factory_residuals
        return self._factory.residual if known is None else known

    @cached_property
    def slots(self) -> I64:
        """(W,) class slots that the factory encoder predicts."""
        if self._factory_residuals is not None:
            return self.view.slots
        slots: I64 = self._factory.logits.argmax(axis=1)
        return slots

    @property
    def scores(self) -> F32:
        """(W,) novelty scores under the factory encoder."""
        return self.view.scores if self._factory_residuals is not None else self._factory.score

    @cached_property
    def shift(self) -> float:
        """The shift statistic over its threshold."""
        policy = self._program.manifest.policy.shift
        return shift_ratio(self.residuals, self.slots, self.state.class_counts, policy)

    @cached_property
    def projected(self) -> NDArray[np.float64]:
        """(W, S) residuals where conditions are told apart; see ``RoutingProjection``."""
        return self._projection.of(self.residuals, self.slots, self.state)

    @cached_property
    def centre(self) -> NDArray[np.float64]:
        """(S,) mean of ``projected``."""
        centre: NDArray[np.float64] = self.projected.mean(axis=0)
        return centre

    @cached_property
    def uncorrected_distances(self) -> F32:
        """(W,) from the classes, without a correction."""
        embedding = (
            self.view.features(self._program)[0]
            if self._factory_residuals is not None
            else self._factory.embedding
        )
        return distance_from(embedding, self.state.prototypes)

    def slots_in(self, domain: Domain | None) -> I64:
        """(W,) classes by which the window is compared with a condition: its corrected encoder's,
        or the factory's; never an adaptor's, which comes and goes.
        """
        if domain is None or not (domain.refreshes and self._program.adapts_encoder):
            return self.slots
        if self._program.adaptors.held_in(domain.tensors):
            return predicted_in(domain, self.view, self._program, self.state)
        return self.view.slots


__all__ = ["WindowAnalysis"]
