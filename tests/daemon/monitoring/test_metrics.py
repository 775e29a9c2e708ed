"""What Prometheus reads: names by its conventions, few label values, numbers of a learner that
runs.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from http_client import ask
from kiosk import Kiosk, Metrics, images, serving

from edgeadapt import __version__
from edgeadapt.demo.sample import bundle_path
from edgeadapt.device.learner import open as open_learner
from edgeadapt.device.resources.budget import Budget

parser = pytest.importorskip("prometheus_client.parser")
UNITS = (
    "_seconds",
    "_bytes",
    "_ratio",
    "_celsius",
    "_watts",
    "_samples",
    "_tasks",
    "_labels",
    "_requests",
    "_events",
    "_info",
)
FULL: dict[str, Any] = {
    "bundle": {"name": 'shoes\n"2"\\', "version": 3},
    "streams": {
        "door": {"shift": 1.5, "novel_share": 0.25},
        "belt": {"shift": 0.5, "novel_share": None},
    },
    "inbox": {"waiting": 7, "dropped": {"door": 3, "belt": 1}},
    "loop": {"refused": 2, "unadapted": 5, "failures": 1},
    "learner": {
        "evidence": {"learned": 4, "received": 1},
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
    "commits": [
        {"kind": "learn", "outcome": "vetoed", "count": 3},
        {"kind": "rollback", "outcome": "rolled back", "count": 1},
    ],
    "write_budget_bytes": 1 << 29,
    "budget": {"temperature_c": 80.0, "power_w": None},
    "loop_still_s": 0.25,
    "throttled": {"heat": True, "writes": False},
    "latency": {"ratio": 1.2, "p99_ratio": 1.5, "pauses": 2},
    "domains": {"dusk": "condition", "rain": "provisional"},
    "questions": 2,
    "is_paused": True,
    "is_frozen": False,
    "sources": [
        {
            "name": "camera",
            "is_up": False,
            "failures": 8,
            "delivered": 90,
            "refused": 2,
            "labels": 7,
            "unreadable": 1,
            "reconnects": 3,
        },
        {
            "name": "film",
            "is_up": True,
            "failures": 0,
            "delivered": 5,
            "refused": 0,
            "labels": 0,
            "unreadable": 0,
            "reconnects": 0,
        },
    ],
    "sinks": [{"name": "log", "dropped": 11, "waiting": 5, "written": 100, "failures": 1}],
    "telemetry": {"temperature_c": {"cpu": 51.5}, "power_w": {"VDD_IN": 4.75}},
    "placement": {
        "roles": {"encode": "tensorrt", "learn": "onnxruntime"},
        "copies": [
            {"from": "onnxruntime", "to": "tensorrt", "count": 5, "bytes": 640, "is_trial": False},
            {"from": "onnxruntime", "to": "tensorrt", "count": 9, "bytes": 900, "is_trial": True},
        ],
    },
}
EXPECTED = {
    ("edgeadapt_shift_ratio", "door"): 1.5,
    ("edgeadapt_shift_ratio", "belt"): 0.5,
    ("edgeadapt_novel_ratio", "door"): 0.25,
    ("edgeadapt_inbox_samples",): 7,
    ("edgeadapt_dropped_samples_total", "door"): 3,
    ("edgeadapt_dropped_samples_total", "belt"): 1,
    ("edgeadapt_evidence_labels", "learned"): 4,
    ("edgeadapt_evidence_labels", "received"): 1,
    ("edgeadapt_refreshes_total",): 6,
    ("edgeadapt_adapted_latency_ratio",): 1.2,
    ("edgeadapt_state_bytes",): 4096,
    ("edgeadapt_written_bytes_last_day",): 512,
    ("edgeadapt_backlog_tasks",): 3,
    ("edgeadapt_conditions",): 2,
    ("edgeadapt_questions",): 2,
    ("edgeadapt_paused",): 1,
    ("edgeadapt_frozen",): 0,
    ("edgeadapt_temperature_celsius", "cpu"): 51.5,
    ("edgeadapt_power_watts", "VDD_IN"): 4.75,
    ("edgeadapt_refused_samples_total",): 2,
    ("edgeadapt_source_failures_total", "camera"): 8,
    ("edgeadapt_sink_dropped_events_total", "log"): 11,
    ("edgeadapt_latency_pauses_total",): 2,
    ("edgeadapt_write_budget_bytes",): 1 << 29,
    ("edgeadapt_latency_bound_ratio",): 1.5,
    ("edgeadapt_temperature_budget_celsius",): 80,
    ("edgeadapt_loop_still_seconds",): 0.25,
    ("edgeadapt_throttled", "heat"): 1,
    ("edgeadapt_throttled", "writes"): 0,
    ("edgeadapt_commits_total", "learn", "vetoed"): 3,
    ("edgeadapt_commits_total", "rollback", "rolled back"): 1,
    ("edgeadapt_answered_questions_total",): 4,
    ("edgeadapt_source_samples_total", "camera"): 90,
    ("edgeadapt_source_labels_total", "camera"): 7,
    ("edgeadapt_source_refused_samples_total", "camera"): 2,
    ("edgeadapt_source_unreadable_samples_total", "camera"): 1,
    ("edgeadapt_source_reconnects_total", "camera"): 3,
    ("edgeadapt_source_up", "camera"): 0,
    ("edgeadapt_source_up", "film"): 1,
    ("edgeadapt_sink_waiting_events", "log"): 5,
    ("edgeadapt_sink_written_events_total", "log"): 100,
    ("edgeadapt_sink_failures_total", "log"): 1,
    ("edgeadapt_placement_info", "encode", "tensorrt"): 1,
    ("edgeadapt_placement_info", "learn", "onnxruntime"): 1,
    ("edgeadapt_copied_tensors_total", "onnxruntime", "tensorrt"): 5,
    ("edgeadapt_copied_bytes_total", "onnxruntime", "tensorrt"): 640,
    ("edgeadapt_build_info", 'shoes\n"2"\\', "3", __version__): 1,
}


def families(text: bytes) -> dict[str, Any]:
    return {family.name: family for family in parser.text_string_to_metric_families(text.decode())}


def numbers(text: bytes) -> dict[tuple[str, ...], float]:
    """(name, label values in the order of their labels' names) -> value; le of a histogram is such
    a label.
    """
    return {
        (one.name, *(value for _, value in sorted(one.labels.items()))): one.value
        for family in families(text).values()
        for one in family.samples
    }


@pytest.fixture
def metrics() -> Any:
    found = Metrics()
    found.observe_batch("door", 8, 0.004)
    found.observe_batch("belt", 1, 0.3)
    found.requested("/v1/predict", 200, 0.002)
    return found


def test_every_part_of_the_status_is_shown_with_its_number(metrics: Any) -> None:
    found = numbers(metrics.exposition(lambda: FULL))
    assert {key: found.get(key) for key in EXPECTED} == EXPECTED
    assert ("edgeadapt_power_budget_watts",) not in found  # none is set
    # it means nothing while the conditions differ
    assert ("edgeadapt_novel_ratio", "belt") not in found
    assert (
        found["edgeadapt_samples_total", "door"] == 8
        and found["edgeadapt_samples_total", "belt"] == 1
    )
    assert (
        found["edgeadapt_answer_seconds_count",] == 2
        and abs(found["edgeadapt_answer_seconds_sum",] - 0.304) < 1e-9
    )
    assert (
        found["edgeadapt_answer_seconds_bucket", "0.005"] == 1
        and found["edgeadapt_answer_seconds_bucket", "+Inf"] == 2
    )
    assert found["edgeadapt_http_requests_total", "/v1/predict", "200"] == 1
    assert found["process_resident_memory_bytes",] > 1 << 20


def test_a_status_that_has_nothing_or_nonsense_still_gives_metrics() -> None:
    for status in (
        {},
        {
            "streams": None,
            "learner": [],
            "inbox": {"dropped": 3},
            "sinks": [None, {"name": "a"}],
            "latency": "slow",
            "domains": None,
        },
    ):
        assert ("edgeadapt_build_info", "", "", __version__) in numbers(
            Metrics().exposition(lambda status=status: status)
        )


def test_names_follow_the_conventions(metrics: Any) -> None:
    text = metrics.exposition(lambda: FULL)
    for name, family in families(text).items():
        assert re.fullmatch(r"(edgeadapt|process)_[a-z_]+", name) and family.documentation.strip()
        assert all(
            one.name.endswith("_total")
            for one in family.samples
            if family.type == "counter" and not one.name.endswith("_created")
        )
        assert family.type != "gauge" or not name.endswith("_total")
        assert not re.search(r"_(ms|mib|kib|milliseconds|percent|minutes)(_|$)", name)
        if family.type == "histogram":
            assert name.endswith(UNITS)
    assert text.endswith(b"\n")


@pytest.mark.skipif(shutil.which("promtool") is None, reason="promtool is not installed")
def test_promtool_has_nothing_to_say(metrics: Any) -> None:
    text = re.sub(rb"(?m)^.*process_.*\n", b"", metrics.exposition(lambda: FULL))  # theirs
    run = subprocess.run(
        ["promtool", "check", "metrics"], input=text, capture_output=True, timeout=60
    )
    assert run.returncode == 0 and not run.stdout and not run.stderr, run.stdout + run.stderr


def test_any_number_of_streams_gives_a_bounded_number_of_series_and_counters_that_only_grow() -> (
    None
):
    metrics, dropped = Metrics(), {}
    status = {
        "inbox": {"dropped": dropped},
        "streams": {f"s{i}": {"shift": 1.0, "novel_share": 0.0} for i in range(1000)},
    }
    before = 0.0
    for i in range(1000):
        metrics.observe_batch(f"stream {i}", 2, 0.001)
        dropped[f"stream {i}"] = 3
        if i % 250 == 249:
            metrics._said_at = float("-inf")
            found = numbers(metrics.exposition(lambda: status))
            rest = found.get(("edgeadapt_dropped_samples_total", "other"), 0.0)
            assert rest >= before
            before = rest
    for name in (
        "edgeadapt_samples_total",
        "edgeadapt_dropped_samples_total",
        "edgeadapt_shift_ratio",
    ):
        assert 256 <= sum(key[0] == name for key in found) <= 257
    assert sum(value for key, value in found.items() if key[0] == "edgeadapt_samples_total") == 2000
    assert (
        sum(value for key, value in found.items() if key[0] == "edgeadapt_dropped_samples_total")
        == 3000
    )
    assert found["edgeadapt_samples_total", "other"] == 2 * (1000 - 256)


def test_counting_a_batch_takes_microseconds() -> None:
    metrics = Metrics()
    metrics.observe_batch("door", 1, 0.001)
    best = 1.0
    for _ in range(5):
        started = time.perf_counter()
        for _ in range(1000):
            metrics.observe_batch("door", 1, 0.001)
        best = min(best, (time.perf_counter() - started) / 1000)
    assert best < 50e-6


def test_batches_that_nobody_asks_for_are_counted_in_bounded_memory() -> None:
    metrics, most = Metrics(), 0
    for _ in range(1000):
        metrics.observe_batch("door", 3, 0.001)
        most = max(most, len(metrics._batches))
    assert (
        most < 64 and numbers(metrics.exposition(dict))["edgeadapt_samples_total", "door"] == 3000
    )


def test_scrapes_at_once_ask_the_status_once() -> None:
    metrics, asked = Metrics(), []

    def status() -> dict[str, Any]:
        asked.append(1)
        time.sleep(0.05)
        return FULL

    said: list[bytes] = []
    threads = [
        threading.Thread(target=lambda: said.append(metrics.exposition(status))) for _ in range(20)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(10)
    assert len(asked) == 1 and len(set(said)) == 1 and len(said) == 20


def test_a_status_that_hangs_holds_one_thread_and_no_probe(kiosk: Kiosk) -> None:
    free = threading.Event()

    class Stuck(Kiosk):
        def status(self) -> dict[str, Any]:
            free.wait(30)
            return super().status()

    with serving(Stuck(kiosk.learner), timeout_s=0.2) as url:
        kinds = [ask(url, "GET", "/metrics").kind for _ in range(6)]
        assert set(kinds) <= {"TimedOut", "Busy"}
        started = time.monotonic()
        time.sleep(1.1)  # those that waited for their turn have given up
        assert ask(url, "GET", "/healthz").status == 200 and time.monotonic() - started < 1.5
        free.set()
        time.sleep(0.2)
        assert ask(url, "GET", "/metrics").status == 200


@pytest.fixture
def kiosk(tmp_path: Path) -> Iterator[Kiosk]:
    with open_learner(
        bundle_path(), state=tmp_path / "state", budget=Budget(busy_fraction=1.0)
    ) as learner:
        yield Kiosk(learner)


def test_a_scrape_shows_what_a_learner_did(kiosk: Kiosk) -> None:
    with serving(kiosk) as url:
        seen = ask(url, "POST", "/v1/observe", {"x": images(5).tolist(), "stream": "door"}).json[
            "answers"
        ]
        ask(url, "POST", "/v1/labels", {"labels": [{"sample": seen[0]["id"], "label": "Dress"}]})
        kiosk.learner.settle()
        assert (
            ask(url, "GET", "/nowhere").status == 404
            and ask(url, "GET", "/v1/status", None, {"Host": "evil.example"}).status == 403
        )
        said = ask(url, "GET", "/metrics")
        assert said.headers["content-type"] == "text/plain; version=0.0.4; charset=utf-8"
        found = numbers(said.body)
    assert found["edgeadapt_samples_total", "door"] == 5
    assert sum(value for key, value in found.items() if key[0] == "edgeadapt_evidence_labels") == 1
    assert found["edgeadapt_state_bytes",] == kiosk.learner.counters()["state_bytes"] > 0
    assert found["edgeadapt_http_requests_total", "/v1/observe", "200"] == 1
    assert (
        found["edgeadapt_http_requests_total", "none", "404"] == 1
        and found["edgeadapt_http_requests_total", "refused", "403"] == 1
    )
    assert (
        found["edgeadapt_build_info", kiosk.manifest.name, str(kiosk.manifest.version), __version__]
        == 1
    )


def test_metrics_can_be_switched_off(kiosk: Kiosk) -> None:
    kiosk.metrics = None
    with serving(kiosk) as url:
        assert (
            ask(url, "GET", "/metrics").kind == "NotFound"
            and ask(url, "GET", "/v1/status").status == 200
        )
