"""Numbers for Prometheus, by its conventions: base units, ``_total`` for what only grows, few label
values.

Batches are counted as the loop reports them; everything else is read from the service's status
when it is asked for, at most twice a second. What the status does not have is left out. These are
the parts of it that are read:

    bundle                   {"name": text, "version": number}
    streams                  stream -> {"shift": number, "novel_share": number or None}
    inbox                    {"waiting": samples, "dropped": stream -> samples}
    loop                     {"refused": samples, "unadapted": samples, "failures": batches}
    learner                  as ``Learner.counters()``
    commits                  [{"kind": text, "outcome": text, "count": since the start}]
    latency                  {"ratio": number or None, "p99_ratio": number, "pauses": count}
    budget                   {"temperature_c": number or None, "power_w": number or None}
    write_budget_bytes       a number
    throttled                reason -> boolean
    loop_still_s             seconds
    domains                  condition -> kind
    questions                a count
    is_paused, is_frozen     booleans
    sources                  [{"name": text, "is_up": boolean, "delivered", "refused", "unreadable",
                             "labels", "failures", "reconnects": counts}]
    sinks                    [{"name": text, "dropped", "waiting", "written": events,
                             "failures": count}]
    placement                {"roles": role -> runtime, "copies": [{"from", "to": text, "count",
                             "bytes": counts, "is_trial": boolean}]}
    telemetry                {"temperature_c": zone -> number, "power_w": rail -> number,
                             "gpu_load": 0..1}
"""

from __future__ import annotations

import math
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from itertools import islice
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Histogram, ProcessCollector
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.exposition import generate_latest
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from edgeadapt import __version__
from edgeadapt.daemon.messages import OTHER_STREAMS

MAX_SERIES = 256
"""Values of one label. What comes after them is counted as ``other``."""
_EVERY_S, _PATIENCE_S = 0.5, 1.0
_COUNTED_AT_ONCE = 64  # batches
_BUCKETS_S = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0)

Status = Mapping[str, Any]
_Path = tuple[str, ...]

