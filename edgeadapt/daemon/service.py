"""The daemon as one object: it owns the learner, the inbox, the loop, the sources and the sinks;
HTTP, ``ctl`` and signals are faces over it.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from edgeadapt.bundle.schema import Manifest
from edgeadapt.daemon.config.dependencies import require_packages
from edgeadapt.daemon.config.schema import Settings
from edgeadapt.daemon.decoding.images import as_picture
from edgeadapt.daemon.decoding.picture_reader import READER
from edgeadapt.daemon.engine import answering
from edgeadapt.daemon.engine import forget as forgetting
from edgeadapt.daemon.engine.background_thread import aside
from edgeadapt.daemon.engine.checkpoints import Checkpoints
from edgeadapt.daemon.engine.context import ServiceContext
from edgeadapt.daemon.engine.label_queue import Labels
from edgeadapt.daemon.engine.latency_governor import LatencyGovernor
from edgeadapt.daemon.engine.learner_lease import LearnerLease, open_learner, warm
from edgeadapt.daemon.engine.loop import Loop
from edgeadapt.daemon.engine.pause_reasons import PauseReasons
from edgeadapt.daemon.engine.sample_registry import SampleRegistry
from edgeadapt.daemon.io.folder_ledger import FolderMemory
from edgeadapt.daemon.lifecycle import signals as supervised
from edgeadapt.daemon.lifecycle import status as looking
from edgeadapt.daemon.lifecycle.factory import (
    certificate_of,
    control_of,
    feeder_of,
    metrics_of,
    sink_of,
    source_of,
    users_of,
)
from edgeadapt.daemon.lifecycle.reload import Reload
from edgeadapt.daemon.messages import (
    Answer,
    Arrival,
    LabelArrival,
    SampleQueue,
    Sink,
    Source,
    refused,
)
from edgeadapt.daemon.monitoring.systemd_notify import Notify
from edgeadapt.daemon.monitoring.telemetry import Telemetry
from edgeadapt.daemon.monitoring.time_series import Past, Series, Window, watch
from edgeadapt.device.learner import DEFAULT_STREAM, Learner
from edgeadapt.errors import StateError
from edgeadapt.results import Commit, Quality, Question, Receipt
from edgeadapt.runtime import open_runtime

if TYPE_CHECKING:
    from edgeadapt.daemon.http.server import Control

log = logging.getLogger("edgeadapt.daemon")
# for everything; if the last checkpoint does not fit, the one before it and the journal stand
_STOPPING_S = 1.7


class Service:
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
        self._control: Control | None = None
        self.metrics = metrics_of(settings)
        runtime = open_runtime(settings.runtime)
        lending = LearnerLease(open_learner(settings, runtime))
        opened: dict[Any, Sink] = {id(sink): sink for sink in sinks}
        try:
            with lending.lend() as learner:
                manifest = learner.bundle.manifest
            holds, inbox = (
                PauseReasons(lending),
                SampleQueue(settings.loop.queue, settings.loop.drop),
            )
            labels = Labels(SampleRegistry(), lending.lend)
            pace = LatencyGovernor(
                lambda paused: holds.hold("latency", paused, self._notify.beat),
                settings.budget.p99_ratio,
            )
            self._running = ServiceContext(
                settings,
                manifest,
                runtime,
                lending,
                holds,
                inbox,
                pace,
                labels,
                self._loop_of(settings, lending, inbox, labels, pace),
                Series(),
                self._deliver,
                FolderMemory(settings.state),
                Telemetry(settings.telemetry.tegrastats),
                sinks=opened,
                certificate=certificate,
                users=users,
            )
            for section in settings.sink:
                opened[section] = sink_of(section)
            brought = {
                section: source_of(section, manifest, self._running.folders)
                for section in settings.source
            } | {id(source): source for source in sources}
            self._running.feeders = {
                key: feeder_of(source, self._deliver) for key, source in brought.items()
            }
        except BaseException:
            for sink in opened.values():
                sink.close()
            _close(lending)
            raise
        self._checkpoints = Checkpoints(self._running)
        self._changing = Reload(self._running, reread)

    def _loop_of(
        self,
        settings: Settings,
        lending: LearnerLease,
        inbox: SampleQueue,
        labels: Labels,
        pace: LatencyGovernor,
    ) -> Loop:
        return Loop(
            lending.lend,
            inbox,
            labels,
            pace,
            emit=self._emit,
            beat=self._notify.beat,
            batch=settings.loop.batch,
            rate_hz=settings.loop.rate_hz or 0.0,
            observed=None if self.metrics is None else self.metrics.observe_batch,
        )

    def _deliver(self, what: Arrival | LabelArrival) -> bool:
        return (
            self._running.labels.put(what)
            if isinstance(what, LabelArrival)
            else self._running.inbox.put(what)
        )

    def _emit(self, event: Mapping[str, Any]) -> None:
        running = self._running
        running.series.take(event, running.loop.recent)
        for sink in list(running.sinks.values()):
            try:
                sink.take(event)
            except Exception as error:  # a sink that fails does not keep the others from being told
                running.sink_errors[sink.name] = running.sink_errors.get(sink.name, 0) + 1
                if running.sink_errors[sink.name] == 1:  # the rest are counted
                    log.error("sink %s: %s: %s", sink.name, type(error).__name__, error)

    # -- life --------------------------------------------------------------------------------------
    def start(self) -> None:
        """Warm the encoder, start the loop, the sources and the control interface, and tell the
        supervisor.
        """
        running = self._running
        with running.lending.lend() as learner:
            warm(learner, running.settings.loop.batch)
        running.labels.start()
        running.loop.start()
        for feeder in running.feeders.values():
            feeder.start()
        threading.Thread(
            target=self._checkpoints.now_and_then,
            args=(self._ended,),
            name="checkpoints",
            daemon=True,
        ).start()
        threading.Thread(
            target=watch,
            args=(running.series, self.status, self.history, self._ended),
            name="series",
            daemon=True,
        ).start()
        self._control = control_of(self, running.settings, running.certificate, running.users)
        if self._control is not None:
            self._control.start()
            log.info("%s", self._control.invitation)
        running.is_ready = True
        self._notify.ready(f"answering with {running.manifest.name} {running.manifest.version}")

    def stop(self) -> bool:
        """Finish the batch, stop the sources, checkpoint, close.

        Returns:
            False if the last checkpoint took too long (the one before it stands), or something is
            being built for a GPU, which cannot be interrupted.
        """
        running = self._running
        with self._stopping:
            if running.is_stopping:
                return True
            running.is_stopping, running.is_ready = True, False
        end = time.monotonic() + _STOPPING_S
        self._notify.stopping()
        self._ended.set()
        for feeder in running.feeders.values():
            feeder.stop.set()
        for arrival in running.inbox.close():
            if arrival.reply is not None:
                arrival.reply(refused(arrival, "the daemon stops"))
        READER.close()
        closing = [] if self._control is None else [aside(self._control.stop, "control")]
        running.loop.stop(0.5)
        closing += self._let_go_of_labels()
        learner = aside(lambda: _close(running.lending), "learner")
        closing += [aside(sink.close, f"sink {sink.name}") for sink in running.sinks.values()]
        for thread in [learner, *closing]:
            thread.join(max(0.01, end - time.monotonic()))
            if thread.is_alive():
                log.warning("%s did not end in time", thread.name)
        for feeder in running.feeders.values():
            feeder.join(max(0.0, end - time.monotonic()))
        # what places graphs has a thread that tries them
        has_ended = running.runtime.close(max(0.1, end - time.monotonic()))
        return has_ended and not learner.is_alive()

    def _let_go_of_labels(self) -> list[threading.Thread]:
        """Where some are lost, what folder sources have taken since the last checkpoint is not
        written: it comes again, labels and all.
        """
        labels = self._running.labels
        lost = labels.close(0.3)
        held = labels.naming.counters()["held"]
        if lost or held:
            log.warning(
                "%d labels were not given to the learner, and %d waited for samples that did not"
                " come",
                lost,
                held,
            )
        return [] if lost else [aside(self._checkpoints.write_folders, "folders")]

    def run(self) -> int:
        """Serve until SIGTERM or SIGINT; SIGHUP reloads the settings. For the main thread.

        Returns:
            The exit code: 0, or 1 if a swap left no learner, or a device took tensors with it.
        """
        return supervised.run(
            self, lambda: bool(self._running.fatal or looking.lost(self._running))
        )

    def hang_up(self) -> None:
        """Reload, and tell the supervisor how it went."""
        self._notify.reloading()
        self.reload()
        if not self._running.is_stopping:
            self._notify.ready(self._running.reload_error or "settings read again")

    # -- answering ---------------------------------------------------------------------------------
    @property
    def settings(self) -> Settings:
        return self._running.settings

    @property
    def manifest(self) -> Manifest:
        """Of the bundle that answers."""
        return self._running.manifest

    def predict(
        self,
        x: Any = None,
        *,
        features: Mapping[str, Any] | None = None,
        stream: str = DEFAULT_STREAM,
    ) -> list[Answer]:
        """Answer a batch on the caller's thread and change nothing; see ``Learner.predict``."""
        return answering.predict(self._running, x, features=features, stream=stream)

    def observe(
        self,
        x: Any = None,
        *,
        features: Mapping[str, Any] | None = None,
        stream: str = DEFAULT_STREAM,
        names: Sequence[str] = (),
        source: str = "http",
    ) -> list[Answer]:
        """Answer a batch in turn with what the sources bring; see ``answering.observe``."""
        return answering.observe(
            self._running, x, features=features, stream=stream, names=names, source=source
        )

    # -- labels and questions ----------------------------------------------------------------------
    def label(self, items: Sequence[tuple[str, str]], source: str = "") -> dict[str, Any]:
        """Label samples by id or name. What was received is durable.

        Returns:
            ``labels``: one ``{sample, outcome, why, id}`` for each item, ``outcome`` being
            received, waiting (for its sample) or refused; and how many there are of each.

        Raises:
            the error of the first, if every label was refused.
        """
        told = self._running.labels.give(
            [LabelArrival(sample, label, source) for sample, label in items],
            self.settings.control.timeout_s,
        )
        if told and all(one.outcome == "refused" for one in told):
            raise told[0].error or StateError(told[0].why)
        rows = [
            {"sample": one.sample, "outcome": one.outcome, "why": one.why, "id": one.id}
            for one in told
        ]
        return {"labels": rows} | {
            outcome: sum(one.outcome == outcome for one in told)
            for outcome in ("received", "waiting", "refused")
        }

    def forget(
        self,
        samples: Sequence[str] | None = None,
        *,
        source: str | None = None,
        classes: Sequence[str] | None = None,
        before: float | None = None,
        after: float | None = None,
    ) -> Receipt:
        """Remove labelled samples as if they had never been; see ``forgetting.forget``. Labels that
        still wait for their sample are no part of it.
        """
        return forgetting.forget(
            self._running, samples, source=source, classes=classes, before=before, after=after
        )

    def questions(self, limit: int = 5) -> list[Question]:
        with self._running.lending.lend() as learner:
            return learner.questions(limit)

    def alike(self, samples: Sequence[str]) -> dict[str, int]:
        """Those that are pending, like beside like, each with its group."""
        with self._running.lending.lend() as learner:
            return learner.alike(samples)

    def withdraw(self, samples: Sequence[str], source: str | None = None) -> int:
        """Take labels of these ids back, all of them ``source``'s if one is given; how many."""
        with self._running.lending.lend() as learner:
            learner.withdraw(samples, source=source)
        return len(set(samples))

    def quality(self) -> Quality:
        """How good the answers are in the field."""
        with self._running.lending.lend() as learner:
            return learner.quality()

    def frame_of(self, question: str) -> NDArray[np.uint8] | None:
        """(H, W) or (H, W, 3) uint8, RGB, of an open question; None if it is not open, or about no
        picture.
        """
        with self._running.lending.lend() as learner:
            frame = next(
                (one.frame for one in learner.questions(1 << 20) if one.id == question), None
            )
        return None if frame is None else as_picture(np.asarray(frame), self.manifest.input)

    def picture_of(self, stream: str, sample: str = "") -> NDArray[np.uint8] | None:
        """As ``frame_of``, of the answer that the status shows of a stream, or showed lately under
        this id.
        """
        x = self._running.series.input_of(stream, sample)
        return None if x is None else as_picture(x, self.manifest.input)

    # -- what is known, and what was done ----------------------------------------------------------
    def classes(self) -> tuple[str, ...]:
        with self._running.lending.lend() as learner:
            return learner.classes

    def add_class(self, name: str) -> None:
        with self._running.lending.lend() as learner:
            learner.add_class(name)

    def remove_class(self, name: str) -> None:
        with self._running.lending.lend() as learner:
            learner.remove_class(name)

    def history(self, limit: int = 50) -> list[Commit]:
        with self._running.lending.lend() as learner:
            return learner.history(limit)

    def decisions(self, limit: int = 100) -> list[tuple[float, str, str, str, str]]:
        with self._running.lending.lend() as learner:
            return learner.decisions(limit)

    def rollback(self, to: int | None = None) -> int:
        with self._running.lending.lend() as learner:
            return learner.rollback(to)

    def freeze(self, frozen: bool = True) -> None:
        """Serve and measure, change nothing; holds over a swap, not over a restart."""
        with self._running.lending.lend() as learner:
            learner.freeze(frozen)
            self._running.is_frozen = frozen

    def pause(self, paused: bool = True) -> None:
        """Put learning off; the daemon's own pauses for latency come on top."""
        self._running.holds.hold("user", paused)

    def checkpoint(self) -> int:
        """Make what was learned durable; see ``Checkpoints.take``."""
        return self._checkpoints.take()

    # -- changing what runs, and looking inside ----------------------------------------------------
    def swap(self, path: str | Path) -> dict[str, Any]:
        """Let another bundle take over; see ``Reload.swap``."""
        return self._changing.swap(path)

    def reload(self) -> dict[str, Any]:
        """Read the settings again; see ``Reload.reload``."""
        return self._changing.reload()

    def ready(self) -> tuple[bool, str]:
        return looking.ready(self._running)

    def health(self) -> dict[str, Any]:
        return looking.health(self._running)

    def status(self) -> dict[str, Any]:
        return looking.status(self._running)

    def series(self, window: Window = "minutes") -> Past:
        """What the status page draws over time."""
        return self._running.series.past(window)


def _close(lending: LearnerLease) -> None:
    def close(learner: Learner) -> Learner:
        with suppress(StateError):  # it was closed by a swap that failed
            # what is queued is not waited for: labels are durable, and learned at the next start
            learner.pause(True)
        learner.close()
        return learner

    lending.replace(close)


__all__ = ["Service"]
