"""Images of the classes that ``golden/precise.edge`` knows, which
``tests/host/precision/precise.py`` made.
"""

from __future__ import annotations

import numpy as np
from golden_files import GOLDEN

PRECISE = GOLDEN / "precise.edge"
CLASSES = ("right", "down", "saddle")


def ramps(count: int, seed: int, noise: float = 60.0) -> tuple[np.ndarray, np.ndarray]:
    """x (N, 12, 12) uint8, names (N,): a ramp to the right, a ramp downwards, a saddle; with
    noise.
    """
    y = np.arange(count) % len(CLASSES)
    ramp = np.linspace(-1, 1, 12)
    kinds = np.stack(
        [np.tile(ramp, (12, 1)), np.tile(ramp[:, None], (1, 12)), 2 * ramp[None, :] * ramp[:, None]]
    )
    x = 90 + noise * np.random.default_rng(seed).standard_normal((count, 12, 12)) + 50 * kinds[y]
    return x.clip(0, 255).round().astype(np.uint8), np.array(CLASSES)[y]


def dimmed(x: np.ndarray) -> np.ndarray:
    """The same images with half of their contrast, and brighter."""
    return (0.5 * x + 110).round().clip(0, 255).astype(np.uint8)
