"""The adaptor step in ExecuTorch: its training module and its SGD with momentum, through the Python
bindings.
"""

from __future__ import annotations

from importlib.metadata import version
from typing import Any

import numpy as np
import torch
from executorch.extension.training import (
    _load_for_executorch_for_training_from_buffer,
    get_sgd_optimizer,
)
from job_server import serve
from step_protocol import StepInputs, steps_of


class ExecuTorch:
    def __init__(self, step_inputs: StepInputs) -> None:
        self.facts: dict[str, Any] = {
            "executorch": version("executorch"),
            "torch": torch.__version__,
        }
        # the module refers to these bytes and does not keep them alive
        self.program = (step_inputs.folder / "executorch.pte").read_bytes()
        self.settings = step_inputs.settings
        self.inputs = [
            tuple(map(torch.from_numpy, step_inputs.at(index).values()))
            for index in range(step_inputs.count)
        ]
        self.reset()

    def reset(self) -> None:
        self.module = _load_for_executorch_for_training_from_buffer(self.program)
        self.optimiser: Any = None

    def step(self, index: int) -> float:
        loss = self.module.forward_backward("forward", self.inputs[index % len(self.inputs)])[0]
        if self.optimiser is None:  # the parameters have names after the first run
            self.optimiser = get_sgd_optimizer(
                self.module.named_parameters(),
                self.settings["learning_rate"],
                self.settings["beta"],
                0,
                0,
                False,
            )
        self.optimiser.step(self.module.named_gradients())
        return float(loss)

    def parameters(self) -> dict[str, np.ndarray]:
        other = {"norm.weight": "norm.gain", "norm.bias": "norm.offset"}
        return {
            other.get(name, name): value.detach().numpy().copy()
            for name, value in self.module.named_parameters().items()
        }


if __name__ == "__main__":
    torch.set_num_threads(1)
    serve(steps_of(ExecuTorch))
