"""edgeadapt: models that keep learning after they ship.

    import edgeadapt

    with edgeadapt.open("model.edge", state="state/") as learner:
        seen = learner.observe(frames)
        for question in learner.questions():
            learner.label(question.id, "scratch")

Importing this package is light: the learner and its runtime load on first use.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

_HOMES = {
    "open": "edgeadapt.device.learner",
    "Learner": "edgeadapt.device.learner",
    "Policy": "edgeadapt.device.detection.policy",
    "Keep": "edgeadapt.device.detection.policy",
    "Budget": "edgeadapt.device.resources.budget",
    "prepare": "edgeadapt._prepare",
    "Prediction": "edgeadapt.results",
    "Observation": "edgeadapt.results",
    "Question": "edgeadapt.results",
    "Reading": "edgeadapt.results",
    "Receipt": "edgeadapt.results",
    "read_bundle": "edgeadapt.bundle",
    "migrate": "edgeadapt.device.recovery.migrate",
    "MigrationReport": "edgeadapt.device.recovery.migration_report",
    "EdgeadaptError": "edgeadapt.errors",
}
__all__ = [
    "Budget",
    "EdgeadaptError",
    "Keep",
    "Learner",
    "MigrationReport",
    "Observation",
    "Policy",
    "Prediction",
    "Question",
    "Reading",
    "Receipt",
    "migrate",
    "prepare",
    "read_bundle",
]

if TYPE_CHECKING:
    from edgeadapt._prepare import prepare
    from edgeadapt.bundle import read_bundle
    from edgeadapt.device.detection.policy import Keep, Policy
    from edgeadapt.device.learner import Learner
    from edgeadapt.device.learner import open as open
    from edgeadapt.device.recovery.migrate import migrate as migrate
    from edgeadapt.device.recovery.migration_report import MigrationReport
    from edgeadapt.device.resources.budget import Budget
    from edgeadapt.errors import EdgeadaptError
    from edgeadapt.results import Observation, Prediction, Question, Reading, Receipt


def __getattr__(name: str) -> Any:
    """Names load with their module on first use (PEP 562)."""
    if name not in _HOMES:
        raise AttributeError(f"module 'edgeadapt' has no attribute {name!r}")
    from importlib import import_module

    value = getattr(import_module(_HOMES[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOMES})
