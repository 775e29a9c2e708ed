"""The daemon as one object: it owns the learner, the inbox, the loop, the sources and the sinks;
HTTP, ``ctl`` and signals are faces over it.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from edgeadapt.daemon.config.dependencies import require_packages
from edgeadapt.daemon.config.schema import Settings
from edgeadapt.daemon.decoding.picture_reader import READER
from edgeadapt.daemon.engine.background_thread import in_background
from edgeadapt.daemon.engine.context import ServiceContext
from edgeadapt.daemon.engine.label_queue import Labels
from edgeadapt.daemon.engine.latency_governor import LatencyGovernor
from edgeadapt.daemon.engine.learner_lease import LearnerLease, open_learner, warm
from edgeadapt.daemon.engine.loop import Loop
from edgeadapt.daemon.engine.pause_reasons import PauseReasons
from edgeadapt.daemon.engine.sample_registry import SampleRegistry
from edgeadapt.daemon.io.folder_ledger import FolderMemory
from edgeadapt.daemon.io.sinks import open_sink
from edgeadapt.daemon.io.source_thread import SourceThread
from edgeadapt.daemon.lifecycle import signals
from edgeadapt.daemon.lifecycle.factory import certificate_of, metrics_of, source_of, users_of
from edgeadapt.daemon.lifecycle.status import lost
from edgeadapt.daemon.messages import SampleQueue, Sink, Source, refused
from edgeadapt.daemon.monitoring.systemd_notify import Notify
from edgeadapt.daemon.monitoring.telemetry import Telemetry
from edgeadapt.daemon.monitoring.time_series import Series, watch
from edgeadapt.daemon.operations import Operations
from edgeadapt.device.learner import Learner
from edgeadapt.errors import StateError
from edgeadapt.runtime import open_runtime

if TYPE_CHECKING:
    from edgeadapt.daemon.http.server import Control

log = logging.getLogger("edgeadapt.daemon")
# for everything; if the last checkpoint does not fit, the one before it and the journal stand
_STOPPING_S = 1.7


class Service(Operations):
    """Answers, learns and can be watched from ``start`` to ``stop``; ``run`` does both, with
    signals in between.

    Args:
        settings: see ``edgeadapt.daemon.config.schema``. reread: gives them anew, for ``reload``.
        sources, sinks: beside those of the settings. notify: the supervisor.

    Raises:
        BundleError, StateError, BudgetError: as ``open_learner``.
        RuntimeUnavailable: as that, or a package that the settings need is not installed.
        InputError: a source or a sink cannot be opened.
    """

    def __init__(
        self,
        settings: Settings,
        *,
        reread: Callable[[], Settings] | None = None,
        sources: Sequence[Source] = (),
        sinks: Sequence[Sink] = (),
        notify: Notify | None = None,
    ) -> None:
        require_packages(settings)
        certificate, users = certificate_of(settings), users_of(settings)
        self._notify = notify or Notify()
        self._stopping = threading.Lock()
        self._ended = threading.Event()  # for the threads that do something now and then
        self.control: Control | None = None
        metrics = metrics_of(settings)
        runtime = open_runtime(settings.runtime)
        lease = LearnerLease(open_learner(settings, runtime))
        opened: dict[Any, Sink] = {id(sink): sink for sink in sinks}
        try:
            with lease.borrow() as learner:
                manifest = learner.bundle.manifest
            reasons, beat = PauseReasons(lease), self._notify.beat
            inbox = SampleQueue(settings.loop.queue, settings.loop.drop)
            labels = Labels(SampleRegistry(), lease.borrow)
            governor = LatencyGovernor(
                lambda paused: reasons.set("latency", paused, beat), settings.budget.p99_ratio
            )
            loop = Loop(
                lease.borrow,
                inbox,
                labels,
                governor,
                settings.loop,
                emit=lambda event: context.emit(event),
                beat=beat,
                observed=None if metrics is None else metrics.observe_batch,
            )
            context = ServiceContext(
                settings,
                manifest,
                runtime,
                lease,
                reasons,
                inbox,
                governor,
                labels,
                loop,
                Series(),
                FolderMemory(settings.state),
                Telemetry(settings.telemetry.tegrastats),
                sinks=opened,
                certificate=certificate,
                users=users,
            )
            for section in settings.sink:
                opened[section] = open_sink(section)
            brought = {
                section: source_of(section, manifest, context.folders)
                for section in settings.source
            } | {id(source): source for source in sources}
            context.source_threads = {
                key: SourceThread(source, context.deliver) for key, source in brought.items()
            }
        except BaseException:
            for sink in opened.values():
                sink.close()
            _close(lease)
            raise
        super().__init__(context, reread, metrics)

    def start(self) -> None:
        """Warm the encoder, start the loop, the sources and the control interface, and
        notify the supervisor.
        """
        context = self.context
        with context.lease.borrow() as learner:
            warm(learner, context.settings.loop.batch)
        context.labels.start()
        context.loop.start()
        for thread in context.source_threads.values():
            thread.start()
        threading.Thread(
            target=self._checkpoints.now_and_then,
            args=(self._ended,),
            name="checkpoints",
            daemon=True,
        ).start()
        threading.Thread(
            target=watch,
            args=(context.series, self.status, self.history, self._ended),
            name="series",
            daemon=True,
        ).start()
        if context.settings.control.is_on:
            from edgeadapt.daemon.http.server import control_of

            self.control = control_of(self)
            self.control.start()
            log.info("%s", self.control.invitation)
        context.is_ready = True
        self._notify.ready(f"answering with {context.manifest.name} {context.manifest.version}")

    def stop(self) -> bool:
        """Finish the batch, stop the sources, checkpoint, close.

        Returns:
            False if the last checkpoint took too long (the one before it stands), or something is
            being built for a GPU, which cannot be interrupted.
        """
        context = self.context
        with self._stopping:
            if context.is_stopping:
                return True
            context.is_stopping, context.is_ready = True, False
        end = time.monotonic() + _STOPPING_S
        self._notify.stopping()
        self._ended.set()
        for thread in context.source_threads.values():
            thread.stop.set()
        for arrival in context.inbox.close():
            if arrival.reply is not None:
                arrival.reply(refused(arrival, "the daemon stops"))
        READER.close()
        closing = [] if self.control is None else [in_background(self.control.stop, "control")]
        context.loop.stop(0.5)
        closing += self._close_labels()
        learner = in_background(lambda: _close(context.lease), "learner")
        closing += [
            in_background(sink.close, f"sink {sink.name}") for sink in context.sinks.values()
        ]
        for closed in [learner, *closing]:
            closed.join(max(0.01, end - time.monotonic()))
            if closed.is_alive():
                log.warning("%s did not end in time", closed.name)
        for thread in context.source_threads.values():
            thread.join(max(0.0, end - time.monotonic()))
        # what places graphs has a thread that tries them
        has_ended = context.runtime.close(max(0.1, end - time.monotonic()))
        return has_ended and not learner.is_alive()

    def _close_labels(self) -> list[threading.Thread]:
        """Where some are lost, what folder sources have taken since the last checkpoint is not
        written: it comes again, labels and all.
        """
        labels = self.context.labels
        lost = labels.close(0.3)
        held = labels.registry.counters()["held"]
        if lost or held:
            log.warning(
                "%d labels were not given to the learner, and %d waited for samples that did not"
                " come",
                lost,
                held,
            )
        return [] if lost else [in_background(self._checkpoints.write_folders, "folders")]

    def run(self) -> int:
        """Serve until SIGTERM or SIGINT; SIGHUP reloads the settings. For the main thread.

        Returns:
            The exit code: 0, or 1 if a swap left no learner, or a device took tensors with it.
        """
        return signals.run(self, lambda: bool(self.context.fatal or lost(self.context)))

    def hang_up(self) -> None:
        """Reload, and notify the supervisor how it went."""
        self._notify.reloading()
        self.reload()
        if not self.context.is_stopping:
            self._notify.ready(self.context.reload_error or "settings read again")


def _close(lease: LearnerLease) -> None:
    def close(learner: Learner) -> Learner:
        with suppress(StateError):  # it was closed by a swap that failed
            # what is queued is not waited for: labels are durable, and learned at the next start
            learner.pause(True)
        learner.close()
        return learner

    lease.replace(close)


__all__ = ["Service"]
