"""Our learning step as a device takes it: the compiled graph in the runtime, state in its buffers,
inputs uploaded, the loss fetched.

Run by ``edgeadapt bench steps`` in a process of its own, without torch; a graph file as argument
replaces the material's.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgeadapt.runtime import GraphFile, open_runtime
from edgeadapt_bench.harness.child.job_server import serve
from edgeadapt_bench.harness.child.step_protocol import StepInputs, steps_of


class Ours:
    """The tensors live in buffers of the runtime; a step writes fresh ones and the old return to
    the pool.

    Args:
        file: a graph instead of the material's.
    """

    def __init__(self, step_inputs: StepInputs, file: Path | None = None) -> None:
        from safetensors.numpy import load_file

        frozen_file = step_inputs.folder / "frozen.safetensors"
        frozen: Mapping[str, NDArray[Any]] = load_file(frozen_file) if frozen_file.is_file() else {}
        graph = GraphFile(
            "step",
            (file or step_inputs.folder / step_inputs.settings["graph"]).read_bytes(),
            frozen,
        )
        self.runtime = open_runtime()
        started = time.perf_counter()
        self.executable = self.runtime.load(graph)
        self.facts: dict[str, Any] = {
            "session_ms": 1e3 * (time.perf_counter() - started),
            "graph_bytes": len(graph.model),
        }
        self.inputs = [step_inputs.at(index) for index in range(step_inputs.count)]
        self.output = step_inputs.settings["loss"]
        with np.load(step_inputs.folder / "state.npz") as given:
            self.start = {name: given[name] for name in given.files}
        self.reset()

    def reset(self) -> None:
        self.state = self.runtime.upload(self.start)

    def step(self, index: int) -> float:
        outputs, new = self.executable(self.inputs[index % len(self.inputs)], self.state)
        self.state = new.over(self.state)
        return float(outputs[self.output])

    def parameters(self) -> dict[str, NDArray[Any]]:
        """All tensors, in the layout that the step was written with."""
        return self.runtime.download(self.state)


if __name__ == "__main__":
    serve(steps_of(partial(Ours, file=Path(sys.argv[1])) if len(sys.argv) > 1 else Ours))
