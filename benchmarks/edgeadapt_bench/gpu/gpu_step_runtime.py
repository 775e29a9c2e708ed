"""The compiled step on one of our runtimes: ``python -m edgeadapt_bench.gpu.gpu_step_runtime SYSTEM
PLANS``, in a process of its own.

State lies in the runtime's buffers, a step writes fresh ones, and it ends when the host has the
loss. Where a runtime takes arrays of the device, inputs lie there before, as torch's do; ONNX
Runtime's providers take them from the host, and a row says so.
"""

from __future__ import annotations

import sys
from functools import partial
from types import SimpleNamespace
from typing import Any

import numpy as np

from edgeadapt.runtime import GraphFile
from edgeadapt_bench.gpu.gpu_runtimes import CPU, opened
from edgeadapt_bench.harness.child.job_server import serve
from edgeadapt_bench.harness.child.step_protocol import StepInputs, steps_of

COUNTED = 100
"""Steps over which the copies of tensors are counted."""

SYSTEMS: dict[str, tuple[str, dict[str, Any], bool]] = {
    CPU: (CPU, {}, False),
    "onnxruntime-cuda": ("onnxruntime-cuda", {}, False),
    "onnxruntime-tensorrt": ("onnxruntime-tensorrt", {"batches": (1, 8, 32)}, False),
    "tensorrt": ("tensorrt", {}, True),
    "tensorrt, inputs from the host": ("tensorrt", {}, False),
    "tensorrt, no CUDA graphs": ("tensorrt", {"graphs": 0}, True),
}
"""Name -> runtime, its options, and whether inputs lie on the device."""


class Ours:
    """One runtime, one state."""

    def __init__(self, step_inputs: StepInputs, system: str, plans: str) -> None:
        name, options, is_resident = SYSTEMS[system]
        self.runtime = opened(name, plans, **options)
        self.graph = self.runtime.load(
            GraphFile("step", (step_inputs.folder / step_inputs.settings["graph"]).read_bytes())
        )
        with np.load(step_inputs.folder / "state.npz") as given:
            self.start = {key: given[key] for key in given.files}
        given_inputs = [step_inputs.at(index) for index in range(step_inputs.count)]
        self._held = [self.runtime.upload(one) for one in given_inputs] if is_resident else []
        self.inputs: list[dict[str, Any]] = [
            {key: _exported(held[key]) for key in held} for held in self._held
        ] or given_inputs
        self.reset()
        for index in range(step_inputs.count * 4):  # plans, contexts and CUDA graphs are made
            self.step(index)
        self.facts: dict[str, Any] = {
            "inputs": "in place" if is_resident else "from the host",
            "copies": self._copies(),
            "graphs": self._graphs(),
        }
        self.facts["notes"] = list(getattr(self.runtime, "notes", ()))

    def _copies(self) -> dict[str, int] | None:
        """Tensors that crossed between host and device in a hundred steps; None where tensors lie
        on the host.
        """
        transfers = getattr(self.runtime, "transfers", None)
        if transfers is None:
            return None
        before = transfers.uploads.count, transfers.downloads.count
        for index in range(COUNTED):
            self.step(index)
        return {
            "uploads": transfers.uploads.count - before[0],
            "downloads": transfers.downloads.count - before[1],
        }

    def _graphs(self) -> int | None:
        """CUDA graphs that are launched instead of enqueued; None where the runtime has none."""
        engines = getattr(self.graph, "engines", None)
        return (
            None
            if engines is None
            else sum(lane.graph_count for lanes in engines.lanes.values() for lane in lanes.idle)
        )

    def reset(self) -> None:
        self.state = self.runtime.upload(self.start)

    def step(self, index: int) -> float:
        outputs, new = self.graph(self.inputs[index % len(self.inputs)], self.state)
        self.state = new.over(self.state)
        return float(outputs["loss"])

    def parameters(self) -> dict[str, np.ndarray]:
        return self.runtime.download(self.state)


def _exported(buffer: Any) -> Any:
    """A buffer of the runtime as an array of the device that is not one of its tensors."""
    interface = {
        "shape": buffer.shape,
        "typestr": buffer.dtype.str,
        "data": (buffer.address, False),
        "version": 3,
    }
    return SimpleNamespace(__cuda_array_interface__=interface)


if __name__ == "__main__":
    serve(steps_of(partial(Ours, system=sys.argv[1], plans=sys.argv[2])))
