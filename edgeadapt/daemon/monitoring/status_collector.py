"""The status of a daemon as metrics. What it does not have is left out. These parts are read:

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

from collections.abc import Iterator, Mapping
from itertools import islice
from typing import Any

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from edgeadapt import __version__
from edgeadapt.daemon.messages import OTHER_STREAMS

MAX_SERIES = 256
"""Values of one label. What comes after them is counted as ``other``."""
Status = Mapping[str, Any]
_Row = tuple[str, str, str]
"""A metric, where the status has it, and what it says."""

_GAUGES: tuple[_Row, ...] = (
    ("edgeadapt_gpu_load_ratio", "telemetry.gpu_load", "Share of the time that the GPU was busy."),
    ("edgeadapt_inbox_samples", "inbox.waiting", "Samples that wait for their answer."),
    (
        "edgeadapt_adapted_latency_ratio",
        "latency.ratio",
        "Time of an answer while the worker learns, over that of an answer while it does not.",
    ),
    (
        "edgeadapt_latency_bound_ratio",
        "latency.p99_ratio",
        "The ratio of the slowest answers (p99) above which learning pauses.",
    ),
    (
        "edgeadapt_loop_still_seconds",
        "loop_still_s",
        "Time since the loop last turned; it turns four times a second, with or without samples.",
    ),
    (
        "edgeadapt_write_budget_bytes",
        "write_budget_bytes",
        "Bytes that may be written to the state folder in 24 hours.",
    ),
    (
        "edgeadapt_temperature_budget_celsius",
        "budget.temperature_c",
        "Temperature above which learning pauses; absent where none is set.",
    ),
    (
        "edgeadapt_power_budget_watts",
        "budget.power_w",
        "Power above which learning pauses; absent where none is set.",
    ),
    ("edgeadapt_state_bytes", "learner.state_bytes", "Size of the state folder."),
    ("edgeadapt_tensor_bytes", "learner.tensor_bytes", "Memory of the live tensors."),
    (
        "edgeadapt_written_bytes_last_day",
        "learner.written_bytes_last_day",
        "Bytes written to the state folder in the last 24 hours.",
    ),
    ("edgeadapt_backlog_tasks", "learner.backlog", "Tasks that wait for the worker."),
    (
        "edgeadapt_pending_samples",
        "learner.pending",
        "Observed samples that can still be labelled by their id.",
    ),
    ("edgeadapt_conditions", "domains", "Conditions that are known."),
    ("edgeadapt_questions", "questions", "Questions that wait for a label."),
    ("edgeadapt_paused", "is_paused", "1 while the work in the background is held."),
    (
        "edgeadapt_certificate_days_left",
        "certificate_days_left",
        "Days until the certificate of the control interface ends, negative once it has; absent"
        " without https.",
    ),
    ("edgeadapt_frozen", "is_frozen", "1 while nothing is learned."),
)
_COUNTERS: tuple[_Row, ...] = (
    ("edgeadapt_refreshes", "learner.refreshes", "Corrections computed for a condition."),
    (
        "edgeadapt_deferred_tasks",
        "learner.deferred",
        "Work that was put off because it would not have fitted the budget.",
    ),
    (
        "edgeadapt_overruns",
        "learner.overruns",
        "Work that took longer than the budget had foreseen.",
    ),
    ("edgeadapt_answered_questions", "learner.answered", "Questions that got a label."),
    (
        "edgeadapt_latency_pauses",
        "latency.pauses",
        "Times the learner had to wait so that answers stay fast.",
    ),
    (
        "edgeadapt_refused_samples",
        "loop.refused",
        "Samples that came to their turn and got no answer.",
    ),
    (
        "edgeadapt_unadapted_samples",
        "loop.unadapted",
        "Samples that were answered without being observed, because they were late.",
    ),
    ("edgeadapt_batch_failures", "loop.failures", "Batches that could not be answered."),
)
_BY_NAME: dict[str, tuple[_Row, ...]] = {
    "source": (
        ("edgeadapt_source_samples", "delivered", "Samples that a source brought."),
        ("edgeadapt_source_labels", "labels", "Labels that a source brought."),
        (
            "edgeadapt_source_refused_samples",
            "refused",
            "Samples and labels of a source that had no place in their queue.",
        ),
        (
            "edgeadapt_source_unreadable_samples",
            "unreadable",
            "Files and messages of a source that could not be read.",
        ),
        ("edgeadapt_source_failures", "failures", "Times a source failed and was started again."),
        ("edgeadapt_source_reconnects", "reconnects", "Times a source found its broker again."),
    ),
    "sink": (
        ("edgeadapt_sink_written_events", "written", "Events that a sink has passed on."),
        ("edgeadapt_sink_dropped_events", "dropped", "Events that a sink could not take in time."),
        (
            "edgeadapt_sink_failures",
            "failures",
            "Times a sink could not write or send, and tried again.",
        ),
    ),
}
_BY_LABEL: tuple[tuple[str, str, str, str], ...] = (
    ("edgeadapt_throttled", "throttled", "reason", "1 while learning is held for this reason."),
    (
        "edgeadapt_evidence_labels",
        "learner.evidence",
        "status",
        "Labels in the journal, by what became of them.",
    ),
    (
        "edgeadapt_temperature_celsius",
        "telemetry.temperature_c",
        "zone",
        "Temperature of a zone of the machine.",
    ),
    ("edgeadapt_power_watts", "telemetry.power_w", "rail", "Power of a rail of the machine."),
)
_BY_STREAM: tuple[_Row, ...] = (
    (
        "edgeadapt_shift_ratio",
        "shift",
        "Window statistic over its threshold; above 1 the conditions differ from calibration.",
    ),
    (
        "edgeadapt_novel_ratio",
        "novel_share",
        "Share of the window that is unlike every known class; absent while the conditions differ.",
    ),
)


class StatusCollector(Collector):
    """What the status says, as metrics."""

    def __init__(self) -> None:
        self.status: Status = {}

    def collect(self) -> Iterator[Metric]:
        status = self.status
        for name, path, about in _GAUGES:
            if (value := _number(_at(status, path))) is not None:
                yield GaugeMetricFamily(name, about, value)
        for name, path, about in _COUNTERS:
            if (value := _number(_at(status, path))) is not None:
                yield CounterMetricFamily(name, about, value)
        for label, rows in _BY_NAME.items():
            for name, field, about in rows:
                family = CounterMetricFamily(name, about, labels=[label])
                yield _labelled(family, dict(_bounded(_named(status, f"{label}s", field))))
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
        yield _commits(status.get("commits"))
        for name, path, label, about in _BY_LABEL:
            yield _labelled(
                GaugeMetricFamily(name, about, labels=[label]), dict(_bounded(_at(status, path)))
            )
        streams = status.get("streams")
        for name, key, about in _BY_STREAM:
            yield _labelled(
                GaugeMetricFamily(name, about, labels=["stream"]),
                {s: _at(view, key) for s, view in _bounded(streams)},
            )
        dropped = CounterMetricFamily(
            "edgeadapt_dropped_samples",
            "Samples that were let go because the inbox was full.",
            labels=["stream"],
        )
        yield _labelled(dropped, _folded(_at(status, "inbox.dropped")))
        yield from _placed(status)
        built = GaugeMetricFamily(
            "edgeadapt_build_info",
            "1; what runs stands in the labels.",
            labels=["version", "bundle", "bundle_version"],
        )
        built.add_metric(
            [
                __version__,
                *(str(_at(status, f"bundle.{key}") or "") for key in ("name", "version")),
            ],
            1,
        )
        yield built


def _at(value: Any, path: str) -> Any:
    for key in path.split("."):
        value = value.get(key) if isinstance(value, Mapping) else None
    return value


def _named(status: Status, key: str, field: str) -> dict[str, Any]:
    """One field of every row, by its name."""
    rows = status.get(key)
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
    for role, name in _bounded(_at(status, "placement.roles")):
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
    copies = _at(status, "placement.copies")
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


__all__ = ["MAX_SERIES", "Status", "StatusCollector"]
