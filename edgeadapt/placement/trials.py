"""One sample of one trial: the same call on the reference and on the candidate, compared, and both
round trips measured in turn.

A round trip counts what the caller waits for, ports and outputs included, and what it takes until
those who read the written tensors can: the host, as often as it reads them, and graphs that live
elsewhere. Tensors that a graph reads and does not write itself count as often as they come anew.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from contextlib import ExitStack
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgeadapt.placement.agreement import Agreement, compare
from edgeadapt.placement.buffers import Exchange
from edgeadapt.placement.executable import PlacedExecutable
from edgeadapt.placement.places import REFERENCE, Place
from edgeadapt.placement.priority import at_low_priority
from edgeadapt.placement.routes import Route, Sample, Trial
from edgeadapt.placement.rules import Rules
from edgeadapt.runtime import Executable, GraphFile, Tensors

ROUNDS = 3
"""Measurements of each side per sample."""
_WARM_UPS = 4  # calls of one shape; from then on an engine has recorded what it records
_HOPELESS = 3.0  # times as slow: no more samples are asked for


class Judge:
    """Runs samples again.

    Args:
        exchange: of the tensors.
        rules: tolerance, and how many calls have to agree.

    Attributes:
        calls: that have to agree; and ties that are none.
    """

    def __init__(self, exchange: Exchange, rules: Rules) -> None:
        self._exchange, self._rules, self.calls = exchange, rules, rules.calls

    def run(
        self,
        executable: PlacedExecutable,
        trial: Trial,
        route: Route,
        sample: Sample,
        others: list[PlacedExecutable],
    ) -> str:
        """Run a sample on both sides.

        Returns:
            ``again`` for another sample, ``done`` when enough is known, or why the candidate is
            wrong.

        Raises:
            whatever the candidate raises.
        """
        place, measured = trial.place, trial.measured
        reference = executable.reference()
        here, here_s = self._borrow(sample, trial, REFERENCE)
        there, there_s = self._borrow(sample, trial, place.index)
        if not trial.is_warm:
            self._warm(executable, trial, route, sample, there, others)
        agreement = self._compare(executable.graph, reference, trial, sample, here, there)
        if agreement.is_tie:
            measured.ties += 1
            return "again" if measured.ties < self.calls else too_many(measured.ties)
        measured.error = max(measured.error, agreement.error)
        if agreement.why:
            return agreement.why
        measured.calls += 1
        moves = _Moves(executable, others, self._exchange)
        for turn in range(ROUNDS):
            for is_there in (False, True) if turn % 2 else (True, False):
                run, tensors, at, into = (
                    (trial.run, there, place, there_s)
                    if is_there
                    else (reference, here, self._exchange.places[REFERENCE], here_s)
                )
                call, leave = moves.seconds(run, sample.ports, tensors, at)
                (measured.there if is_there else measured.here).append(
                    (call, leave + trial.fresh_share * into)
                )
        is_hopeless = measured.ratio > _HOPELESS and trial.knows_share
        return "done" if measured.calls >= self.calls or is_hopeless else "again"

    def audit(self, executable: PlacedExecutable, trial: Trial, sample: Sample) -> Agreement:
        """Compare a call of a graph that runs elsewhere already.

        Raises:
            whatever the other runtime raises.
        """
        here, _ = self._exchange.borrow(sample.tensors, REFERENCE)
        there, _ = self._exchange.borrow(sample.tensors, trial.place.index)
        with executable.borrowed_reference() as reference:
            return self._compare(executable.graph, reference, trial, sample, here, there)

    def _borrow(self, sample: Sample, trial: Trial, place: int) -> tuple[Tensors, float]:
        """What the graph reads, and the seconds that it took to bring what others write: what it
        writes itself lies where it runs.
        """
        comes, took = self._exchange.borrow(
            {name: sample.tensors[name] for name in trial.comes}, place
        )
        own, _ = self._exchange.borrow(
            {name: buffer for name, buffer in sample.tensors.items() if name not in trial.comes},
            place,
        )
        return own.over(comes), took

    def _warm(
        self,
        executable: PlacedExecutable,
        trial: Trial,
        route: Route,
        sample: Sample,
        tensors: Tensors,
        others: Iterable[PlacedExecutable],
    ) -> None:
        """The smallest and the largest batch of the route: whatever a runtime builds for a shape is
        built before it serves.

        Graphs that differ in their constants may share an engine, so all of them stand aside
        meanwhile. The first call of each size may be a build, and lets others go first.
        """
        with ExitStack() as aside:
            aside.enter_context(trial.place.gate)
            for other in others:
                if other.family is executable.family:
                    aside.enter_context(other.standing_aside(trial.place))
            for size in sorted({route.smallest, route.largest} - {0}):
                at_low_priority(
                    partial(trial.run, _resized(executable, sample.ports, size), tensors)
                )
            at_low_priority(partial(trial.run, sample.ports, tensors))
            for _ in range(_WARM_UPS):
                trial.run(sample.ports, tensors)
        trial.is_warm = True

    def _compare(
        self,
        graph: GraphFile,
        reference: Executable,
        trial: Trial,
        sample: Sample,
        here: Tensors,
        there: Tensors,
    ) -> Agreement:
        outputs, written = reference(sample.ports, here)
        at_home = self._exchange.places[REFERENCE].opened
        right = {**outputs, **at_home.download(written)}
        before = at_home.download(here, [name for name in written if name in here])
        outputs, written = trial.run(sample.ports, there)
        return compare(
            right,
            {**outputs, **trial.place.opened.download(written)},
            before,
            self._rules.tolerance_of(graph),
        )


def too_many(ties: int) -> str:
    """Why a candidate is wrong of which nothing could be said in so many calls."""
    return f"whole numbers differ in {ties} calls, which ties alone do not explain"


class _Moves:
    """What becomes of the tensors that a call writes: who reads them, where, and what it takes
    until they can.
    """

    def __init__(
        self, executable: PlacedExecutable, others: list[PlacedExecutable], exchange: Exchange
    ) -> None:
        self._exchange = exchange
        names = {port.name for port in executable.signature.writes}
        calls = max(1, sum(route.calls for route in executable.routes))
        reads = exchange.host_reads
        self._by_host = {name: min(1.0, reads[name] / calls) for name in names if reads[name]}
        self._by_graphs: dict[int, set[str]] = {}
        for other in others:
            common = names.intersection(other.reads)
            if other is not executable and common:
                for route in other.routes or [Route(0, 0)]:
                    at = route.live[0].index if route.live is not None else REFERENCE
                    self._by_graphs.setdefault(at, set()).update(common)

    def seconds(
        self, run: Executable, ports: Mapping[str, Any], tensors: Tensors, at: Place
    ) -> tuple[float, float]:
        """Of the call until its work has ended, and until its readers have what it wrote."""
        runtime = at.opened
        started = time.perf_counter()
        _, written = run(ports, tensors)
        # some return while the work is under way: the smallest tensor is there when it has ended
        if written:
            runtime.download(written, [min(written, key=lambda name: written[name].nbytes)])
        ended = time.perf_counter()
        share = max(self._by_host.values(), default=0.0)
        leave = 0.0
        if share and at.index != REFERENCE:
            runtime.download(written, [name for name in self._by_host if name in written])
            leave += share * (time.perf_counter() - ended)
        for other, names in self._by_graphs.items():
            if other != at.index:
                began = time.perf_counter()
                values = runtime.download(written, [name for name in names if name in written])
                self._exchange.places[other].opened.upload(values)
                leave += time.perf_counter() - began
        return ended - started, leave


def _resized(executable: PlacedExecutable, ports: Mapping[str, Any], size: int) -> dict[str, Any]:
    """The same ports with another batch: rows of the sample, again and again."""
    free = {
        port.name for port in executable.signature.ports if port.shape and port.shape[0] is None
    }
    return {name: _rows(value, size) if name in free else value for name, value in ports.items()}


def _rows(value: NDArray[Any], size: int) -> NDArray[Any]:
    return np.ascontiguousarray(value[np.arange(size) % max(1, len(value))])


__all__ = ["ROUNDS", "Judge", "too_many"]
