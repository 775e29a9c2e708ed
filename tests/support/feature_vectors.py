"""Feature vectors of six classes, for ``vectors.edge`` and other small golden bundles: the factory
knows the first four.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

NAMES = ("ok", "scratch", "dent", "stain", "crack", "hole")
WIDTH = 12
MEANS = 3.0 * np.linalg.qr(np.random.default_rng(11).standard_normal((WIDTH, WIDTH)))[0][:6]


def samples(
    count: int, classes: Sequence[int], seed: int, moved: float = 0.0
) -> tuple[Any, list[str]]:
    rng = np.random.default_rng(seed)
    y = rng.choice(list(classes), count)
    return (MEANS[y] + 0.7 * rng.standard_normal((count, WIDTH)) + moved).astype(np.float32), [
        NAMES[k] for k in y
    ]