_GAUGES: tuple[tuple[str, str, _Path], ...] = (
    (
        "edgeadapt_gpu_load_ratio",
        "Share of the time that the GPU was busy.",
        ("telemetry", "gpu_load"),
    ),
    ("edgeadapt_inbox_samples", "Samples that wait for their answer.", ("inbox", "waiting")),
    (
        "edgeadapt_adapted_latency_ratio",
        "Time of an answer while the worker learns, over that of an answer while it does not.",
        ("latency", "ratio"),
    ),
    (
        "edgeadapt_latency_bound_ratio",
        "The ratio of the slowest answers (p99) above which learning pauses.",
        ("latency", "p99_ratio"),
    ),
    (
        "edgeadapt_loop_still_seconds",
        "Time since the loop last turned; it turns four times a second, with or without samples.",
        ("loop_still_s",),
    ),
    (
        "edgeadapt_write_budget_bytes",
        "Bytes that may be written to the state folder in 24 hours.",
        ("write_budget_bytes",),
    ),
    (
        "edgeadapt_temperature_budget_celsius",
        "Temperature above which learning pauses; absent where none is set.",
        ("budget", "temperature_c"),
    ),
    (
        "edgeadapt_power_budget_watts",
        "Power above which learning pauses; absent where none is set.",
        ("budget", "power_w"),
    ),
    ("edgeadapt_state_bytes", "Size of the state folder.", ("learner", "state_bytes")),
    ("edgeadapt_tensor_bytes", "Memory of the live tensors.", ("learner", "tensor_bytes")),
    (
        "edgeadapt_written_bytes_last_day",
        "Bytes written to the state folder in the last 24 hours.",
        ("learner", "written_bytes_last_day"),
    ),
    ("edgeadapt_backlog_tasks", "Tasks that wait for the worker.", ("learner", "backlog")),
    (
        "edgeadapt_pending_samples",
        "Observed samples that can still be labelled by their id.",
        ("learner", "pending"),
    ),
    ("edgeadapt_conditions", "Conditions that are known.", ("domains",)),
    ("edgeadapt_questions", "Questions that wait for a label.", ("questions",)),
    ("edgeadapt_paused", "1 while the work in the background is held.", ("is_paused",)),
    (
        "edgeadapt_certificate_days_left",
        (
            "Days until the certificate of the control interface ends, negative once it has; absent"
            " without https."
        ),
        ("certificate_days_left",),
    ),
    ("edgeadapt_frozen", "1 while nothing is learned.", ("is_frozen",)),
)
_COUNTERS: tuple[tuple[str, str, _Path], ...] = (
    ("edgeadapt_refreshes", "Corrections computed for a condition.", ("learner", "refreshes")),
    (
        "edgeadapt_deferred_tasks",
        "Work that was put off because it would not have fitted the budget.",
        ("learner", "deferred"),
    ),
    (
        "edgeadapt_overruns",
        "Work that took longer than the budget had foreseen.",
        ("learner", "overruns"),
    ),
    ("edgeadapt_answered_questions", "Questions that got a label.", ("learner", "answered")),
    (
        "edgeadapt_latency_pauses",
        "Times the learner had to wait so that answers stay fast.",
        ("latency", "pauses"),
    ),
    (
        "edgeadapt_refused_samples",
        "Samples that came to their turn and got no answer.",
        ("loop", "refused"),
    ),
    (
        "edgeadapt_unadapted_samples",
        "Samples that were answered without being observed, because they were late.",
        ("loop", "unadapted"),
    ),
    ("edgeadapt_batch_failures", "Batches that could not be answered.", ("loop", "failures")),
)
_BY_NAME: tuple[tuple[str, str, str, str, str], ...] = (
    (
        "edgeadapt_source_samples",
        "Samples that a source brought.",
        "source",
        "sources",
        "delivered",
    ),
    ("edgeadapt_source_labels", "Labels that a source brought.", "source", "sources", "labels"),
    (
        "edgeadapt_source_refused_samples",
        "Samples and labels of a source that had no place in their queue.",
        "source",
        "sources",
        "refused",
    ),
    (
        "edgeadapt_source_unreadable_samples",
        "Files and messages of a source that could not be read.",
        "source",
        "sources",
        "unreadable",
    ),
    (
        "edgeadapt_source_failures",
        "Times a source failed and was started again.",
        "source",
        "sources",
        "failures",
    ),
    (
        "edgeadapt_source_reconnects",
        "Times a source found its broker again.",
        "source",
        "sources",
        "reconnects",
    ),
    (
        "edgeadapt_sink_written_events",
        "Events that a sink has passed on.",
        "sink",
        "sinks",
        "written",
    ),
    (
        "edgeadapt_sink_dropped_events",
        "Events that a sink could not take in time.",
        "sink",
        "sinks",
        "dropped",
    ),
    (
        "edgeadapt_sink_failures",
        "Times a sink could not write or send, and tried again.",
        "sink",
        "sinks",
        "failures",
    ),
)
_BY_LABEL: tuple[tuple[str, str, str, _Path], ...] = (
    ("edgeadapt_throttled", "1 while learning is held for this reason.", "reason", ("throttled",)),
    (
        "edgeadapt_evidence_labels",
        "Labels in the journal, by what became of them.",
        "status",
        ("learner", "evidence"),
    ),
    (
        "edgeadapt_temperature_celsius",
        "Temperature of a zone of the machine.",
        "zone",
        ("telemetry", "temperature_c"),
    ),
    ("edgeadapt_power_watts", "Power of a rail of the machine.", "rail", ("telemetry", "power_w")),
)
_BY_STREAM: tuple[tuple[str, str, str], ...] = (
    (
        "edgeadapt_shift_ratio",
        "Window statistic over its threshold; above 1 the conditions differ from calibration.",
        "shift",
    ),
    (
        "edgeadapt_novel_ratio",
        "Share of the window that is unlike every known class; absent while the conditions differ.",
        "novel_share",
    ),
)


