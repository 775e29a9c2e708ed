"""Images of the shipped sample, by class, condition and place."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import Any

import numpy as np

from edgeadapt.demo.sample import CLASSES, KNOWN, NEW, Sample, load_sample
from edgeadapt.scenarios.corruptions import corrupt


@cache
def sample() -> Sample:
    return load_sample()


def images(
    count: int,
    classes: Sequence[str] = KNOWN,
    seed: int = 0,
    condition: str = "clean",
    severity: int = 3,
) -> tuple[Any, list[str]]:
    """``count`` different images of these classes, shuffled, and their names."""
    rows = sample().rows(tuple(classes), np.random.default_rng(seed))[:count]
    x = corrupt(sample().x[rows], condition, severity, seed)
    return x, [CLASSES[i] for i in sample().y[rows]]


def images_between(first: int, last: int, classes: Sequence[str] = KNOWN) -> tuple[Any, list[str]]:
    """Images ``first`` to ``last`` of each class, class after class, and their names."""
    rows = np.concatenate(
        [np.flatnonzero(sample().y == CLASSES.index(name))[first:last] for name in classes]
    )
    return sample().x[rows], [CLASSES[i] for i in sample().y[rows]]


def wrong(names: Sequence[str], seed: int = 0, among: Sequence[str] = KNOWN) -> list[str]:
    """For each name another one."""
    rng = np.random.default_rng(seed)
    return [str(rng.choice([other for other in among if other != name])) for name in names]


__all__ = ["CLASSES", "KNOWN", "NEW", "images", "images_between", "sample", "wrong"]
