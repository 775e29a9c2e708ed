"""The daemon as one object: it owns the learner, the inbox, the loop, the sources and the sinks; HTTP, ``ctl`` and signals are faces over it."""

from __future__ import annotations

import logging
import os
import select
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np
from numpy.typing import NDArray

import edgeadapt
from edgeadapt.bundle import Bundle
from edgeadapt.bundle.schema import Manifest
from edgeadapt.daemon.arrival import Answer, Arrival, Inbox, LabelArrival, Sink, Source, refused
from edgeadapt.daemon.feeding import Feeder
from edgeadapt.daemon.labels import Labels
from edgeadapt.daemon.lending import Lending, answers_of, identity, open_learner, trusted_bundle, warm
from edgeadapt.daemon.loop import Loop, answer_of
from edgeadapt.daemon.naming import Naming
from edgeadapt.daemon.notify import Notify
from edgeadapt.daemon.pace import Pace
from edgeadapt.daemon.pictures import as_picture
from edgeadapt.daemon.series import Past, Series, Window, watch
from edgeadapt.daemon.settings import Settings, read_secret
from edgeadapt.device.learner import DEFAULT_STREAM, Learner
from edgeadapt.device.vitals import Sensors
from edgeadapt.errors import EdgeadaptError, InputError, StateError
from edgeadapt.inputs import check_batch, check_features
from edgeadapt.results import Commit, Question
from edgeadapt.runtime import open_runtime

if TYPE_CHECKING:
    from edgeadapt.daemon.control import Control
    from edgeadapt.daemon.metrics import Metrics

log = logging.getLogger("edgeadapt.daemon")
_STUCK_S = 60.0  # a loop that has not turned for so long is not healthy
_STOPPING_S = 1.7  # for everything; if the last checkpoint does not fit, the one before it and the journal stand
_SETTLING_S = 1.0  # a checkpoint waits so long for queued work: under load there is always some
_REOPENED = ("bundle", "trust", "unsigned", "policy", "budget", "keep")  # settings that a learner is opened with
_RESTARTED = ("state", "runtime", "control", "metrics")  # settings that hold until the next start


