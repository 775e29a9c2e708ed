"""Hold out whole groups (recordings, persons, days, sites): no group is on both sides.

    share(g, k) = rows of class k in group g / rows of class k
    taken       = groups by whose shares every class comes nearer to the wanted fraction

Rows of one recording are nearly copies of each other: a split of rows judges by what was learned.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgeadapt.errors import InputError


def held_out_rows(
    y: NDArray[np.int64],
    groups: NDArray[Any],
    fraction: float,
    seed: int,
    names: Sequence[str],
    *,
    held: int = 1,
    kept: int = 1,
) -> NDArray[np.bool_]:
    """(N,) which rows are held out: about ``fraction`` of every class, in whole groups.

    Where groups are few, as few as ``held`` of them may be more than the fraction.

    Args:
        y: (N,) an index into ``names``. groups: (N,) group of every row.
        held, kept: the least number of groups of every class that are held out and that stay.

    Raises:
        InputError: a class in too few groups, or classes that lie in the groups so that none can be
            held out; the message names the class.
    """
    group_names, of_row = np.unique(groups, return_inverse=True)
    table = np.zeros((len(group_names), len(names)))
    np.add.at(table, (of_row, y), 1.0)
    for name, count in zip(names, (table > 0).sum(axis=0), strict=True):
        if 0 < count < held + kept:
            raise InputError(
                f"class {name!r} is in {count} group{'s' if count > 1 else ''} "
                f"of {len(group_names)}; it must be in {held + kept} or more: "
                f"{held} to hold out, {kept} to keep"
            )
    present = np.flatnonzero(table.any(axis=0))
    # in random order, so that the first of several that fit is a random one
    order = np.random.default_rng(seed).permutation(len(group_names))
    share = (table[:, present] / table[:, present].sum(axis=0))[order]
    is_out, out = np.zeros(len(order), bool), np.zeros(len(present))
    while True:
        lacking = (share[is_out] > 0).sum(axis=0) < held
        spare = (share[~is_out] > 0).sum(axis=0) > kept
        may = ~is_out & (spare | (share == 0)).all(axis=1)
        if lacking.any():
            may &= (share[:, lacking] > 0).any(axis=1)
        after = ((out + share - fraction) ** 2).sum(axis=1)
        fits = may & (after < ((out - fraction) ** 2).sum())
        if fits.any():
            chosen = int(fits.argmax())
        elif lacking.any() and may.any():
            chosen = int(np.where(may, after, np.inf).argmin())
        elif lacking.any():
            name = names[present[lacking.argmax()]]
            raise InputError(
                f"no groups of class {name!r} can be held out: {kept} of every class must stay"
            )
        else:
            break
        is_out[chosen] = True
        out += share[chosen]
    return np.isin(of_row, order[is_out])


__all__ = ["held_out_rows"]
