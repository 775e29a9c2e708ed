"""A plan within a budget: how much of a delta every site gets, in bytes, numbers or a share."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from edgeadapt.errors import InputError
from edgeadapt.host.tuning.allocate import allocate
from edgeadapt.host.tuning.codecs import codec as codec_of
from edgeadapt.host.tuning.contracts import Delta
from edgeadapt.host.tuning.plan import Plan, numbers_at, planned
from edgeadapt.host.tuning.sites import Site


@dataclass(frozen=True)
class Budget:
    """The most that the numbers inside the encoder may take; the classifier is not counted.

    Attributes:
        amount: above 0.
        unit: ``"bytes"`` in the file, under its codec; ``"parameters"``; or ``"share"``, of the
            weights and biases of the sites that may be tuned.
    """

    amount: float
    unit: Literal["bytes", "parameters", "share"]

    def __post_init__(self) -> None:
        if not 0 < self.amount < math.inf or (self.unit == "share" and self.amount > 1):
            raise InputError(f"a budget is above 0, a share at most 1; got {self.amount:g}")

    def within(self, sites: Sequence[Site]) -> int:
        """Whole bytes, or numbers."""
        if self.unit != "share":
            return int(self.amount)
        return int(self.amount * sum(_own(site) for site in sites))


@dataclass(frozen=True)
class Stored:
    """How a file holds the numbers of a site: by which codec, and how often (``Start.stored``)."""

    codec: str
    times: int = 1

    def bytes(self, delta: Delta, site: Site, size: int) -> int:
        """What a site of this size takes."""
        shapes = delta.shapes(site, size).values() if size else ()
        return self.times * sum(codec_of(self.codec).nbytes(shape) for shape in shapes)

    def of_plan(self, plan: Plan) -> int:
        """What all sites take, without the parameters that are trained whole."""
        sizes = zip(plan.sites, plan.sizes, strict=True)
        return sum(self.bytes(plan.delta, site, size) for site, size in sizes)


def plan_within(
    budget: Budget,
    delta: Delta,
    sites: Sequence[Site],
    whole: Mapping[str, tuple[int, ...]],
    stored: Stored,
    costs: Callable[[Site, Delta], list[float]] | None = None,
) -> Plan:
    """Sizes that together stay within the budget, exactly.

    Args:
        budget: what all sites together may take.
        delta: what is spread.
        sites: that may be tuned; those that the delta does not apply to are left out.
        whole: parameters that are trained beside them; not counted.
        stored: how a file holds the numbers.
        costs: of every size of a site; None: the same size everywhere, the largest that fits.

    Raises:
        InputError: the delta applies to no site, or not even the smallest size fits; the message
            has that size.
    """
    open_to = [site for site in sites if len(delta.sizes(site)) > 1]
    if not open_to:
        raise InputError(f"{delta.name} applies to none of these sites, so nothing would be tuned")
    by_bytes = budget.unit == "bytes"
    needed = [
        [
            stored.bytes(delta, site, one) if by_bytes else numbers_at(delta, site, one)
            for one in delta.sizes(site)
        ]
        for site in open_to
    ]
    most = budget.within(sites)
    if costs is None:
        least, at = sum(row[1] for row in needed), _uniform(delta, open_to, needed, most)
    else:
        least = min(row[1] for row in needed)
        at = allocate([costs(s, delta) for s in open_to], needed, most) if least <= most else []
    if not at:
        where = "of one size at every site" if costs is None else "at a single site"
        raise InputError(
            f"a budget of {most:,} {'bytes' if by_bytes else 'numbers'} is too small for"
            f" {delta.name}: the smallest, {where}, takes {least:,}"
        )
    sizes = [delta.sizes(site)[index] for site, index in zip(open_to, at, strict=True)]
    return planned(delta, open_to, sizes, whole)


def _uniform(
    delta: Delta, sites: Sequence[Site], needed: Sequence[Sequence[int]], most: int
) -> list[int]:
    """The choices of the largest size that fits at every site at once; empty if none does."""
    best: list[int] = []
    for size in sorted({one for site in sites for one in delta.sizes(site) if one}):
        at = [sum(one <= size for one in delta.sizes(site)) - 1 for site in sites]
        if sum(row[index] for row, index in zip(needed, at, strict=True)) <= most and any(at):
            best = at
    return best


def _own(site: Site) -> int:
    return math.prod(site.shape) + (math.prod(site.channels) if site.bias else 0)


__all__ = ["Budget", "Stored", "plan_within"]
