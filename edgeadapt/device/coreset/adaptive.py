"""Adapt-infinity for a light head: pseudo-skill clusters, an expert per cluster, coverage-centric
sampling under water-filled budgets.

    1. cluster the samples by their last-layer gradients             clusters.py
    2. per cluster, take the score that spreads its samples most     experts.py, choice.py
    3. share the budget between clusters by water-filling            budgets.py
    4. within a cluster sample evenly over the score's range,        coverage.py
       without the outermost 5% on either side

Source: Maharana et al., ICLR 2025 (arXiv 2410.10636), section 4, for instruction data of a
vision-language model. A reconstruction: the gradients are those of the head, the bins do not depend
on a score's unit, the sums are exact. ``quotas`` shares the budget between classes first; without
it old and rare classes starve, because the current head finds the newest classes hardest.
"""

from __future__ import annotations

from typing import ClassVar

import numpy as np

from edgeadapt.device.coreset.budgets import class_quotas, water_fill
from edgeadapt.device.coreset.choice import choose_experts
from edgeadapt.device.coreset.clusters import CLUSTERS, skill_clusters
from edgeadapt.device.coreset.coverage import coverage_rows
from edgeadapt.device.coreset.experts import scores
from edgeadapt.device.coreset.readout import with_probabilities
from edgeadapt.device.coreset.samples import I64, Samples, checked

_TAIL = 0.05


class Adaptive:
    """The published recipe under class quotas; kept to compare with.

    Args:
        clusters: pseudo-skills. quotas: False for the recipe as released, without class quotas.
    """

    name: ClassVar[str] = "adaptive"

    def __init__(self, clusters: int = CLUSTERS, quotas: bool = True) -> None:
        self.clusters, self.quotas = clusters, quotas

    def select(self, samples: Samples, budget: int, seed: int) -> I64:
        """min(budget, N) rows. Without ``p``, the probabilities of a ridge read-out of the pool
        itself are taken.
        """
        budget, samples = checked(budget), with_probabilities(samples)
        assert samples.p is not None
        rng = np.random.default_rng(seed)
        score = scores(samples)
        cluster = skill_clusters(samples, samples.p, self.clusters, seed)
        expert = choose_experts(score, cluster)
        chosen = []
        for rows, quota in self._groups(samples.y, budget):
            present, sizes = np.unique(cluster[rows], return_counts=True)
            for c, share in zip(present, water_fill(sizes.astype(np.int64), quota), strict=True):
                part = rows[cluster[rows] == c]
                if share:
                    of = score[expert[int(c)]][part]
                    even = coverage_rows(of, int(share), rng, hardest=_TAIL, easiest=_TAIL)
                    chosen.append(part[even])
        return np.sort(np.concatenate(chosen)).astype(np.int64)

    def _groups(self, y: I64, budget: int) -> list[tuple[I64, int]]:
        if not self.quotas:
            return [(np.arange(len(y)), budget)]
        quotas = class_quotas(y, budget).items()
        return [(np.flatnonzero(y == k), quota) for k, quota in quotas if quota]
