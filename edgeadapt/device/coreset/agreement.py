"""Labels that the rest of the pool contradicts: cut before a small budget is spent on them.

    margin_i = f_i[y_i] - max_{k != y_i} f_i[k]
            f the held-out answer of the pool's ridge read-out (``readout.py``)

A row with a margin below ``-tolerance`` is cut; a ridge answer is near 1 for the right class and
near 0 for others, so -1 is a label as wrong as can be. Hard samples have such margins too, so
nothing is cut while fewer than ``NOISE`` of the pool have them (measured: 1-3% of clean pools, 13%
with 20% wrong labels). A class never loses more than half of its rows: a class that contradicts the
rest altogether is a new one, not an error.

Sources: the margin of Pleiss et al., AUM, NeurIPS 2020 (arXiv 2001.10528), there averaged over
epochs; agreement of held-out predictions: Northcutt et al., Confident Learning, JAIR 2021 (arXiv
1911.00068). That a closed-form leave-one-out takes the place of epochs or folds is ours.
"""

from __future__ import annotations

import numpy as np

from edgeadapt.device.coreset.samples import F64, I64

TOLERANCE = 0.5
NOISE = 0.05
_LARGEST_CUT = 0.5


def margins(answers: F64, y: I64) -> F64:
    """(N,) answer for the label minus the largest other; infinite with one class."""
    if answers.shape[1] < 2:
        return np.full(len(y), np.inf)
    rows = np.arange(len(y))
    others = answers.copy()
    others[rows, y] = -np.inf
    distance: F64 = answers[rows, y] - others.max(axis=1)
    return distance


def is_noisy(answers: F64, y: I64, tolerance: float = TOLERANCE) -> bool:
    """Whether so many labels are contradicted that it is not hard samples alone."""
    return bool((margins(answers, y) < -tolerance).mean() > NOISE)


def agreeing_rows(answers: F64, y: I64, tolerance: float = TOLERANCE) -> I64:
    """Rows whose label the rest of the pool does not contradict, ascending; at least half of each
    class, rounded up, the best first.

    Args:
        answers: (N, K) held-out answers.
        tolerance: how far another class may be ahead; infinite keeps all.
    """
    margin, kept = margins(answers, y), []
    for k in np.unique(y):
        rows = np.flatnonzero(y == k)
        ranked = rows[np.argsort(-margin[rows], kind="stable")]
        count = max(
            int((margin[rows] >= -tolerance).sum()), len(rows) - int(_LARGEST_CUT * len(rows))
        )
        kept.append(ranked[:count])
    return np.sort(np.concatenate(kept)).astype(np.int64)
