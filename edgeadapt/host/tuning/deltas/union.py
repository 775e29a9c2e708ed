"""Several deltas at once, whose changes add up: ``W' = W + sum_i (W'_i - W)``.

Source: the hybrid family of Zhang et al., arXiv 2501.13787; low rank with biases is one.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from edgeadapt.errors import InputError
from edgeadapt.host.tuning.contracts import Delta, Weights
from edgeadapt.host.tuning.sites import Site


@dataclass(frozen=True)
class Union:
    """At a size, every part has the largest of its own sizes up to that. Values are called
    ``"PART.VALUE"``.

    Attributes:
        parts: deltas of different names; one that does not apply to a site adds nothing there.
    """

    parts: tuple[Delta, ...]
    name: ClassVar[str] = "union"

    def __post_init__(self) -> None:
        names = [part.name for part in self.parts]
        if not names or len(set(names)) < len(names):
            raise InputError(f"union has deltas of different names, got {names}")

    def sizes(self, site: Site) -> tuple[int, ...]:
        return tuple(sorted({size for part in self.parts for size in part.sizes(site)}))

    def shapes(self, site: Site, size: int) -> dict[str, tuple[int, ...]]:
        return {
            f"{part.name}.{name}": shape
            for part, own in self._at(site, size)
            for name, shape in part.shapes(site, own).items()
        }

    def start(self, site: Site, size: int, w: Weights, g: torch.Generator) -> dict[str, Tensor]:
        return {
            f"{part.name}.{name}": value
            for part, own in self._at(site, size)
            for name, value in part.start(site, own, w, g).items()
        }

    def merged(self, site: Site, w: Weights, p: Weights) -> dict[str, Tensor]:
        found: dict[str, Tensor] = {}
        for part in self.parts:
            first = f"{part.name}."
            own = {key[len(first) :]: v for key, v in p.items() if key.startswith(first)}
            if own:
                for name, value in part.merged(site, w, own).items():
                    found[name] = found[name] + (value - w[name]) if name in found else value
        return found

    def _at(self, site: Site, size: int) -> Iterator[tuple[Delta, int]]:
        """The parts that have any of it, with their sizes."""
        for part in self.parts:
            own = max((one for one in part.sizes(site) if one <= size), default=0)
            if own:
                yield part, own


__all__ = ["Union"]
