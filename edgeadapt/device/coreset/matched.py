"""The default: class quotas, copies and contradicted labels out, then the rows that match features
and gradients of what is left.

    1. quotas       every class the same, small classes whole                            budgets.py
    2. copies       one of every group of near-duplicates   duplicates.py
    3. agreement    rows whose label the rest contradicts are cut, if there are many   agreement.py
    4. matching     herding of features and last-layer gradients together   gradient_herding.py

Directions wider than ``WIDTH`` go through a seeded sign projection for all but the class means:
inner products stay in expectation, and a step costs WIDTH instead of D. Where steps 2 and 3 leave a
class less than its quota, the rows they took out fill it: contradicted labels last.
"""

from __future__ import annotations

from typing import ClassVar

import numpy as np

from edgeadapt.device.coreset.agreement import TOLERANCE, agreeing_rows, is_noisy
from edgeadapt.device.coreset.budgets import class_quotas
from edgeadapt.device.coreset.duplicates import RADIUS, distinct_rows
from edgeadapt.device.coreset.gradient_herding import STRENGTH, herd_gradients
from edgeadapt.device.coreset.gradients import residuals
from edgeadapt.device.coreset.herding import unit
from edgeadapt.device.coreset.readout import fit
from edgeadapt.device.coreset.samples import F32, F64, I64, Samples, checked

WIDTH = 512
_ROUNDS = 2


class Matched:
    """Needs features and labels only. The seed plays no part, nor does the order of the rows.

    Args:
        strength: of the gradients beside the features.
        radius: of near-duplicates; negative keeps all.
        tolerance: for labels that are contradicted; infinite keeps all.
        width: of the projection.
    """

    name: ClassVar[str] = "matched"

    def __init__(
        self,
        strength: float = STRENGTH,
        radius: float = RADIUS,
        tolerance: float = TOLERANCE,
        width: int = WIDTH,
    ) -> None:
        self.strength, self.radius, self.tolerance, self.width = strength, radius, tolerance, width

    def select(self, samples: Samples, budget: int, seed: int = 0) -> I64:
        order = samples.content_order()
        directions = unit(samples.z[order])
        narrow = projected(directions, self.width)
        pool = Samples(narrow, samples.y[order], None, samples.weight[order])
        quotas = class_quotas(pool.y, checked(budget))
        left = self._distinct(pool)
        agreeing, held_out = self._agreeing(pool.take(left))
        contradicted = np.setdiff1d(left, left[agreeing])
        left, answers = left[agreeing], held_out[agreeing]
        rest = pool.take(left)
        there = {k: min(quota, int((rest.y == k).sum())) for k, quota in quotas.items()}
        u = residuals(answers, rest.y)
        matching = herd_gradients(
            directions[left], rest.z, rest.y, u, rest.weight, there, self.strength
        )
        chosen = left[np.array(matching, np.int64)]
        copies = np.setdiff1d(np.arange(len(pool)), np.concatenate([left, contradicted]))
        spare = np.concatenate([copies, contradicted])
        return np.sort(order[_filled(pool.y, chosen, spare, quotas)])

    def _agreeing(self, pool: Samples) -> tuple[I64, F64]:
        """Rows that no round contradicts, and the last answers (N, K): a wrong label that is out no
        longer influences the others.
        """
        held_out = fit(pool).held_out
        if not is_noisy(held_out, pool.y, self.tolerance):
            return np.arange(len(pool)), held_out
        for _ in range(_ROUNDS):
            rows = agreeing_rows(held_out, pool.y, self.tolerance)
            if len(rows) == len(pool) or not pool.weight[rows].any():
                break
            weight = np.zeros(len(pool))
            weight[rows] = pool.weight[rows]
            held_out = fit(Samples(pool.z, pool.y, None, weight)).held_out
        return agreeing_rows(held_out, pool.y, self.tolerance), held_out

    def _distinct(self, pool: Samples) -> I64:
        if self.radius < 0:
            return np.arange(len(pool))
        rows = (np.flatnonzero(pool.y == k) for k in pool.classes)
        stay = [part[distinct_rows(pool.z[part], self.radius)] for part in rows]
        return np.sort(np.concatenate(stay))


class CleanHerding(Matched):
    """The same without gradients: copies and contradicted labels out, then herding. For what is
    retained over a stream.

    Gradients point at the borders between the classes there are; where classes are still to come,
    other borders will matter, and a row in the middle of its class stays of use.
    """

    name: ClassVar[str] = "clean_herding"

    def __init__(
        self, radius: float = RADIUS, tolerance: float = TOLERANCE, width: int = WIDTH
    ) -> None:
        super().__init__(0.0, radius, tolerance, width)


def _filled(y: I64, chosen: I64, spare: I64, quotas: dict[int, int]) -> I64:
    """``chosen`` with the first of ``spare``, where a class has fewer than its quota."""
    parts = [chosen]
    for k, quota in quotas.items():
        missing = quota - int((y[chosen] == k).sum())
        parts.append(spare[y[spare] == k][:missing])
    return np.concatenate(parts)


def projected(z: F32, width: int, seed: int = 0) -> F32:
    """(N, width) rows times seeded signs / sqrt(width); the rows as they are where D is no
    wider.
    """
    if z.shape[1] <= width:
        return z
    both = np.array([-1.0, 1.0], np.float32)
    signs = np.random.default_rng(seed).choice(both, (z.shape[1], width))
    return np.asarray(z @ signs / np.float32(np.sqrt(width)))