class Service:
    """Answers, learns and can be watched from ``start`` to ``stop``; ``run`` does both, with signals in between.

    Args:
        settings: see ``edgeadapt.daemon.settings``. reread: gives them anew, for ``reload``.
        sources, sinks: beside those of the settings. notify: the supervisor.

    Raises:
        BundleError, StateError, BudgetError, RuntimeUnavailable: as ``open_learner``. InputError: a source or a sink cannot be opened.
    """

    def __init__(
        self, settings: Settings, *, reread: Callable[[], Settings] | None = None, sources: Sequence[Source] = (), sinks: Sequence[Sink] = (),
        notify: Notify | None = None,
    ) -> None:  # fmt: skip
        self.settings, self._reread, self._notify = settings, reread, notify or Notify()
        self._runtime = open_runtime(settings.runtime)
        self._started_at, self._is_ready, self._is_stopping, self._fatal = time.time(), False, False, ""
        self._holds: set[str] = set()  # who wants the learner to pause
        self._holding = threading.Lock()
        self._is_frozen = False
        self._changing = threading.Lock()  # one swap or reload at a time
        self._stamp = _stamp(settings.bundle)
        self._checkpoint_error, self._work_error, self._reload_error, self._checkpointed_at = "", "", "", 0.0
        self._checkpointing = threading.Event()  # set when it is to end
        self._sinks: dict[Any, Sink] = {id(sink): sink for sink in sinks}
        self._control: Control | None = None
        self._lending = Lending(open_learner(settings, self._runtime))
        try:
            self._assemble(settings, sources)
        except BaseException:
            for sink in self._sinks.values():
                sink.close()
            self._close_learner()
            raise

    def _assemble(self, settings: Settings, sources: Sequence[Source]) -> None:
        with self._lending.lend() as learner:
            self._manifest = learner.bundle.manifest
        loop = settings.loop
        self._inbox = Inbox(loop.queue, loop.drop)
        self._pace = Pace(lambda paused: self._hold("latency", paused, self._notify.beat), settings.budget.p99_ratio)
        self._labels = Labels(Naming(), self._lending.lend)
        self.metrics = _metrics() if settings.metrics.enabled else None
        self._loop = Loop(
            self._lending.lend, self._inbox, self._labels, self._pace, emit=self._emit, beat=self._notify.beat, batch=loop.batch,
            rate_hz=loop.rate_hz or 0.0, observed=None if self.metrics is None else self.metrics.observe_batch,
        )  # fmt: skip
        self._sink_errors: dict[str, int] = {}
        for section in settings.sink:
            self._sinks[section] = _open_sink(section)
        self._sensors = Sensors()
        self._series = Series()
        opened = {section: _open_source(section, self._manifest) for section in settings.source} | {id(source): source for source in sources}
        self._feeders: dict[Any, Feeder] = {key: self._feeder(source) for key, source in opened.items()}

    def _feeder(self, source: Source) -> Feeder:
        return Feeder(source, self._deliver, threading.Event())

    def _deliver(self, what: Arrival | LabelArrival) -> bool:
        return self._labels.put(what) if isinstance(what, LabelArrival) else self._inbox.put(what)

    def _emit(self, event: Mapping[str, Any]) -> None:
        self._series.take(event, self._loop.recent)
        for sink in list(self._sinks.values()):
            try:
                sink.take(event)
            except Exception as error:  # a sink that fails does not keep the others from being told
                self._sink_errors[sink.name] = self._sink_errors.get(sink.name, 0) + 1
                if self._sink_errors[sink.name] == 1:  # the rest are counted
                    log.error("sink %s: %s: %s", sink.name, type(error).__name__, error)

    # -- life -----------------------------------------------------------------------------------------
    def start(self) -> None:
        """Warm the encoder, start the loop, the sources and the control interface, and tell the supervisor."""
        with self._lending.lend() as learner:
            warm(learner, self.settings.loop.batch)
        self._labels.start()
        self._loop.start()
        for feeder in self._feeders.values():
            feeder.start()
        threading.Thread(target=self._checkpoint_now_and_then, name="checkpoints", daemon=True).start()
        looking = (self._series, self.status, self.history, self._checkpointing)
        threading.Thread(target=watch, args=looking, name="series", daemon=True).start()
        self._control = _control(self, self.settings)
        if self._control is not None:
            self._control.start()
        self._is_ready = True
        self._notify.ready(f"answering with {self._manifest.name} {self._manifest.version}")

    def stop(self) -> bool:
        """Finish the batch, stop the sources, checkpoint, close. False if the last checkpoint took too long: the one before it stands."""
        with self._holding:
            if self._is_stopping:
                return True
            self._is_stopping, self._is_ready = True, False
        end = time.monotonic() + _STOPPING_S
        self._notify.stopping()
        self._checkpointing.set()
        for feeder in self._feeders.values():
            feeder.stop.set()
        for arrival in self._inbox.close():
            if arrival.reply is not None:
                arrival.reply(refused(arrival, "the daemon stops"))
        control = None if self._control is None else _aside(self._control.stop, "control")
        self._loop.stop(0.5)
        lost = self._labels.close(0.3)
        held = self._labels.naming.counters()["held"]
        if lost or held:
            log.warning("%d labels were not given to the learner, and %d waited for samples that did not come", lost, held)
        learner = _aside(self._close_learner, "learner")
        closing = [_aside(sink.close, f"sink {sink.name}") for sink in self._sinks.values()]
        for thread in [learner, *closing, *([] if control is None else [control])]:
            thread.join(max(0.01, end - time.monotonic()))
            if thread.is_alive():
                log.warning("%s did not end in time", thread.name)
        for feeder in self._feeders.values():
            feeder.join(max(0.0, end - time.monotonic()))
        return not learner.is_alive()

    def _close_learner(self) -> None:
        def close(learner: Learner) -> Learner:
            with suppress(StateError):  # it was closed by a swap that failed
                learner.pause(True)  # what is queued is not waited for: labels are durable, and learned at the next start
            learner.close()
            return learner

        self._lending.replace(close)

    def run(self) -> int:
        """Serve until SIGTERM or SIGINT; SIGHUP reloads the settings. For the main thread.

        Returns:
            The exit code: 0, or 1 if a swap left no learner.
        """
        ours, theirs = socket.socketpair()
        ours.setblocking(False)
        theirs.setblocking(False)
        before = {number: signal.signal(number, lambda *_: None) for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)}
        fd = signal.set_wakeup_fd(theirs.fileno(), warn_on_full_buffer=False)
        try:
            try:
                self.start()
                self._watch(ours)
            finally:
                is_closed = self.stop()
        finally:
            signal.set_wakeup_fd(fd)
            for number, old in before.items():
                signal.signal(number, old)
            ours.close()
            theirs.close()
        code = 1 if self._fatal else 0
        if not is_closed:
            logging.shutdown()
            os._exit(code)  # a checkpoint that hangs on a disk cannot be interrupted, and the journal is as safe as after a kill
        return code

    def _watch(self, signals: socket.socket) -> None:
        """Wait for signals, which come as bytes: nothing of ours runs inside a handler."""
        while not self._fatal:
            ready, _, _ = select.select([signals], [], [], 1.0)
            came = signals.recv(64) if ready else b""
            if signal.SIGTERM in came or signal.SIGINT in came:
                return
            if signal.SIGHUP in came:
                self._notify.reloading()
                self.reload()
                self._notify.ready(self._reload_error or "settings read again")

    def _checkpoint_now_and_then(self) -> None:
        while not self._checkpointing.wait(self.settings.loop.checkpoint_s):
            with suppress(EdgeadaptError):  # kept for health, and tried again
                self.checkpoint()

    # -- answering ------------------------------------------------------------------------------------
    @property
    def manifest(self) -> Manifest:
        """Of the bundle that answers."""
        return self._manifest

    def predict(self, x: Any = None, *, features: Mapping[str, Any] | None = None, stream: str = DEFAULT_STREAM) -> list[Answer]:
        """Answer a batch on the caller's thread and change nothing; see ``Learner.predict``."""
        at = time.time()
        with self._lending.lend() as learner:
            started = time.perf_counter()
            prediction = learner.predict(x, features=features, stream=stream)
            took_ms = 1e3 * (time.perf_counter() - started)
        asked = Arrival(stream, "", at=at)
        return [answer_of(asked, prediction, row, took_ms=took_ms) for row in range(len(prediction))]

    def observe(
        self, x: Any = None, *, features: Mapping[str, Any] | None = None, stream: str = DEFAULT_STREAM, names: Sequence[str] = (), source: str = "http",
    ) -> list[Answer]:  # fmt: skip
        """Answer a batch through the inbox, in turn with what the sources bring; waits for as long as ``control.timeout_s``.

        Args:
            names: one for each sample, by which it can be labelled; ``""`` for none.

        Raises:
            InputError: the batch does not fit the bundle, or has more samples than the queue has places.
        """
        rows = self._rows(x, features)
        if names and len(names) != len(rows):
            raise InputError(f"{len(rows)} samples need {len(rows)} names, got {len(names)}")
        if len(rows) > self._inbox.size:
            raise InputError(f"{len(rows)} samples at once are more than the {self._inbox.size} places of the queue")
        answers: dict[int, Answer] = {}
        left = threading.Semaphore(0)

        def reply_to(row: int) -> Callable[[Answer], None]:
            def reply(answer: Answer) -> None:
                answers[row] = answer
                left.release()

            return reply

        until = time.monotonic() + self.settings.control.timeout_s
        arrivals = [
            Arrival(stream, source, x=x, features=features, name=names[row] if names else "", reply=reply_to(row)) for row, (x, features) in enumerate(rows)
        ]
        for row, arrival in enumerate(arrivals):
            if not self._inbox.put(arrival, max(0.0, until - time.monotonic())):
                reply_to(row)(refused(arrival, "the daemon stops" if self._is_stopping else "dropped: the inbox was full"))
        for _ in rows:
            if not left.acquire(timeout=max(0.0, until - time.monotonic())):
                break
        late = f"no answer within {self.settings.control.timeout_s:g} s"
        return [answers.get(row) or refused(arrival, late) for row, arrival in enumerate(arrivals)]

    def _rows(self, x: Any, features: Mapping[str, Any] | None) -> list[tuple[NDArray[Any] | None, dict[str, NDArray[Any]] | None]]:
        """A batch that passed the door, as samples."""
        if (x is None) == (features is None):
            raise InputError("pass either a batch x or features={'z': ...}")
        manifest = self._manifest
        if x is not None and manifest.input.layout != "features":
            return [(row, None) for row in check_batch(x, manifest.input)]
        z, taps = check_features(features if features is not None else {"z": x}, manifest.feature_dim, manifest.tap_dim)
        return [(None, {"z": z[row], "taps": taps[row]} if manifest.tap_dim else {"z": z[row]}) for row in range(len(z))]

    # -- labels and questions -------------------------------------------------------------------------
    def label(self, items: Sequence[tuple[str, str]], source: str = "") -> dict[str, Any]:
        """Label samples by id or name. What was received is durable.

        Returns:
            ``labels``: one ``{sample, outcome, why, id}`` for each item, ``outcome`` being received, waiting (for its sample) or refused;
            and how many there are of each.

        Raises:
            the error of the first, if every label was refused.
        """
        told = self._labels.give([LabelArrival(sample, label, source) for sample, label in items], self.settings.control.timeout_s)
        if told and all(one.outcome == "refused" for one in told):
            raise told[0].error or StateError(told[0].why)
        rows = [{"sample": one.sample, "outcome": one.outcome, "why": one.why, "id": one.id} for one in told]
        return {"labels": rows} | {outcome: sum(one.outcome == outcome for one in told) for outcome in ("received", "waiting", "refused")}

    def questions(self, limit: int = 5) -> list[Question]:
        with self._lending.lend() as learner:
            return learner.questions(limit)

    def frame_of(self, question: str) -> NDArray[np.uint8] | None:
        """(H, W) or (H, W, 3) uint8, RGB, of an open question; None if it is not open, or about no picture."""
        with self._lending.lend() as learner:
            frame = next((one.frame for one in learner.questions(1 << 20) if one.id == question), None)
        return None if frame is None else as_picture(np.asarray(frame), self._manifest.input)

    def picture_of(self, stream: str, sample: str = "") -> NDArray[np.uint8] | None:
        """As ``frame_of``, of the answer that the status shows of a stream, or showed lately under this id."""
        x = self._series.input_of(stream, sample)
        return None if x is None else as_picture(x, self._manifest.input)

    # -- what is known, and what was done -------------------------------------------------------------
    def classes(self) -> tuple[str, ...]:
        with self._lending.lend() as learner:
            return learner.classes

    def add_class(self, name: str) -> None:
        with self._lending.lend() as learner:
            learner.add_class(name)

    def remove_class(self, name: str) -> None:
        with self._lending.lend() as learner:
            learner.remove_class(name)

    def history(self, limit: int = 50) -> list[Commit]:
        with self._lending.lend() as learner:
            return learner.history(limit)

    def decisions(self, limit: int = 100) -> list[tuple[float, str, str, str, str]]:
        with self._lending.lend() as learner:
            return learner.decisions(limit)

    def rollback(self, to: int | None = None) -> int:
        with self._lending.lend() as learner:
            return learner.rollback(to)

    def freeze(self, frozen: bool = True) -> None:
        """Serve and measure, change nothing; holds over a swap, not over a restart."""
        with self._lending.lend() as learner:
            learner.freeze(frozen)
            self._is_frozen = frozen

    def pause(self, paused: bool = True) -> None:
        """Put learning off; the daemon's own pauses for latency come on top."""
        self._hold("user", paused)

    def _hold(self, why: str, paused: bool, while_waiting: Callable[[], None] | None = None) -> None:
        with self._lending.lend(while_waiting) as learner:
            self._hold_on(learner, why, paused)

    def _hold_on(self, learner: Learner, why: str, paused: bool) -> None:
        with self._holding:
            (self._holds.add if paused else self._holds.discard)(why)
            learner.pause(bool(self._holds))

    def checkpoint(self) -> int:
        """Make what was learned durable; returns the number of the last commit. Work that is still queued after a second is done after it.

        Raises:
            StorageError: the disk is full or fails.
        """
        try:
            with self._lending.lend() as learner:
                self._settle(learner)
                self._hold_on(learner, "checkpoint", True)
                try:
                    commit = learner.checkpoint()
                finally:
                    self._hold_on(learner, "checkpoint", False)
        except EdgeadaptError as error:
            self._checkpoint_error = str(error)
            log.error("checkpoint: %s", error)
            raise
        self._checkpoint_error, self._checkpointed_at = "", time.time()
        return commit

    def _settle(self, learner: Learner) -> None:
        try:
            learner.settle(_SETTLING_S)
            self._work_error = ""
        except Exception as error:  # of background work, since the last time: whatever a graph or the disk raised
            self._work_error = f"{type(error).__name__}: {error}"

    # -- changing what runs ---------------------------------------------------------------------------
    def swap(self, path: str | Path) -> dict[str, Any]:
        """Let another bundle take over: checked, loaded and run while the old one serves, opened between two batches on the same state.

        Samples that were observed before it cannot be labelled by id or name after it, and questions about them are gone.

        Returns:
            ``name``, ``version``, ``sha256``, ``before`` (the same of the old one), ``paused_ms`` (how long requests waited), and ``agreement``,
            the share of the last ``compared`` inputs that both name alike.

        Raises:
            BundleError, BudgetError: see ``Learner.offer``. StateError: what was learned has to be migrated first, another change is under
            way, or the new bundle did not open on the state. The old one serves on.
        """
        with self._alone():
            said = self._replace(msgspec.structs.replace(self.settings, bundle=Path(path)))
            if Path(path) != self.settings.bundle:
                log.warning("the settings still name %s: change them before the next start", self.settings.bundle)
            return said

    @contextmanager
    def _alone(self) -> Iterator[None]:
        if not self._changing.acquire(blocking=False):
            raise StateError("another swap or reload is under way")
        try:
            if self._is_stopping:
                raise StateError("the daemon stops")
            yield
        finally:
            self._changing.release()

    def _replace(self, settings: Settings, bundle: Bundle | None = None) -> dict[str, Any]:
        """Open ``settings`` in the learner's place; a bundle that is not the running one is checked first."""
        offered = bundle or trusted_bundle(settings, settings.bundle)
        recent = list(self._loop.recent)
        with self._lending.lend() as learner:
            if bundle is None:
                learner.offer(offered, trust=settings.trust)
            old, answers = learner.bundle, answers_of(learner, recent)
            learner.pause(True)  # what is queued is not waited for: labels are durable, and learned once the new one is open
        said: dict[str, Any] = {}
        started = time.perf_counter()

        def change(learner: Learner) -> Learner:
            try:
                learner.pause(True)
                learner.close()
                new = self._open_warm(settings, offered)
            except Exception as error:
                said["refused"] = error
                new = self._open_again(old, error)
            again = answers_of(new, recent)
            known = [(one, other) for one, other in zip(answers, again, strict=True) if one and other]
            said["paused_ms"], said["compared"] = 1e3 * (time.perf_counter() - started), len(known)
            said["agreement"] = sum(one == other for one, other in known) / len(known) if known else None
            return new

        self._lending.replace(change)
        if error := said.get("refused"):
            raise error if isinstance(error, EdgeadaptError) else StateError(f"{offered.path.name} did not open: {type(error).__name__}: {error}")
        self._manifest = offered.manifest
        log.info("%s %s took over, requests waited for %.0f ms", offered.manifest.name, offered.manifest.version, said["paused_ms"])
        return identity(offered) | {"before": identity(old)} | said

    def _open_warm(self, settings: Settings, bundle: Bundle, *, allow_older: bool = False) -> Learner:
        learner = open_learner(settings, self._runtime, bundle, is_frozen=self._is_frozen, allow_older=allow_older)
        try:
            warm(learner, settings.loop.batch)
        except BaseException:
            learner.close()
            raise
        with self._holding:
            learner.pause(bool(self._holds))
        return learner

    def _open_again(self, bundle: Bundle, error: Exception) -> Learner:
        """The old bundle, after a new one did not open. Without either the daemon ends, and its supervisor starts it anew."""
        log.error("the new bundle did not open, the old one goes on: %s", error)
        try:
            return self._open_warm(self.settings, bundle, allow_older=True)
        except Exception as second:
            self._fatal = f"no bundle is open: the new one: {error}; the old one again: {second}"
            log.critical(self._fatal)
            raise StateError(self._fatal) from second

    def reload(self) -> dict[str, Any]:
        """Read the settings again. What is not in order is reported, and the old ones go on, whole.

        Returns:
            ``ok``, ``why`` it is not, and ``restart``: changed keys that hold from the next start on.
        """
        try:
            with self._alone():
                if self._reread is None:
                    raise StateError("this daemon was not started from a settings file")
                needs_restart = self._apply(self._reread())
            self._reload_error = ""
        except Exception as error:
            self._reload_error = f"settings not taken: {error}"
            log.error("%s", self._reload_error)
            return {"ok": False, "why": str(error), "restart": []}
        if needs_restart:
            log.warning("changed, but only from the next start on: %s", ", ".join(needs_restart))
        return {"ok": True, "why": "", "restart": needs_restart}

    def _apply(self, new: Settings) -> list[str]:
        """Open everything that is new before anything old goes."""
        old = self.settings
        needs_restart = [key for key in _RESTARTED if getattr(new, key) != getattr(old, key)]
        new = msgspec.structs.replace(new, **{key: getattr(old, key) for key in _RESTARTED})
        sources = {section: _open_source(section, self._manifest) for section in new.source if section not in self._feeders}
        sinks = {section: _open_sink(section) for section in new.sink if section not in self._sinks}
        stamp = _stamp(new.bundle)
        try:
            if is_other := new.bundle != old.bundle or stamp != self._stamp:
                self._replace(new)
            elif any(_opened_with(new, key) != _opened_with(old, key) for key in _REOPENED):
                with self._lending.lend() as learner:
                    bundle = learner.bundle
                self._replace(new, bundle)
        except BaseException:
            for sink in sinks.values():
                sink.close()
            raise
        self.settings, self._stamp = new, stamp if is_other else self._stamp
        self._inbox.change(new.loop.queue, new.loop.drop)
        self._loop.batch, self._loop.rate_hz, self._pace.p99_ratio = new.loop.batch, new.loop.rate_hz or 0.0, new.budget.p99_ratio
        self._change_sources(old, new, sources)
        gone = [self._sinks[section] for section in old.sink if section not in new.sink]
        self._sinks = {key: sink for key, sink in self._sinks.items() if key not in old.sink or key in new.sink} | sinks
        for sink in gone:
            _aside(sink.close, f"sink {sink.name}").join(1.0)
        return needs_restart

    def _change_sources(self, old: Settings, new: Settings, sources: Mapping[Any, Source]) -> None:
        gone = [self._feeders.pop(section) for section in old.source if section not in new.source]
        for feeder in gone:
            feeder.stop.set()
        for feeder in gone:
            if not feeder.join(2.0):
                log.warning("source %s did not stop in time", feeder.source.name)
        for section, source in sources.items():
            self._feeders[section] = self._feeder(source)
            self._feeders[section].start()

    # -- looking inside -------------------------------------------------------------------------------
    def ready(self) -> tuple[bool, str]:
        """Are samples answered now? And if not, why."""
        if self._fatal or self._is_stopping:
            return False, self._fatal or "stopping"
        if not self._is_ready:
            return False, "starting"
        return (True, "") if self._loop.is_alive else (False, "the loop has ended")

    def health(self) -> dict[str, Any]:
        """``ok`` while the loop moves; ``problems`` names what does not work as it should, and is tried again."""
        still_s = time.monotonic() - self._loop.last_turn
        has_stopped = self._is_ready and (not self._loop.is_alive or still_s > _STUCK_S)
        sources = [feeder.health() for feeder in list(self._feeders.values())]
        problems = [self._fatal] if self._fatal else []
        problems += [f"the loop has not turned for {still_s:.0f} s"] if has_stopped else []
        problems += [f"source {source['name']}: {source['error']}" for source in sources if source["state"] == "waiting"]
        problems += [f"checkpoint: {self._checkpoint_error}"] if self._checkpoint_error else []
        problems += [f"learning: {self._work_error}"] if self._work_error else []
        problems += [self._reload_error] if self._reload_error else []
        return {"ok": not (self._fatal or has_stopped), "problems": problems, "sources": sources, "loop_still_s": still_s}

    def status(self) -> dict[str, Any]:
        """Everything that a page or ``ctl status`` shows, but for history, decisions and questions."""
        ready, reason = self.ready()
        with self._lending.lend() as learner:
            of_learner = {
                "bundle": identity(learner.bundle), "classes": list(learner.classes), "domains": learner.domains(), "learner": learner.counters(),
                "labelled": {name: learner._held_out.count(name) for name in learner.classes},
                "timings": learner.timings(), "is_paused": learner.is_paused, "questions": len(learner.questions(1 << 20)),
            }  # fmt: skip
        vitals = self._sensors.read()
        sinks = [{"name": sink.name, "dropped": sink.dropped, "errors": self._sink_errors.get(sink.name, 0)} for sink in list(self._sinks.values())]
        return of_learner | self.health() | self._series.view() | {
            "version": edgeadapt.__version__, "ready": ready, "reason": reason, "started_at": self._started_at,
            "is_frozen": self._is_frozen, "paused_by": sorted(self._holds), "streams": self._loop.streams(),
            "latency": self._pace.latency(), "loop": self._loop.counters(), "labels": self._labels.counters(), "sinks": sinks,
            "inbox": {"waiting": len(self._inbox), "size": self._inbox.size, "drop": self._inbox.drop, "dropped": dict(self._inbox.dropped)},
            "thresholds": {"shift": 1.0, "novel_share": self._manifest.policy.novelty.window_share}, "new_classes": self.settings.policy.new_classes,
            "factory_classes": list(self._manifest.classes),
            "budget": msgspec.to_builtins(self.settings.budget), "checkpointed_at": self._checkpointed_at,
            "telemetry": {"temperature_c": dict(vitals.temperatures), "power_w": dict(vitals.rails), "memory_mib": vitals.memory_mib, "load": vitals.load},
        }  # fmt: skip

    def series(self, window: Window = "minutes") -> Past:
        """What the status page draws over time."""
        return self._series.past(window)


