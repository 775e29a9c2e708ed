"""Random rows, as many of every class (GDumb: Prabhu et al., ECCV 2020)."""

from __future__ import annotations

from typing import ClassVar

import numpy as np

from edgeadapt.device.coreset.budgets import class_quotas
from edgeadapt.device.coreset.samples import I64, Samples, checked


class Balanced:
    name: ClassVar[str] = "balanced"

    def select(self, samples: Samples, budget: int, seed: int) -> I64:
        rng = np.random.default_rng(seed)
        quotas = class_quotas(samples.y, checked(budget))
        rows = ((np.flatnonzero(samples.y == k), n) for k, n in quotas.items())
        chosen = [rng.choice(of_class, n, replace=False) for of_class, n in rows]
        return np.sort(np.concatenate(chosen)).astype(np.int64)
