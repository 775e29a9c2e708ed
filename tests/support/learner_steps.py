"""What most tests do with a learner: teach it, watch a stream, measure it, compare its tensors."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from edgeadapt.device.learner import Learner
from edgeadapt.testing import inspect_state

BATCH = 32
Opener = Callable[..., Learner]
"""Opens a bundle on the session's runtime: ``opened(state, **settings)``."""


def teach(
    learner: Learner, x: Any, names: Sequence[str], source: str = "", **settings: Any
) -> tuple[str, ...]:
    """Learn one batch and wait until it is; the ids of its samples."""
    ids = learner.learn(x, names, source=source, **settings)
    learner.settle()
    return ids


def accuracy(learner: Learner, x: Any, names: Sequence[str], stream: str = "judge") -> float:
    labels = learner.predict(x, stream=stream).labels
    return float(np.mean([a == b for a, b in zip(labels, names, strict=True)]))


def watch(learner: Learner, x: Any, stream: str = "default") -> list[Any]:
    """Observe in batches, each handled by the worker before the next: what a camera with pauses
    sees.
    """
    seen = []
    for start in range(0, len(x), BATCH):
        seen.append(learner.observe(x[start : start + BATCH], stream=stream))
        learner.settle()
    return seen


def tensors(learner: Learner) -> dict[str, Any]:
    """Checkpointed tensors on the host."""
    return inspect_state(learner).program.checkpoint(inspect_state(learner).state.tensors)


def assert_same(a: dict[str, Any], b: dict[str, Any]) -> None:
    assert a.keys() == b.keys()
    for name in a:
        np.testing.assert_array_equal(a[name], b[name], err_msg=name)
