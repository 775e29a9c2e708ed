"""Images of the shipped sample, and the few things that most device tests say about them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache
from typing import Any

import numpy as np

from edgeadapt.demo.sample import CLASSES, KNOWN, NEW, Sample, load_sample
from edgeadapt.device.learner import Learner
from edgeadapt.scenarios.corruptions import corrupt

BATCH = 32
Opener = Callable[..., Learner]
"""Opens the shipped bundle: ``opened(state, **settings)``."""


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
    return corrupt(sample().x[rows], condition, severity, seed), [
        CLASSES[i] for i in sample().y[rows]
    ]


def wrong(names: Sequence[str], seed: int = 0, among: Sequence[str] = KNOWN) -> list[str]:
    """For each name another one."""
    rng = np.random.default_rng(seed)
    return [str(rng.choice([other for other in among if other != name])) for name in names]


def accuracy(learner: Learner, x: Any, names: Sequence[str], stream: str = "judge") -> float:
    return float(
        np.mean(
            [a == b for a, b in zip(learner.predict(x, stream=stream).labels, names, strict=True)]
        )
    )


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
    return learner._program.checkpoint(learner._live.current.tensors)


def assert_same(a: dict[str, Any], b: dict[str, Any]) -> None:
    assert a.keys() == b.keys()
    for name in a:
        np.testing.assert_array_equal(a[name], b[name], err_msg=name)


__all__ = [
    "BATCH",
    "CLASSES",
    "KNOWN",
    "NEW",
    "accuracy",
    "assert_same",
    "images",
    "sample",
    "tensors",
    "watch",
    "wrong",
]
