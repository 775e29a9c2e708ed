"""The step written out for arrays: ``python -m edgeadapt_bench.gpu.gpu_step_arrays numpy|cupy``, in
a process of its own.
"""

from __future__ import annotations

import math
import sys
from functools import partial
from typing import Any

import numpy as np

from edgeadapt_bench.gpu.gpu_reference import Exact
from edgeadapt_bench.harness.child.job_server import serve
from edgeadapt_bench.harness.child.step_protocol import StepInputs, steps_of


class Written:
    """float32, in numpy on the CPU or in CuPy on the GPU, inputs there before; the loss comes to
    the host at each step.
    """

    def __init__(self, step_inputs: StepInputs, library: str) -> None:
        self._start = step_inputs.start
        if library == "cupy":
            import cupy as array  # its absence is said in the answer
            from cupyx.scipy.special import erf

            self.array: Any = array
            self.erf: Any = erf
        else:
            self.array, self.erf = np, np.vectorize(math.erf, otypes=[np.float32])
        given = [step_inputs.at(index) for index in range(step_inputs.count)]
        self.inputs = [
            (self.array.asarray(one["x"]), self.array.asarray(one["y"])) for one in given
        ]
        self.facts: dict[str, Any] = {library: self.array.__version__, "inputs": "in place"}
        self.reset()

    def reset(self) -> None:
        self.exact = Exact(self._start, np.float32, self.array, self.erf)

    def step(self, index: int) -> float:
        loss = self.exact.step(*self.inputs[index % len(self.inputs)])
        if self.array is not np:
            self.array.cuda.get_current_stream().synchronize()
        return float(loss)

    def parameters(self) -> dict[str, np.ndarray]:
        return {
            name: np.asarray(value.get() if self.array is not np else value.copy())
            for name, value in self.exact.values.items()
        }


if __name__ == "__main__":
    serve(steps_of(partial(Written, library=sys.argv[1])))
