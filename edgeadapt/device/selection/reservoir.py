"""A uniform sample of everything offered: what a user gets without thinking about it.

Source: Vitter, Random sampling with a reservoir, ACM TOMS 1985, algorithm R.
"""

from __future__ import annotations

from typing import ClassVar

import numpy as np

from edgeadapt.device.selection.samples import I64, Samples, checked


class Reservoir:
    """Row i replaces a random kept one with probability budget / (i + 1)."""

    name: ClassVar[str] = "reservoir"

    def select(self, samples: Samples, budget: int, seed: int) -> I64:
        kept = list(range(min(checked(budget), len(samples))))
        rng = np.random.default_rng(seed)
        for row in range(len(kept), len(samples)):
            place = int(rng.integers(row + 1))
            if place < len(kept):
                kept[place] = row
        return np.sort(np.array(kept, np.int64))
