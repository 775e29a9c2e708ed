"""A state of the shipped bundle to be migrated: two new classes, and known ones, clean and in fog.
The images are new to ``second.edge``.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from clothes import CLASSES, KNOWN, sample

from edgeadapt.bundle import Bundle
from edgeadapt.device.detection.policy import Keep
from edgeadapt.device.learner import Learner
from edgeadapt.device.learner import open as open_learner
from edgeadapt.runtime import Runtime
from edgeadapt.scenarios.corruptions import corrupt

GOLDEN = Path(__file__).parent / "golden"
RAW = Keep(raw_per_class=20)
LEARNED = ("Bag", "Ankle boot")
SEEN_BY_SECOND = 280  # images of a class that its encoder was trained and calibrated on


def images(classes: Sequence[str], first: int, last: int) -> tuple[Any, list[str]]:
    """Images ``first`` to ``last`` of each class, shuffled."""
    rows = np.concatenate(
        [np.flatnonzero(sample().y == CLASSES.index(name))[first:last] for name in classes]
    )
    rows = np.random.default_rng(0).permutation(rows)
    return sample().x[rows], [CLASSES[i] for i in sample().y[rows]]


def teach(learner: Learner) -> None:
    """Two new classes from one source, known ones from two others, one of them in fog."""
    for name in LEARNED:
        learner.add_class(name)
    learner.learn(*images(LEARNED, 0, 25), source="line 1")
    learner.settle()
    learner.learn(*images(KNOWN, SEEN_BY_SECOND, SEEN_BY_SECOND + 10), source="line 2")
    learner.settle()
    x, names = images(KNOWN, SEEN_BY_SECOND + 10, SEEN_BY_SECOND + 20)
    learner.learn(corrupt(x, "fog", 3, 0), names, source="line 3")
    learner.settle()


def digest(state: Path, bundle: Bundle, runtime: Runtime) -> str:
    with open_learner(bundle, state=state, runtime=runtime, keep=RAW) as learner:
        return learner.digest()


__all__ = ["GOLDEN", "LEARNED", "RAW", "SEEN_BY_SECOND", "digest", "images", "teach"]
