"""Learners on feature vectors whose graphs are loaded once: a warm process forks, and its children
open at once.
"""

from __future__ import annotations

import sys
from functools import cache
from pathlib import Path
from typing import Any

DEVICE = Path(__file__).parent.parent / "device"
sys.path.append(str(DEVICE))
from vectors import NAMES, samples  # noqa: E402  what the small golden bundle was made from

from edgeadapt.bundle import Bundle, read_bundle  # noqa: E402
from edgeadapt.device.learner import Learner  # noqa: E402
from edgeadapt.device.learner import open as open_learner  # noqa: E402
from edgeadapt.device.resources.budget import Budget  # noqa: E402
from edgeadapt.runtime import Runtime, open_runtime  # noqa: E402


@cache
def _loaded() -> tuple[Bundle, Runtime]:
    return read_bundle(DEVICE / "golden" / "vectors.edge"), open_runtime()


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
