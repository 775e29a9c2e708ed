"""``Placing``: a runtime made of others. Graphs start on the reference, are tried on the candidates
with calls that really come, and move when they gain.
"""

from __future__ import annotations

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
from edgeadapt.placement.buffers import Exchange, PlacedBuffer
from edgeadapt.placement.executable import PlacedExecutable
from edgeadapt.placement.families import Family
from edgeadapt.placement.held import Held
from edgeadapt.placement.notes import Notes
from edgeadapt.placement.places import REFERENCE, Place
from edgeadapt.placement.report import report_of
from edgeadapt.placement.routes import Room
from edgeadapt.placement.rules import Rules
from edgeadapt.placement.trials import Judge
from edgeadapt.placement.tries import Tries
from edgeadapt.runtime import Executable, GraphFile, Runtime, Tensors, with_defaults

CACHED = 16  # loaded graphs kept


class Placing(Runtime):
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
        rules, reference = rules or Rules(), with_defaults(reference)
        self.places = (Place(REFERENCE, reference.name, runtime=reference), *candidates)
        if [place.index for place in self.places] != list(range(len(self.places))):
            raise InputError(
                f"candidates are numbered from 1 on, got {[place.index for place in candidates]}"
            )
        self.exchange = Exchange(self.places)
        self._reference, self._notes = reference, Notes()
        self._loaded: OrderedDict[str, PlacedExecutable] = OrderedDict()
        self._refolded: weakref.WeakValueDictionary[tuple[str, str], PlacedExecutable] = (
            weakref.WeakValueDictionary()
        )
        self._families: dict[tuple[str, tuple[str, ...]], Family[PlacedExecutable]] = {}
        self._executables: Held[PlacedExecutable] = Held()
        self._lock = threading.Lock()
        self._bell = background.WakeEvent()
        self._tries = Tries(
            self.places,
            self._executables,
            Judge(self.exchange, rules),
            Room(rules.sample_mib << 20),
            rules.gain,
            self._bell,
            self._notes,
        )
        self._thread = background.start(self._tries, self._bell)
        weakref.finalize(self, self._bell.stop)

    # -- the protocol of a runtime -----------------------------------------------------------------
    def load(
        self, graph: GraphFile, constants: Mapping[str, NDArray[Any]] | None = None
    ) -> PlacedExecutable:
        """A runnable graph, cached by its hash; the least recently used of 16 is let go. With
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
                loaded = self._loaded[graph.sha256] = self._placed(
                    graph, None, run, self._family(graph, ())
                )
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
            route.live is not None for one in list(self._executables) for route in one.routes
        )

    @property
    def spent(self) -> Callable[[], float]:
        """Seconds of work of the calling thread: its own, and what it waited for devices."""
        is_here = self._reference.runs_where_called
        return self.exchange.elsewhere.spent if is_here else self._reference.spent

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
        """As plain values: ``graphs``, ``runtimes``, ``copies``, ``notes``, ``doing``; see
        ``edgeadapt.placement.report``.
        """
        return report_of(
            self.places,
            list(self._executables),
            self.exchange,
            self._notes.texts(),
            self._tries.doing,
        )

    @property
    def is_settled(self) -> bool:
        """True if no trial could go on before another call comes."""
        return self._tries.is_settled

    def close(self, timeout_s: float = 1.0) -> bool:
        """Try nothing any more; what is loaded goes on where it runs. False if the thread is in the
        middle of a build that did not end in time.
        """
        self._bell.stop()
        for executable in list(self._executables):
            for route in executable.routes:
                route.end_trial()
        if self._thread is not threading.current_thread():
            self._thread.join(timeout_s)
        return not self._thread.is_alive()

    # -- loading -----------------------------------------------------------------------------------
    def _family(self, graph: GraphFile, names: tuple[str, ...]) -> Family[PlacedExecutable]:
        return self._families.setdefault((graph.sha256, names), Family())

    def _placed(
        self,
        graph: GraphFile,
        constants: Mapping[str, NDArray[Any]] | None,
        run: Executable,
        family: Family[PlacedExecutable],
    ) -> PlacedExecutable:
        made = PlacedExecutable(
            graph,
            constants,
            run.signature,
            run,
            self.places,
            self.exchange,
            family,
            self._bell.ring,
            self._notes.add,
        )
        self._executables.add(made)
        self._bell.ring()
        return made

    def _refold(self, graph: GraphFile, constants: Mapping[str, NDArray[Any]]) -> PlacedExecutable:
        private = {name: np.array(value, order="C") for name, value in constants.items()}
        family = self._family(graph, tuple(sorted(constants)))
        for place in family.uploads:
            if (straight := self._straight(graph, private, family, place)) is not None:
                return straight
        started = time.perf_counter()
        run = self._reference.load(graph, private)
        family.load_s = time.perf_counter() - started
        return self._placed(graph, private, run, family)

    def _straight(
        self,
        graph: GraphFile,
        constants: Mapping[str, NDArray[Any]],
        family: Family[PlacedExecutable],
        place: Place,
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
            self._notes.add(
                f"graph {graph.name!r}: {place.name} did not take other constants: {error}"
            )
            return None
        finally:
            place.gate.release()
        made = PlacedExecutable(
            graph,
            constants,
            run.signature,
            None,
            self.places,
            self.exchange,
            family,
            self._bell.ring,
            self._notes.add,
        )
        made.loaded[place.index] = run
        self._executables.add(made)
        return made


__all__ = ["Placing"]
