"""One key each: routing by hypervectors, and adaptive data selection of what is kept."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from learner_steps import BATCH, Opener
from sample_images import images

from edgeadapt.device.detection.policy import Keep, Policy
from edgeadapt.device.learner import Learner
from edgeadapt.testing import inspect_state


def through(learner: Learner, conditions: tuple[str, ...], windows: int = 5) -> list[str]:
    """Clean windows between conditions; what was opened and routed to, in order."""
    for number, condition in enumerate(conditions):
        for kind in (condition, "clean"):
            x, _ = images(BATCH * windows, seed=number, condition=kind, severity=4)
            for start in range(0, len(x), BATCH):
                learner.observe(x[start : start + BATCH], stream="cam")
                learner.settle()
    found = [(kind, domain) for _, _, kind, domain, _ in reversed(learner.decisions())]
    return [domain for kind, domain in found if kind in ("adapt", "route") and domain]


def visits(names: list[str]) -> list[str]:
    """Without repetitions."""
    return [name for i, name in enumerate(names) if i == 0 or name != names[i - 1]]


def test_hypervectors_route_back_to_conditions_that_were_met(opened: Opener, state: Path) -> None:
    learner = opened(state, policy=Policy(routing="hypervector"))
    conditions = ("fog", "gaussian_noise", "fog", "gaussian_noise")
    went = visits(through(learner, conditions))
    assert went == ["condition-1", "condition-2", "condition-1", "condition-2"]
    router = inspect_state(learner).conditions._router.hypervectors
    assert router is not None and set(router._bundles) == {"condition-1", "condition-2"}
    learner.close()
    again = opened(state, policy=Policy(routing="hypervector"))
    # it has no bundles yet: by the signature
    assert visits(through(again, ("gaussian_noise",)))[-1] == "condition-2"
    assert inspect_state(opened()).conditions._router.hypervectors is None


def test_adaptive_selection_keeps_a_class_that_age_alone_would_have_dropped(
    opened: Opener, state: Path, tmp_path: Path
) -> None:
    left = {}
    for selection in ("oldest", "adaptive"):
        learner = opened(tmp_path / selection, keep=Keep(rows=100, selection=selection))
        for classes, count, seed in ((("Coat",), 40, 1), (("Trouser", "Sandal"), 140, 2)):
            x, names = images(count, classes=classes, seed=seed)
            learner.learn(x, names)
            learner.settle()
        before = learner.predict(x).probs
        learner.checkpoint()
        # what was learned stays learned
        np.testing.assert_allclose(learner.predict(x).probs, before, atol=1e-5)
        rows = inspect_state(learner).journal.evidence()
        assert len(rows) == 100
        left[selection] = sum(row.label == "Coat" for row in rows)
        learner.close()
        resumed = opened(tmp_path / selection, keep=Keep(rows=100, selection=selection))
        np.testing.assert_allclose(resumed.predict(x).probs, before, atol=1e-3)
        resumed.close()
    assert left["oldest"] == 0 and left["adaptive"] >= 10
