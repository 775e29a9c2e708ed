"""The step in torch on the GPU: ``python -m edgeadapt_bench.gpu.gpu_step_torch SYSTEM``, in a
process of its own.

Written with torch's own modules and optimiser, as one would write it. Inputs lie on the device
before; a step ends when the host has the loss. TF32 is off, as it is in torch by default and in
every runtime here.
"""

from __future__ import annotations

import importlib.util
import sys
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from edgeadapt_bench.gpu.gpu_check import NotHere
from edgeadapt_bench.harness.child.job_server import serve
from edgeadapt_bench.harness.child.step_protocol import StepInputs, steps_of
from edgeadapt_bench.steps._step_worker_torch import Adaptor


class Eager:
    """autograd and ``torch.optim.SGD``.

    Args:
        device: ``cuda`` or ``cpu``.
    """

    def __init__(self, step_inputs: StepInputs, device: str = "cuda") -> None:
        _need(device)
        settings = step_inputs.settings
        self.step_inputs = step_inputs
        self.facts: dict[str, Any] = {"torch": torch.__version__, "inputs": "in place"}
        self.network = Adaptor(
            settings["width"], settings["bottleneck"], settings["classes"], settings["eps"]
        ).to(device)
        self.inputs = _inputs(step_inputs, device)
        self.optimiser = torch.optim.SGD(
            self.network.parameters(), settings["learning_rate"], settings["beta"]
        )
        self.reset()

    def reset(self) -> None:
        """In place: a captured graph has these addresses."""
        self.network.load(self.step_inputs.start)
        for state in self.optimiser.state.values():
            state["momentum_buffer"].zero_()

    def step(self, index: int) -> float:
        self.optimiser.zero_grad()
        return self._forward_backward_update(*self.inputs[index % len(self.inputs)]).item()

    def _forward_backward_update(self, x: Tensor, y: Tensor) -> Tensor:
        loss = self.network.loss(x, y)
        loss.backward()
        self.optimiser.step()
        return loss.detach()

    def parameters(self) -> dict[str, NDArray[Any]]:
        return {
            name: parameter.detach().cpu().numpy().copy()
            for name, parameter in self.network.named().items()
        }


class Captured(Eager):
    """The eager step recorded once as a CUDA graph and replayed, as torch's notes on CUDA graphs do
    it: inputs are copied into a fixed place.
    """

    def __init__(self, step_inputs: StepInputs) -> None:
        super().__init__(step_inputs)
        self.place = tuple(value.clone() for value in self.inputs[0])
        aside = torch.cuda.Stream()
        aside.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(aside):
            for _ in range(3):  # makes the velocities, which the graph then has
                self.optimiser.zero_grad()
                self._forward_backward_update(*self.place)
        torch.cuda.current_stream().wait_stream(aside)
        # gradients are made in the graph's own memory, and written anew by each replay
        self.optimiser.zero_grad()
        self.graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self.graph):
            self.loss = self._forward_backward_update(*self.place)
        self.reset()

    def step(self, index: int) -> float:
        for place, value in zip(self.place, self.inputs[index % len(self.inputs)], strict=True):
            place.copy_(value)
        self.graph.replay()
        return self.loss.item()


class Compiled:
    """Forward, backward and update in one ``torch.compile`` region without graph breaks; parameters
    and velocity are written in place.

    Args:
        device: ``cuda`` or ``cpu``.
    """

    def __init__(self, step_inputs: StepInputs, device: str = "cuda") -> None:
        _need(device)
        if device == "cuda" and importlib.util.find_spec("triton") is None:
            raise NotHere(
                f"torch {torch.__version__} compiles for a GPU with triton, which is not installed"
            )
        settings = step_inputs.settings
        beta, rate = settings["beta"], settings["learning_rate"]
        self.step_inputs = step_inputs
        self.facts: dict[str, Any] = {"torch": torch.__version__, "inputs": "in place"}
        self.network = Adaptor(
            settings["width"], settings["bottleneck"], settings["classes"], settings["eps"]
        ).to(device)
        self.inputs = _inputs(step_inputs, device)
        self.trained = {name: value.detach() for name, value in self.network.named_parameters()}
        self.velocity = {name: torch.zeros_like(value) for name, value in self.trained.items()}
        model = self.network

        def loss(trained: dict[str, Tensor], x: Tensor, y: Tensor) -> Tensor:
            return F.cross_entropy(torch.func.functional_call(model, trained, (x,)), y)

        def whole(
            trained: dict[str, Tensor], velocity: dict[str, Tensor], x: Tensor, y: Tensor
        ) -> Tensor:
            slopes, value = torch.func.grad_and_value(loss)(trained, x, y)
            for name, parameter in trained.items():
                velocity[name].mul_(beta).add_(slopes[name])
                parameter.sub_(velocity[name], alpha=rate)
            return value

        self.run = torch.compile(whole, fullgraph=True, dynamic=False)
        self.reset()

    def reset(self) -> None:
        self.network.load(self.step_inputs.start)
        for value in self.velocity.values():
            value.zero_()

    def step(self, index: int) -> float:
        with torch.no_grad():
            return self.run(
                self.trained, self.velocity, *self.inputs[index % len(self.inputs)]
            ).item()

    def parameters(self) -> dict[str, NDArray[Any]]:
        return {
            name: parameter.detach().cpu().numpy().copy()
            for name, parameter in self.network.named().items()
        }


def _need(device: str) -> None:
    if device == "cuda" and not torch.cuda.is_available():
        raise NotHere(f"torch {torch.__version__} sees no GPU; a build for CUDA is needed")


def _inputs(step_inputs: StepInputs, device: str) -> list[tuple[Tensor, Tensor]]:
    given = [step_inputs.at(index) for index in range(step_inputs.count)]
    return [
        (torch.from_numpy(one["x"]).to(device), torch.from_numpy(one["y"]).to(device))
        for one in given
    ]


SYSTEMS = {
    "cpu": partial(Eager, device="cpu"),
    "compile_cpu": partial(Compiled, device="cpu"),
    "eager": Eager,
    "compile": Compiled,
    "graph": Captured,
}

if __name__ == "__main__":
    torch.set_num_threads(1)
    serve(steps_of(SYSTEMS[sys.argv[1]]))
