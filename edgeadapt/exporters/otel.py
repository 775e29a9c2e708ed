"""A learner's counters and its accuracy in the field, for OpenTelemetry (extra ``otel``).

    from edgeadapt.exporters import otel

    otel.watch(learner)                     # on the meter provider that the program has set

The numbers are read when the provider's reader asks for them, on its thread; nothing is sent from
here. Names and units follow OpenTelemetry's conventions for metrics. The daemon has its own for
Prometheus.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterable
from typing import Any

from edgeadapt.device.learner import Learner
from edgeadapt.errors import RuntimeUnavailable, StateError

_COUNTERS = {
    "edgeadapt.samples.observed": ("observed", "{sample}", "Samples that were observed."),
    "edgeadapt.questions.answered": ("answered", "{question}", "Questions that were answered."),
    "edgeadapt.corrections": (
        "refreshes",
        "{correction}",
        "Label-free corrections that were made.",
    ),
    "edgeadapt.work.deferred": ("deferred", "{task}", "Work that was put off to keep the budget."),
}
_GAUGES = {
    "edgeadapt.work.backlog": ("backlog", "{task}", "Work that waits for the worker."),
    "edgeadapt.samples.pending": ("pending", "{sample}", "Samples that may still be labelled."),
    "edgeadapt.state.size": ("state_bytes", "By", "The journal on the disk."),
    "edgeadapt.tensors.size": ("tensor_bytes", "By", "What was learned, in memory."),
}


def watch(learner: Learner, meter: Any = None) -> None:
    """Register a learner's numbers. It is not kept alive; one that was closed tells nothing more.

    Args:
        meter: of OpenTelemetry; by default that of ``edgeadapt`` of the global provider.

    Raises:
        RuntimeUnavailable: opentelemetry is not installed.
    """
    try:
        from opentelemetry import metrics
    except ImportError as error:
        raise RuntimeUnavailable(f"{error}: pip install 'edgeadapt[otel]'") from error
    held, told = weakref.ref(learner), metrics.Observation
    meter = meter or metrics.get_meter("edgeadapt")

    def reading(values: Callable[[Learner], Iterable[Any]]) -> Callable[[Any], Iterable[Any]]:
        def read(options: Any) -> Iterable[Any]:
            found = held()
            try:
                return [] if found is None else list(values(found))
            except StateError:  # it was closed: a reader's thread has nobody to tell
                return []

        return read

    def number(key: str) -> Callable[[Any], Iterable[Any]]:
        return reading(lambda learner: [told(learner.counters()[key])])

    for name, (key, unit, summary) in _COUNTERS.items():
        meter.create_observable_counter(name, [number(key)], unit, summary)
    for name, (key, unit, summary) in _GAUGES.items():
        meter.create_observable_gauge(name, [number(key)], unit, summary)
    evidence = reading(
        lambda learner: [
            told(count, {"status": status})
            for status, count in learner.counters()["evidence"].items()
        ]
    )
    meter.create_observable_gauge(
        "edgeadapt.labels", [evidence], "{label}", "Labels, by what became of them."
    )
    accuracy = reading(
        lambda learner: [
            told(found.value, {"condition": name}) for name, found in learner.accuracy().items()
        ]
    )
    meter.create_observable_gauge(
        "edgeadapt.accuracy",
        [accuracy],
        "1",
        "Share of right answers to random questions, by condition.",
    )


__all__ = ["watch"]
