"""What a run tunes: how much of a delta each site has, and which parameters are trained whole."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from edgeadapt.errors import InputError
from edgeadapt.host.tuning.contracts import Delta
from edgeadapt.host.tuning.sites import Site


@dataclass(frozen=True)
class Plan:
    """A delta, spread over sites.

    Attributes:
        delta: what changes the weights of a site.
        sites: those that have any of it, in the order in which they run.
        sizes: of each, above 0.
        whole: names and shapes of parameters that are trained as they are: those of the classifier.
    """

    delta: Delta
    sites: tuple[Site, ...]
    sizes: tuple[int, ...]
    whole: Mapping[str, tuple[int, ...]]

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Of every trained value: ``"SITE:NAME"``, and the name of a whole parameter."""
        found = {
            key_of(site, name): shape
            for site, size in zip(self.sites, self.sizes, strict=True)
            for name, shape in self.delta.shapes(site, size).items()
        }
        return {**found, **self.whole}

    @property
    def numbers(self) -> int:
        """Trained inside the encoder: what a budget bounds."""
        return sum(
            numbers_at(self.delta, site, size)
            for site, size in zip(self.sites, self.sizes, strict=True)
        )

    @property
    def numbers_whole(self) -> int:
        """Trained in parameters that are tuned whole."""
        return sum(math.prod(shape) for shape in self.whole.values())


def key_of(site: Site, name: str) -> str:
    """The name of a site's value in a run, a checkpoint and a file."""
    return f"{site.path}:{name}"


def numbers_at(delta: Delta, site: Site, size: int) -> int:
    """How many numbers a site of this size trains."""
    return sum(map(math.prod, delta.shapes(site, size).values())) if size else 0


def uniform_plan(
    delta: Delta, sites: Sequence[Site], size: int, whole: Mapping[str, tuple[int, ...]]
) -> Plan:
    """Every site that the delta applies to gets this size, or the largest below it that it has.

    Raises:
        InputError: the delta applies to none of these sites, and nothing is trained whole.
    """
    sizes = [max((one for one in delta.sizes(site) if one <= size), default=0) for site in sites]
    if not any(sizes) and not whole:
        raise InputError(f"{delta.name} applies to none of these sites, so nothing would be tuned")
    return planned(delta, sites, sizes, whole)


def planned(
    delta: Delta,
    sites: Sequence[Site],
    sizes: Sequence[int],
    whole: Mapping[str, tuple[int, ...]],
) -> Plan:
    """The sizes as given, one a site; those of 0 drop out."""
    chosen = [pair for pair in zip(sites, sizes, strict=True) if pair[1]]
    return Plan(
        delta, tuple(site for site, _ in chosen), tuple(size for _, size in chosen), dict(whole)
    )


__all__ = ["Plan", "key_of", "numbers_at", "planned", "uniform_plan"]
