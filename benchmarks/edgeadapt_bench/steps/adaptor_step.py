"""The adaptor step: a residual adaptor and a head behind a frozen encoder, all of it trained by
momentum SGD on labelled features.

    h = x + W_up gelu(W_down norm(x) + b_down) + b_up;   loss = cross-entropy(W h + b, y)

x (B, 1280) float32, bottleneck 64, 20 classes: 193,364 parameters. The learning rate is folded into
the graph and there is no ``sample_weight``, so every system beside it computes exactly this.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from edgeadapt.host.compile import MakePorts, Step
from edgeadapt.host.steps.flat_parameters import Flat
from edgeadapt.host.steps.optimisers import Momentum

WIDTH, BOTTLENECK, CLASSES = 1280, 64, 20
LEARNING_RATE, BETA = 0.01, 0.9
EPS = 1e-5
SMALL = "small.vector"

Values = dict[str, Tensor]


def parameters(seed: int = 0) -> Values:
    """Starting values; linear weights are (out, in)."""
    generator = torch.Generator().manual_seed(seed)

    def normal(out: int, into: int) -> Tensor:
        return torch.randn(out, into, generator=generator) * into**-0.5

    return {
        "norm.gain": torch.ones(WIDTH),
        "norm.offset": torch.zeros(WIDTH),
        "down.weight": normal(BOTTLENECK, WIDTH),
        "down.bias": torch.zeros(BOTTLENECK),
        "up.weight": 0.1 * normal(WIDTH, BOTTLENECK),
        "up.bias": torch.zeros(WIDTH),
        "head.weight": normal(CLASSES, WIDTH),
        "head.bias": torch.zeros(CLASSES),
    }


def loss(p: Values, x: Tensor, y: Tensor) -> Tensor:
    """Mean cross-entropy of the adapted features."""
    normed = F.layer_norm(x, (WIDTH,), p["norm.gain"], p["norm.offset"], EPS)
    inner = F.gelu(F.linear(normed, p["down.weight"], p["down.bias"]))
    adapted = x + F.linear(inner, p["up.weight"], p["up.bias"])
    return F.cross_entropy(F.linear(adapted, p["head.weight"], p["head.bias"]), y)


def ports(generator: torch.Generator, batch: int) -> Values:
    """``x`` (B, 1280) float32 and ``y`` (B,) int64."""
    return {
        "x": torch.randn(batch, WIDTH, generator=generator),
        "y": torch.randint(0, CLASSES, (batch,), generator=generator),
    }


def step(seed: int = 0) -> tuple[Step, MakePorts, Values]:
    """What ``compile_step`` takes: the function, its example ports and its tensors. The batch size
    is the compiler's.

    Gain, offset and biases are one flat vector, and the loss is multiplied by the learning rate, so
    that no gradient has to be.
    """
    start = parameters(seed)
    small = {name: value for name, value in start.items() if value.dim() == 1}
    layout, optimiser = Flat.of(small), Momentum(BETA)
    trained = {
        **{name: value for name, value in start.items() if name not in small},
        SMALL: layout.pack(small),
    }

    def scaled_loss(values: Values, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        value = loss({**values, **layout.unpack(values[SMALL])}, x, y)
        return LEARNING_RATE * value, value

    gradient: Callable[..., tuple[Values, Tensor]] = torch.func.grad(scaled_loss, has_aux=True)

    def learn(given: Values, tensors: Values) -> tuple[Values, Values]:
        old = {name: tensors[name] for name in trained}
        gradients, value = gradient(old, given["x"], given["y"])
        new, state = optimiser.update(old, gradients, tensors, 1.0)
        return {"loss": value}, {**new, **state}

    return learn, ports, {**trained, **optimiser.state(trained)}


def named(tensors: Values) -> Values:
    """The parameters under their own names, from the tensors of :func:`step`."""
    small = {name: value for name, value in parameters().items() if value.dim() == 1}
    return {
        **{
            name: value
            for name, value in tensors.items()
            if name.endswith(".weight") and not name.startswith("momentum.")
        },
        **Flat.of(small).unpack(tensors[SMALL]),
    }
