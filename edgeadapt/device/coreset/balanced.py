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
        return np.sort(
            np.concatenate(
                [
                    rng.choice(np.flatnonzero(samples.y == k), n, replace=False)
                    for k, n in quotas.items()
                ]
            )
        ).astype(np.int64)