def _opened_with(settings: Settings, key: str) -> Any:
    value = getattr(settings, key)
    return msgspec.structs.replace(value, p99_ratio=1.5) if key == "budget" else value


def _stamp(path: Path) -> tuple[int, ...]:
    """Changes when the file does."""
    try:
        about = path.stat()
    except OSError:
        return ()
    return about.st_ino, about.st_size, about.st_mtime_ns


def _aside(call: Callable[[], Any], what: str) -> threading.Thread:
    """Call on a thread of its own, which may be left alone with it."""

    def run() -> None:
        try:
            call()
        except Exception as error:
            log.error("%s did not end well: %s: %s", what, type(error).__name__, error)

    thread = threading.Thread(target=run, name=what, daemon=True)
    thread.start()
    return thread


def _open_source(section: Any, manifest: Manifest) -> Source:
    from edgeadapt.daemon.sources import open_source  # each kind imports what it needs

    return open_source(section, manifest.input, manifest.classes)


def _open_sink(section: Any) -> Sink:
    from edgeadapt.daemon.sinks import open_sink

    return open_sink(section)


def _metrics() -> Metrics | None:
    """None without prometheus_client."""
    try:
        from edgeadapt.daemon.metrics import Metrics
    except ModuleNotFoundError as error:
        log.warning("no metrics: %s; pip install 'edgeadapt[daemon]'", error)
        return None
    return Metrics()


def _control(service: Service, settings: Settings) -> Control | None:
    """None without starlette and uvicorn."""
    try:
        from edgeadapt.daemon.control import Control
    except ModuleNotFoundError as error:
        log.warning("no control interface: %s; pip install 'edgeadapt[daemon]'", error)
        return None
    control = settings.control
    token = None if control.token_file is None else read_secret(control.token_file)
    return Control(service, control.listen, token, control.max_body_mib, control.timeout_s)


__all__ = ["Service"]
