"""Keep the gallery for another ONNX Runtime: ``python tests/host/compile/keep_gallery.py FOLDER
[NAME...]``, or ``EDGEADAPT_KEEP_GALLERY=FOLDER make test-engines`` for the entries that are
compiled there anyway.

Each entry becomes a folder with ``model.onnx`` and ``values.npz``, which
``tests/runtimes/test_kept_gallery.py`` replays without torch:

    frozen|NAME            frozen tensors
    STEP|port|NAME         inputs
    STEP|state|NAME        tensors before the step: the example, then what torch made of it
    STEP|float64|NAME      torch's result in float64, state as ``NAME.next``
    STEP|float32|NAME      torch's result in float32
    STEP|allowed|NAME      how far float32 may be from float64 for reasons of the function's own,
                           see ``conditioning``
    tolerance              largest other error, as a share of the change
"""

from __future__ import annotations

import os
import sys
import time
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import torch
from gallery import GALLERY, Entry

from edgeadapt.host.compile import CompiledGraph
from edgeadapt.host.compile.cases import draw
from edgeadapt.host.compile.condition import Conditioning
from edgeadapt.host.compile.parity import run_float64, run_torch

STEPS = 3


def keep(entry: Entry, graph: CompiledGraph, target: Path) -> None:
    """Write what a replay of an entry needs into a folder of its own under ``target``.

    Raises:
        RuntimeError: torch cannot compute it in float64.
    """
    state = dict(entry.tensors)
    values: dict[str, Any] = {f"frozen|{name}": state[name] for name in graph.frozen}
    for step in range(STEPS):
        ports = draw(entry.make_ports, 900 + step, int(entry.options.get("batch", 8)))
        want, exact = run_torch(entry.fn, ports, state), run_float64(entry.fn, ports, state)
        if exact is None:
            raise RuntimeError(f"{entry.name}: torch has no float64 result")
        allowed = Conditioning(want, partial(run_torch, entry.fn, ports, state)).allowances()
        used = {port.name for port in graph.ports}
        kinds = {
            "port": {k: v for k, v in ports.items() if k in used},
            "state": {k: state[k] for k in graph.reads},
        }
        for kind, kept in {**kinds, "float64": exact, "float32": want, "allowed": allowed}.items():
            values |= {f"{step}|{kind}|{name}": value for name, value in kept.items()}
        state = state | {
            name.removesuffix(".next"): value
            for name, value in want.items()
            if name.endswith(".next")
        }
    folder = folder_of(entry, target)
    folder.mkdir(parents=True)
    (folder / "model.onnx").write_bytes(graph.model)
    arrays = {
        name: value.detach().numpy() if isinstance(value, torch.Tensor) else np.asarray(value)
        for name, value in values.items()
    }
    np.savez(folder / "values.npz", tolerance=graph.parity.tolerance, **arrays)


def folder_of(entry: Entry, target: Path) -> Path:
    return target / f"{GALLERY.index(entry):03d} {entry.name.replace('/', ' ')}"


def keep_numbered(target: Path, number: int) -> None:
    keep(GALLERY[number], GALLERY[number].compile(), target)


def main(target: Path, names: list[str]) -> None:
    start = time.monotonic()
    numbers = [number for number, entry in enumerate(GALLERY) if not names or entry.name in names]
    with ProcessPoolExecutor(len(os.sched_getaffinity(0)), get_context("spawn")) as pool:
        list(pool.map(partial(keep_numbered, target), numbers))
    kept = list(target.glob("*/model.onnx"))
    print(
        f"kept {len(kept)} graphs,"
        f" {sum(path.stat().st_size for path in target.glob('*/*')) / 2**20:.1f} MiB,"
        f" {time.monotonic() - start:.0f} s"
    )


if __name__ == "__main__":
    if len(sys.argv) < 2:
        sys.exit(__doc__)
    main(Path(sys.argv[1]), sys.argv[2:])