class Metrics:
    """Counts batches and requests, and says what ``/metrics`` shows."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry(auto_describe=False)
        self._batches: deque[tuple[str, int, float]] = deque()  # that are still to be counted
        self._counting = threading.Lock()
        self._streams: dict[str, Counter] = {}
        self._samples = Counter(
            "edgeadapt_samples",
            "Samples that came to their turn.",
            ["stream"],
            registry=self.registry,
        )
        self._answers = Histogram(
            "edgeadapt_answer_seconds",
            "Time of one batch, without its wait.",
            buckets=_BUCKETS_S,
            registry=self.registry,
        )
        self._requests = Counter(
            "edgeadapt_http_requests",
            "Requests over HTTP.",
            ["route", "status"],
            registry=self.registry,
        )
        self._request_s = Histogram(
            "edgeadapt_http_request_seconds",
            "Time of a request over HTTP.",
            ["route"],
            buckets=_BUCKETS_S,
            registry=self.registry,
        )
        self._of_status = _OfStatus()
        self.registry.register(self._of_status)
        ProcessCollector(registry=self.registry)
        self._asking = threading.Lock()
        self._said, self._said_at = b"", -math.inf

    def observe_batch(self, stream: str, samples: int, seconds: float) -> None:
        """A batch was answered; a microsecond, on the loop's thread: it is counted when many have
        gathered or somebody asks.
        """
        self._batches.append((stream, samples, seconds))
        if len(self._batches) >= _COUNTED_AT_ONCE:
            self._count()

    def _count(self) -> None:
        with self._counting:
            while self._batches:
                stream, samples, seconds = self._batches.popleft()
                if stream not in self._streams and len(self._streams) >= MAX_SERIES:
                    stream = OTHER_STREAMS
                if stream not in self._streams:
                    self._streams[stream] = self._samples.labels(stream)
                self._streams[stream].inc(samples)
                self._answers.observe(seconds)

    def requested(self, route: str, status: int, took_s: float) -> None:
        """Count a request. ``route``: a path of the route table, so that there are few."""
        self._requests.labels(route, str(status)).inc()
        self._request_s.labels(route).observe(took_s)

    def exposition(self, status: Callable[[], Status]) -> bytes:
        """The text format 0.0.4; one that is asked for again at once is the same.

        Raises:
            TimeoutError: another thread has waited for the status for a second: one that waits is
                enough.
        """
        if not self._asking.acquire(timeout=_PATIENCE_S):
            raise TimeoutError("the status does not come")
        try:
            if time.monotonic() - self._said_at >= _EVERY_S:
                self._of_status.status = status()
                self._count()
                self._said, self._said_at = generate_latest(self.registry), time.monotonic()
            return self._said
        finally:
            self._asking.release()


class _OfStatus(Collector):
    """What the status says, as metrics."""

    def __init__(self) -> None:
        self.status: Status = {}

    def collect(self) -> Iterator[Metric]:
        status = self.status
        for name, about, path in _GAUGES:
            if (value := _number(_at(status, path))) is not None:
                yield GaugeMetricFamily(name, about, value)
        for name, about, path in _COUNTERS:
            if (value := _number(_at(status, path))) is not None:
                yield CounterMetricFamily(name, about, value)
        for name, about, label, key, count in _BY_NAME:
            yield _labelled(
                CounterMetricFamily(name, about, labels=[label]),
                dict(_bounded(_named(status, key, count))),
            )
        waiting = GaugeMetricFamily(
            "edgeadapt_sink_waiting_events", "Events that wait in a sink's queue.", labels=["sink"]
        )
        yield _labelled(waiting, dict(_bounded(_named(status, "sinks", "waiting"))))
        running = GaugeMetricFamily(
            "edgeadapt_source_up",
            "0 from a failure of a source on until it has brought something again or run for a"
            " minute; else 1.",
            labels=["source"],
        )
        yield _labelled(running, dict(_bounded(_named(status, "sources", "is_up"))))
        yield _commits(_at(status, ("commits",)))
        for name, about, label, path in _BY_LABEL:
            yield _labelled(
                GaugeMetricFamily(name, about, labels=[label]), dict(_bounded(_at(status, path)))
            )
        streams = _at(status, ("streams",))
        for name, about, key in _BY_STREAM:
            yield _labelled(
                GaugeMetricFamily(name, about, labels=["stream"]),
                {s: _at(view, (key,)) for s, view in _bounded(streams)},
            )
        dropped = CounterMetricFamily(
            "edgeadapt_dropped_samples",
            "Samples that were let go because the inbox was full.",
            labels=["stream"],
        )
        yield _labelled(dropped, _folded(_at(status, ("inbox", "dropped"))))
        yield from _placed(status)
        built = GaugeMetricFamily(
            "edgeadapt_build_info",
            "1; what runs stands in the labels.",
            labels=["version", "bundle", "bundle_version"],
        )
        built.add_metric(
            [
                __version__,
                *(str(_at(status, ("bundle", key)) or "") for key in ("name", "version")),
            ],
            1,
        )
        yield built


def _at(value: Any, path: _Path) -> Any:
    for key in path:
        value = value.get(key) if isinstance(value, Mapping) else None
    return value


def _named(status: Status, key: str, field: str) -> dict[str, Any]:
    """One field of every row, by its name."""
    rows = _at(status, (key,))
    return (
        {
            str(row["name"]): row.get(field)
            for row in rows
            if isinstance(row, Mapping) and "name" in row
        }
        if isinstance(rows, list)
        else {}
    )


def _commits(counts: Any) -> Metric:
    family = CounterMetricFamily(
        "edgeadapt_commits",
        "Changes since the start, by what they were and what became of them.",
        labels=["kind", "outcome"],
    )
    for row in islice(counts, MAX_SERIES) if isinstance(counts, list) else ():
        family.add_metric([str(row["kind"]), str(row["outcome"])], row["count"])
    found: Metric = family
    return found


def _placed(status: Status) -> Iterator[Metric]:
    """Where roles run, and the tensors that calls had copied between runtimes."""
    where = GaugeMetricFamily(
        "edgeadapt_placement_info",
        "1; the runtime that serves a role stands in the labels.",
        labels=["role", "runtime"],
    )
    for role, name in _bounded(_at(status, ("placement", "roles"))):
        where.add_metric([role, str(name)], 1)
    yield where
    crossed = CounterMetricFamily(
        "edgeadapt_copied_tensors",
        "Tensors that calls had copied between runtimes.",
        labels=["from", "to"],
    )
    volume = CounterMetricFamily(
        "edgeadapt_copied_bytes",
        "Bytes of the tensors that calls had copied between runtimes.",
        labels=["from", "to"],
    )
    copies = _at(status, ("placement", "copies"))
    for row in (
        islice((row for row in copies if not row["is_trial"]), MAX_SERIES)
        if isinstance(copies, list)
        else ()
    ):
        crossed.add_metric([row["from"], row["to"]], row["count"])
        volume.add_metric([row["from"], row["to"]], row["bytes"])
    yield crossed
    yield volume


def _number(value: Any) -> float | None:
    if isinstance(value, (Mapping, list, tuple)):
        return float(len(value))
    return float(value) if isinstance(value, (bool, int, float)) else None


def _bounded(values: Any) -> Iterator[tuple[str, Any]]:
    return (
        islice(((str(key), value) for key, value in list(values.items())), MAX_SERIES)
        if isinstance(values, Mapping)
        else iter(())
    )


def _folded(values: Any) -> dict[str, float]:
    """Counts by stream, in order of their first; what is beyond the bound is one sum, which only
    grows, too.
    """
    counts = {
        key: number for key, value in _bounded(values) if (number := _number(value)) is not None
    }
    rest = list(values.values())[MAX_SERIES:] if isinstance(values, Mapping) else []
    if rest:
        counts[OTHER_STREAMS] = counts.get(OTHER_STREAMS, 0.0) + sum(
            number for value in rest if (number := _number(value)) is not None
        )
    return counts


def _labelled(family: Any, values: Mapping[str, Any]) -> Metric:
    for key, value in values.items():
        if (number := _number(value)) is not None:
            family.add_metric([key], number)
    found: Metric = family
    return found


__all__ = ["MAX_SERIES", "Metrics", "Status"]
