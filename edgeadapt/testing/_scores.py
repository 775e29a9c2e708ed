"""The suite of scores: a value for each size that falls with the size, and what an allocator makes
of it.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import Any

from edgeadapt.host.tuning.allocate import allocate
from edgeadapt.host.tuning.plan import numbers_at
from edgeadapt.host.tuning.sites import Site
from edgeadapt.host.tuning.statistics import Statistics
from edgeadapt.testing._starts import check_wants, matrices, singular
from edgeadapt.testing._tuning_toy import Toy

_SHARES = (0.0, 0.05, 0.1, 0.2, 0.4, 0.8)
_ROUNDING = 1e-6


def run_score_suite(score: Any, delta: Any) -> None:
    """See :func:`edgeadapt.testing.check_score`.

    Raises:
        AssertionError: ``<score>: <function>: <property>``.
    """
    try:
        _run(score, delta)
    except AssertionError as error:
        raise AssertionError(f"{getattr(score, 'name', type(score).__name__)}: {error}") from error


def _run(score: Any, delta: Any) -> None:
    check_wants(score)
    toy = Toy.made()
    sites = matrices(delta, toy)
    statistics = toy.statistics(score.wants, sites)
    for seen in (statistics, singular(statistics, score.wants, sites)):
        for site in sites:
            _check_costs(score, delta, site, seen)
    costs = [score.cost(site, delta, statistics) for site in sites]
    for site, cost in zip(sites, costs, strict=True):
        _require(cost[-1] < cost[0], f"cost: more of the delta is worth something at {site.path}")
    _require(len({tuple(cost[:2]) for cost in costs}) > 1, "cost: sites differ")
    _check_allocation(costs, [[numbers_at(delta, s, n) for n in delta.sizes(s)] for s in sites])


def _check_costs(score: Any, delta: Any, site: Site, statistics: Statistics) -> None:
    cost = score.cost(site, delta, statistics)
    sizes = delta.sizes(site)
    _require(
        len(cost) == len(sizes),
        f"cost: one value for each of {len(sizes)} sizes of {site.path}, not {len(cost)}",
    )
    _require(all(map(math.isfinite, cost)), f"cost: finite, {site.path} has {cost[:6]}")
    slack = _ROUNDING * max(map(abs, cost))
    falls = all(more <= less + slack for less, more in itertools.pairwise(cost))
    _require(falls, f"cost: a larger size never costs more, {site.path} has {cost[:6]}")
    again = score.cost(site, delta, statistics)
    _require(again == cost, f"cost: the same statistics give the same, {site.path}")


def _check_allocation(costs: Sequence[Sequence[float]], numbers: Sequence[Sequence[int]]) -> None:
    """Never above the budget; a larger budget never costs more."""
    everything = sum(row[-1] for row in numbers)
    units = everything + 1  # no rounding
    before = math.inf
    for share in _SHARES:
        budget = int(share * everything)
        chosen = allocate(costs, numbers, budget, units=units)
        used = sum(row[one] for row, one in zip(numbers, chosen, strict=True))
        _require(used <= budget, f"cost: an allocator stays within {budget} numbers, not {used}")
        total = sum(row[one] for row, one in zip(costs, chosen, strict=True))
        slack = _ROUNDING * abs(total)
        _require(total <= before + slack, f"cost: {budget} numbers cost no more than fewer")
        before = total


def _require(holds: bool, message: str) -> None:
    if not holds:
        raise AssertionError(message)


__all__ = ["run_score_suite"]
