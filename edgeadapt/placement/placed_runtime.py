"""``PlacedRuntime``: a runtime made of others. Graphs start on the reference, are tried on the
candidates with calls that really come, and move when they gain.
"""

from __future__ import annotations

import math
import threading
import time
import weakref
from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgeadapt.errors import InputError
from edgeadapt.placement import background
from edgeadapt.placement.comparison import Rules
from edgeadapt.placement.executable import Family, PlacedExecutable, PlacementContext
from edgeadapt.placement.places import REFERENCE, Copies, Exchange, Place, PlacedBuffer
from edgeadapt.placement.routes import Measured, Route
from edgeadapt.placement.scheduler import TrialScheduler
from edgeadapt.runtime import Executable, GraphFile, Runtime, Tensors, with_defaults

CACHED = 16  # loaded graphs kept


class PlacedRuntime(Runtime):
    """Runs every graph where its round trip is least; see ``docs/placement.md``.

    Args:
        reference: serves every call until something else has shown that it is right and faster, and
            whenever something else fails.
        candidates: opened and tried in this order, on a thread of its own.
        rules: when a graph may move.
    """

    name = "auto"

    def __init__(
        self, reference: Runtime, candidates: Sequence[Place], rules: Rules | None = None
    ) -> None:
        self._reference = with_defaults(reference)
        self.places = (Place(REFERENCE, reference.name, runtime=reference), *candidates)
        if [place.index for place in self.places] != list(range(len(self.places))):
            raise InputError(
                f"candidates are numbered from 1 on, got {[place.index for place in candidates]}"
            )
        self.exchange = Exchange(self.places)
        self._context = PlacementContext(self.places, self.exchange)
        self._loaded: OrderedDict[str, PlacedExecutable] = OrderedDict()
        self._refolded: weakref.WeakValueDictionary[tuple[str, str], PlacedExecutable] = (
            weakref.WeakValueDictionary()
        )
        self._families: dict[tuple[str, tuple[str, ...]], Family] = {}
        self._lock = threading.Lock()
        self._scheduler = TrialScheduler(self._context, rules or Rules())
        self._thread = background.start(self._scheduler, self._context.wake)
        weakref.finalize(self, self._context.wake.stop)

    # -- the protocol of a runtime -----------------------------------------------------------------
    def load(
        self, graph: GraphFile, constants: Mapping[str, NDArray[Any]] | None = None
    ) -> PlacedExecutable:
        """A runnable graph, cached by its hash; the least recently used of 16 is dropped. With
        constants it is shared for as long as somebody holds it.

        It runs on the reference from now on. Where others with the same names of constants have
        shown that a candidate is right and faster, and takes constants as an upload, it is loaded
        there instead.

        Raises:
            BundleError: as of the reference.
        """
        with self._lock:
            if constants:
                digest = GraphFile("constants", b"", constants).sha256
                refolded = self._refolded.get((graph.sha256, digest))
                if refolded is None:
                    refolded = self._refolded[graph.sha256, digest] = self._refold(graph, constants)
                return refolded
            loaded = self._loaded.get(graph.sha256)
            if loaded is None:
                run = self._reference.load(graph)
                loaded = self._placed(graph, None, run, self._family(graph, ()))
                self._loaded[graph.sha256] = loaded
                if len(self._loaded) > CACHED:
                    self._loaded.popitem(last=False)
            else:
                self._loaded.move_to_end(graph.sha256)
        return loaded

    def upload(self, values: Mapping[str, NDArray[Any]]) -> Tensors:
        """Copy arrays into buffers of the reference; where else they are read they come when they
        are.

        Raises:
            InputError: a value has a dtype that no tensor can have.
        """
        return Tensors(
            {
                name: PlacedBuffer(buffer, REFERENCE, self.exchange)
                for name, buffer in self._reference.upload(values).items()
            }
        )

    def download(
        self, tensors: Tensors, names: Iterable[str] | None = None
    ) -> dict[str, NDArray[Any]]:
        """Copies on the host, of all tensors or of those named.

        Raises:
            InputError: a name is not in ``tensors``, or its tensor is of another runtime.
            RuntimeUnavailable: it lies only where it cannot be read any more.
        """
        wanted = list(tensors if names is None else names)
        buffers: dict[str, PlacedBuffer] = {}
        for name in wanted:
            if name not in tensors:
                raise InputError(
                    f"no tensor {name!r} to download; there are:"
                    f" {', '.join(sorted(tensors)[:8]) or 'none'}"
                )
            buffer = tensors[name]
            if not isinstance(buffer, PlacedBuffer) or buffer.exchange is not self.exchange:
                raise InputError(f"tensor {name!r} is a {type(buffer).__name__} of another runtime")
            buffers[name] = buffer
        self.exchange.host_reads.update(wanted)
        return self.exchange.download(buffers)

    @property
    def runs_where_called(self) -> bool:
        """True as long as the reference computes on the thread that calls, and nothing runs
        elsewhere. ``spent`` is right in either case.
        """
        return self._reference.runs_where_called and not any(
            route.live is not None for one in self._context.executables for route in one.routes
        )

    @property
    def spent(self) -> Callable[[], float]:
        """Seconds of work of the calling thread: its own, and what it waited for devices."""
        is_here = self._reference.runs_where_called
        return self.exchange.device_time.spent if is_here else self._reference.spent

    # -- looking inside ----------------------------------------------------------------------------
    @property
    def lost(self) -> str:
        """Why tensors cannot be read any more, and what to do; empty as long as all can."""
        return self.exchange.lost

    def where(self, executable: Executable | None) -> str:
        """Name of the runtime that serves a graph now; of the reference where it is not loaded."""
        return (
            executable.where() if isinstance(executable, PlacedExecutable) else self._reference.name
        )

    def report(self) -> dict[str, Any]:
        """As plain values.

        Returns:
            ``runtimes``: name -> ``{"state": "serves" | "open" | "idle" | "unavailable", "why"}``.
            ``graphs``: rows ``{"graph", "is_refolded", "batch", "where", "why", "calls", "audits",
            "state", "tried": {name: {...}}, "refused": {name: why}}`` where ``state`` is
            ``settled``, ``trying``, ``waiting for a call`` or ``waiting to be built``, and what was
            tried has ``ms`` and ``reference_ms`` (median round trips), ``error`` (largest relative
            difference), ``agreed`` (calls). ``audits`` are calls that were compared again, and
            agreed, since it runs there. ``copies``: ``{"from", "to", "count", "bytes",
            "is_trial"}``. ``notes``, ``doing`` (what is built or run at this moment), ``lost``.
        """
        executables = sorted(
            self._context.executables, key=lambda one: (one.graph.name, one.constants is not None)
        )
        rows = [row for one in executables for row in _rows(self.places, one)]
        return {
            "runtimes": {place.name: _state(place, rows) for place in self.places},
            "graphs": rows,
            "copies": [
                *_copies(self.exchange.copies, False),
                *_copies(self.exchange.trial_copies, True),
            ],
            "notes": list(self._context.notes),
            "doing": self._scheduler.doing,
            "lost": self.lost,
        }

    @property
    def is_settled(self) -> bool:
        """True if no trial could go on before another call comes."""
        return self._scheduler.is_settled

    def close(self, timeout_s: float = 1.0) -> bool:
        """Try nothing any more; what is loaded goes on where it runs. False if the thread is in the
        middle of a build that did not end in time.
        """
        self._context.wake.stop()
        for executable in self._context.executables:
            for route in executable.routes:
                route.end_trial()
        if self._thread is not threading.current_thread():
            self._thread.join(timeout_s)
        return not self._thread.is_alive()

    # -- loading -----------------------------------------------------------------------------------
    def _family(self, graph: GraphFile, names: tuple[str, ...]) -> Family:
        return self._families.setdefault((graph.sha256, names), Family())

    def _placed(
        self,
        graph: GraphFile,
        constants: Mapping[str, NDArray[Any]] | None,
        run: Executable,
        family: Family,
    ) -> PlacedExecutable:
        placed = PlacedExecutable(graph, constants, run, self.places[0], self._context, family)
        self._context.wake.set()
        return placed

    def _refold(self, graph: GraphFile, constants: Mapping[str, NDArray[Any]]) -> PlacedExecutable:
        private = {name: np.array(value, order="C") for name, value in constants.items()}
        family = self._family(graph, tuple(sorted(constants)))
        for place in family.uploads:
            if (placed := self._load_on_candidate(graph, private, family, place)) is not None:
                return placed
        started = time.perf_counter()
        run = self._reference.load(graph, private)
        family.load_s = time.perf_counter() - started
        return self._placed(graph, private, run, family)

    def _load_on_candidate(
        self, graph: GraphFile, constants: Mapping[str, NDArray[Any]], family: Family, place: Place
    ) -> PlacedExecutable | None:
        """Loaded in a candidate alone; None where that has to wait, or fails."""
        # something is being built there
        if place.index in {*family.refused, *family.not_loaded} or not place.gate.acquire(
            blocking=False
        ):
            return None
        try:
            run = place.opened.load(graph, constants)
        except Exception as error:
            family.not_loaded[place.index] = f"{type(error).__name__}: {error}"
            self._context.note(
                f"graph {graph.name!r}: {place.name} did not take other constants: {error}"
            )
            return None
        finally:
            place.gate.release()
        return PlacedExecutable(graph, constants, run, place, self._context, family)


