"""Herding of features and gradients at once: the chosen rows have the mean of their class, and
the gradient of all rows.

Greedy for the smallest::

    sum_k | mean_{S_k} f - mu_k |^2 / v_f   +   strength K |mean_S g - gamma|^2 / v_g

f = z / |z| with class means mu_k, g = u (x) [f; 1] the gradient of the last layer
(``gradients.py``) with mean gamma over the pool, every class with the same mass; v_f and v_g are
the variances of f within classes and of g, so ``strength`` has no unit. Herding alone (``strength``
0) finds rows in the middle of a class; the second term adds rows near the borders, as many on
either side as the pool has. The classes take turns and each sees all choices before its own: a turn
taken at once corrects the same gradient error K times over (measured: it gives the gain away).

Cost per chosen row: D products for each row of its class, W + K for each row of the pool. The
gradients take projected directions (``matched.py``); the mean takes all columns: matched in a
projection alone, what is orthogonal to it drifts.

Sources: herding: Welling, ICML 2009; matching the gradient of the whole pool: Mirzasoleiman et al.,
CRAIG, ICML 2020 (arXiv 1906.01827), Killamsetty et al., Grad-Match, ICML 2021 (arXiv 2103.00123),
which weight the chosen rows; gradients as what describes a sample: Adapt-infinity (Maharana et al.,
ICLR 2025). Joining the two moments in one greedy choice without weights is ours.
"""

from __future__ import annotations

import numpy as np

from edgeadapt.device.coreset.gradients import gradient_mean, gradient_norms, gradient_products
from edgeadapt.device.coreset.readout import balanced_shares
from edgeadapt.device.coreset.samples import F32, F64, I64

STRENGTH = 0.3
_TINY = 1e-12


def herd_gradients(
    f: F32,
    narrow: F32,
    y: I64,
    u: F64,
    weight: F64,
    quotas: dict[int, int],
    strength: float = STRENGTH,
) -> list[int]:
    """Distinct rows, ``quotas[k]`` of class k, in the order in which they are taken; the first of
    equals.

    Args:
        f: (N, D) directions.
        narrow: (N, W) the same or a projection of them, for the gradients.
        y: (N,).
        u: (N, K) residuals.
        weight: (N,).
        quotas: class -> count, at most as many as there are.
        strength: of the gradients; 0 is plain herding.
    """
    share = balanced_shares(y, weight)
    classes = [k for k in quotas if quotas[k]]
    rows = {k: np.flatnonzero(y == k) for k in classes}
    # <f_i, mu_k>, |f_i|^2
    towards, own, spread = np.zeros(len(f)), (f.astype(np.float64) ** 2).sum(axis=1), 0.0
    for k in classes:
        inside = share[rows[k]] / share[rows[k]].sum()
        mean = inside @ f[rows[k]]
        towards[rows[k]] = f[rows[k]] @ mean
        spread += float(inside @ own[rows[k]] - mean @ mean) / len(classes)
    gamma = gradient_mean(u, narrow, share)
    # <g_i, gamma>, |g_i|^2
    pull, length = gradient_products(u, narrow, gamma), gradient_norms(u, narrow) ** 2
    factor = strength / max(float(share @ length - (gamma**2).sum()), _TINY)
    scale = 1.0 / max(spread, _TINY)
    near, drag = np.zeros(len(f)), np.zeros(len(f))  # <f_i, chosen of its class>, <g_i, chosen>
    free, chosen = np.ones(len(f), bool), list[int]()
    for turn in range(1, max(quotas.values(), default=0) + 1):
        for k in classes:
            if turn <= quotas[k]:
                r, taken = rows[k], len(chosen) + 1
                gap = scale * (own[r] + 2.0 * near[r] - 2.0 * turn * towards[r]) + factor * (
                    length[r] + 2.0 * drag[r] - 2.0 * taken * pull[r]
                )
                row = int(r[np.where(free[r], gap, np.inf).argmin()])
                free[row] = False
                near[r] += f[r] @ f[row]
                if strength:
                    drag += (u @ u[row]) * (narrow @ narrow[row] + 1.0)
                chosen.append(row)
    return chosen
