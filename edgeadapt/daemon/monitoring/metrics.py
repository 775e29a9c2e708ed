"""Numbers for Prometheus, by its conventions: base units, ``_total`` for what only grows, few label
values.

Batches are counted as the loop reports them; everything else is read from the daemon's status when
it is asked for, at most twice a second.
"""

from __future__ import annotations

import math
import threading
import time
from collections import deque
from collections.abc import Callable

from prometheus_client import CollectorRegistry, Counter, Histogram, ProcessCollector
from prometheus_client.exposition import generate_latest

from edgeadapt.daemon.messages import OTHER_STREAMS
from edgeadapt.daemon.monitoring.status_collector import MAX_SERIES, Status, StatusCollector

_EVERY_S, _PATIENCE_S = 0.5, 1.0
_COUNTED_AT_ONCE = 64  # batches
_BUCKETS_S = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0)


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
        self._of_status = StatusCollector()
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


__all__ = ["Metrics"]
