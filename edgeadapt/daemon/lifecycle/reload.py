"""Changing what runs: another bundle, or other settings, while the old ones serve."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec

from edgeadapt.bundle import Bundle
from edgeadapt.daemon.config.dependencies import require_packages
from edgeadapt.daemon.config.schema import Settings
from edgeadapt.daemon.engine.background_thread import in_background
from edgeadapt.daemon.engine.context import ServiceContext
from edgeadapt.daemon.engine.learner_lease import (
    answers_of,
    identity,
    open_learner,
    trusted_bundle,
    warm,
)
from edgeadapt.daemon.io.sinks import open_sink
from edgeadapt.daemon.io.source_thread import SourceThread
from edgeadapt.daemon.lifecycle.bundle_trial import LONGEST_S, try_out
from edgeadapt.daemon.lifecycle.factory import source_of
from edgeadapt.daemon.messages import Sink, Source
from edgeadapt.device.learner import Learner
from edgeadapt.errors import BundleError, EdgeadaptError, RecipeError, StateError

log = logging.getLogger("edgeadapt.daemon")
# settings that a learner is opened with
_REOPENED = ("bundle", "trust", "unsigned", "policy", "budget", "keep", "precision")
# settings that hold until the next start
_RESTARTED = ("state", "runtime", "control", "metrics", "telemetry")


class Reload:
    """One swap or reload at a time. ``reread``: gives the settings anew, for ``reload``."""

    def __init__(self, context: ServiceContext, reread: Callable[[], Settings] | None) -> None:
        self._context, self._reread = context, reread
        self._changing = threading.Lock()
        self._stamp = _stamp(context.settings.bundle)

    def swap(self, path: str | Path) -> dict[str, Any]:
        """Let another bundle take over: checked, loaded and run while the old one serves, opened
        between two batches on the same state.

        Samples that were observed before it cannot be labelled by id or name after it, and
        questions about them are gone.

        Returns:
            ``name``, ``version``, ``sha256``, ``before`` (the same of the old one), ``paused_ms``
            (how long requests waited), and ``agreement``, the share of the last ``compared`` inputs
            that both name alike.

        Raises:
            BundleError, BudgetError: see ``Learner.offer``.
            StateError: what was learned has to be migrated first, another change is under way, or
                the new bundle did not open on the state. The old one serves on.
        """
        with self._alone():
            context, stamp = self._context, _stamp(Path(path))
            said = self._replace(msgspec.structs.replace(context.settings, bundle=Path(path)))
            is_the_same = _is_same(Path(path), context.settings.bundle)
            context.swapped = "" if is_the_same else str(path)
            if is_the_same:
                self._stamp = stamp
            if context.swapped:
                log.warning("%s", swap_note(context))
            return said

    @contextmanager
    def _alone(self) -> Iterator[None]:
        if not self._changing.acquire(blocking=False):
            raise StateError("another swap or reload is under way")
        try:
            if self._context.is_stopping:
                raise StateError("the daemon stops")
            yield
        finally:
            self._changing.release()

    def _replace(self, settings: Settings, bundle: Bundle | None = None) -> dict[str, Any]:
        """Open ``settings`` in the learner's place; a bundle that is not the running one, and
        another precision, is checked first.
        """
        context = self._context
        offered = bundle or trusted_bundle(settings, settings.bundle)
        recent = list(context.loop.recent)
        is_tried = bundle is None or settings.precision != context.settings.precision
        if is_tried:
            self._try_out(offered, settings)
        with context.lease.borrow() as learner:
            if is_tried:
                learner.offer(offered, trust=settings.trust, precision=settings.precision)
            old, answers = learner.bundle, answers_of(learner, recent)
            # what is queued is not waited for: labels are durable, and learned once the new one is
            # open
            learner.pause(True)
        said: dict[str, Any] = {}
        started = time.perf_counter()

        def change(learner: Learner) -> Learner:
            if context.is_stopping:
                said["refused"] = StateError("the daemon stops")
                return learner
            try:
                learner.pause(True)
                learner.close()
                new = self._open_warm(settings, offered)
            except Exception as error:
                said["refused"] = error
                new = self._open_again(old, error)
            again = answers_of(new, recent)
            known = [
                (one, other) for one, other in zip(answers, again, strict=True) if one and other
            ]
            said["paused_ms"], said["compared"] = 1e3 * (time.perf_counter() - started), len(known)
            said["agreement"] = (
                sum(one == other for one, other in known) / len(known) if known else None
            )
            return new

        context.lease.replace(change)
        if error := said.get("refused"):
            raise (
                error
                if isinstance(error, EdgeadaptError)
                else StateError(
                    f"{offered.path.name} did not open: {type(error).__name__}: {error}"
                )
            )
        context.manifest, context.swap_error = offered.manifest, ""
        log.info(
            "%s %s took over, requests waited for %.0f ms",
            offered.manifest.name,
            offered.manifest.version,
            said["paused_ms"],
        )
        return identity(offered) | {"before": identity(old)} | said

    def _try_out(self, bundle: Bundle, settings: Settings) -> None:
        """In a process of its own and with nothing lent, so that the end is not waited for."""
        context = self._context
        context.trying = bundle.path.name, time.monotonic()
        try:
            try_out(
                bundle, settings.precision, context.settings.runtime, lambda: context.is_stopping
            )
        except BundleError as error:
            context.swap_error = str(error)
            log.error("the new bundle was not taken, the old one goes on: %s", error)
            raise
        finally:
            context.trying = None

    def _open_warm(
        self, settings: Settings, bundle: Bundle, *, allow_older: bool = False
    ) -> Learner:
        context = self._context
        learner = open_learner(
            settings, context.runtime, bundle, is_frozen=context.is_frozen, allow_older=allow_older
        )
        try:
            warm(learner, settings.loop.batch)
        except BaseException:
            learner.close()
            raise
        context.pause_reasons.apply(learner)
        return learner

    def _open_again(self, bundle: Bundle, error: Exception) -> Learner:
        """The old bundle, after a new one did not open. Without either the daemon ends, and its
        supervisor starts it anew.
        """
        log.error("the new bundle did not open, the old one goes on: %s", error)
        try:
            return self._open_warm(self._context.settings, bundle, allow_older=True)
        except Exception as second:
            self._context.fatal = (
                f"no bundle is open: the new one: {error}; the old one again: {second}"
            )
            log.critical(self._context.fatal)
            raise StateError(self._context.fatal) from second

    def reload(self) -> dict[str, Any]:
        """Read the settings again. What is not in order is reported, and the old ones go on, whole.

        Returns:
            ``ok``, ``why`` it is not, and ``restart``: changed keys that hold from the next start
            on.
        """
        try:
            with self._alone():
                new = self._read_again()
                self._renew_users(new if isinstance(new, Settings) else None)
                if isinstance(new, Exception):
                    raise new
                needs_restart = self._apply(new)
            self._context.reload_error = ""
        except Exception as error:
            self._context.reload_error = f"settings not taken: {error}"
            log.error("%s", self._context.reload_error)
            return {"ok": False, "why": str(error), "restart": []}
        if needs_restart:
            log.warning("changed, but only from the next start on: %s", ", ".join(needs_restart))
        return {"ok": True, "why": "", "restart": needs_restart}

    def _read_again(self) -> Settings | Exception:
        """The settings, or why there are none."""
        if self._reread is None:
            return StateError("this daemon was not started from a settings file")
        try:
            return self._reread()
        except Exception as error:  # raised once the users are read
            return error

    def _renew_users(self, new: Settings | None) -> None:
        """Before anything else, so that who was removed is out, whatever else is not in order.

        Raises:
            RecipeError: the file is not in order, or a user is called like a source of the new
                settings, or of the running ones where those cannot be read. Where the source is the
                new one, the users of the file hold; else those that were known.
        """
        users, names = self._context.users, self._context.settings.source_names
        if users is None:
            return
        try:
            users.renew(names if new is None else new.source_names)
        except RecipeError:
            if new is not None:
                users.renew(names)
            raise

    def _apply(self, new: Settings) -> list[str]:
        """Open everything that is new before anything old goes."""
        context, old = self._context, self._context.settings
        needs_restart = [key for key in _RESTARTED if getattr(new, key) != getattr(old, key)]
        new = msgspec.structs.replace(new, **{key: getattr(old, key) for key in _RESTARTED})
        require_packages(new)
        if context.certificate is not None:
            context.certificate.renew()
        sources = {
            section: source_of(section, context.manifest, context.folders)
            for section in new.source
            if section not in context.source_threads
        }
        sinks: dict[Any, Sink] = {}
        stamp = _stamp(new.bundle)
        try:
            for section in new.sink:
                if section not in context.sinks:
                    sinks[section] = open_sink(section)
            if is_other := new.bundle != old.bundle or stamp != self._stamp:
                self._replace(new)
                context.swapped = ""
            elif any(_opened_with(new, key) != _opened_with(old, key) for key in _REOPENED):
                with context.lease.borrow() as learner:
                    bundle = learner.bundle
                self._replace(new, bundle)
            if context.is_stopping:
                raise StateError("the daemon stops")
        except BaseException:
            for sink in sinks.values():
                sink.close()
            raise
        context.settings, self._stamp = new, stamp if is_other else self._stamp
        context.inbox.change(new.loop.queue, new.loop.drop)
        context.loop.settings = new.loop
        context.governor.p99_ratio = new.budget.p99_ratio
        self._change_sources(old, new, sources)
        self._change_sinks(old, new, sinks)
        return needs_restart

    def _change_sources(self, old: Settings, new: Settings, sources: Mapping[Any, Source]) -> None:
        context = self._context
        gone = [
            context.source_threads.pop(section)
            for section in old.source
            if section not in new.source
        ]
        for thread in gone:
            thread.stop.set()
        for thread in gone:
            if not thread.join(2.0):
                log.warning("source %s did not stop in time", thread.source.name)
        for section, source in sources.items():
            context.source_threads[section] = SourceThread(source, context.deliver)
            context.source_threads[section].start()

    def _change_sinks(self, old: Settings, new: Settings, sinks: Mapping[Any, Sink]) -> None:
        context = self._context
        gone = [context.sinks[section] for section in old.sink if section not in new.sink]
        context.sinks = {
            key: sink
            for key, sink in context.sinks.items()
            if key not in old.sink or key in new.sink
        } | dict(sinks)
        for sink in gone:
            in_background(sink.close, f"sink {sink.name}").join(1.0)


def swap_note(context: ServiceContext) -> str:
    """What to do after a swap, as long as the settings name another bundle; else empty."""
    if not context.swapped:
        return ""
    old = context.settings.bundle
    return (
        f"the settings still name {old}, and {context.swapped} answers: set bundle to it, else the"
        f" next start opens {old.name}, or refuses it as older"
    )


def trial_note(context: ServiceContext) -> str:
    """That a bundle is being tried, and for how long; else empty."""
    if (trying := context.trying) is None:
        return ""
    name, since = trying
    return f"{name} is being tried, for {time.monotonic() - since:.0f} s of at most {LONGEST_S:g}"


def _opened_with(settings: Settings, key: str) -> Any:
    value = getattr(settings, key)
    return msgspec.structs.replace(value, p99_ratio=1.5) if key == "budget" else value


def _is_same(one: Path, other: Path) -> bool:
    """Two paths of one file, however they are written."""
    try:
        return one == other or one.samefile(other)
    except OSError:
        return False


def _stamp(path: Path) -> tuple[int, ...]:
    """Changes when the file does."""
    try:
        about = path.stat()
    except OSError:
        return ()
    return about.st_ino, about.st_size, about.st_mtime_ns


__all__ = ["Reload", "swap_note", "trial_note"]
