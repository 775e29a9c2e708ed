"""Which of the sample's images the demo streams, teaches an oracle with, and judges by."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from edgeadapt.demo.sample import KNOWN, NEW, load_sample
from edgeadapt.scenarios.corruptions import corrupt
from edgeadapt.scenarios.orders import Order, arrange

SEVERITY = 3
Rows = NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class DemoImages:
    """Images (N, H, W) and their classes (N,), and rows of them that do not overlap.

    Attributes:
        stream, oracle, judge: of the classes known from the start.
        new_stream, new_judge: of the new ones.
    """

    x: NDArray[np.uint8]
    y: Rows
    seed: int
    stream: Rows
    oracle: Rows
    judge: Rows
    new_stream: Rows
    new_judge: Rows

    @classmethod
    def drawn(cls, seed: int, rng: np.random.Generator) -> DemoImages:
        sample = load_sample()
        known = sample.rows(KNOWN, rng)
        cut = 2 * (len(known) // 3) - 200
        new = sample.rows(NEW, rng)
        half = len(new) // 2
        return cls(
            sample.x,
            sample.y,
            seed,
            known[:cut],
            known[cut:-400],
            known[-400:],
            new[:half],
            new[half:],
        )

    def streamed(
        self, rows: Rows, count: int, order: Order, condition: str, salt: int
    ) -> tuple[NDArray[np.uint8], Rows]:
        """Images (count, H, W) under a condition, and their classes (count,)."""
        seed = self.seed * 1000 + salt
        picked = rows[arrange(self.y[rows], order, count, seed)]
        return corrupt(self.x[picked], condition, SEVERITY, seed), self.y[picked]

    def all_ten(self) -> Rows:
        """Rows of all ten classes, six old to four new."""
        return np.concatenate([self.stream[: 3 * len(self.new_stream) // 2], self.new_stream])

    def judges(self) -> Rows:
        """Rows of all ten classes that nothing is learned from."""
        return np.concatenate([self.judge, self.new_judge])
