"""Which condition a window is of: the stream's own, one that it drifts along with, the nearest
known one, or none.
"""

from __future__ import annotations

from collections.abc import Mapping

from edgeadapt.device.adaptation.corrections import Corrections
from edgeadapt.device.adaptation.health import brings_home
from edgeadapt.device.adaptation.stream import Stream
from edgeadapt.device.adaptation.window_analysis import WindowAnalysis
from edgeadapt.device.detection.domain_router import nearest_domain
from edgeadapt.device.detection.hypervector_router import HypervectorRouter
from edgeadapt.device.detection.policy import Routing, WindowReading
from edgeadapt.device.inference.program import Program
from edgeadapt.device.inference.state import Domain

# share of a window's samples whose class a condition has met, from which its prototypes say whether
# they belong to it
_MET = 0.5


class DomainRouter:
    """Compares; changes nothing but the hypervectors of conditions that were met."""

    def __init__(self, program: Program, corrections: Corrections, routing: Routing) -> None:
        self._program, self._corrections = program, corrections
        self._policy = program.manifest.policy
        self.hypervectors = HypervectorRouter(program) if routing == "hypervector" else None

    def compare(
        self, seen: WindowAnalysis, stream: Stream, domain: Domain | None, *, is_gradual: bool
    ) -> WindowReading:
        """The reading of a window of a stream in this condition; ``is_gradual``: it drifts, if it
        moves at all.
        """
        novel = float((seen.scores > self._policy.novelty.threshold).mean())
        if seen.shift <= 1.0 or seen.is_stuck:
            return WindowReading(seen.shift, novel, seen.is_stuck)
        near = self._policy.shift.route_distance
        distance = None
        if domain is not None:
            distance = domain.signature.distance(seen.projected, seen.slots_in(domain))
            if distance <= near or is_gradual:
                return WindowReading(
                    seen.shift, novel, is_step=is_gradual, active_distance=distance
                )
        elif is_gradual and stream.is_on_its_way_back(seen.state.domains):
            # it hovers about the threshold
            return WindowReading(
                seen.shift, novel, is_step=True, nearest=stream.left, nearest_distance=0.0
            )
        nearest, gap = self._nearest(seen, "" if domain is None else domain.name)
        return WindowReading(
            seen.shift,
            novel,
            is_home=domain is not None and gap > near and self._suits(domain, seen),
            active_distance=distance,
            nearest=nearest,
            nearest_distance=gap,
        )

    def _nearest(self, seen: WindowAnalysis, but: str) -> tuple[str, float]:
        if self.hypervectors is None:
            return nearest_domain(seen.projected, seen.view, self._program, seen.state, but)
        return self.hypervectors.nearest(seen.projected, seen.view, seen.state, but)

    def _suits(self, domain: Domain, seen: WindowAnalysis) -> bool:
        """Whether classes that a condition has not met yet are under it all the same: its
        correction, made without them, brings them nearer to the classes.

        Of classes that it has met its prototypes know where they stand, and need no such guess.
        """
        if not self._corrections.is_of(domain, seen.view):
            return False
        if domain.signature.share_met(seen.slots_in(domain)) >= _MET:
            return False
        return brings_home(seen.view.distances, seen.uncorrected_distances)

    def met(self, domain: str, seen: WindowAnalysis) -> None:
        """A window was of this condition."""
        if self.hypervectors is not None:
            self.hypervectors.met(domain, seen.view, seen.slots, seen.state)

    def merge(self, merged: Mapping[str, str]) -> None:
        """Conditions that are gone, and what they turned out to be."""
        if self.hypervectors is not None:
            self.hypervectors.merge(merged)


__all__ = ["DomainRouter"]
