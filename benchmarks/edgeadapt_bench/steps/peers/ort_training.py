"""The adaptor step in onnxruntime-training: ``momentum`` or ``plain``.

``momentum`` is its gradient graph with an update in ONNX, ``plain`` its training API with SGD
without momentum. ``plain`` is another step: it moves three arrays where momentum moves five. It is
compared with torch without momentum.
"""

from __future__ import annotations

import sys
from typing import Any

import _ort_training_package  # noqa: F401
import numpy as np
import onnxruntime
from job_server import serve
from step_protocol import StepInputs, steps_of


def options() -> onnxruntime.SessionOptions:
    chosen = onnxruntime.SessionOptions()
    chosen.intra_op_num_threads, chosen.inter_op_num_threads, chosen.log_severity_level = 1, 1, 3
    chosen.add_session_config_entry("session.set_denormal_as_zero", "1")
    return chosen


class Momentum:
    """Two sets of state, bound in turn: one is read while the other is written."""

    def __init__(self, step_inputs: StepInputs) -> None:
        self.facts: dict[str, Any] = {"onnxruntime": onnxruntime.__version__}
        self.step_inputs = step_inputs
        self.session = onnxruntime.InferenceSession(
            str(step_inputs.folder / "ort_momentum.onnx"),
            options(),
            providers=["CPUExecutionProvider"],
        )
        self.inputs = [
            {
                name: onnxruntime.OrtValue.ortvalue_from_numpy(value)
                for name, value in step_inputs.at(index).items()
            }
            for index in range(step_inputs.count)
        ]
        velocity = {
            f"velocity.{name}": np.zeros_like(value) for name, value in step_inputs.start.items()
        }
        self.start = {**step_inputs.start, **velocity}
        self.loss = onnxruntime.OrtValue.ortvalue_from_numpy(np.zeros((), np.float32))
        self.reset()

    def reset(self) -> None:
        self.sets = [
            {
                name: onnxruntime.OrtValue.ortvalue_from_numpy(value.copy())
                for name, value in self.start.items()
            }
            for _ in range(2)
        ]
        self.bindings = []
        for old, new in (self.sets, self.sets[::-1]):
            binding = self.session.io_binding()
            for name in self.start:
                binding.bind_ortvalue_input(name, old[name])
                binding.bind_ortvalue_output(f"{name}.next", new[name])
            binding.bind_ortvalue_output("loss", self.loss)
            self.bindings.append(binding)
        self.taken = 0

    def step(self, index: int) -> float:
        binding = self.bindings[self.taken % 2]
        for name, value in self.inputs[index % len(self.inputs)].items():
            binding.bind_ortvalue_input(name, value)
        self.session.run_with_iobinding(binding)
        self.taken += 1
        return float(self.loss.numpy())

    def parameters(self) -> dict[str, np.ndarray]:
        held = self.sets[self.taken % 2]
        return {name: held[name].numpy().copy() for name in self.step_inputs.start}


class Plain:
    """Train step, optimiser step, reset of the gradients: as its documentation has it."""

    def __init__(self, step_inputs: StepInputs) -> None:
        from onnxruntime.training.api import CheckpointState, Module, Optimizer

        self.facts: dict[str, Any] = {"onnxruntime": onnxruntime.__version__}
        self.step_inputs = step_inputs
        folder = step_inputs.folder
        self.state = CheckpointState.load_checkpoint(str(folder / "ort_checkpoint"))
        self.module = Module(
            str(folder / "ort_training_model.onnx"),
            self.state,
            device="cpu",
            session_options=options(),
        )
        self.optimiser = Optimizer(str(folder / "ort_optimizer_model.onnx"), self.module)
        self.optimiser.set_learning_rate(step_inputs.settings["learning_rate"])
        self.inputs = [list(step_inputs.at(index).values()) for index in range(step_inputs.count)]
        self.module.train()

    def reset(self) -> None:
        for name, value in self.step_inputs.start.items():
            self.state.parameters[name].data = value
        self.module.lazy_reset_grad()

    def step(self, index: int) -> float:
        loss = self.module(*self.inputs[index % len(self.inputs)])
        self.optimiser.step()
        self.module.lazy_reset_grad()
        return float(loss)

    def parameters(self) -> dict[str, np.ndarray]:
        return {name: self.state.parameters[name].data.copy() for name in self.step_inputs.start}


if __name__ == "__main__":
    serve(steps_of({"momentum": Momentum, "plain": Plain}[sys.argv[1]]))
