"""How a budget is shared: the same level for all, and what the small ones cannot use goes to the
others.

>>> water_fill(np.array([2, 100, 40]), 60).tolist()
[2, 29, 29]
>>> water_fill(np.array([2, 3]), 60).tolist()
[2, 3]
"""

from __future__ import annotations

import numpy as np

from edgeadapt.device.coreset.samples import I64
from edgeadapt.errors import InputError


def water_fill(sizes: I64, total: int) -> I64:
    """(C,) budgets of groups of the given sizes: equal up to one, never more than a group has, sum
    min(total, sum of sizes).

    Groups are served from the smallest to the largest; each gets its equal share of what is left,
    rounded down, so a group smaller than its share stays whole and the odd ones go to the largest
    groups. Adapt-infinity (Maharana et al., ICLR 2025, section 4) shares between clusters this way,
    but rounds up, so that its sums exceed the budget.

    Raises:
        InputError: a negative size or total.
    """
    sizes = np.asarray(sizes, np.int64)
    if total < 0 or (len(sizes) and sizes.min() < 0):
        raise InputError(f"sizes and total must be at least 0; got {sizes.tolist()} and {total}")
    budgets = np.zeros(len(sizes), np.int64)
    left = min(int(total), int(sizes.sum()))
    for place, group in enumerate(np.argsort(sizes, kind="stable")):
        budgets[group] = min(int(sizes[group]), left // (len(sizes) - place))
        left -= int(budgets[group])
    return budgets


def class_quotas(y: I64, budget: int) -> dict[int, int]:
    """Class slot -> how many rows of it stay: no class present gets none while the budget reaches
    the number of classes.
    """
    classes, sizes = np.unique(y, return_counts=True)
    quotas = water_fill(sizes.astype(np.int64), budget)
    return dict(zip(classes.tolist(), quotas.tolist(), strict=True))
