"""A graph that is placed: called like any other, it runs where its route says, and goes back to the
reference when that fails.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, NoReturn

from numpy.typing import NDArray

from edgeadapt.errors import DeviceError, InputError
from edgeadapt.placement.buffers import Exchange, PlacedBuffer
from edgeadapt.placement.families import Family
from edgeadapt.placement.places import REFERENCE, Place
from edgeadapt.placement.routes import Live, Route, Trial, bounds
from edgeadapt.runtime import ArrayLike, Buffer, Executable, GraphFile, Signature, Tensors

AUDIT = 1024
"""Calls of a route between two that are compared again, counted from its move; and of the first
ones every power of two.
"""
_NOTHING = Tensors()
_SIZES = 4096  # sizes of batches whose route is remembered
Results = tuple[dict[str, NDArray[Any]], Tensors]


class PlacedExecutable:
    """See ``edgeadapt.runtime.Executable``.

    Args:
        graph, constants: what is loaded.
        signature: of the graph.
        reference: the graph in the reference; None: loaded there when it is needed.
        places: the reference, then the candidates.
        exchange: of the tensors.
        family: what is known of graphs like this one.
        ring: called when the trials have something to do.
        note: told what is worth knowing.

    Attributes:
        loaded: place -> the graph there. refused: place -> why it is not used there.
        waiting: places where it is still to be loaded.
        comes: tensors that it reads and does not write.
    """

    def __init__(
        self,
        graph: GraphFile,
        constants: Mapping[str, NDArray[Any]] | None,
        signature: Signature,
        reference: Executable | None,
        places: tuple[Place, ...],
        exchange: Exchange,
        family: Family[PlacedExecutable],
        ring: Callable[[], None],
        note: Callable[[str], None],
    ) -> None:
        self.graph, self.constants, self.family = graph, constants, family
        self.places, self.exchange = places, exchange
        self.loaded: dict[int, Executable] = {}
        self.refused: dict[int, str] = (
            {place.index: place.why_not for place in places if place.why_not}
            | family.not_loaded
            | family.refused
        )
        # what is re-folded is built when its calls show that the family does not know yet where
        # they run best; others are built ahead, in one place
        ahead = [place for place in places[1:] if place.index not in self.refused]
        self.waiting = [] if constants else ahead[:1]
        self.change = threading.RLock()
        self.own_routes: dict[tuple[int, int], Route] = {}
        self._signature, self._reference = signature, reference
        self._reads = tuple(port.name for port in signature.reads)
        own = {port.name for port in signature.writes}
        self.comes = tuple(name for name in self._reads if name not in own)
        self._sized = next(
            (port.name for port in signature.ports if port.shape and port.shape[0] is None), ""
        )
        self._largest = max(graph.batches or (0,))
        self._routes: dict[int, Route] = {}  # by exact size: a call looks once
        self._ring, self._note = ring, note
        self._loading, self._is_kept = threading.Lock(), reference is not None
        # place -> the first batches of which a run has failed there
        self._failed: dict[int, Route] = {}
        family.members.add(self)

    @property
    def signature(self) -> Signature:
        return self._signature

    @property
    def reads(self) -> tuple[str, ...]:
        return self._reads

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
        route = self._routes.get(size)
        if route is None:
            if self._sized and not size:  # an empty batch, or the reference will say what is wrong
                return self._run_here(ports, tensors)
            route = self._route_of(size)
        route.calls += 1
        live, trial = route.live, route.trial
        if trial is not None:
            return self._watched(trial, route, live, ports, tensors)
        return (
            self._run_here(ports, tensors)
            if live is None
            else self._run_there(route, live, ports, tensors)
        )

    def _watched(
        self,
        trial: Trial,
        route: Route,
        live: Live | None,
        ports: Mapping[str, ArrayLike],
        tensors: Tensors,
    ) -> Results:
        """A call while something is tried: the trial may run it again."""
        results = (
            self._run_here(ports, tensors)
            if live is None
            else self._run_there(route, live, ports, tensors)
        )
        if trial.offer(ports, self._reads, tensors):
            self._ring()
        return results

    def reference(self, is_kept: bool = True) -> Executable:
        """The graph in the reference, loaded there if it was not needed so far."""
        with self._loading:  # and not ``change``: calls that need no reference do not wait
            self._is_kept = self._is_kept or is_kept
            loaded = self._reference
            if loaded is None:
                loaded = self._reference = self.places[REFERENCE].opened.load(
                    self.graph, self.constants
                )
        return loaded

    @contextmanager
    def borrowed_reference(self) -> Iterator[Executable]:
        """The same, and let go of again if nobody else has needed it."""
        try:
            yield self.reference(is_kept=False)
        finally:
            with self._loading:
                if not self._is_kept:
                    self._reference = None

    def _run_here(self, ports: Mapping[str, ArrayLike], tensors: Tensors) -> Results:
        run = self._reference
        if run is None or not self._is_kept:
            run = self.reference()
        outputs, written = run(
            ports, self._gathered(tensors, REFERENCE) if self._reads else _NOTHING
        )
        return outputs, self._wrapped(written, REFERENCE) if written else _NOTHING

    def _run_there(
        self, route: Route, live: Live, ports: Mapping[str, ArrayLike], tensors: Tensors
    ) -> Results:
        place, run = live
        try:
            gathered = self._gathered(tensors, place.index)
            with self.exchange.elsewhere.waiting():
                outputs, written = run(ports, gathered)
            route.served = served = route.served + 1
            if not served & (served - 1) or not served % AUDIT:
                route.wants_audit = True
                self._ring()
            return outputs, self._wrapped(written, place.index) if written else _NOTHING
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
        found: dict[str, Buffer] = {}
        absent: dict[str, PlacedBuffer] = {}
        exchange = self.exchange
        for name in self._reads:
            try:
                buffer = tensors[name]
            except KeyError:
                continue  # the runtime says what is missing
            if type(buffer) is not PlacedBuffer or buffer.exchange is not exchange:
                self._refuse_foreign(name, buffer)
            if buffer.at == place:
                found[name] = buffer.home
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
        exchange = self.exchange
        return Tensors(
            {name: PlacedBuffer(buffer, place, exchange) for name, buffer in written.items()}
        )

    # -- routes ------------------------------------------------------------------------------------
    @property
    def routes(self) -> list[Route]:
        with self.change:
            return list(self.own_routes.values())

    def _route_of(self, size: int) -> Route:
        """The route of a size that was not met before; every place where the graph may run is tried
        for a new one.
        """
        key = bounds(size, self._largest)
        with self.change:
            route = self.own_routes.get(key)
            if route is None:
                route = self.own_routes[key] = Route(*key)
                self._start(route)
            if len(self._routes) >= _SIZES:
                self._routes = {}
            self._routes[size] = route
        self._ring()
        return route

    def _start(self, route: Route) -> None:
        """Where the family has shown that such batches do well, they go at once; elsewhere they are
        tried.
        """
        refused = {*self.refused, *self.family.refused}
        known = self.family.won.get(route.key)
        if (
            known is not None
            and known[0].index not in refused
            and (run := self.loaded.get(known[0].index)) is not None
        ):
            route.move(known[0], run, known[1])
            return
        without_gain = self.family.lost.get(route.key, set()) if self.constants else set()
        for place in self.places[1:]:
            if place.index in refused or place.index in without_gain:
                continue
            route.todo.append(place)
            if place.index not in self.loaded and place not in self.waiting:
                # it was let go because nothing ran there, or not loaded ahead
                self.waiting.append(place)
        if without_gain and not route.todo:
            route.why = "with other constants nothing else did better"

    def refuse(self, place: Place, why: str, is_noted: bool = True) -> None:
        """Nothing of this graph runs in a place any more, nor of those that differ in their
        constants alone.
        """
        self.family.refuse(place, why)
        is_noted = is_noted and place.index not in self.refused
        went_back = [one._gives_up(place, why) for one in self.family.members]
        if is_noted or any(went_back):
            self._note(
                f"graph {self.graph.name!r} runs in {self.places[REFERENCE].name}, not in"
                f" {place.name}: {why}"
            )

    def _gives_up(self, place: Place, why: str) -> bool:
        with self.change:
            self.refused[place.index] = why
            self.waiting = [one for one in self.waiting if one is not place]
            went_back = [route.take_back(place, why) for route in self.own_routes.values()]
            self.loaded.pop(place.index, None)
        return any(went_back)

    def leave(self, route: Route, place: Place, why: str) -> None:
        """Batches of this route do not run in a place any more, nor are they tried there."""
        with self.change:
            is_tried = route.trial is not None and route.trial.place is place
            went_back = route.take_back(place, why)
            if is_tried and route.live is None:
                route.why = f"{place.name}: {why}"
        self.family.leave(route.key, place)
        if went_back or is_tried:  # and not once more for each call that was under way
            self._note(
                f"graph {self.graph.name!r}, batch {route.batches}, does not run in {place.name}:"
                f" {why}"
            )

    def fails(self, route: Route, place: Place, error: Exception) -> None:
        """A run has failed: perhaps by its batch. If the device itself fails, or batches of another
        size do too, nothing of the graph runs there.
        """
        why = f"{type(error).__name__}: {error}"
        with self.change:
            first = self._failed.setdefault(place.index, route)
        if isinstance(error, DeviceError) or first is not route:
            self.refuse(place, why)
        else:
            self.leave(route, place, why)

    @contextmanager
    def standing_aside(self, place: Place) -> Iterator[None]:
        """Run in the reference meanwhile: for a batch that it does not know an engine may be built,
        and calls of others would wait for it.
        """
        with self.change:
            for route in self.own_routes.values():
                route.step_aside(place)
        try:
            yield
        finally:
            with self.change:
                for route in self.own_routes.values():
                    route.step_in()

    def where(self) -> str:
        """Names of the runtimes that serve it, joined by ``+`` where batches of different sizes run
        in different ones.
        """
        reference = self.places[REFERENCE].name
        names = {route.where(reference) for route in self.routes if route.calls}
        return "+".join(sorted(names)) or reference


__all__ = ["PlacedExecutable"]
