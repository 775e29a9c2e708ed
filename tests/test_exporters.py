"""What OpenTelemetry and MLflow are told, by the real packages where they are installed."""

from __future__ import annotations

import builtins
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import edgeadapt
from edgeadapt.demo.sample import KNOWN, bundle_path, load_sample
from edgeadapt.device.learner import Learner
from edgeadapt.errors import RuntimeUnavailable
from edgeadapt.exporters import mlflow as tracking
from edgeadapt.exporters import otel


@pytest.fixture
def learner() -> Iterator[Learner]:
    """It has observed 32 pictures and learned the first label."""
    sample = load_sample()
    rows = sample.rows(KNOWN, np.random.default_rng(0))[:32]
    with edgeadapt.open(bundle_path()) as learner:
        seen = learner.observe(sample.x[rows])
        learner.label(seen.ids[0], seen.prediction.labels[0])
        learner.settle()
        yield learner


def test_opentelemetry_reads_a_learners_numbers_until_it_is_closed(learner: Learner) -> None:
    pytest.importorskip("opentelemetry.sdk")
    from opentelemetry.sdk.metrics import MeterProvider
    from opentelemetry.sdk.metrics.export import InMemoryMetricReader

    reader = InMemoryMetricReader()
    otel.watch(learner, MeterProvider([reader], shutdown_on_exit=False).get_meter("test"))

    def read() -> dict[str, Any]:
        data = reader.get_metrics_data()
        scopes = [
            scope
            for resource in (data.resource_metrics if data else ())
            for scope in resource.scope_metrics
        ]
        return {
            metric.name: list(metric.data.data_points)
            for scope in scopes
            for metric in scope.metrics
        }

    found = read()
    assert (
        found["edgeadapt.samples.observed"][0].value == 32
        and found["edgeadapt.tensors.size"][0].value > 1000
    )
    assert (
        sum(point.value for point in found["edgeadapt.labels"]) == 1
        and found["edgeadapt.labels"][0].attributes["status"]
    )
    learner.close()
    assert not any(read().values())


def test_mlflow_gets_a_bundle_and_what_a_learner_made_of_it(
    learner: Learner, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mlflow = pytest.importorskip("mlflow")
    monkeypatch.setenv(
        "MLFLOW_ALLOW_FILE_STORE", "true"
    )  # a database needs more than mlflow-skinny
    mlflow.set_tracking_uri((tmp_path / "runs").as_uri())
    with mlflow.start_run() as run:
        tracking.log_bundle(bundle_path())
        tracking.log_learner(learner, step=3)
    kept = mlflow.get_run(run.info.run_id).data
    bundle = edgeadapt.read_bundle(bundle_path())
    assert (
        kept.params["edgeadapt.name"] == "fashion"
        and kept.tags["edgeadapt.sha256"] == bundle.sha256
    )
    assert (
        kept.metrics["edgeadapt.held_out_accuracy"]
        == pytest.approx(bundle.card["held_out_accuracy"])
        and kept.metrics["edgeadapt.observed"] == 32
    )
    assert [path.read_bytes() for path in (tmp_path / "runs").rglob("*.edge")] == [
        bundle_path().read_bytes()
    ]


@pytest.mark.parametrize(
    ("tell", "says"),
    [
        (lambda learner: otel.watch(learner), r"pip install 'edgeadapt\[otel\]'"),
        (lambda learner: tracking.log_learner(learner), r"pip install 'edgeadapt\[mlflow\]'"),
        (lambda learner: tracking.log_bundle(bundle_path()), r"pip install 'edgeadapt\[mlflow\]'"),
    ],
)
def test_without_its_package_an_exporter_names_its_extra(
    learner: Learner, monkeypatch: pytest.MonkeyPatch, tell: Any, says: str
) -> None:
    real = builtins.__import__

    def missing(name: str, *more: Any) -> Any:
        if name.partition(".")[0] in ("opentelemetry", "mlflow"):
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
        return real(name, *more)

    monkeypatch.setattr(builtins, "__import__", missing)
    with pytest.raises(RuntimeUnavailable, match=says):
        tell(learner)
