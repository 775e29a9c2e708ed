"""A graph that is placed: called like any other, it runs where its route says, and goes back to the
reference when that fails.
"""

from __future__ import annotations

import logging
import threading
import weakref
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, NoReturn

from numpy.typing import NDArray

from edgeadapt.errors import DeviceError, InputError
from edgeadapt.placement.background import WakeEvent
from edgeadapt.placement.places import REFERENCE, Exchange, Place, PlacedBuffer
from edgeadapt.placement.routes import Live, Route, bounds
from edgeadapt.runtime import ArrayLike, Buffer, Executable, GraphFile, Tensors

log = logging.getLogger("edgeadapt")

AUDIT = 1024
"""Calls of a route between two that are compared again, counted from its move; and of the first
ones every power of two.
"""
_NOTHING = Tensors()
_SIZES = 4096  # sizes of batches whose route is remembered
_NOTES = 100  # kept
Results = tuple[dict[str, NDArray[Any]], Tensors]


class WeakRegistry:
    """Executables that somebody else holds. A ``WeakSet`` raises where something is added while
    another thread looks through it.
    """

    def __init__(self) -> None:
        self._held: weakref.WeakValueDictionary[int, PlacedExecutable]
        self._held = weakref.WeakValueDictionary()

    def add(self, one: PlacedExecutable) -> None:
        self._held[id(one)] = one

    def __iter__(self) -> Iterator[PlacedExecutable]:
        """Those that are there now."""
        # one step for other threads: a list of the references
        return iter([one for ref in self._held.valuerefs() if (one := ref()) is not None])


@dataclass(eq=False)
class PlacementContext:
    """What all parts of one placed runtime share.

    Attributes:
        places: the reference, then the candidates in the order in which they are tried.
        exchange: of the tensors.
        wake: set when the trials may have something to do.
        executables: all graphs.
        notes: the newest of what is worth knowing and no error, oldest first.
    """

    places: tuple[Place, ...]
    exchange: Exchange
    wake: WakeEvent = field(default_factory=WakeEvent)
    executables: WeakRegistry = field(default_factory=WeakRegistry)
    notes: deque[str] = field(default_factory=lambda: deque(maxlen=_NOTES))

    def note(self, text: str) -> None:
        log.info("placement: %s", text)
        self.notes.append(text)


@dataclass(eq=False)
class Family:
    """What was found of graphs with the same model that differ in the values of their constants
    alone: what one re-folded encoder has shown holds for the next.

    Attributes:
        members: those that somebody holds.
        refused: place -> why none of them runs there.
        not_loaded: place -> why no others are loaded there; those that are stay.
        won: range of batches -> where they run best, and why.
        lost: range of batches -> places that gave no gain, or did not take them.
        load_s: seconds that the reference took to load the newest of them.
        uploads: places that take other constants as fast as the reference does: there a graph is
            loaded at once.
    """

    members: WeakRegistry = field(default_factory=WeakRegistry)
    refused: dict[int, str] = field(default_factory=dict)
    not_loaded: dict[int, str] = field(default_factory=dict)
    won: dict[tuple[int, int], tuple[Place, str]] = field(default_factory=dict)
    lost: dict[tuple[int, int], set[int]] = field(default_factory=dict)
    load_s: float = 0.0
    uploads: list[Place] = field(default_factory=list)

    def refuse(self, place: Place, why: str) -> None:
        """None runs there any more, and what was won there counts for nothing."""
        self.refused.setdefault(place.index, why)
        self.won = {batches: won for batches, won in self.won.items() if won[0] is not place}

    def leave(self, batches: tuple[int, int], place: Place) -> None:
        """Batches of one range do not run there any more."""
        self.lost.setdefault(batches, set()).add(place.index)
        if (won := self.won.get(batches)) is not None and won[0] is place:
            del self.won[batches]


class LazyReference:
    """A graph in the reference, loaded there when it is first needed.

    Args:
        load: loads it.
        run: what is loaded already.
    """

    def __init__(self, load: Callable[[], Executable], run: Executable | None) -> None:
        self._load, self.run = load, run
        self.is_kept, self._lock = run is not None, threading.Lock()

    def get(self, is_kept: bool = True) -> Executable:
        with self._lock:  # its own: calls that need no reference do not wait
            self.is_kept = self.is_kept or is_kept
            if self.run is None:
                self.run = self._load()
            return self.run

    @contextmanager
    def borrowed(self) -> Iterator[Executable]:
        """The same, and released again if nobody else has needed it."""
        try:
            yield self.get(is_kept=False)
        finally:
            with self._lock:
                if not self.is_kept:
                    self.run = None


