"""Graphs with the same model and the same names of constants: what one re-folded encoder has shown holds for the next."""

from __future__ import annotations

from dataclasses import dataclass, field

from edgeadapt.placement.places import Place


@dataclass(eq=False)
class Family:
    """What was found of graphs that differ in the values of their constants alone.

    Attributes:
        refused: place -> why none of them runs there.
        won: range of batches -> where they run best, and why.
        lost: range of batches -> places that gave no gain.
        load_s: seconds that the reference took to load the newest of them.
        uploads: places that take other constants as fast as the reference does: there a graph is loaded at once.
    """

    refused: dict[int, str] = field(default_factory=dict)
    won: dict[tuple[int, int], tuple[Place, str]] = field(default_factory=dict)
    lost: dict[tuple[int, int], set[int]] = field(default_factory=dict)
    load_s: float = 0.0
    uploads: list[Place] = field(default_factory=list)


__all__ = ["Family"]
