"""A day of a device with the shipped bundle: every graph of it is used."""

from __future__ import annotations

from typing import Any

import numpy as np

from edgeadapt.demo.sample import CLASSES, KNOWN, load_sample
from edgeadapt.device.learner import Learner


def batch_of(
    count: int, classes: tuple[str, ...], seed: int, darker: float = 1.0
) -> tuple[Any, list[str]]:
    sample = load_sample()
    rows = sample.rows(classes, np.random.default_rng(seed))[:count]
    return (sample.x[rows] * darker).astype(np.uint8), [CLASSES[k] for k in sample.y[rows]]


def story(learner: Learner) -> dict[str, Any]:
    """A day of a device: a new class, labels, a shift that is corrected, a step back."""
    told: dict[str, Any] = {}
    probe, _ = batch_of(40, CLASSES, 9)
    told["before"] = learner.predict(probe).probs
    learner.add_class("Bag")
    x, names = batch_of(96, (*KNOWN, "Bag"), 1)
    for at in range(0, 96, 32):
        seen = learner.observe(x[at : at + 32])
        learner.label(seen.ids, names[at : at + 32])
        learner.settle()
    told["learned"] = learner.predict(probe).probs
    told["evidence"] = np.array(sorted(learner.counters()["evidence"].values()))
    dark, _ = batch_of(224, KNOWN, 2, darker=0.25)
    for at in range(0, 224, 32):
        learner.observe(dark[at : at + 32])
        learner.settle()
    told["shifted"] = learner.predict(dark[:40]).probs
    told["domain"] = np.array(learner.domain() != "source")
    commit = learner.checkpoint()
    kept = learner.predict(probe).probs
    learner.learn(x[:20], ["Coat"] * 20)
    learner.settle()
    assert np.abs(learner.predict(probe).probs - kept).max() > 0.01
    learner.rollback(commit)
    told["back"] = learner.predict(probe).probs
    np.testing.assert_array_equal(told["back"], kept)
    return told
