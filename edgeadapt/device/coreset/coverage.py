"""Coverage-centric sampling: as many from every range of difficulty, at random within a range.

Source: Zheng et al., Coverage-centric Coreset Selection, ICLR 2023 (arXiv 2210.15809), algorithm 1:
drop a share of the hardest (likely mislabelled), cut the range of the score into equal strata,
share the budget between strata from the smallest up.
"""

from __future__ import annotations

from typing import ClassVar

import numpy as np

from edgeadapt.device.coreset.budgets import class_quotas, water_fill
from edgeadapt.device.coreset.experts import el2n
from edgeadapt.device.coreset.readout import with_probabilities
from edgeadapt.device.coreset.samples import F64, I64, Samples, checked

STRATA = 50


def coverage_rows(
    score: F64,
    budget: int,
    rng: np.random.Generator,
    *,
    hardest: float = 0.0,
    easiest: float = 0.0,
    strata: int = STRATA,
) -> I64:
    """min(budget, N) rows whose scores cover the range evenly; uniform random rows where the score
    is constant.

    Args:
        score: (N,) larger is harder.
        hardest, easiest: shares cut from the two ends, as far as ``budget`` rows remain.
    """
    order = np.argsort(score, kind="stable")
    spare = max(len(score) - budget, 0)
    high = min(int(hardest * len(score)), spare)
    low = min(int(easiest * len(score)), spare - high)
    left = order[low : len(order) - high]
    floor, width = float(score[left[0]]), float(score[left[-1]] - score[left[0]])
    stratum = np.zeros(len(left), np.int64)
    if width > 0 and np.isfinite(width):
        stratum = np.minimum((score[left] - floor) / width * strata, strata - 1).astype(np.int64)
    quotas = water_fill(np.bincount(stratum, minlength=strata), budget)
    chosen = [
        rng.choice(left[stratum == s], int(quotas[s]), replace=False)
        for s in np.flatnonzero(quotas)
    ]
    return np.sort(np.concatenate(chosen)).astype(np.int64)


class Coverage:
    """Coverage over EL2N within each class, under class quotas. Without ``p``, a ridge read-out of
    the pool itself takes the place of the head.

    Args:
        hardest: share of the hardest rows of a class that is dropped first.
    """

    name: ClassVar[str] = "coverage"

    def __init__(self, hardest: float = 0.0) -> None:
        self.hardest = hardest

    def select(self, samples: Samples, budget: int, seed: int) -> I64:
        score, rng, chosen = el2n(with_probabilities(samples)), np.random.default_rng(seed), []
        for slot, quota in class_quotas(samples.y, checked(budget)).items():
            rows = np.flatnonzero(samples.y == slot)
            if quota:
                chosen.append(rows[coverage_rows(score[rows], quota, rng, hardest=self.hardest)])
        return np.sort(np.concatenate(chosen)).astype(np.int64)
