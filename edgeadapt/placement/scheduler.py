"""Trying graphs elsewhere, on the thread of its own: open a candidate, load a graph there, run
samples again, and decide.
"""

from __future__ import annotations

import logging
import time

import numpy as np

from edgeadapt.errors import InputError, RuntimeUnavailable
from edgeadapt.placement.background import at_low_priority
from edgeadapt.placement.comparison import Rules, SampleRunner
from edgeadapt.placement.executable import PlacedExecutable, PlacementContext
from edgeadapt.placement.places import REFERENCE, Place
from edgeadapt.placement.routes import Route, Sample, SampleBudget, Trial
from edgeadapt.runtime import BuildsAhead, Executable

log = logging.getLogger("edgeadapt")
# times the reference's load: up to that, other constants are an upload and not a build
_UPLOAD = 2.0


class TrialScheduler:
    """All trials of one placed runtime, one piece of work at a time.

    Args:
        context: graphs, and places in the order in which they are tried.
        rules: when a graph may move.

    Attributes:
        budget: for samples.
        doing: what is built or run at this moment; empty if nothing.
    """

    def __init__(self, context: PlacementContext, rules: Rules) -> None:
        self._context, self._places, self._wake = context, context.places, context.wake
        self._runner, self._gain = SampleRunner(context, rules), rules.gain
        self.budget = SampleBudget(rules.sample_mib << 20)
        self.doing = ""

    @property
    def is_settled(self) -> bool:
        """True if nothing could go on before another call comes."""
        if self._wake.is_stopped:
            return not self.doing
        return (
            not self.doing
            and not self._wake.is_set()
            and not any(one.waiting or _has_work(one) for one in self._context.executables)
        )

    def try_next(self) -> bool:
        """One piece of work, the quickest first: a sample, a trial to begin, a graph to load. False
        if there is none.
        """
        executables = list(self._context.executables)
        for executable in executables:
            for route in executable.routes:
                if route.trial is not None and (sample := route.trial.sample) is not None:
                    self._try_sample(executable, route, route.trial, sample)
                    return True
                if route.trial is None and self._begin(executable, route):
                    return True
        for place in self._places[1:]:
            for executable in executables:
                if place in executable.waiting:
                    self._load(executable, place)
                    return True
        for executable in executables:
            executable.release_unused()
        for place in self._places[1:]:
            if place.is_open and not any(place.index in one.loaded for one in executables):
                place.release()
        return False

    def _begin(self, executable: PlacedExecutable, route: Route) -> bool:
        writes = {port.name for port in executable.signature.writes}
        read_only = [name for name in executable.reads if name not in writes]
        with executable.change:
            for place in route.todo:
                if (run := executable.loaded.get(place.index)) is not None:
                    route.todo.remove(place)
                    route.trial = Trial(place, run, self.budget, read_only)
                    return True
            if route.wants_audit:
                route.wants_audit = False
                if (live := route.live) is not None:
                    route.trial = Trial(*live, self.budget, read_only, is_audit=True)
                    return True
        return False

    def _load(self, executable: PlacedExecutable, place: Place) -> None:
        """Build it there; it may take minutes."""
        self.doing = f"{executable.graph.name} in {place.name}"
        try:
            at_low_priority(place.open)
            if not place.is_open:
                self._leave_out(place)
                return
            with place.gate:
                run = at_low_priority(lambda: self._built(executable, place))
            with executable.change:
                if run is not None and place in executable.waiting:
                    executable.waiting.remove(place)
                    executable.loaded[place.index] = run
        except Exception as error:
            executable.refuse(place, f"{type(error).__name__}: {error}")
        finally:
            self.doing = ""

    def _built(self, executable: PlacedExecutable, place: Place) -> Executable | None:
        """The graph loaded there; None if the end came first. Where engines are kept they are built
        before: that can be cancelled, loading cannot.
        """
        runtime, graph, constants = place.opened, executable.graph, executable.constants
        if constants and graph.precision == "int8" and runtime.refolds_by_input:
            raise RuntimeUnavailable(f"{place.name} cannot quantise weights that are replaced")
        if isinstance(runtime, BuildsAhead) and runtime.cache is not None:
            try:
                runtime.build(graph, constants, lambda *_: not self._wake.is_stopped)
            except RuntimeUnavailable as error:
                # it may load even so: with constants built in, or what cannot be kept
                if not self._wake.is_stopped:
                    what = f"graph {graph.name!r} is not built ahead in {place.name}"
                    log.info("placement: %s: %s", what, error)
        return None if self._wake.is_stopped else runtime.load(graph, constants)

    def _leave_out(self, place: Place) -> None:
        """It does not open: no graph is tried there. When none does, there is nothing left to
        do.
        """
        for executable in self._context.executables:
            executable.refuse(place, place.why_not, is_noted=False)
        self._context.note(f"nothing runs in {place.name}: {place.why_not}")
        if all(one.why_not for one in self._places[1:]):
            self._wake.stop()

    def _try_sample(
        self, executable: PlacedExecutable, route: Route, trial: Trial, sample: Sample
    ) -> None:
        self.doing = f"{executable.graph.name}, batch {route.batches}, in {trial.place.name}"
        try:
            if trial.is_audit:
                self._audit(executable, route, trial, sample)
                return
            route.measured[trial.place.name] = trial.measured
            outcome = self._runner.run(executable, trial, route, sample)
            if outcome == "done":
                self._decide(executable, route, trial)
            elif outcome != "again":
                executable.refuse(trial.place, outcome)
        except InputError as error:  # not this batch
            executable.leave(route, trial.place, f"it refuses what the reference takes: {error}")
        except Exception as error:
            executable.fails(route, trial.place, error)
        finally:
            trial.done()
            self.doing = ""

    def _audit(
        self, executable: PlacedExecutable, route: Route, trial: Trial, sample: Sample
    ) -> None:
        """Compare again. A tie says nothing, so the next call is compared, too."""
        found = self._runner.audit(executable, trial, sample)
        route.ties += found.is_tie
        if why := found.why or self._runner.too_many(route.ties):
            executable.refuse(trial.place, f"it agreed, and does not any more: {why}")
        elif not found.is_tie:
            route.audits += 1
            _end(route, trial)

    def _decide(self, executable: PlacedExecutable, route: Route, trial: Trial) -> None:
        place, measured, family = trial.place, trial.measured, executable.family
        figures = (
            f"{1e3 * measured.there_s:.3g} ms, {self._places[REFERENCE].name}"
            f" {1e3 * measured.here_s:.3g} ms"
        )
        if measured.ratio >= (1.0 - self._gain) * route.ratio():
            if not route.live:
                route.why = f"{place.name} is not faster: {figures}"
            _end(route, trial)
            family.lost.setdefault(route.key, set()).add(place.index)
            return
        why = (
            f"{place.name} is faster: {figures}; {measured.calls} calls agree to"
            f" {measured.error:.1e}"
        )
        with executable.change:
            if place.index in executable.refused or self._wake.is_stopped:
                return
            place.has_served = True
            route.move(place, trial.run, why)
            _end(route, trial)
        self._context.note(f"graph {executable.graph.name!r}, batch {route.batches}: {why}")
        if executable.constants:
            family.won[route.key] = (place, f"as others with other constants: {why}")
            self._time_other_constants(executable, place)

    def _time_other_constants(self, executable: PlacedExecutable, place: Place) -> None:
        """Is another set of constants an upload here, or a build? Found out with one that nobody
        uses.
        """
        family, about = executable.family, f"graph {executable.graph.name!r}: {place.name}"
        if place in family.uploads or executable.constants is None:
            return
        other = {
            name: value * np.asarray(1.001, value.dtype) if value.dtype.kind == "f" else value
            for name, value in executable.constants.items()
        }
        started = time.perf_counter()
        try:
            with place.gate:
                at_low_priority(lambda: place.opened.load(executable.graph, other))
        except Exception as error:
            family.not_loaded.setdefault(place.index, f"{type(error).__name__}: {error}")
            self._context.note(f"{about} does not take other constants: {error}")
            return
        took = time.perf_counter() - started
        if took <= _UPLOAD * family.load_s:
            family.uploads.append(place)
        else:
            why = (
                f"other constants take {1e3 * took:.3g} ms to load, {1e3 * family.load_s:.3g} ms in"
                f" {self._places[REFERENCE].name}"
            )
            self._context.note(f"{about}: {family.not_loaded.setdefault(place.index, why)}")


def _end(route: Route, trial: Trial) -> None:
    if route.trial is trial:
        route.end_trial()


def _has_work(executable: PlacedExecutable) -> bool:
    return any(
        route.todo or route.wants_audit if route.trial is None else route.trial.sample is not None
        for route in executable.routes
    )


__all__ = ["TrialScheduler"]
