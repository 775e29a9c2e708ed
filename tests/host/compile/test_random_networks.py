"""Random small networks, losses and optimisers: what leaves the compiler is compared with an
independent reference.

The reference shares nothing with the compiler: ``torch.autograd`` and ``torch.optim`` in float64,
eager, on fresh data, over a chain of steps. A graph may be refused with an error that names the
operator; it may never be wrong in silence.
"""

from __future__ import annotations

import functools
import re
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnxruntime
import pytest
import torch
import torch.nn.functional as F
from hypothesis import HealthCheck, Phase, assume, given, seed, settings
from hypothesis import strategies as st
from torch import Tensor

from edgeadapt.errors import CompileError
from edgeadapt.host.compile import compile_step
from edgeadapt.host.steps.optimisers import SGD, Adam, AdamW, Momentum, Optimiser

TOLERANCE = 1e-4  # of the largest change in a tensor
# an error may also be this many times that of eager float32, or what rounding of everything that is
# read moves
MOVES = 4.0
ROUNDING = 1e-6
STEPS = 3
BLOWS_UP = 10.0  # times the first loss: from there on a step only multiplies its rounding errors
CLASSES = 4
RATE = 0.02

State = dict[str, Tensor]
# (activations, tensors, new statistics)
Layer = Callable[[Tensor, Mapping[str, Tensor], State], Tensor]


class Network:
    """Layers, their example tensors, and the shape of the activations after the last one."""

    def __init__(self, shape: tuple[int, ...], number: int) -> None:
        self.generator = torch.Generator().manual_seed(number)
        self.tensors: State = {}
        self.statistics: set[str] = set()
        self.layers: list[Layer] = []
        self.kinds: list[str] = []
        self.takes_one_sample = True
        self.shape = shape

    def parameter(self, *shape: int, scale: float | None = None, around: float = 0.0) -> str:
        name = f"net.p{len(self.tensors)}"
        fan = max(1, int(np.prod(shape[1:]))) if len(shape) > 1 else 1
        spread = scale if scale is not None else (1.5 / fan) ** 0.5
        self.tensors[name] = around + spread * torch.randn(*shape, generator=self.generator)
        return name

    def statistic(self, value: Tensor) -> str:
        name = f"stat.s{len(self.tensors)}"
        self.tensors[name] = value
        self.statistics.add(name)
        return name

    def add(self, kind: str, layer: Layer) -> None:
        with torch.no_grad():
            made = layer(torch.randn(2, *self.shape, generator=self.generator), self.tensors, {})
        self.shape = tuple(made.shape[1:])
        self.layers.append(layer)
        self.kinds.append(kind)

    def forward(self, x: Tensor, tensors: Mapping[str, Tensor], new: State) -> Tensor:
        for layer in self.layers:
            x = layer(x, tensors, new)
        return x


ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "relu": F.relu,
    "relu6": F.relu6,
    "leaky_relu": functools.partial(F.leaky_relu, negative_slope=0.1),
    "gelu": F.gelu,
    "gelu_tanh": functools.partial(F.gelu, approximate="tanh"),
    "silu": F.silu,
    "hardswish": F.hardswish,
    "hardsigmoid": F.hardsigmoid,
    "tanh": torch.tanh,
    "sigmoid": torch.sigmoid,
    "elu": F.elu,
    "softplus": F.softplus,
    "mish": F.mish,
    "softsign": F.softsign,
    "selu": F.selu,
    "hardtanh": F.hardtanh,
    "clamp": lambda h: h.clamp(-1.0, 2.0),
    "square": lambda h: h * h / (1 + h.abs()),
    "log_sigmoid": F.logsigmoid,
    "celu": functools.partial(F.celu, alpha=0.7),
}


def add_activation(draw: Any, net: Network) -> None:
    kind = draw(st.sampled_from(sorted(ACTIVATIONS)))
    net.add(kind, lambda h, t, new: ACTIVATIONS[kind](h))


