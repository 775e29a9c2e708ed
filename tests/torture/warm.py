"""Learners on feature vectors whose graphs are loaded once: a warm process forks, and its children
open at once.
"""

from __future__ import annotations

import sys
from functools import cache
from pathlib import Path
from typing import Any

sys.path.append(str(Path(__file__).parents[1] / "support"))
from feature_vectors import NAMES, samples
from golden_files import GOLDEN

from edgeadapt.bundle import Bundle, read_bundle
from edgeadapt.device.learner import Learner
from edgeadapt.device.learner import open as open_learner
from edgeadapt.device.resources.budget import Budget
from edgeadapt.runtime import Runtime, open_runtime


@cache
def _loaded() -> tuple[Bundle, Runtime]:
    return read_bundle(GOLDEN / "vectors.edge"), open_runtime()


def learner(state: Path | None, **settings: Any) -> Learner:
    """Opened with graphs that are loaded once per process and its children: an engine of one thread
    survives a fork.
    """
    bundle, runtime = _loaded()
    settings.setdefault("budget", Budget(busy_fraction=1.0))
    return open_learner(bundle, state=state, runtime=runtime, **settings)


def warm_up() -> None:
    """Load the graphs now; children that are forked later have them."""
    opened = learner(None)
    x, names = samples(4, [0, 1], 0)
    opened.learn(x, names)
    opened.predict(x)
    opened.close()


__all__ = ["NAMES", "learner", "samples", "warm_up"]