Placing = PlacedRuntime  # its name before


# -- the report as plain values --------------------------------------------------------------------
def _state(place: Place, rows: list[dict[str, Any]]) -> dict[str, str]:
    if place.why_not:
        return {"state": "unavailable", "why": place.why_not}
    if not place.is_open:
        return {"state": "idle", "why": "nothing is tried there now"}
    serves = any(row["where"] == place.name for row in rows)
    return {"state": "serves" if serves else "open", "why": ""}


def _rows(places: Sequence[Place], executable: PlacedExecutable) -> list[dict[str, Any]]:
    about = {"graph": executable.graph.name, "is_refolded": executable.constants is not None}
    refused = {places[index].name: why for index, why in executable.refused.items()}
    name, is_waiting = places[0].name, bool(executable.waiting)
    rows = [_row(route, name, is_waiting) for route in executable.routes]
    if not rows:
        rows = [_row(Route(0, 0), name, is_waiting) | {"batch": "none yet"}]
    return [about | row | {"refused": refused} for row in rows]


def _row(route: Route, reference: str, is_waiting: bool) -> dict[str, Any]:
    trial = route.trial
    state = "settled"
    if trial is not None and not trial.is_audit:
        state = "waiting for a call" if trial.sample is None else "trying"
    elif is_waiting or route.todo:
        state = "waiting to be built"
    return {
        "batch": route.batches,
        "where": route.where(reference),
        "why": route.why,
        "calls": route.calls,
        "audits": route.audits,
        "state": state,
        "tried": {name: _measured(found) for name, found in route.measured.items()},
    }


def _measured(found: Measured) -> dict[str, Any]:
    return {
        "ms": _ms(found.there_s),
        "reference_ms": _ms(found.here_s),
        "error": found.error if math.isfinite(found.error) else None,
        "agreed": found.calls,
        "ties": found.ties,
    }


def _ms(seconds: float) -> float | None:
    return None if math.isnan(seconds) else 1e3 * seconds


def _copies(tallies: dict[tuple[str, str], Copies], is_trial: bool) -> list[dict[str, Any]]:
    return [
        {"from": at, "to": to, "count": tally.count, "bytes": tally.nbytes, "is_trial": is_trial}
        for (at, to), tally in list(tallies.items())
    ]


__all__ = ["PlacedRuntime", "Placing"]
