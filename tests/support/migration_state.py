"""A state of the shipped bundle to be migrated: two new classes, and known ones, clean and in fog.
The images are new to ``second.edge``.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from learner_steps import teach
from sample_images import KNOWN, images_between

from edgeadapt.bundle import Bundle
from edgeadapt.device.detection.policy import Keep
from edgeadapt.device.learner import Learner
from edgeadapt.device.learner import open as open_learner
from edgeadapt.runtime import Runtime
from edgeadapt.scenarios.corruptions import corrupt

RAW = Keep(raw_per_class=20)
LEARNED = ("Bag", "Ankle boot")
SEEN_BY_SECOND = 280  # images of a class that its encoder was trained and calibrated on


def images(classes: Sequence[str], first: int, last: int) -> tuple[Any, list[str]]:
    """Images ``first`` to ``last`` of each class, shuffled."""
    x, names = images_between(first, last, classes)
    order = np.random.default_rng(0).permutation(len(x))
    return x[order], [names[row] for row in order]


def teach_three_sources(learner: Learner) -> None:
    """Two new classes from one source, known ones from two others, one of them in fog."""
    for name in LEARNED:
        learner.add_class(name)
    teach(learner, *images(LEARNED, 0, 25), "line 1")
    teach(learner, *images(KNOWN, SEEN_BY_SECOND, SEEN_BY_SECOND + 10), "line 2")
    x, names = images(KNOWN, SEEN_BY_SECOND + 10, SEEN_BY_SECOND + 20)
    teach(learner, corrupt(x, "fog", 3, 0), names, "line 3")


def digest(state: Path, bundle: Bundle, runtime: Runtime) -> str:
    with open_learner(bundle, state=state, runtime=runtime, keep=RAW) as learner:
        return learner.digest()
