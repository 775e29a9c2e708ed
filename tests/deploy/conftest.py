"""What a daemon that has everything to tell says at /metrics."""

from __future__ import annotations

from typing import Any

import pytest

EVERYTHING: dict[str, Any] = {
    "bundle": {"name": "shoes", "version": 3},
    "streams": {"door": {"shift": 1.5, "novel_share": 0.25}},
    "inbox": {"waiting": 7, "dropped": {"door": 3}},
    "loop": {"refused": 2, "unadapted": 5, "failures": 1},
    "latency": {"ratio": 1.2, "p99_ratio": 1.5, "pauses": 2},
    "loop_still_s": 0.1,
    "commits": [{"kind": "learn", "outcome": "learned", "count": 3}],
    "throttled": {"heat": True},
    "write_budget_bytes": 1 << 29,
    "budget": {"temperature_c": 80.0, "power_w": 15.0},
    "domains": {"dusk": "condition"},
    "questions": 2,
    "learner": {
        "evidence": {"learned": 4},
        "refreshes": 6,
        "deferred": 2,
        "overruns": 1,
        "state_bytes": 4096,
        "written_bytes_last_day": 512,
        "backlog": 3,
        "tensor_bytes": 8,
        "pending": 9,
        "answered": 4,
    },
    "is_paused": True,
    "is_frozen": False,
    "sinks": [{"name": "log", "dropped": 11, "waiting": 5, "written": 100, "failures": 1}],
    "sources": [
        {
            "name": "camera",
            "is_up": True,
            "failures": 8,
            "delivered": 90,
            "refused": 2,
            "labels": 7,
            "unreadable": 1,
            "reconnects": 3,
        }
    ],
    "telemetry": {
        "temperature_c": {"cpu": 51.5},
        "power_w": {"VDD_IN": 4.75},
        "hottest_c": 51.5,
        "total_power_w": 4.75,
        "gpu_load": 0.4,
    },
}


@pytest.fixture(scope="session")
def samples() -> dict[str, tuple[str, set[str]]]:
    """Name of every sample -> its type, and the names of its labels."""
    metrics = pytest.importorskip("edgeadapt.daemon.monitoring.metrics").Metrics()
    parser = pytest.importorskip("prometheus_client.parser")
    metrics.observe_batch("door", 8, 0.004)
    metrics.requested("/v1/predict", 200, 0.002)
    found: dict[str, tuple[str, set[str]]] = {"up": ("gauge", set())}  # of Prometheus itself
    for family in parser.text_string_to_metric_families(
        metrics.exposition(lambda: EVERYTHING).decode()
    ):
        for one in family.samples:
            found[one.name] = (family.type, set(one.labels))
    return found
