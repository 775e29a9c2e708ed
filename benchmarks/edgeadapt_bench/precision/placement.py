"""Every graph of a bundle in every runtime that works here: the median round trip at each batch,
beside the CPU's in the same run, and the agreement.

A round trip takes ports from the host and gives outputs to the host; what a graph writes is read
back as well, as the learner's numerics and its guard do. Runtimes take turns call by call, so that
a slower minute of the machine slows all. Ports are random, tensors the factory's.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from edgeadapt.bundle import Bundle, read_bundle
from edgeadapt.bundle.schema import GraphSpec, PortSpec
from edgeadapt.demo.sample import bundle_path
from edgeadapt.device.inference.program import Program
from edgeadapt.errors import EdgeadaptError
from edgeadapt.placement import Rules
from edgeadapt.placement.agreement import compare
from edgeadapt.placement.candidates import REFERENCE_NAME, possible
from edgeadapt.runtime import Executable, Runtime, Tensors, open_runtime
from edgeadapt_bench.harness.measure import Row, Say, absent, median_ms

ROUNDS, QUICK_ROUNDS, WARM_UPS = 200, 10, 5


@dataclass(frozen=True)
class Side:
    """A runtime with the tensors that graphs read."""

    name: str
    runtime: Runtime
    tensors: Tensors


def run_placement(
    data: str | None, say: Say, quick: bool = False, bundle: str | None = None
) -> list[Row]:
    """The suite.

    Args:
        data: not needed.
        quick: few rounds.
        bundle: path of a ``.edge`` file; by default the one that is shipped.

    Raises:
        BundleError: the file is no bundle.
        RuntimeUnavailable: ONNX Runtime does not run here.
    """
    opened = read_bundle(Path(bundle) if bundle else bundle_path())
    sides, rows = sides_of(opened, say)
    for spec in opened.manifest.graphs:
        rows += graph_rows(opened, spec, sides, say, QUICK_ROUNDS if quick else ROUNDS)
    return rows


def sides_of(bundle: Bundle, say: Say) -> tuple[list[Side], list[Row]]:
    """The CPU and whatever else opens here, with the factory's tensors; and a row for what does not
    open.
    """
    cpu = open_runtime(REFERENCE_NAME)
    program = Program(bundle, cpu)
    values = cpu.download(program.factory_domain().over(program.factory()))
    for name in program.adaptors.candidates:
        values |= cpu.download(program.adaptors.fresh(name))
    sides, rows = [Side(REFERENCE_NAME, cpu, cpu.upload(values))], []
    for place in possible():
        say(f"opening {place.name}")
        place.open()
        if place.is_open:
            sides.append(Side(place.name, place.opened, place.opened.upload(values)))
        else:
            rows.append(absent(place.name, place.why_not))
    if len(sides) == 1:
        say(
            "no runtime works here beside ONNX Runtime on the CPU (edgeadapt runtimes says why):"
            " rows of the CPU alone"
        )
    return sides, rows


def graph_rows(
    bundle: Bundle, spec: GraphSpec, sides: list[Side], say: Say, rounds: int
) -> list[Row]:
    """One graph at the bundle's batches; the first side is what the others are compared with."""
    name = Path(spec.file).stem
    say(f"{name}: loading in {', '.join(side.name for side in sides)}")
    rows: list[Row] = []
    graphs: list[tuple[Side, Executable]] = []
    for side in sides:
        try:
            graphs.append((side, side.runtime.load(bundle.graph_file(spec))))
        except EdgeadaptError as error:
            rows.append(absent(f"{name}/{side.name}", str(error)))
    is_batched = any(None in port.shape for port in spec.ports)
    sizes = [spec.batch] if spec.batch else list(bundle.manifest.batches) if is_batched else [0]
    rng = np.random.default_rng(0)
    for size in sizes:
        ports = {
            port.name: _random(port, size, len(bundle.manifest.classes), rng) for port in spec.ports
        }
        rows += _batch_rows(f"{name}/b{size}" if size else name, spec, ports, graphs, rounds)
    return rows


def _batch_rows(
    name: str,
    spec: GraphSpec,
    ports: dict[str, Any],
    graphs: list[tuple[Side, Executable]],
    rounds: int,
) -> list[Row]:
    rows: list[Row] = []
    first: dict[str, Any] = {}
    fitting: list[tuple[Side, Executable, str]] = []
    for side, graph in graphs:
        try:
            for _ in range(WARM_UPS):
                results = _round_trip(side, graph, ports)
        except EdgeadaptError as error:
            rows.append(absent(f"{name}/{side.name}", str(error)))
            continue
        if not first:
            first, said = results, ""
        else:
            before = side.runtime.download(
                side.tensors, [written for written in spec.writes if written in side.tensors]
            )
            found = compare(first, results, before, Rules().tolerance)
            said = (
                ", a tie decides"
                if found.is_tie
                else f", {found.why}"
                if found.why
                else f", agrees to {found.error:.1e}"
            )
        fitting.append((side, graph, said))
    seconds: list[list[float]] = [[] for _ in fitting]
    for turn in range(rounds):
        for step in range(len(fitting)):
            which = (turn + step) % len(fitting)
            side, graph, _ = fitting[which]
            started = time.perf_counter()
            _round_trip(side, graph, ports)
            seconds[which].append(time.perf_counter() - started)
    cpu_ms = median_ms(seconds[0]) if seconds else 0.0
    for (side, _, said), times in zip(fitting, seconds, strict=True):
        ms = median_ms(times)
        is_cpu = side.name == REFERENCE_NAME
        rows.append(
            Row(
                f"{name}/{side.name}",
                ms,
                "ms" if is_cpu else f"ms, {ms / cpu_ms:.2f} x CPU{said}",
                None if is_cpu else cpu_ms,
            )
        )
    return rows


def _round_trip(side: Side, graph: Executable, ports: dict[str, Any]) -> dict[str, Any]:
    outputs, written = graph(ports, side.tensors)
    return {**outputs, **side.runtime.download(written)}


def _random(port: PortSpec, size: int, classes: int, rng: np.random.Generator) -> Any:
    shape = tuple(size if n is None else n for n in port.shape)
    if port.dtype == "float32":
        return rng.random(shape, np.float32)
    return rng.integers(0, 256 if port.dtype == "uint8" else classes, shape).astype(port.dtype)
