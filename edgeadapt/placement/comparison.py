"""When may a graph move? One sample of one trial: the same call on the reference and on the
candidate, compared, and both round trips measured in turn.

A round trip counts what the caller waits for, ports and outputs included, and what it takes until
those who read the written tensors can: the host, as often as it reads them, and graphs that run
elsewhere. Tensors that a graph reads and does not write itself count as often as they come anew.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgeadapt.errors import InputError
from edgeadapt.placement.agreement import Agreement, compare
from edgeadapt.placement.background import at_low_priority
from edgeadapt.placement.executable import PlacedExecutable, PlacementContext
from edgeadapt.placement.places import REFERENCE, Place
from edgeadapt.placement.routes import Route, Sample, Trial
from edgeadapt.runtime import Executable, GraphFile, Tensors

ROUNDS = 3
"""Measurements of each side per sample."""
_WARM_UPS = 4  # calls of one shape; from then on an engine has recorded what it records
_HOPELESS = 3.0  # times as slow: no more samples are asked for


@dataclass(frozen=True)
class Rules:
    """What has to hold before batches of about one size leave the reference.

    Args:
        tolerance: relative difference that is rounding in float32: of an output's size, of a
            tensor's change.
        low_tolerance: the same in float16 and int8, where right kernels in another order differ by
            a few thousandths.
        calls: real calls that have to agree.
        gain: share of the round trip that has to be gained, over wherever they run now.
        sample_mib: that copies of calls may take, MiB, while they wait to be run again.

    Raises:
        InputError: a value that means nothing.
    """

    tolerance: float = 1e-3
    low_tolerance: float = 0.02
    calls: int = 4
    gain: float = 0.1
    sample_mib: int = 64

    def __post_init__(self) -> None:
        for name in ("tolerance", "low_tolerance"):
            if not getattr(self, name) > 0:
                raise InputError(f"{name} is above 0, got {getattr(self, name)}")
        for name in ("calls", "sample_mib"):
            if getattr(self, name) < 1:
                raise InputError(f"{name} is at least 1, got {getattr(self, name)}")
        if not 0.0 <= self.gain < 1.0:
            raise InputError(f"gain is in [0, 1), got {self.gain}")

    def tolerance_of(self, graph: GraphFile) -> float:
        """By what the graph computes in."""
        is_low = graph.precision != "float32"
        return max(self.tolerance, self.low_tolerance) if is_low else self.tolerance


class SampleRunner:
    """Runs samples again.

    Args:
        context: of the graphs.
        rules: tolerance, and how many calls have to agree.
    """

    def __init__(self, context: PlacementContext, rules: Rules) -> None:
        self._context, self._exchange, self._rules = context, context.exchange, rules

    def run(self, executable: PlacedExecutable, trial: Trial, route: Route, sample: Sample) -> str:
        """Run a sample on both sides.

        Returns:
            ``again`` for another sample, ``done`` when enough is known, or why the candidate is
            wrong.

        Raises:
            whatever the candidate raises.
        """
        place, measured = trial.place, trial.measured
        reference = executable.reference.get()
        here, here_s = self._borrow(sample, trial, REFERENCE)
        there, there_s = self._borrow(sample, trial, place.index)
        if not trial.is_warm:
            self._warm(executable, trial, route, sample, there)
        agreement = self._compare(executable.graph, reference, trial, sample, (here, there))
        if agreement.is_tie:
            measured.ties += 1
            return self.too_many(measured.ties) or "again"
        measured.error = max(measured.error, agreement.error)
        if agreement.why:
            return agreement.why
        measured.calls += 1
        readers = _Readers(executable, self._context)
        sides = (
            (reference, here, self._context.places[REFERENCE], here_s, measured.here),
            (trial.run, there, place, there_s, measured.there),
        )
        for turn in range(ROUNDS):
            for run, tensors, at, into, seconds in sides[:: 1 if turn % 2 else -1]:
                call, leave = readers.seconds(run, sample.ports, tensors, at)
                seconds.append((call, leave + trial.fresh_share * into))
        is_hopeless = measured.ratio > _HOPELESS and trial.knows_share
        return "done" if measured.calls >= self._rules.calls or is_hopeless else "again"

    def audit(self, executable: PlacedExecutable, trial: Trial, sample: Sample) -> Agreement:
        """Compare a call of a graph that runs elsewhere already.

        Raises:
            whatever the other runtime raises.
        """
        here, _ = self._exchange.borrow(sample.tensors, REFERENCE)
        there, _ = self._exchange.borrow(sample.tensors, trial.place.index)
        with executable.reference.borrowed() as reference:
            return self._compare(executable.graph, reference, trial, sample, (here, there))

    def too_many(self, ties: int) -> str:
        """Why a candidate is wrong of which nothing could be said in so many calls; else empty."""
        if ties < self._rules.calls:
            return ""
        return f"whole numbers differ in {ties} calls, which ties alone do not explain"

    def _borrow(self, sample: Sample, trial: Trial, place: int) -> tuple[Tensors, float]:
        """What the graph reads, and the seconds that it took to bring what others write: what it
        writes itself lies where it runs.
        """
        comes, took = self._exchange.borrow(
            {name: sample.tensors[name] for name in trial.read_only}, place
        )
        own, _ = self._exchange.borrow(
            {name: one for name, one in sample.tensors.items() if name not in trial.read_only},
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
    ) -> None:
        """The smallest and the largest batch of the route: whatever a runtime builds for a shape is
        built before it serves.

        Graphs that differ in their constants may share an engine, so all of them run in the
        reference meanwhile. The first call of each size may be a build, and lets others go first.
        """
        with ExitStack() as stack:
            stack.enter_context(trial.place.gate)
            for member in executable.family.members:
                stack.enter_context(member.paused_at(trial.place))
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
        tensors: tuple[Tensors, Tensors],
    ) -> Agreement:
        """``tensors``: of the reference, and of the candidate."""
        here, there = tensors
        outputs, written = reference(sample.ports, here)
        runtime = self._context.places[REFERENCE].opened
        right = {**outputs, **runtime.download(written)}
        before = runtime.download(here, [name for name in written if name in here])
        outputs, written = trial.run(sample.ports, there)
        found = {**outputs, **trial.place.opened.download(written)}
        return compare(right, found, before, self._rules.tolerance_of(graph))


class _Readers:
    """What becomes of the tensors that a call writes: who reads them, where, and what it takes
    until they can.
    """

    def __init__(self, executable: PlacedExecutable, context: PlacementContext) -> None:
        self._places = context.places
        names = {port.name for port in executable.signature.writes}
        calls = max(1, sum(route.calls for route in executable.routes))
        reads = context.exchange.host_reads
        self._by_host = {name: min(1.0, reads[name] / calls) for name in names if reads[name]}
        self._by_graphs: dict[int, set[str]] = {}
        for other in context.executables:
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
                self._places[other].opened.upload(values)
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


__all__ = ["ROUNDS", "Rules", "SampleRunner"]
