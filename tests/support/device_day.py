"""A day of a device with the shipped bundle: a new class, labels, a shift that is corrected, a step
back, a restart. Every graph of the bundle is used.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from learner_steps import tensors

from edgeadapt.bundle import read_bundle
from edgeadapt.demo.sample import CLASSES, KNOWN, bundle_path, load_sample
from edgeadapt.device.learner import Learner
from edgeadapt.device.learner import open as open_learner
from edgeadapt.device.resources.budget import Budget
from edgeadapt.runtime import Runtime


def images(
    count: int, classes: tuple[str, ...], seed: int, darker: float = 1.0
) -> tuple[Any, list[str]]:
    sample = load_sample()
    rows = sample.rows(classes, np.random.default_rng(seed))[:count]
    return (sample.x[rows] * darker).astype(np.uint8), [CLASSES[k] for k in sample.y[rows]]


def day(
    learner: Learner, between: Callable[[], None] = lambda: None, rows: int = 32
) -> dict[str, Any]:
    """What was predicted of so many rows, and what became of it; ``between`` runs after each
    step.
    """
    told: dict[str, Any] = {}
    probe, _ = images(rows, CLASSES, 9)
    told["before"] = learner.predict(probe).probs
    learner.add_class("Bag")
    x, names = images(96, (*KNOWN, "Bag"), 1)
    for at in range(0, 96, 32):
        seen = learner.observe(x[at : at + 32])
        learner.label(seen.ids, names[at : at + 32])
        learner.settle()
        between()
    told["learned"] = learner.predict(probe).probs
    told["evidence"] = np.array(sorted(learner.counters()["evidence"].values()))
    dark, _ = images(224, KNOWN, 2, darker=0.25)
    for at in range(0, 224, 32):
        learner.observe(dark[at : at + 32])
        learner.settle()
        between()
    told["shifted"] = learner.predict(dark[:rows]).probs
    told["domain"] = np.array(learner.domain() != "source")
    commit = learner.checkpoint()
    told["kept"] = learner.predict(probe).probs
    learner.learn(x[:20], ["Coat"] * 20)
    learner.settle()
    between()
    told["worse"] = learner.predict(probe).probs
    learner.rollback(commit)
    told["back"] = learner.predict(probe).probs
    return told


def day_of_one_runtime(learner: Learner) -> dict[str, Any]:
    """The same where nothing moves meanwhile: the step back is exact."""
    told = day(learner, rows=40)
    assert np.abs(told.pop("worse") - told["kept"]).max() > 0.01
    np.testing.assert_array_equal(told["back"], told["kept"])
    return told


def days(
    runtime: Runtime | str, state: Path, between: Callable[[Learner], None]
) -> tuple[dict[str, Any], dict[str, Any], dict[str, str]]:
    """A day, and the morning after: what was predicted, the tensors that were learned, and the
    placement at night.
    """
    bundle, budget = read_bundle(bundle_path()), Budget(busy_fraction=1.0)
    probe, _ = images(32, CLASSES, 9)
    with open_learner(bundle, state=state, runtime=runtime, budget=budget) as learner:
        told = day(learner, lambda: between(learner))
        digest, placement, learned = learner.digest(), learner.placement(), tensors(learner)
    with open_learner(bundle, state=state, runtime=runtime, budget=budget) as learner:
        told["reopened"] = learner.predict(probe).probs
        assert learner.digest() == digest
    return told, learned, placement
