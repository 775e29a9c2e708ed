"""What a daemon consists of while it runs. ``Service`` puts it together, ``Reload`` exchanges
parts of it, ``status`` reads it.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from edgeadapt.bundle.schema import Manifest
from edgeadapt.daemon.config.certificate import Certificate
from edgeadapt.daemon.config.schema import Settings
from edgeadapt.daemon.config.users import Users
from edgeadapt.daemon.engine.label_queue import Labels
from edgeadapt.daemon.engine.latency_governor import LatencyGovernor
from edgeadapt.daemon.engine.learner_lease import LearnerLease
from edgeadapt.daemon.engine.loop import Loop
from edgeadapt.daemon.engine.pause_reasons import PauseReasons
from edgeadapt.daemon.io.folder_ledger import FolderMemory
from edgeadapt.daemon.io.source_thread import SourceThread
from edgeadapt.daemon.messages import Arrival, LabelArrival, SampleQueue, Sink
from edgeadapt.daemon.monitoring.telemetry import Telemetry
from edgeadapt.daemon.monitoring.time_series import Series
from edgeadapt.runtime import Runtime

log = logging.getLogger("edgeadapt.daemon")


@dataclass(eq=False)
class ServiceContext:
    """The parts, and what went wrong with them.

    Attributes:
        manifest: of the bundle that answers. folders: what folder sources remember over restarts.
        source_threads, sinks: by their section of the settings, or by identity where a caller
            brought them.
        sink_errors: events that a sink raised at, by its name.
        certificate: of the control interface; None without https.
        users: who may speak there; None without a file of them.
        fatal: why no learner is open any more; the process ends for it.
        swapped: the bundle that a swap put in the place of the settings'.
        trying: the name of a bundle that is run once before it may take over, and since when, in
            monotonic seconds.
        swap_error: why the last one was not taken.
        checkpoint_error, work_error, reload_error: of the last try; empty if it went well.
        checkpointed_at: seconds since the epoch.
    """

    settings: Settings
    manifest: Manifest
    runtime: Runtime
    lease: LearnerLease
    pause_reasons: PauseReasons
    inbox: SampleQueue
    governor: LatencyGovernor
    labels: Labels
    loop: Loop
    series: Series
    folders: FolderMemory
    telemetry: Telemetry
    source_threads: dict[Any, SourceThread] = field(default_factory=dict)
    sinks: dict[Any, Sink] = field(default_factory=dict)
    certificate: Certificate | None = None
    users: Users | None = None
    sink_errors: dict[str, int] = field(default_factory=dict)
    started_at: float = field(default_factory=time.time)
    is_ready: bool = False
    is_stopping: bool = False
    is_frozen: bool = False
    fatal: str = ""
    swapped: str = ""
    trying: tuple[str, float] | None = None
    swap_error: str = ""
    checkpoint_error: str = ""
    work_error: str = ""
    reload_error: str = ""
    checkpointed_at: float = 0.0

    def deliver(self, what: Arrival | LabelArrival) -> bool:
        """Take what a source brings; False if it was dropped."""
        return self.labels.put(what) if isinstance(what, LabelArrival) else self.inbox.put(what)

    def emit(self, event: Mapping[str, Any]) -> None:
        """Give an event to the time series and to every sink."""
        self.series.take(event, self.loop.recent)
        for sink in list(self.sinks.values()):
            try:
                sink.take(event)
            except Exception as error:  # the other sinks get it
                self.sink_errors[sink.name] = self.sink_errors.get(sink.name, 0) + 1
                if self.sink_errors[sink.name] == 1:  # the rest are counted
                    log.error("sink %s: %s: %s", sink.name, type(error).__name__, error)


__all__ = ["ServiceContext"]
