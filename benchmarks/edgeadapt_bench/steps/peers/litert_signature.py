"""The adaptor step in LiteRT: the ``train`` signature of a model whose parameters are resource
variables.
"""

from __future__ import annotations

from importlib.metadata import version
from typing import Any

import numpy as np
from ai_edge_litert.interpreter import Interpreter
from job_server import serve
from step_protocol import StepInputs, steps_of


class LiteRt:
    def __init__(self, step_inputs: StepInputs) -> None:
        self.facts: dict[str, Any] = {"ai-edge-litert": version("ai-edge-litert")}
        self.start = {name.replace(".", "_"): value for name, value in step_inputs.start.items()}
        self.names = {name.replace(".", "_"): name for name in step_inputs.start}
        self.interpreter = Interpreter(
            model_path=str(step_inputs.folder / "litert.tflite"), num_threads=1
        )
        self.interpreter.allocate_tensors()
        self.train, self.restore, self.save = (
            self.interpreter.get_signature_runner(name) for name in ("train", "restore", "save")
        )
        self.inputs = [step_inputs.at(index) for index in range(step_inputs.count)]
        for given in self.inputs:
            given["y"] = given["y"].astype(np.int32)
        self.reset()

    def reset(self) -> None:
        self.restore(**self.start)

    def step(self, index: int) -> float:
        return float(self.train(**self.inputs[index % len(self.inputs)])["loss"])

    def parameters(self) -> dict[str, np.ndarray]:
        return {self.names[name]: value.copy() for name, value in self.save().items()}


if __name__ == "__main__":
    serve(steps_of(LiteRt))