def add_convolution(draw: Any, net: Network) -> None:
    """Any stride, padding, dilation, kernel and grouping that leaves at least one position."""
    channels, *sizes = net.shape
    groups = draw(st.sampled_from([g for g in (1, 2, 3, 4, 6) if channels % g == 0] + [channels]))
    out = groups * draw(st.integers(1, max(1, 6 // groups)))
    kernel, stride, padding, dilation = [], [], [], []
    for size in sizes:
        k, d = draw(st.integers(1, 3)), draw(st.integers(1, 2))
        reach = d * (k - 1)
        least = max(0, (reach + 1 - size + 1) // 2)
        p = draw(st.integers(min(least, reach), reach))
        if size + 2 * p < reach + 1:
            k, d, p = 1, 1, 0
        kernel.append(k)
        dilation.append(d)
        padding.append(p)
        stride.append(draw(st.integers(1, 3)))
    weight = net.parameter(out, channels // groups, *kernel)
    bias = net.parameter(out, scale=0.3) if draw(st.booleans()) else None
    convolve = F.conv2d if len(sizes) == 2 else F.conv1d
    net.add(
        f"conv{len(sizes)}d",
        lambda h, t, new: convolve(
            h, t[weight], t[bias] if bias else None, stride, padding, dilation, groups
        ),
    )


def add_residual(draw: Any, net: Network) -> None:
    """``h + f(h)``, f a convolution over the same sizes or a small bottleneck."""
    channels, *sizes = net.shape
    kind = draw(st.sampled_from(sorted(ACTIVATIONS)))
    if not sizes:
        down, up = net.parameter(3, channels), net.parameter(channels, 3)
        net.add("residual", lambda h, t, new: h + ACTIVATIONS[kind](h @ t[down].T) @ t[up].T)
        return
    convolve = F.conv2d if len(sizes) == 2 else F.conv1d
    weight = net.parameter(channels, channels, *[3] * len(sizes))
    bias = net.parameter(channels, scale=0.3)
    net.add(
        "residual",
        lambda h, t, new: h + ACTIVATIONS[kind](convolve(h, t[weight], t[bias], padding=1)),
    )


def add_squeeze_excite(draw: Any, net: Network) -> None:
    channels, *sizes = net.shape
    weight = net.parameter(channels, channels)
    axes = tuple(range(2, 2 + len(sizes)))

    def gate(h: Tensor, t: Mapping[str, Tensor], new: State) -> Tensor:
        scale = (
            torch.sigmoid(h.mean(axes) @ t[weight].T) if axes else torch.sigmoid(h @ t[weight].T)
        )
        return h * scale.reshape(*scale.shape, *[1] * len(axes))

    net.add("squeeze_excite", gate)


def add_layer_norm(draw: Any, net: Network) -> None:
    """Over the channels of every position, or over whole samples; with or without gain and bias."""
    eps = draw(st.sampled_from([1e-5, 1e-3]))
    if len(net.shape) == 1 or draw(st.booleans()):
        gain = net.parameter(*net.shape, scale=0.2, around=1.0) if draw(st.booleans()) else None
        bias = net.parameter(*net.shape, scale=0.2) if gain and draw(st.booleans()) else None
        shape = net.shape
        net.add(
            "layer_norm",
            lambda h, t, new: F.layer_norm(
                h, shape, t[gain] if gain else None, t[bias] if bias else None, eps
            ),
        )
        return
    gain = net.parameter(net.shape[0], scale=0.2, around=1.0)
    bias = net.parameter(net.shape[0], scale=0.2)
    net.add(
        "layer_norm",
        lambda h, t, new: F.layer_norm(
            h.movedim(1, -1), (h.shape[1],), t[gain], t[bias], eps
        ).movedim(-1, 1),
    )


def add_group_norm(draw: Any, net: Network) -> None:
    channels = net.shape[0]
    size = int(np.prod(net.shape[1:]))
    groups = draw(
        st.sampled_from(
            [g for g in range(1, channels + 1) if channels % g == 0 and channels // g * size > 1]
            or [1]
        )
    )
    gain, bias = net.parameter(channels, scale=0.2, around=1.0), net.parameter(channels, scale=0.2)
    net.add("group_norm", lambda h, t, new: F.group_norm(h, groups, t[gain], t[bias]))


def add_batch_norm(draw: Any, net: Network) -> None:
    """Training mode: normalised by the batch, running statistics written as new tensors."""
    channels = net.shape[0]
    gain, bias = net.parameter(channels, scale=0.2, around=1.0), net.parameter(channels, scale=0.2)
    momentum = draw(st.sampled_from([0.1, 0.3]))
    net.takes_one_sample &= np.prod(net.shape[1:]) > 1  # one value per channel has no variance
    if not draw(st.booleans()):
        net.add(
            "batch_norm",
            lambda h, t, new: F.batch_norm(h, None, None, t[gain], t[bias], training=True),
        )
        return
    mean = net.statistic(torch.randn(channels, generator=net.generator) / 2)
    var = net.statistic(torch.ones(channels))

    def normalise(h: Tensor, t: Mapping[str, Tensor], new: State) -> Tensor:
        new[mean], new[var] = t[mean].clone(), t[var].clone()
        return F.batch_norm(
            h, new[mean], new[var], t[gain], t[bias], training=True, momentum=momentum
        )

    net.add("batch_norm", normalise)


def add_scale_shift(draw: Any, net: Network) -> None:
    channels, *sizes = net.shape
    scale = net.parameter(channels, *[1] * len(sizes), scale=0.2, around=1.0)
    shift = net.parameter(channels, *[1] * len(sizes), scale=0.2)
    net.add("scale_shift", lambda h, t, new: h * t[scale] + t[shift])


def add_pooling(draw: Any, net: Network) -> None:
    sizes = net.shape[1:]
    kernel = [draw(st.integers(1, min(3, size))) for size in sizes]
    stride = [draw(st.integers(1, 3)) for _ in sizes]
    kind = draw(st.sampled_from(["avg", "max", "global"]))
    if kind == "global":
        axes = tuple(range(2, 2 + len(sizes)))
        net.add("global_pool", lambda h, t, new: h.mean(axes, keepdim=True))
    elif kind == "max":
        pool: Any = F.max_pool2d if len(sizes) == 2 else F.max_pool1d
        net.add("max_pool", lambda h, t, new: pool(h, kernel, stride))
    else:
        padding = [draw(st.integers(0, k // 2)) for k in kernel]
        pool = F.avg_pool2d if len(sizes) == 2 else F.avg_pool1d
        net.add("avg_pool", lambda h, t, new: pool(h, kernel, stride, padding))


def add_attention(draw: Any, net: Network) -> None:
    """Softmax self-attention over tokens ``(T, D)``, with a residual, with one or more heads."""
    width = net.shape[1]
    heads = draw(st.sampled_from([h for h in (1, 2, 3) if width % h == 0]))
    packed, out = net.parameter(3 * width, width), net.parameter(width, width)
    is_fused = draw(st.booleans())

    def attend(h: Tensor, t: Mapping[str, Tensor], new: State) -> Tensor:
        tokens = h.shape[1]
        q, k, v = (
            part.reshape(-1, tokens, heads, width // heads).transpose(1, 2)
            for part in (h @ t[packed].T).chunk(3, -1)
        )
        if is_fused:
            mixed = F.scaled_dot_product_attention(q, k, v)
        else:
            mixed = F.softmax(q @ k.transpose(-1, -2) * (width // heads) ** -0.5, -1) @ v
        return h + mixed.transpose(1, 2).reshape(-1, tokens, width) @ t[out].T

    net.add("attention", attend)


def add_token_norm(draw: Any, net: Network) -> None:
    width = net.shape[1]
    gain, bias = net.parameter(width, scale=0.2, around=1.0), net.parameter(width, scale=0.2)
    net.add("layer_norm", lambda h, t, new: F.layer_norm(h, (width,), t[gain], t[bias]))


def add_linear(draw: Any, net: Network) -> None:
    out = draw(st.integers(2, 9))
    weight = net.parameter(out, net.shape[-1])
    bias = net.parameter(out, scale=0.3) if draw(st.booleans()) else None
    net.add("linear", lambda h, t, new: F.linear(h, t[weight], t[bias] if bias else None))


SPATIAL = [
    add_convolution,
    add_convolution,
    add_activation,
    add_activation,
    add_residual,
    add_squeeze_excite,
    add_layer_norm,
    add_group_norm,
    add_batch_norm,
    add_scale_shift,
    add_pooling,
]
FAMILIES: dict[str, tuple[Any, list[Any]]] = {
    "images": (st.tuples(st.integers(1, 4), st.integers(4, 9), st.integers(4, 9)), SPATIAL),
    "signals": (st.tuples(st.integers(1, 4), st.integers(5, 16)), SPATIAL),
    "features": (
        st.tuples(st.integers(3, 12)),
        [
            add_linear,
            add_linear,
            add_activation,
            add_activation,
            add_residual,
            add_squeeze_excite,
            add_layer_norm,
            add_batch_norm,
            add_scale_shift,
        ],
    ),
    "tokens": (
        st.tuples(st.integers(2, 6), st.sampled_from([4, 6])),
        [add_attention, add_attention, add_token_norm, add_linear, add_activation],
    ),
}


def cross_entropy(logits: Tensor, ports: Mapping[str, Tensor]) -> Tensor:
    return F.cross_entropy(logits, ports["y"])


def smoothed_cross_entropy(logits: Tensor, ports: Mapping[str, Tensor]) -> Tensor:
    return F.cross_entropy(logits, ports["y"], label_smoothing=0.1)


def weighted_cross_entropy(logits: Tensor, ports: Mapping[str, Tensor]) -> Tensor:
    weight = ports["sample_weight"]
    return (
        F.cross_entropy(logits, ports["y"], reduction="none") * weight
    ).sum() / weight.sum().clamp(min=1e-6)


def squared_error(logits: Tensor, ports: Mapping[str, Tensor]) -> Tensor:
    return F.mse_loss(logits, ports["target"])


def huber(logits: Tensor, ports: Mapping[str, Tensor]) -> Tensor:
    return F.smooth_l1_loss(logits, ports["target"], beta=0.5)


def binary_cross_entropy(logits: Tensor, ports: Mapping[str, Tensor]) -> Tensor:
    return F.binary_cross_entropy_with_logits(logits, torch.sigmoid(ports["target"]))


def entropy(logits: Tensor, ports: Mapping[str, Tensor]) -> Tensor:
    logp = F.log_softmax(logits, 1)
    return -(logp.exp() * logp).sum(1).mean()


def divergence(logits: Tensor, ports: Mapping[str, Tensor]) -> Tensor:
    return F.kl_div(F.log_softmax(logits, 1), F.softmax(ports["target"], 1), reduction="batchmean")


LOSSES = {
    fn.__name__: fn
    for fn in (
        cross_entropy,
        smoothed_cross_entropy,
        weighted_cross_entropy,
        squared_error,
        huber,
        binary_cross_entropy,
        entropy,
        divergence,
    )
}

OPTIMISERS: dict[str, tuple[Optimiser, Callable[[list[Tensor]], torch.optim.Optimizer]]] = {
    "sgd": (SGD(), lambda ps: torch.optim.SGD(ps, RATE)),
    "momentum": (Momentum(), lambda ps: torch.optim.SGD(ps, RATE, momentum=0.9)),
    "adam": (Adam(eps=1e-4), lambda ps: torch.optim.Adam(ps, RATE, eps=1e-4)),
    "adamw": (
        AdamW(0.05, eps=1e-4),
        lambda ps: torch.optim.AdamW(ps, RATE, eps=1e-4, weight_decay=0.05),
    ),
}


@dataclass(frozen=True)
class Plan:
    """One random learning step."""

    family: str
    net: Network
    start: tuple[int, ...]
    loss: str
    optimiser: str
    batch: int
    is_batch_free: bool
    rate_is_port: bool

    def __repr__(self) -> str:
        free = "free" if self.is_batch_free else "fixed"
        return (
            f"{self.family}{self.start}: {' '.join(self.net.kinds)} | {self.loss} |"
            f" {self.optimiser} | batch {self.batch} {free}"
        )

    def make_ports(self, generator: torch.Generator, batch: int) -> State:
        ports = {"x": torch.randn(batch, *self.start, generator=generator)}
        if "cross_entropy" in self.loss and "binary" not in self.loss:
            ports["y"] = torch.randint(0, CLASSES, (batch,), generator=generator)
        elif self.loss != "entropy":
            ports["target"] = torch.randn(batch, CLASSES, generator=generator)
        if self.loss == "weighted_cross_entropy":
            ports["sample_weight"] = torch.rand(batch, generator=generator) + 0.5
        if self.rate_is_port:
            ports["learning_rate"] = torch.tensor(RATE)
        return ports

    def step(self, ports: State, tensors: State) -> tuple[State, State]:
        """What is compiled: ``torch.func`` and the optimisers of the package."""
        parameters = {k: v for k, v in tensors.items() if k.startswith("net.")}

        def value(theta: State) -> tuple[Tensor, State]:
            new: State = {}
            return (
                LOSSES[self.loss](self.net.forward(ports["x"], {**tensors, **theta}, new), ports),
                new,
            )

        gradient, (loss, statistics) = torch.func.grad_and_value(value, has_aux=True)(parameters)
        live = (
            (ports["sample_weight"].sum() > 0).to(loss.dtype) if "sample_weight" in ports else None
        )
        rate = ports["learning_rate"] if self.rate_is_port else RATE
        new, state = OPTIMISERS[self.optimiser][0].update(parameters, gradient, tensors, rate, live)
        return {"value": loss}, {**new, **state, **statistics}

    def tensors(self) -> State:
        parameters = {k: v for k, v in self.net.tensors.items() if k.startswith("net.")}
        return {**self.net.tensors, **OPTIMISERS[self.optimiser][0].state(parameters)}

    def moves_every_parameter(self) -> bool:
        """Whether float64 has a gradient for every parameter that a step can see; a bias that a
        norm takes away has only rounding error.
        """
        parameters = {
            k: v.double().requires_grad_()
            for k, v in self.net.tensors.items()
            if k.startswith("net.")
        }
        tensors = {**{k: v.double() for k, v in self.net.tensors.items()}, **parameters}
        ports = {
            k: v.double() if v.is_floating_point() else v
            for k, v in self.make_ports(torch.Generator().manual_seed(0), self.batch).items()
        }
        loss = LOSSES[self.loss](self.net.forward(ports["x"], tensors, {}), ports)
        gradients = torch.autograd.grad(loss, list(parameters.values()))
        return all(gradient.abs().max() > 1e-5 for gradient in gradients)

    def reference(
        self, chain: list[State], noise: int | None = None, kind: torch.dtype = torch.float64
    ) -> list[State]:
        """Loss, parameters and statistics after every step; with ``noise``, from inputs and tensors
        off by a rounding error.
        """
        generator = torch.Generator().manual_seed(noise or 0)

        def exact(value: Tensor) -> Tensor:
            if not value.is_floating_point():
                return value
            wide = value.to(kind, copy=True)
            return (
                wide
                if noise is None
                else wide
                * (1 + ROUNDING * (2 * torch.rand(wide.shape, generator=generator, dtype=kind) - 1))
            )

        tensors = {k: exact(v) for k, v in self.net.tensors.items()}
        parameters = {k: tensors[k].requires_grad_() for k in tensors if k.startswith("net.")}
        optimiser = OPTIMISERS[self.optimiser][1](list(parameters.values()))
        history = []
        for ports in chain:
            wide, new = {k: exact(v) for k, v in ports.items()}, dict[str, Tensor]()
            optimiser.zero_grad()
            loss = LOSSES[self.loss](self.net.forward(wide["x"], tensors, new), wide)
            loss.backward()
            optimiser.step()
            tensors.update({k: v.detach() for k, v in new.items()})
            history.append(
                {"value": loss.detach(), **{k: v.detach().clone() for k, v in tensors.items()}}
            )
        return history


@st.composite
def plans(draw: Any, family: str, depth: int = 5) -> Plan:
    shapes, adders = FAMILIES[family]
    start = draw(shapes)
    net = Network(start, draw(st.integers(0, 10_000)))
    for _ in range(draw(st.integers(2, depth))):
        draw(st.sampled_from(adders))(draw, net)
    if len(net.shape) > 1:
        if draw(st.booleans()) and np.prod(net.shape) <= 64:
            net.add("flatten", lambda h, t, new: h.flatten(1))
        elif family == "tokens":
            net.add("token_mean", lambda h, t, new: h.mean(1))
        else:
            axes = tuple(range(2, 1 + len(net.shape)))
            net.add("mean", lambda h, t, new: h.mean(axes))
    head, bias = net.parameter(CLASSES, net.shape[0]), net.parameter(CLASSES, scale=0.1)
    net.add("linear", lambda h, t, new: F.linear(h, t[head], t[bias]))
    losses = sorted(LOSSES)
    if "batch_norm" in net.kinds:
        # muted rows reach the batch statistics; a step must not do that
        losses.remove("weighted_cross_entropy")
    is_batch_free = net.takes_one_sample and draw(st.booleans())
    plan = Plan(
        family,
        net,
        start,
        draw(st.sampled_from(losses)),
        draw(st.sampled_from(sorted(OPTIMISERS))),
        draw(st.sampled_from([4, 8] if is_batch_free or "batch_norm" in net.kinds else [1, 3, 8])),
        is_batch_free,
        draw(st.booleans()),
    )
    assume(plan.moves_every_parameter())
    return plan


def follow(plan: Plan, model: bytes, chain: list[State]) -> list[State]:
    """ONNX Runtime on its own state."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    state = {k: v.numpy() for k, v in plan.tensors().items()}
    inputs = [v.name for v in session.get_inputs()]
    outputs = [v.name for v in session.get_outputs()]
    history = []
    for ports in chain:
        given = {**{k: v.numpy() for k, v in ports.items()}, **state}
        values = dict(zip(outputs, session.run(None, {k: given[k] for k in inputs}), strict=True))
        state.update({k.removesuffix(".next"): v for k, v in values.items() if k.endswith(".next")})
        history.append(
            {
                "value": torch.from_numpy(np.asarray(values["value"])),
                **{k: torch.from_numpy(np.asarray(v)) for k, v in state.items()},
            }
        )
    return history


def mismatches(plan: Plan, model: bytes) -> list[str]:
    """Every tensor that is further from float64 than the tolerance and than rounding of what is
    read can explain.
    """
    sizes = (plan.batch, 5 if plan.is_batch_free else plan.batch, plan.batch)
    chain = [
        plan.make_ports(torch.Generator().manual_seed(7_000 + step), sizes[step])
        for step in range(STEPS)
    ]
    got, want = follow(plan, model, chain), plan.reference(chain)
    others: list[list[State]] = []
    found = []
    for step in range(STEPS):
        if not want[step]["value"].abs() <= BLOWS_UP * want[0]["value"].abs():
            break
        for key, truth in want[step].items():
            start = (
                plan.net.tensors[key].double()
                if key in plan.net.tensors
                else torch.zeros_like(truth)
            )
            scale = (truth - start).abs().max() + 1e-6 * truth.abs().max() + 1e-9
            error = (got[step][key].double() - truth).abs().max()
            if error <= TOLERANCE * scale:
                continue
            others = others or [
                plan.reference(chain, kind=torch.float32),
                *(plan.reference(chain, noise) for noise in range(1, 17)),
            ]
            moved = max((other[step][key] - truth).abs().max() for other in others)
            if not error <= TOLERANCE * scale + MOVES * moved:
                found.append(
                    f"{key} after step {step + 1}: error {error / scale:.1e} of the change,"
                    f" rounding moves it by {moved / scale:.1e}"
                )
    return found


def judge(plan: Plan, tally: Counter[str]) -> None:
    """Compile one plan and compare; what is refused is counted under the operator it names."""
    tally["graphs"] += 1
    tally.update(set(plan.net.kinds) | {plan.loss, plan.optimiser})
    try:
        graph = compile_step(
            "random",
            plan.step,
            plan.make_ports,
            plan.tensors(),
            dynamic_batch=plan.is_batch_free,
            batch=plan.batch,
        )
    except CompileError as error:
        assert names_an_operator(str(error)), f"{plan}\n{error}"
        tally["refused"] += 1
        tally[f"refused: {error}"[:160]] += 1
        return
    wrong = mismatches(plan, graph.model)
    assert not wrong, f"{plan}\n" + "\n".join(wrong)


def names_an_operator(message: str) -> bool:
    """A refusal that tells the user what to replace, and not that numbers differ."""
    return (
        "differs from torch" not in message
        and re.search(r"aten[.:]|[Gg]radient of|[A-Z][a-z]+[A-Za-z]* (with|is|takes|of) ", message)
        is not None
    )


def explore(family: str, number: int, count: int, depth: int = 5) -> Counter[str]:
    tally: Counter[str] = Counter()

    @seed(number)
    @settings(
        max_examples=count,
        deadline=None,
        database=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(plans(family, depth))
    def each(plan: Plan) -> None:
        judge(plan, tally)

    each()
    return tally


QUICK = {"images": 2, "signals": 3, "features": 4, "tokens": 2}  # graphs


@pytest.mark.parametrize("family", FAMILIES)
def test_random_steps_are_never_silently_wrong(family: str) -> None:
    tally = explore(family, 1, QUICK[family], depth=2)
    assert tally["graphs"] >= QUICK[family] and tally["refused"] == 0, tally


@pytest.mark.slow
@pytest.mark.parametrize("number", range(2, 7))
@pytest.mark.parametrize("family", FAMILIES)
def test_hundreds_of_random_steps_are_never_silently_wrong(family: str, number: int) -> None:
    tally = explore(family, number, 16)
    assert tally["graphs"] >= 16 and tally["refused"] <= 1, tally
