"""Every graph of the bundle that ships, on a runtime, against the same graph on the CPU.

    python -m edgeadapt_bench.gpu.gpu_parity graph '{"runtime": "tensorrt", "file":
    "graphs/read.onnx", "plans": "/tmp/plans"}'

Ports and tensors are drawn at random. A graph is called four times at each batch size, so that the
last call is the replay of a CUDA graph where the runtime has them, and the last call is what is
compared.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgeadapt.bundle import read_bundle
from edgeadapt.bundle.schema import GraphSpec
from edgeadapt.demo.sample import bundle_path
from edgeadapt.runtime import Runtime
from edgeadapt_bench.gpu.gpu_check import answer
from edgeadapt_bench.gpu.gpu_result import GpuRow, measured
from edgeadapt_bench.gpu.gpu_runtimes import CPU, opened

PART = "bundle"
CLOSE, DIFFERENT = 1e-3, 0.01
"""Largest difference as a share of the largest value of an output, and share of whole numbers that
may differ: one on the edge of two.
"""

_BATCHES, _CALLS = (1, 5, 32), 4
Results = dict[str, NDArray[Any]]


def files() -> list[str]:
    """Names of the graphs in the bundle."""
    return sorted({spec.file for spec in read_bundle(bundle_path()).manifest.graphs})


def graph(runtime: str, file: str, plans: str) -> list[GpuRow]:
    """One row: how far the worst output is off, over all batch sizes."""
    bundle = read_bundle(bundle_path())
    spec = next(spec for spec in bundle.manifest.graphs if spec.file == file)
    there, here = opened(runtime, plans), opened(CPU, plans)
    rng = np.random.default_rng(0)
    values = {
        one.name: rng.uniform(0.5, 1.5, one.shape).astype(one.dtype)
        for one in bundle.manifest.tensors
        if one.name in spec.reads
    }
    worst, where, flipped, whole = 0.0, "", 0, 0
    for batch in _BATCHES if spec.batch is None else (spec.batch,):
        ports = _ports(spec, batch, rng)
        wanted, found = (_run(one, bundle.graph_file(spec), ports, values) for one in (here, there))
        if wanted.keys() != found.keys() or any(
            wanted[name].shape != found[name].shape for name in wanted
        ):
            raise ValueError(
                f"{runtime} gives {sorted(found)}, the CPU {sorted(wanted)}, or other shapes"
            )
        for name, value in wanted.items():
            if value.dtype.kind != "f":
                flipped = flipped + int(np.count_nonzero(found[name] != value))
                whole = whole + value.size
            elif (off := _off(found[name], value)) > worst:
                worst, where = off, f"{name} at batch {batch}"
    rows = [
        measured(
            PART,
            f"{file} on {runtime}: off the CPU's, of the largest",
            worst,
            "",
            at_most=CLOSE,
            found=where,
        )
    ]
    if whole:
        rows.append(
            measured(
                PART,
                f"{file} on {runtime}: whole numbers that differ",
                flipped / whole,
                "of all",
                at_most=DIFFERENT,
                found=f"{flipped} of {whole}",
            )
        )
    return rows


def _run(runtime: Runtime, file: Any, ports: Results, values: Results) -> Results:
    executable = runtime.load(file)
    tensors = runtime.upload(values)
    for _ in range(_CALLS):
        outputs, written = executable(ports, tensors)
    return {**outputs, **runtime.download(written)}


def _ports(spec: GraphSpec, batch: int, rng: np.random.Generator) -> Results:
    made: Results = {}
    for port in spec.ports:
        shape = tuple(batch if dim is None else dim for dim in port.shape)
        if port.dtype == "float32":
            made[port.name] = rng.uniform(0, 1, shape).astype(np.float32)
        else:
            made[port.name] = rng.integers(0, 6 if port.name == "y" else 255, shape).astype(
                port.dtype
            )
    return made


def _off(found: NDArray[Any], wanted: NDArray[Any]) -> float:
    """Infinite where one is not a number and the other is."""
    if not np.array_equal(np.isfinite(found), np.isfinite(wanted)):
        return math.inf
    finite = np.isfinite(wanted)
    largest = float(np.abs(wanted[finite]).max(initial=0.0))
    return float(np.abs(found[finite] - wanted[finite]).max(initial=0.0)) / (largest or 1.0)


CHECKS = {"graph": graph}

if __name__ == "__main__":
    answer(CHECKS)
