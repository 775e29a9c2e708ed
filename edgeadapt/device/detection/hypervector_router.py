"""EAR's router: the condition a window belongs to, by bundles of hypervectors of the factory
encoder's features.

``Policy(routing="hypervector")``. Bundles choose the nearest known condition, by the plain mean
cosine, which routes better than the standardised one; so the encoder of one condition runs, not of
each. Whether the window is of that condition or of a new one is decided by class prototypes, as
without bundles: a window of an unknown condition is as near to the nearest bundle as one of a rare
class. Bundles are in memory only: a condition that was not met since a restart is compared by its
prototypes. See ``hypervector_bundles.py`` and ``docs/methods/ear.md``.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from edgeadapt.bundle import GUARD
from edgeadapt.device.detection.domain_router import nearest_domain
from edgeadapt.device.detection.hypervector_bundles import ConditionBundle
from edgeadapt.device.detection.window import WindowView
from edgeadapt.device.inference.program import Program
from edgeadapt.device.inference.state import LearnerState
from edgeadapt.device.numerics.hypervectors import project

F32 = NDArray[np.float32]
WIDTH = 256


class HypervectorRouter:
    """Conditions as they were met in this session. Runs on the worker only; 256 float64 per class
    slot and condition.
    """

    def __init__(self, program: Program) -> None:
        self._program = program
        guard = program.bundle.weights(GUARD)
        self._levels = [self._level(guard[name]) for name in ("z", "taps") if name in guard]
        self._bundles: dict[str, ConditionBundle] = {}

    def met(
        self, name: str, view: WindowView, slots: NDArray[np.int64], memory: LearnerState
    ) -> None:
        """A window of a condition, and the class slots (W,) that the factory encoder predicts."""
        known = self._bundles.get(name) or ConditionBundle.empty(len(memory.classes), WIDTH)
        self._bundles[name] = known.extended(self._codes(view), slots)

    def merge(self, merged: Mapping[str, str]) -> None:
        """Conditions that are gone, and what they turned out to be."""
        for gone, kept in merged.items():
            if gone in self._bundles:
                bundle, stays = self._bundles.pop(gone), self._bundles.get(kept)
                self._bundles[kept] = bundle if stays is None else stays.merged(bundle)

    def nearest(
        self, projected: NDArray[np.float64], view: WindowView, memory: LearnerState, but: str
    ) -> tuple[str, float]:
        """As ``nearest_domain``, over the condition with the most similar bundle and those without
        a bundle.
        """
        self._bundles = {
            name: bundle for name, bundle in self._bundles.items() if name in memory.domains
        }
        codes = self._codes(view)
        found = {
            name: float(b.similarity(codes).mean())
            for name, b in self._bundles.items()
            if name != but
        }
        best = max(found, key=lambda name: found[name], default="")
        for name in found.keys() - {best}:
            memory = memory.without_domain(name)
        return nearest_domain(projected, view, self._program, memory, but)

    def _codes(self, view: WindowView) -> F32:
        parts = [part for part in view.features(self._program) if part.shape[1]]
        levelled = [part / level for part, level in zip(parts, self._levels, strict=True)]
        return project(np.concatenate(levelled, axis=1), WIDTH, seed=0)

    @staticmethod
    def _level(values: NDArray[np.float16]) -> np.float32:
        return np.float32(np.sqrt(np.square(values.astype(np.float32)).sum(axis=1).mean()) + 1e-12)


__all__ = ["HypervectorRouter"]