class PlacedExecutable:
    """See ``edgeadapt.runtime.Executable``.

    Args:
        graph, constants: what is loaded.
        run: the graph in ``place``.
        place: the reference; or a candidate, and the reference loads the graph when it is needed.
        context: of its runtime.
        family: what is known of graphs like this one.

    Attributes:
        reads: names of tensors.
        loaded: place -> the graph there. refused: place -> why it is not used there.
        waiting: places where it is still to be loaded.
        reference: the graph there.
        change: held by whoever changes one of these, or a route.
    """

    def __init__(
        self,
        graph: GraphFile,
        constants: Mapping[str, NDArray[Any]] | None,
        run: Executable,
        place: Place,
        context: PlacementContext,
        family: Family,
    ) -> None:
        self.graph, self.constants, self.family = graph, constants, family
        self.context = context
        self.signature = run.signature
        self.reads = tuple(port.name for port in self.signature.reads)
        is_here = place.index == REFERENCE
        self.reference = LazyReference(
            lambda: context.places[REFERENCE].opened.load(graph, constants),
            run if is_here else None,
        )
        self.loaded: dict[int, Executable] = {} if is_here else {place.index: run}
        self.refused: dict[int, str] = (
            {place.index: place.why_not for place in context.places if place.why_not}
            | family.not_loaded
            | family.refused
        )
        # what is re-folded is built when its calls show that the family does not know yet where
        # they run best; others are built ahead, in one place
        ahead = [place for place in context.places[1:] if place.index not in self.refused]
        self.waiting = [] if constants else ahead[:1]
        self.change = threading.RLock()
        self._sized = next(
            (port.name for port in self.signature.ports if port.shape and port.shape[0] is None), ""
        )
        self._by_range: dict[tuple[int, int], Route] = {}
        self._by_size: dict[int, Route] = {}  # a call looks once
        family.members.add(self)
        context.executables.add(self)

    def __call__(self, ports: Mapping[str, ArrayLike], tensors: Tensors) -> Results:
        """Run once; thread-safe.

        Args:
            ports: as the graph's runtime takes them.
            tensors: at least what the graph reads, from this runtime.

        Raises:
            InputError: as of the reference.
            RuntimeUnavailable: the reference failed, or a tensor lies only where it cannot be read
                any more.
        """
        try:
            size = len(ports[self._sized])
        except (KeyError, TypeError):
            size = 0
        route = self._by_size.get(size)
        if route is None:
            if self._sized and not size:  # an empty batch, or the reference will say what is wrong
                return self._run_here(ports, tensors)
            route = self._route_of(size)
        route.calls += 1
        live, trial = route.live, route.trial
        results = (
            self._run_here(ports, tensors)
            if live is None
            else self._run_there(route, live, ports, tensors)
        )
        # while something is tried, the trial may run the call again
        if trial is not None and trial.offer(ports, self.reads, tensors):
            self.context.wake.set()
        return results

    def _run_here(self, ports: Mapping[str, ArrayLike], tensors: Tensors) -> Results:
        reference = self.reference
        run = reference.run
        if run is None or not reference.is_kept:
            run = reference.get()
        outputs, written = run(ports, self._gathered(tensors, REFERENCE))
        return outputs, self._wrapped(written, REFERENCE)

    def _run_there(
        self, route: Route, live: Live, ports: Mapping[str, ArrayLike], tensors: Tensors
    ) -> Results:
        place, run = live
        try:
            gathered = self._gathered(tensors, place.index)
            with self.context.exchange.device_time.waiting():
                outputs, written = run(ports, gathered)
            route.served = served = route.served + 1
            if not served & (served - 1) or not served % AUDIT:
                route.wants_audit = True
                self.context.wake.set()
            return outputs, self._wrapped(written, place.index)
        # an engine of others may raise anything; what the reference refuses as well was the
        # caller's
        except Exception as error:
            failure = error
        results = self._run_here(ports, tensors)
        # it is stricter than the reference, with this batch perhaps
        if isinstance(failure, InputError):
            self.leave(route, place, f"it refuses what the reference takes: {failure}")
        else:
            self.fails(route, place, failure)
        return results

    def _gathered(self, tensors: Tensors, place: int) -> Tensors:
        """What the graph reads, as buffers of one place."""
        if not self.reads:
            return _NOTHING
        found: dict[str, Buffer] = {}
        absent: dict[str, PlacedBuffer] = {}
        exchange = self.context.exchange
        for name in self.reads:
            try:
                buffer = tensors[name]
            except KeyError:
                continue  # the runtime says what is missing
            if type(buffer) is not PlacedBuffer or buffer.exchange is not exchange:
                self._refuse_foreign(name, buffer)
            if buffer.at == place:
                found[name] = buffer.buffer
            elif (copy := buffer.copies.get(place)) is not None:
                found[name] = copy
            else:
                absent[name] = buffer
        if absent:
            found.update(exchange.bring(absent, place))
        return Tensors(found)

    def _refuse_foreign(self, name: str, buffer: Buffer) -> NoReturn:
        raise InputError(
            f"graph {self.graph.name!r}: tensor {name!r} is a {type(buffer).__name__} of another"
            " runtime; upload it here first"
        )

    def _wrapped(self, written: Tensors, place: int) -> Tensors:
        if not written:
            return _NOTHING
        exchange = self.context.exchange
        return Tensors(
            {name: PlacedBuffer(buffer, place, exchange) for name, buffer in written.items()}
        )

    # -- routes ------------------------------------------------------------------------------------
    @property
    def routes(self) -> list[Route]:
        with self.change:
            return list(self._by_range.values())

    def _route_of(self, size: int) -> Route:
        """The route of a size that was not met before; every place where the graph may run is tried
        for a new one.
        """
        key = bounds(size, max(self.graph.batches or (0,)))
        with self.change:
            route = self._by_range.get(key)
            if route is None:
                route = self._by_range[key] = Route(*key)
                self._start(route)
            if len(self._by_size) >= _SIZES:
                self._by_size = {}
            self._by_size[size] = route
        self.context.wake.set()
        return route

    def _start(self, route: Route) -> None:
        """Where the family has shown that such batches do well, they go at once; elsewhere they are
        tried.
        """
        refused, known = {*self.refused, *self.family.refused}, self.family.won.get(route.key)
        if known is not None and known[0].index not in refused:
            run = self.loaded.get(known[0].index)
            if run is not None:
                route.move(known[0], run, known[1])
                return
        without_gain = self.family.lost.get(route.key, set()) if self.constants else set()
        for place in self.context.places[1:]:
            if place.index in refused or place.index in without_gain:
                continue
            route.todo.append(place)
            if place.index not in self.loaded and place not in self.waiting:
                # it was released because nothing ran there, or not loaded ahead
                self.waiting.append(place)
        if without_gain and not route.todo:
            route.why = "with other constants nothing else did better"

    def refuse(self, place: Place, why: str, is_noted: bool = True) -> None:
        """Nothing of this graph runs in a place any more, nor of those that differ in their
        constants alone.
        """
        self.family.refuse(place, why)
        is_noted = is_noted and place.index not in self.refused
        ran_there = [one._withdraw(place, why) for one in self.family.members]
        if is_noted or any(ran_there):
            self.context.note(
                f"graph {self.graph.name!r} runs in {self.context.places[REFERENCE].name}, not in"
                f" {place.name}: {why}"
            )

    def _withdraw(self, place: Place, why: str) -> bool:
        with self.change:
            self.refused[place.index] = why
            self.waiting = [one for one in self.waiting if one is not place]
            ran_there = [route.leave(place, why) for route in self.routes]
            self.loaded.pop(place.index, None)
        return any(ran_there)

    def leave(self, route: Route, place: Place, why: str) -> None:
        """Batches of this route do not run in a place any more, nor are they tried there."""
        with self.change:
            is_tried = route.trial is not None and route.trial.place is place
            ran_there = route.leave(place, why)
            if is_tried and route.live is None:
                route.why = f"{place.name}: {why}"
        self.family.leave(route.key, place)
        if ran_there or is_tried:  # and not once more for each call that was under way
            self.context.note(
                f"graph {self.graph.name!r}, batch {route.batches}, does not run in {place.name}:"
                f" {why}"
            )

    def fails(self, route: Route, place: Place, error: Exception) -> None:
        """A run has failed: perhaps by its batch. If the device itself fails, or batches of another
        size do too, nothing of the graph runs there.
        """
        why = f"{type(error).__name__}: {error}"
        with self.change:
            route.failed_at.add(place.index)
            others = [one for one in self.routes if one is not route]
        if isinstance(error, DeviceError) or any(place.index in one.failed_at for one in others):
            self.refuse(place, why)
        else:
            self.leave(route, place, why)

    def release_unused(self) -> None:
        """Release what was loaded for trials and serves nothing. Before the first call nothing is
        known.
        """
        with self.change:
            routes = self.routes
            if routes and not self.waiting and not any(one.trial or one.todo for one in routes):
                used = {route.live[0].index for route in routes if route.live is not None}
                self.loaded = {place: run for place, run in self.loaded.items() if place in used}

    @contextmanager
    def paused_at(self, place: Place) -> Iterator[None]:
        """Run in the reference meanwhile: for a batch that it does not know an engine may be built,
        and calls of others would wait for it.
        """
        with self.change:
            for route in self.routes:
                route.pause(place)
        try:
            yield
        finally:
            with self.change:
                for route in self.routes:
                    route.resume()

    def where(self) -> str:
        """Names of the runtimes that serve it, joined by ``+`` where batches of different sizes run
        in different ones.
        """
        reference = self.context.places[REFERENCE].name
        names = {route.where(reference) for route in self.routes if route.calls}
        return "+".join(sorted(names)) or reference


__all__ = ["Family", "PlacedExecutable", "PlacementContext"]
