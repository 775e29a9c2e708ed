"""The suite of starts: what they give fits the delta, leaves the base as it is, and stands
statistics that say nothing.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from edgeadapt.host.tuning.plan import key_of, numbers_at
from edgeadapt.host.tuning.sites import Site
from edgeadapt.host.tuning.statistics import Statistics
from edgeadapt.testing._deltas import (
    applied,
    check_at_base,
    check_same_output,
    check_values,
    small_sizes,
)
from edgeadapt.testing._tuning_toy import Toy

Values = dict[str, Tensor]
STATISTICS = frozenset({"second_moment", "squared_gradient"})


def run_start_suite(start: Any, delta: Any) -> None:
    """See :func:`edgeadapt.testing.check_start`.

    Raises:
        AssertionError: ``<start>: start: <property>``.
    """
    try:
        _run(start, delta)
    except AssertionError as error:
        raise AssertionError(f"{getattr(start, 'name', type(start).__name__)}: {error}") from error


def check_wants(member: Any) -> None:
    """It names statistics that there are.

    Raises:
        AssertionError: it does not.
    """
    unknown = sorted(set(member.wants) - STATISTICS)
    if unknown:
        raise AssertionError(f"wants: there is no statistic {unknown[0]!r}")


def matrices(delta: Any, toy: Toy) -> tuple[Site, ...]:
    """The linear and convolution sites that the delta applies to.

    Raises:
        AssertionError: there is none.
    """
    found = tuple(site for site in applied(delta, toy) if site.kind in ("linear", "conv"))
    if not found:
        raise AssertionError("the delta applies to a linear or convolution site")
    return found


def singular(statistics: Statistics, wants: frozenset[str], sites: tuple[Site, ...]) -> Statistics:
    """The same statistics of one sample that is always the same: moments of rank 1, gradients at
    one entry.
    """
    found = {}
    for site in sites:
        for name in wants:
            value = torch.zeros_like(statistics.of(name, site))
            if name == "second_moment":
                value[..., 0, 0] = 2.0
            else:
                value.view(-1)[0] = 1.0
            found[name, site.path] = value
    return Statistics(found)


def _run(start: Any, delta: Any) -> None:
    check_wants(start)
    if start.delta != delta.name:
        raise AssertionError(f"delta: it is for {start.delta}, not for {delta.name}")
    toy = Toy.made()
    sites = matrices(delta, toy)
    statistics = toy.statistics(start.wants, sites)
    poor = singular(statistics, start.wants, sites)
    for seen in (statistics, poor):
        _check_sites(start, delta, toy, sites, seen)
    values = {
        key_of(site, name): value
        for site, size in zip(sites, small_sizes(delta, sites), strict=True)
        for name, value in start(site, size, toy.weights, statistics, _seeded()).items()
    }
    check_same_output(toy, delta, sites, values, 1e-5)


def _check_sites(
    start: Any, delta: Any, toy: Toy, sites: tuple[Site, ...], statistics: Statistics
) -> None:
    """At a small and at the largest size of each site."""
    for site, small in zip(sites, small_sizes(delta, sites), strict=True):
        for size in {small, delta.sizes(site)[-1]}:
            w = toy.weights
            values = start(site, size, w, statistics, _seeded())
            changed = [
                name for name, value in toy.weights.items() if not torch.equal(value, w[name])
            ]
            if changed:
                raise AssertionError(f"start: it changes {changed[0]} of the base in place")
            check_values(delta, site, size, values)
            _check_stored(start, delta, site, size, values)
            check_at_base(delta, site, w, values, 1e-5)
            again = start(site, size, w, statistics, _seeded())
            if any(not torch.equal(value, again[name]) for name, value in values.items()):
                raise AssertionError(f"start: the same seed gives the same, {site.path}")


def _check_stored(start: Any, delta: Any, site: Site, size: int, values: Values) -> None:
    """A file holds at most ``stored`` times the numbers that are trained."""
    held, trained = sum(v.numel() for v in values.values()), numbers_at(delta, site, size)
    if held > start.stored * trained:
        raise AssertionError(
            f"stored: {site.path} gives {held} numbers and constants, more than {start.stored}"
            f" times the {trained} trained"
        )


def _seeded() -> torch.Generator:
    return torch.Generator().manual_seed(4)


__all__ = ["check_wants", "matrices", "run_start_suite", "singular"]
