"""Labels that lie: which images a burst shows, and what it calls them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from edgeadapt.demo.sample import CLASSES, KNOWN
from edgeadapt.host.data.images import ImageData
from edgeadapt_bench.datasets.image_dataset import names_of

UNDER_SHIFT = "_under_shift"
_SHARES = {"20_wrong": 0.2, "40_wrong": 0.4, "60_wrong": 0.6, "80_wrong": 0.8, "100_wrong": 1.0}
AT_THE_FACTORY = (*_SHARES, "one_class_flipped", "constant_right", "constant_wrong")
SHIFTED = tuple(kind + UNDER_SHIFT for kind in AT_THE_FACTORY)
NOISE_KINDS = (*AT_THE_FACTORY, *SHIFTED)


@dataclass(frozen=True, eq=False)
class Burst:
    """Images (N, H, W) uint8 and the names they are given."""

    x: NDArray[np.uint8]
    names: list[str]


def burst(
    kind: str, pool: ImageData, count: int, classes: tuple[str, ...], rng: np.random.Generator
) -> Burst:
    """``count`` labels of images of known classes.

    Args:
        kind: of :data:`AT_THE_FACTORY`. A share of the labels names another class that the learner
            knows; or every image of one class is called another one; or one frame is sent again and
            again, under its name or under one wrong name.
        pool: images to draw from. classes: what the learner knows.
    """
    rows = rng.choice(len(pool), count, replace=False)
    if kind.startswith("constant"):
        rows = np.full(count, rows[0])
    y = pool.y[rows]
    if kind == "one_class_flipped":
        return Burst(pool.x[rows], flipped(y, rng))
    if kind == "constant_wrong":
        return Burst(pool.x[rows], wrong_names(y[:1], 1.0, classes, rng) * count)
    return Burst(pool.x[rows], wrong_names(y, _SHARES.get(kind, 0.0), classes, rng))


def wrong_names(
    y: NDArray[np.int64], share: float, classes: tuple[str, ...], rng: np.random.Generator
) -> list[str]:
    """Exactly ``share`` of the labels wrong, each another class that the learner knows."""
    names = [name for name in CLASSES if name in classes]
    is_wrong = rng.permutation(len(y)) < round(share * len(y))
    moved = (y + rng.integers(1, len(names), len(y))) % len(names)
    return [names[slot] for slot in np.where(is_wrong, moved, y)]


def flipped(y: NDArray[np.int64], rng: np.random.Generator) -> list[str]:
    """Every label of one class names another one."""
    victim, thief = rng.choice(len(KNOWN), 2, replace=False)
    return names_of(np.where(y == victim, thief, y))
