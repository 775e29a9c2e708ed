"""Graphs with the same model and the same names of constants: what one re-folded encoder has shown
holds for the next.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Generic, TypeVar

from edgeadapt.placement.held import Held
from edgeadapt.placement.places import Place

Member = TypeVar("Member")


@dataclass(eq=False)
class Family(Generic[Member]):
    """What was found of graphs that differ in the values of their constants alone.

    Attributes:
        members: those that somebody holds.
        refused: place -> why none of them runs there.
        not_loaded: place -> why no others are loaded there; those that are stay.
        won: range of batches -> where they run best, and why.
        lost: range of batches -> places that gave no gain, or did not take them.
        load_s: seconds that the reference took to load the newest of them.
        uploads: places that take other constants as fast as the reference does: there a graph is
            loaded at once.
    """

    members: Held[Member] = field(default_factory=Held)
    refused: dict[int, str] = field(default_factory=dict)
    not_loaded: dict[int, str] = field(default_factory=dict)
    won: dict[tuple[int, int], tuple[Place, str]] = field(default_factory=dict)
    lost: dict[tuple[int, int], set[int]] = field(default_factory=dict)
    load_s: float = 0.0
    uploads: list[Place] = field(default_factory=list)

    def refuse(self, place: Place, why: str) -> None:
        """None runs there any more, and what was won there counts for nothing."""
        self.refused.setdefault(place.index, why)
        self.won = {batches: won for batches, won in self.won.items() if won[0] is not place}

    def leave(self, batches: tuple[int, int], place: Place) -> None:
        """Batches of one range do not run there any more."""
        self.lost.setdefault(batches, set()).add(place.index)
        if (won := self.won.get(batches)) is not None and won[0] is place:
            del self.won[batches]


__all__ = ["Family"]
