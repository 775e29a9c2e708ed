"""Which size every site gets: the least summed cost within a budget."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from edgeadapt.errors import InputError


def allocate(
    cost: Sequence[Sequence[float]],
    size: Sequence[Sequence[int]],
    budget: int,
    *,
    units: int = 4096,
) -> list[int]:
    """Choose one size a site; the multiple-choice knapsack, by dynamic programming.

    Exact where sizes and budget have a common unit of at least ``budget / units``. Elsewhere every
    size counts as rounded up to ``budget / units``, so that the budget is never exceeded and at
    most one unit a site is left.

    Args:
        cost: of every choice of every site; finite.
        size: of every choice, whole numbers of bytes or parameters, at least 0.
        budget: most that the chosen sizes may add up to.
        units: steps that the budget is divided into.

    Returns:
        The index of the choice, a site. Of equal costs the smaller sizes; a larger budget never
        costs more, for sizes that are not rounded.

    Raises:
        InputError: even the smallest sizes do not fit; the message has their sum. Or costs and
            sizes that do not belong together.
    """
    if len(cost) != len(size) or any(
        len(c) != len(s) or not c for c, s in zip(cost, size, strict=True)
    ):
        raise InputError("every site needs as many costs as sizes, and at least one")
    if not all(np.isfinite(row).all() for row in map(np.asarray, cost)):
        raise InputError("a cost is not finite")
    least = sum(min(row) for row in size)
    if least > budget:
        raise InputError(f"a budget of {budget:,} is too small; the smallest size is {least:,}")
    step = _step(size, budget, units)
    room = budget // step
    weight = [[-(-one // step) for one in row] for row in size]
    if sum(min(row) for row in weight) > room:  # only rounding keeps it out
        return [int(np.argmin(row)) for row in size]
    best = np.zeros(room + 1)
    chosen = np.zeros((len(cost), room + 1), np.int64)
    for site, (costs, weights) in enumerate(zip(cost, weight, strict=True)):
        table = np.full((len(costs), room + 1), np.inf)
        for choice, (value, used) in enumerate(zip(costs, weights, strict=True)):
            if used <= room:
                table[choice, used:] = best[: room + 1 - used] + value
        chosen[site] = np.argmin(table, axis=0)
        best = table.min(axis=0)
    left = int(np.argmin(best))  # the least room with the least cost: what reaches it fills it
    found: list[int] = []
    for site in reversed(range(len(cost))):
        found.append(int(chosen[site, left]))
        left -= weight[site][found[-1]]
    return found[::-1]


def _step(size: Sequence[Sequence[int]], budget: int, units: int) -> int:
    """The common divisor of all sizes if it divides the budget finely enough, else the unit."""
    values = [one for row in size for one in row if one]
    common = int(np.gcd.reduce(values)) if values else 1
    return common if budget // common <= units else max(1, -(-budget // units))


__all__ = ["allocate"]
