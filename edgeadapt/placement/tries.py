"""Trying graphs elsewhere, on the thread of its own: open a candidate, load a graph there, run
samples again, and decide.
"""

from __future__ import annotations

import logging
import time

import numpy as np

from edgeadapt.errors import InputError, RuntimeUnavailable
from edgeadapt.placement.background import WakeEvent
from edgeadapt.placement.executable import PlacedExecutable
from edgeadapt.placement.held import Held
from edgeadapt.placement.notes import Notes
from edgeadapt.placement.places import REFERENCE, Place
from edgeadapt.placement.priority import at_low_priority
from edgeadapt.placement.routes import Room, Route, Sample, Trial
from edgeadapt.placement.trials import Judge, too_many
from edgeadapt.runtime import BuildsAhead, Executable

log = logging.getLogger("edgeadapt")
# times the reference's load: up to that, other constants are an upload and not a build
_UPLOAD = 2.0


class Tries:
    """All trials of one ``Placing``, one piece of work at a time.

    Args:
        places: the reference, then the candidates in the order in which they are tried.
        executables: those that somebody holds.
        judge: runs samples.
        room: for samples.
        gain: share of the time that has to be gained to move.
        bell: tells when to end.

    Attributes:
        doing: what is built or run at this moment; empty if nothing.
    """

    def __init__(
        self,
        places: tuple[Place, ...],
        executables: Held[PlacedExecutable],
        judge: Judge,
        room: Room,
        gain: float,
        bell: WakeEvent,
        notes: Notes,
    ) -> None:
        self._places = places
        self._executables = executables
        self._judge = judge
        self._room = room
        self._gain = gain
        self._bell = bell
        self._notes = notes
        self.doing = ""

    @property
    def is_settled(self) -> bool:
        """True if nothing could go on before another call comes."""
        if self._bell.is_stopped:
            return not self.doing
        return (
            not self.doing
            and not self._bell.has_rung
            and not any(one.waiting or self._has_work(one) for one in list(self._executables))
        )

    def try_next(self) -> bool:
        """One piece of work, the quickest first: a sample, a trial to begin, a graph to load. False
        if there is none.
        """
        executables = list(self._executables)
        for executable in executables:
            for route in executable.routes:
                if route.trial is not None and route.trial.has_sample:
                    self._try_sample(executable, route, route.trial, executables)
                    return True
                if route.trial is None and self._begin(executable, route):
                    return True
        for place in self._places[1:]:
            for executable in executables:
                if place in executable.waiting:
                    self._load(executable, place)
                    return True
        for executable in executables:
            self._tidy(executable)
        for place in self._places[1:]:
            if place.is_open and not any(place.index in one.loaded for one in executables):
                place.let_go()
        return False

    def _begin(self, executable: PlacedExecutable, route: Route) -> bool:
        with executable.change:
            for place in route.todo:
                if (run := executable.loaded.get(place.index)) is not None:
                    route.todo.remove(place)
                    route.trial = Trial(place, run, self._room, executable.comes)
                    return True
            if route.wants_audit:
                route.wants_audit = False
                if (live := route.live) is not None:
                    route.trial = Trial(*live, self._room, executable.comes, is_audit=True)
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
                runtime.build(graph, constants, lambda *_: not self._bell.is_stopped)
            except RuntimeUnavailable as error:
                # it may load even so: with constants built in, or what cannot be kept
                if not self._bell.is_stopped:
                    log.info(
                        "placement: graph %r is not built ahead in %s: %s",
                        graph.name,
                        place.name,
                        error,
                    )
        return None if self._bell.is_stopped else runtime.load(graph, constants)

    def _leave_out(self, place: Place) -> None:
        """It does not open: no graph is tried there. When none does, there is nothing left to
        do.
        """
        for executable in list(self._executables):
            executable.refuse(place, place.why_not, is_noted=False)
        self._notes.add(f"nothing runs in {place.name}: {place.why_not}")
        if all(one.why_not for one in self._places[1:]):
            self._bell.stop()

    def _try_sample(
        self,
        executable: PlacedExecutable,
        route: Route,
        trial: Trial,
        executables: list[PlacedExecutable],
    ) -> None:
        sample = trial.sample()
        if sample is None:
            return
        self.doing = f"{executable.graph.name}, batch {route.batches}, in {trial.place.name}"
        try:
            if trial.is_audit:
                self._audit(executable, route, trial, sample)
                return
            route.measured[trial.place.name] = trial.measured
            said = self._judge.run(executable, trial, route, sample, executables)
            if said == "done":
                self._decide(executable, route, trial)
            elif said != "again":
                executable.refuse(trial.place, said)
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
        found = self._judge.audit(executable, trial, sample)
        route.ties += found.is_tie
        why = found.why or (too_many(route.ties) if route.ties >= self._judge.calls else "")
        if why:
            executable.refuse(trial.place, f"it agreed, and does not any more: {why}")
        elif not found.is_tie:
            route.audits += 1
            self._end(route, trial, "")

    def _decide(self, executable: PlacedExecutable, route: Route, trial: Trial) -> None:
        place, measured = trial.place, trial.measured
        figures = (
            f"{1e3 * measured.there_s:.3g} ms, {self._places[REFERENCE].name}"
            f" {1e3 * measured.here_s:.3g} ms"
        )
        if measured.ratio >= (1.0 - self._gain) * route.ratio():
            self._end(route, trial, "" if route.live else f"{place.name} is not faster: {figures}")
            executable.family.lost.setdefault(route.key, set()).add(place.index)
            return
        with executable.change:
            if place.index in executable.refused or self._bell.is_stopped:
                return
            place.has_served = True
            route.move(
                place,
                trial.run,
                f"{place.name} is faster: {figures}; {measured.calls} calls agree to"
                f" {measured.error:.1e}",
            )
            self._end(route, trial, "")
        self._notes.add(f"graph {executable.graph.name!r}, batch {route.batches}: {route.why}")
        if executable.constants:
            executable.family.won[route.key] = (
                place,
                f"as others with other constants: {route.why}",
            )
            self._ask_for_other_constants(executable, place)

    def _end(self, route: Route, trial: Trial, why: str) -> None:
        route.why = why or route.why
        if route.trial is trial:
            route.end_trial()

    def _ask_for_other_constants(self, executable: PlacedExecutable, place: Place) -> None:
        """Is another set of constants an upload here, or a build? Found out with one that nobody
        uses.
        """
        family = executable.family
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
            self._notes.add(
                f"graph {executable.graph.name!r}: {place.name} does not take other constants:"
                f" {error}"
            )
            return
        took = time.perf_counter() - started
        if took <= _UPLOAD * family.load_s:
            family.uploads.append(place)
        else:
            family.not_loaded.setdefault(
                place.index,
                f"other constants take {1e3 * took:.3g} ms to load, {1e3 * family.load_s:.3g} ms in"
                f" {self._places[REFERENCE].name}",
            )
            self._notes.add(
                f"graph {executable.graph.name!r}: {place.name}: {family.not_loaded[place.index]}"
            )

    def _has_work(self, executable: PlacedExecutable) -> bool:
        return any(
            (route.trial is not None and route.trial.has_sample)
            or (route.trial is None and (route.todo or route.wants_audit))
            for route in executable.routes
        )

    def _tidy(self, executable: PlacedExecutable) -> None:
        """Let go of what was loaded for trials and serves nothing. Before the first call nothing is
        known.
        """
        with executable.change:
            routes = list(executable.own_routes.values())
            if (
                not routes
                or executable.waiting
                or any(route.trial is not None or route.todo for route in routes)
            ):
                return
            used = {route.live[0].index for route in routes if route.live is not None}
            executable.loaded = {
                index: run for index, run in executable.loaded.items() if index in used
            }


__all__ = ["Tries"]
