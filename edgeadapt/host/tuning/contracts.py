"""What a method of tuning is: a delta, where it starts, and what says how much of it a site gets.

A delta is a pure function from weights and a few numbers to weights. Training differentiates
through it, export merges it, and a file holds the numbers; so a merge is exact by construction, and
no module of the network is replaced.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, ClassVar, Protocol

import torch
from torch import Tensor

from edgeadapt.host.tuning.sites import Site

if TYPE_CHECKING:
    from edgeadapt.host.tuning.statistics import Statistics

Weights = Mapping[str, Tensor]
"""Parameters of the base by name, or the numbers of one site by theirs."""


class Delta(Protocol):
    """One way to change the weights of a site: a frozen dataclass of its settings.

    ``name`` is what a recipe calls it.
    """

    name: ClassVar[str]

    def sizes(self, site: Site) -> tuple[int, ...]:
        """The sizes that an allocator may give the site, increasing, 0 first; empty where the delta
        does not apply.
        """
        ...

    def shapes(self, site: Site, size: int) -> dict[str, tuple[int, ...]]:
        """Shapes of the numbers that are trained, at a size above 0."""
        ...

    def start(self, site: Site, size: int, w: Weights, g: torch.Generator) -> dict[str, Tensor]:
        """First values of those numbers, float32; :meth:`merged` with them gives the base.

        A value that :meth:`shapes` does not name is a constant of the merge: stored, not trained.
        """
        ...

    def merged(self, site: Site, w: Weights, p: Weights) -> dict[str, Tensor]:
        """New tensors for ``site.weight`` and, if it has one, ``site.bias``, by their names; what
        does not change may be left out. Pure, and traceable.
        """
        ...


class Start(Protocol):
    """Other first values for a delta, from what passes through the site.

    ``delta`` names the one it is for, ``wants`` the statistics that it reads; ``stored`` is how
    often a file holds its numbers: 2 where the first values are constants of the merge.
    """

    name: ClassVar[str]
    delta: ClassVar[str]
    stored: ClassVar[int]
    wants: ClassVar[frozenset[str]]

    def __call__(
        self, site: Site, size: int, w: Weights, s: Statistics, g: torch.Generator
    ) -> dict[str, Tensor]:
        """As ``Delta.start``."""
        ...


class Score(Protocol):
    """What a site loses at each size it may get: smaller is better, and sites add up."""

    name: ClassVar[str]
    wants: ClassVar[frozenset[str]]

    def cost(self, site: Site, delta: Delta, s: Statistics) -> list[float]:
        """One value for each of ``delta.sizes(site)``."""
        ...


__all__ = ["Delta", "Score", "Start", "Weights"]
