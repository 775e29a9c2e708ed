"""A bundle in an MLflow run, and what a learner makes of it there (extra ``mlflow``).

    from edgeadapt.exporters import mlflow as tracking

    with mlflow.start_run():
        tracking.log_bundle(host.export("lines.edge", ...))

Nothing is started or ended here: the active run gets it, or the one that MLflow makes.
"""

from __future__ import annotations

import os
from typing import Any

from edgeadapt.bundle import Bundle, read_bundle
from edgeadapt.device.learner import Learner
from edgeadapt.errors import RuntimeUnavailable


def log_bundle(bundle: str | os.PathLike[str] | Bundle) -> None:
    """Parameters of the manifest, figures of the card, and the file itself under ``bundle``.

    Raises:
        BundleError: it is damaged.
        RuntimeUnavailable: mlflow is not installed.
    """
    mlflow = _client()
    found = bundle if isinstance(bundle, Bundle) else read_bundle(os.fspath(bundle))
    manifest, policy = found.manifest, found.manifest.policy
    methods = {
        f"edgeadapt.{role}": graph.methods
        for graph in manifest.graphs
        for role in graph.roles
        if graph.methods
    }
    mlflow.log_params(
        {
            "edgeadapt.name": manifest.name,
            "edgeadapt.version": manifest.version,
            "edgeadapt.classes": len(manifest.classes),
            "edgeadapt.class_slots": manifest.class_slots,
            "edgeadapt.feature_dim": manifest.feature_dim,
            "edgeadapt.adapts": policy.adapt.mode,
            **{name: ", ".join(used)[:500] for name, used in methods.items()},
        }
    )
    figures = {
        f"edgeadapt.{name}": float(found.card[name])
        for name in ("held_out_accuracy", "calibration_error")
        if name in found.card
    }
    mlflow.log_metrics({**figures, "edgeadapt.bytes": float(found.bytes)})
    mlflow.set_tag("edgeadapt.sha256", found.sha256)
    mlflow.log_artifact(str(found.path), "bundle")


def log_learner(learner: Learner, step: int | None = None) -> None:
    """What it has observed, been told and got right so far, as metrics of a step.

    Raises:
        StateError: it is closed.
        RuntimeUnavailable: mlflow is not installed.
    """
    mlflow, counters = _client(), learner.counters()
    numbers = {
        f"edgeadapt.{name}": float(counters[name])
        for name in ("observed", "answered", "refreshes", "tensor_bytes")
    }
    numbers |= {
        f"edgeadapt.labels.{status}": float(count) for status, count in counters["evidence"].items()
    }
    numbers |= {
        f"edgeadapt.accuracy.{name}": found.value for name, found in learner.accuracy().items()
    }
    mlflow.log_metrics(numbers, step=step)


def _client() -> Any:
    try:
        import mlflow
    except ImportError as error:
        raise RuntimeUnavailable(f"{error}: pip install 'edgeadapt[mlflow]'") from error
    return mlflow


__all__ = ["log_bundle", "log_learner"]
