"""Faults put into the compiler one at a time: each must end in a ``CompileError``, and without it
the same step must pass.

What is not caught here would not be caught in a user's step either.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from onnx import ModelProto, NodeProto, helper, numpy_helper
from torch import Tensor

from edgeadapt.errors import CompileError
from edgeadapt.host.compile import compile_step
from edgeadapt.host.compile import graph as graph_module
from edgeadapt.host.compile import trace as trace_module
from edgeadapt.host.compile.decompose import decompositions
from edgeadapt.host.steps.optimisers import SGD, Adam, Momentum, Optimiser

aten = torch.ops.aten
CAUGHT = (
    r"differs from torch|finite in one of|from ONNX Runtime,|changes by|does not change|depends on"
    r" rows|no effect"
)

GRADIENT_DESCENT = SGD()
Values = dict[str, Tensor]
Loss = Callable[[Values, Values], Tensor]  # (ports, tensors)


def random(seed: int, *shape: int, scale: float = 1.0) -> Tensor:
    return scale * torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@dataclass(frozen=True)
class Example:
    """A learning step: the tensors named ``net.`` follow the gradient of a loss."""

    loss: Loss
    tensors: Values
    sample: tuple[int, ...]
    optimiser: Optimiser = GRADIENT_DESCENT
    ports: Callable[[torch.Generator, int], Values] = lambda generator, batch: {}
    options: dict[str, Any] | None = None

    def make_ports(self, generator: torch.Generator, batch: int) -> Values:
        ports = {
            "x": torch.randn(batch, *self.sample, generator=generator),
            "target": torch.randn(batch, 4, generator=generator),
        }
        ports["y"] = torch.randint(0, 4, (batch,), generator=generator)
        return ports | self.ports(generator, batch)

    def step(self, ports: Values, tensors: Values) -> tuple[Values, Values]:
        theta = {key: value for key, value in tensors.items() if key.startswith("net.")}
        gradient, value = torch.func.grad_and_value(
            lambda theta: self.loss(ports, {**tensors, **theta})
        )(theta)
        new, state = self.optimiser.update(
            theta, gradient, tensors, ports.get("learning_rate", 0.1)
        )
        return {"value": value}, {**new, **state}

    def compile(self) -> Any:
        theta = {key: value for key, value in self.tensors.items() if key.startswith("net.")}
        tensors = {
            **self.tensors,
            **{key: value + 0.01 for key, value in self.optimiser.state(theta).items()},
        }
        return compile_step(
            "faulty",
            self.step,
            self.make_ports,
            tensors,
            **{"dynamic_batch": False, "batch": 4, **(self.options or {})},
        )


def layered(activation: Callable[[Tensor], Tensor]) -> Example:
    """Linear, activation, linear. The first bias is 0, so inputs of 0 sit on the kink of a
    rectifier.
    """

    def loss(p: Values, t: Values) -> Tensor:
        return F.mse_loss(
            activation(F.linear(p["x"], t["net.w"], t["net.b"])) @ t["net.v"].T, p["target"]
        )

    return Example(
        loss,
        {"net.w": random(1, 8, 6), "net.b": torch.zeros(8), "net.v": random(2, 4, 8, scale=0.5)},
        (6,),
    )


def convolved(middle: Callable[[Tensor], Tensor] = torch.tanh) -> Example:
    """Two 2-D convolutions with strides, padding and groups: the second sends a gradient through to
    the first.
    """

    def loss(p: Values, t: Values) -> Tensor:
        h = middle(F.conv2d(p["x"], t["net.w"], t["net.b"], stride=(2, 1), padding=1))
        h = F.conv2d(h, t["net.u"], t["net.c"], padding=(1, 0), groups=2)
        return F.mse_loss(h.square().mean((2, 3)), p["target"])

    tensors = {
        "net.w": random(1, 4, 2, 3, 3, scale=0.4),
        "net.b": random(2, 4),
        "net.u": random(3, 4, 2, 2, 2, scale=0.5),
    }
    return Example(loss, {**tensors, "net.c": random(4, 4, scale=0.2)}, (2, 7, 6))


def convolved_1d() -> Example:
    def loss(p: Values, t: Values) -> Tensor:
        h = torch.tanh(F.conv1d(p["x"], t["net.w"], t["net.b"], stride=2, padding=2, dilation=2))
        return F.mse_loss(F.conv1d(h, t["net.u"]).square().mean(2), p["target"])

    return Example(
        loss,
        {
            "net.w": random(1, 3, 2, 3, scale=0.5),
            "net.b": random(2, 3),
            "net.u": random(3, 4, 3, 2),
        },
        (2, 9),
    )


def normalised(
    norm: Callable[[Tensor, Tensor, Tensor], Tensor], sample: tuple[int, ...] = (6,)
) -> Example:
    """A norm with gain and bias behind a linear map of the first axis of a sample."""

    def loss(p: Values, t: Values) -> Tensor:
        h = norm(torch.einsum("oi,bi...->bo...", t["net.w"], p["x"]), t["net.g"], t["net.b"])
        return F.mse_loss(torch.tanh(h).flatten(1) @ t["net.v"].T, p["target"])

    last = 6 * int(np.prod(sample[1:]))
    tensors = {
        "net.w": random(1, 6, sample[0], scale=0.5),
        "net.g": 1 + random(2, 6, scale=0.2),
        "net.b": random(3, 6, scale=0.2),
    }
    return Example(loss, {**tensors, "net.v": random(4, 4, last, scale=0.3)}, sample)


def classified(
    loss_of: Callable[[Tensor, Values], Tensor], ports: Any = lambda generator, batch: {}
) -> Example:
    return Example(
        lambda p, t: loss_of(F.linear(p["x"], t["net.w"], t["net.b"]), p),
        {"net.w": random(1, 4, 6), "net.b": random(2, 4)},
        (6,),
        ports=ports,
    )


def tracking() -> Example:
    """Batch norm that keeps running statistics as tensors of the step."""

    def loss(p: Values, t: Values) -> Tensor:
        return F.mse_loss(
            F.batch_norm(p["x"], None, None, t["net.g"], training=True).square().mean((2, 3))
            @ t["net.v"].T,
            p["target"],
        )

    example = Example(
        loss,
        {
            "net.g": 1 + random(1, 3, scale=0.2),
            "net.v": random(2, 4, 3),
            "run.mean": random(3, 3),
            "run.var": torch.ones(3),
        },
        (3, 4, 4),
    )
    return Tracking(**vars(example))


class Tracking(Example):
    def step(self, ports: Values, tensors: Values) -> tuple[Values, Values]:
        outputs, new = super().step(ports, tensors)
        mean, var = tensors["run.mean"].clone(), tensors["run.var"].clone()
        F.batch_norm(ports["x"], mean, var, training=True)
        return outputs, {**new, "run.mean": mean, "run.var": var}


def attending() -> Example:
    def loss(p: Values, t: Values) -> Tensor:
        q, k, v = ((p["x"] @ t[name].T).unsqueeze(1) for name in ("net.q", "net.k", "net.v"))
        return F.mse_loss(F.scaled_dot_product_attention(q, k, v).mean((1, 2)), p["target"])

    return Example(
        loss,
        {name: random(seed, 4, 4) for seed, name in enumerate(("net.q", "net.k", "net.v"))},
        (5, 4),
    )


def ignoring(generator: torch.Generator, batch: int) -> Values:
    y = torch.randint(0, 4, (batch,), generator=generator)
    return {"y": torch.where(torch.arange(batch) % 3 == 1, -100, y)}


def layer_norm(h: Tensor, gain: Tensor, bias: Tensor) -> Tensor:
    return F.layer_norm(h, (6,), gain, bias)


def group_norm(h: Tensor, gain: Tensor, bias: Tensor) -> Tensor:
    return F.group_norm(h, 2, gain, bias)


def batch_norm(h: Tensor, gain: Tensor, bias: Tensor) -> Tensor:
    return F.batch_norm(h, None, None, gain, bias, training=True)


def entropy(logits: Tensor, p: Values) -> Tensor:
    return -(F.softmax(logits, 1) * F.log_softmax(logits, 1)).sum(1).mean()


def pooled(pool: Callable[[Tensor], Tensor]) -> Example:
    def loss(p: Values, t: Values) -> Tensor:
        return F.mse_loss(pool(F.conv2d(p["x"], t["net.w"])).square().mean((2, 3)), p["target"])

    return Example(loss, {"net.w": random(1, 4, 2, 1, 1)}, (2, 6, 5))


def free(example: Example) -> Example:
    return Example(
        example.loss,
        example.tensors,
        example.sample,
        example.optimiser,
        example.ports,
        {"dynamic_batch": True},
    )


def shifted(weight: Tensor | None) -> Tensor | None:
    return weight if weight is None else weight.roll(1, -1)


def part(index: int, change: Callable[[Any], Any]) -> Callable[[Any], Callable[..., Any]]:
    """Replace one of the results of a decomposition."""

    def fault(correct: Callable[..., Any]) -> Callable[..., Any]:
        def faulty(*given: Any, **named: Any) -> Any:
            results = list(correct(*given, **named))
            results[index] = None if results[index] is None else change(results[index])
            return tuple(results)

        return faulty

    return fault


def argument(index: int, change: Callable[..., Any]) -> Callable[[Any], Callable[..., Any]]:
    """Call the right decomposition with one wrong argument."""

    def fault(correct: Callable[..., Any]) -> Callable[..., Any]:
        return lambda *given, **named: correct(
            *given[:index], change(given[index]), *given[index + 1 :], **named
        )

    return fault


def instead(faulty: Callable[..., Any]) -> Callable[[Any], Callable[..., Any]]:
    return lambda correct: faulty


def scaled_by(factor: float) -> Callable[[Any], Callable[..., Any]]:
    return lambda correct: lambda *given, **named: correct(*given, **named) * factor


def unbiased_layer_norm(
    x: Tensor, shape: Any, weight: Tensor, bias: Tensor, eps: float
) -> tuple[Tensor, Tensor, Tensor]:
    mean = x.mean(-1, keepdim=True)
    rstd = torch.rsqrt((x - mean).square().sum(-1, keepdim=True) / (x.shape[-1] - 1) + eps)
    return (x - mean) * rstd * weight + bias, mean, rstd


FAULTS: dict[str, tuple[Any, Callable[[Any], Callable[..., Any]], Example]] = {
    "relu: mask takes the side of 0": (
        aten.threshold_backward,
        instead(lambda g, x, t: g * (x >= t).to(g.dtype)),
        layered(F.relu),
    ),
    "relu: wrong sign": (aten.threshold_backward, scaled_by(-1.0), layered(F.relu)),
    "relu: threshold off by a hundredth": (
        aten.threshold_backward,
        argument(2, lambda t: t + 0.01),
        layered(F.relu),
    ),
    "relu: gradient off by 5e-4": (aten.threshold_backward, scaled_by(1.0005), layered(F.relu)),
    "relu6: upper bound forgotten": (
        aten.hardtanh_backward,
        argument(3, lambda high: 1e9),
        layered(F.relu6),
    ),
    "hardswish: 1 forgotten beyond 3": (
        aten.hardswish_backward,
        instead(lambda g, x: g * ((x > -3) & (x < 3)).to(g.dtype) * (x / 3 + 0.5)),
        layered(F.hardswish),
    ),
    "hardsigmoid: a sixth forgotten": (
        aten.hardsigmoid_backward,
        scaled_by(6.0),
        layered(F.hardsigmoid),
    ),
    "leaky relu: slope dropped": (
        aten.leaky_relu_backward,
        argument(2, lambda slope: 0.0),
        layered(lambda h: F.leaky_relu(h, 0.1)),
    ),
    "gelu: density forgotten": (
        aten.gelu_backward,
        instead(lambda g, x, approximate="none": g * 0.5 * (1 + torch.erf(x / 2**0.5))),
        layered(F.gelu),
    ),
    "gelu: tanh approximation for erf": (
        aten.gelu,
        instead(
            lambda x, approximate="none": (
                0.5 * x * (1 + torch.tanh(0.7978845608 * (x + 0.044715 * x**3)))
            )
        ),
        layered(F.gelu),
    ),
    "sigmoid: wrong sign inside": (
        aten.sigmoid_backward,
        instead(lambda g, y: g * y * (1 + y)),
        layered(torch.sigmoid),
    ),
    "elu: slope at 0 for all negatives": (
        aten.elu_backward,
        instead(lambda g, a, scale, k, is_result, x: g * torch.where(x > 0, 1.0, a)),
        layered(F.elu),
    ),
    "convolution: kernel transposed": (
        aten.convolution_backward,
        argument(2, lambda w: w.flip(-1)),
        convolved(),
    ),
    "convolution: mean over the batch": (
        aten.convolution_backward,
        part(1, lambda gw: gw / 4),
        convolved(),
    ),
    "convolution: bias gradient dropped": (
        aten.convolution_backward,
        part(2, torch.zeros_like),
        convolved(),
    ),
    "convolution: bias gradient averaged": (
        aten.convolution_backward,
        part(2, lambda gb: gb / 4),
        convolved(),
    ),
    "convolution: padding off by one": (
        aten.convolution_backward,
        argument(1, shifted),
        convolved(),
    ),
    "convolution: input gradient shifted": (
        aten.convolution_backward,
        part(0, lambda gi: gi.roll(1, -2)),
        convolved(),
    ),
    "convolution: one sample left out": (
        aten.convolution_backward,
        argument(1, lambda x: torch.cat([x[:-1], x[:1] * 0])),
        convolved(),
    ),
    "convolution: corner of the input gradient lost": (
        aten.convolution_backward,
        part(0, lambda gi: gi * (torch.arange(gi.shape[-1]) > 0).to(gi.dtype)),
        convolved(),
    ),
    "1-D convolution: taps reversed": (
        aten.convolution_backward,
        part(1, lambda gw: gw.flip(-1)),
        convolved_1d(),
    ),
    "average pooling: divisor off by one": (
        aten.avg_pool2d_backward,
        scaled_by(4 / 3),
        pooled(lambda h: F.avg_pool2d(h, 2)),
    ),
    "max pooling: every maximum of a tie": (
        aten.max_pool2d_with_indices_backward,
        instead(
            lambda g, x, kernel, *_: (
                F.interpolate(g, scale_factor=2)
                * (x == F.interpolate(F.max_pool2d(x, 2), scale_factor=2)).to(g.dtype)
            )
        ),
        Example(
            lambda p, t: F.mse_loss(
                F.max_pool2d(F.conv2d(p["x"], t["net.w"], t["net.b"]), 2).mean((2, 3)), p["target"]
            ),
            {"net.w": random(1, 4, 2, 1, 1), "net.b": random(2, 4)},
            (2, 6, 4),
        ),
    ),
    "layer norm: no epsilon": (
        aten.native_layer_norm,
        argument(4, lambda eps: 0.0),
        normalised(layer_norm),
    ),
    "layer norm: n - 1": (
        aten.native_layer_norm,
        instead(unbiased_layer_norm),
        normalised(layer_norm),
    ),
    "layer norm: variance not differentiated": (
        aten.native_layer_norm_backward,
        instead(
            lambda g, x, shape, mean, rstd, w, b, mask: (
                rstd * (g * w - (g * w).mean(-1, keepdim=True)),
                (g * (x - mean) * rstd).sum(0),
                g.sum(0),
            )
        ),
        normalised(layer_norm),
    ),
    "layer norm: gain gradient of the centred value": (
        aten.native_layer_norm_backward,
        part(1, lambda dw: dw * 1.01),
        normalised(layer_norm),
    ),
    "group norm: epsilon a hundred times too large": (
        aten.native_group_norm,
        argument(7, lambda eps: 100 * eps),
        normalised(group_norm, (3, 2, 2)),
    ),
    "batch norm: running variance without n / (n - 1)": (
        aten._native_batch_norm_legit,
        lambda correct: (
            lambda x, w, b, mean, var, training, momentum, eps: (
                var.copy_((1 - momentum) * var + momentum * x.var((0, 2, 3), correction=0)),
                *correct(x, w, b, mean, None, training, momentum, eps)[:3],
            )[1:]
        ),
        tracking(),
    ),
    "batch norm: mean not differentiated": (
        aten.native_batch_norm_backward,
        part(0, lambda dx: dx + dx.abs().mean()),
        normalised(batch_norm, (3, 2, 2)),
    ),
    "cross entropy: off by the batch": (
        aten.nll_loss_backward,
        scaled_by(4.0),
        classified(lambda z, p: F.cross_entropy(z, p["y"])),
    ),
    "cross entropy: ignored labels counted": (
        aten.nll_loss_forward,
        instead(
            lambda x, y, w, reduction, ignore: (
                -torch.where(y[:, None] == torch.arange(4), x, 0.0).sum() / x.shape[0],
                torch.full((), float(x.shape[0])),
            )
        ),
        classified(lambda z, p: F.cross_entropy(z, p["y"]), ignoring),
    ),
    "log softmax: sum of the gradient forgotten": (
        aten._log_softmax_backward_data,
        instead(lambda g, y, dim, kind: g),
        classified(lambda z, p: F.cross_entropy(z, p["y"])),
    ),
    "softmax: inner product forgotten": (
        aten._softmax_backward_data,
        instead(lambda g, y, dim, kind: g * y),
        classified(entropy),
    ),
    "attention: scale forgotten": (
        aten._scaled_dot_product_flash_attention_for_cpu_backward,
        lambda correct: lambda *given, **named: correct(*given, **{**named, "scale": 1.0}),
        attending(),
    ),
    "batch baked into a mean": (
        aten.mse_loss_backward,
        instead(lambda g, x, y, reduction: g * (x - y) * (2 / 16)),
        free(layered(torch.tanh)),
    ),
}


QUICK = {  # the rest, which is of the same kinds, takes part in the slow run
    "relu: mask takes the side of 0",
    "relu: gradient off by 5e-4",
    "relu6: upper bound forgotten",
    "gelu: tanh approximation for erf",
    "1-D convolution: taps reversed",
    "layer norm: no epsilon",
    "layer norm: n - 1",
    "batch norm: running variance without n / (n - 1)",
    "cross entropy: off by the batch",
    "softmax: inner product forgotten",
    "batch baked into a mean",
}
SLOW = pytest.mark.slow


@pytest.mark.parametrize(
    "fault", [name if name in QUICK else pytest.param(name, marks=SLOW) for name in FAULTS]
)
def test_a_wrong_decomposition_is_caught(fault: str, monkeypatch: pytest.MonkeyPatch) -> None:
    operator, wrong, example = FAULTS[fault]
    reached = []

    def faulty() -> Any:
        table = decompositions()
        made = wrong(table[operator.default])

        def count(*given: Any, **named: Any) -> Any:
            reached.append(operator)
            return made(*given, **named)

        table[operator.default] = count
        return table

    monkeypatch.setattr(trace_module, "decompositions", faulty)
    with pytest.raises(CompileError, match=CAUGHT):
        example.compile()
    assert reached


def square(optimiser: Optimiser = Momentum(), **ports: Tensor) -> Example:  # noqa: B008
    """Every tensor is 8 x 8 or 8, at batch 8: what is swapped, turned or summed over the wrong axis
    keeps its shape.
    """

    def loss(p: Values, t: Values) -> Tensor:
        return F.mse_loss(
            F.softmax(F.linear(p["x"], t["net.w"], t["net.b"]), 1) @ t["net.v"].T, p["target"]
        )

    def make_ports(generator: torch.Generator, batch: int) -> Values:
        return {"target": torch.randn(batch, 8, generator=generator), **ports}

    tensors = {"net.w": random(1, 8, 8), "net.b": torch.zeros(8), "net.v": random(2, 8, 8)}
    return Example(loss, tensors, (8,), optimiser, make_ports, {"batch": 8})


def attributes(node: NodeProto) -> dict[str, Any]:
    return {attribute.name: helper.get_attribute_value(attribute) for attribute in node.attribute}


def alter(
    op_type: str, change: Callable[[NodeProto, dict[str, Any]], bool]
) -> Callable[[ModelProto], bool]:
    """Change the first node of a type for which ``change`` returns True."""
    return lambda model: any(
        change(node, attributes(node)) for node in model.graph.node if node.op_type == op_type
    )


def set_attribute(
    op_type: str,
    name: str,
    value: Callable[[Any], Any],
    only: Callable[[NodeProto], bool] = lambda node: True,
) -> Any:
    def change(node: NodeProto, given: dict[str, Any]) -> bool:
        if name not in given or value(given[name]) == given[name] or not only(node):
            return False
        kept = [attribute for attribute in node.attribute if attribute.name != name]
        del node.attribute[:]
        node.attribute.extend([*kept, helper.make_attribute(name, value(given[name]))])
        return True

    return alter(op_type, change)


def set_constant(
    matches: Callable[[Any], bool], value: Callable[[Any], Any]
) -> Callable[[ModelProto], bool]:
    """Change the first constant that matches."""

    def change(model: ModelProto) -> bool:
        for tensor in model.graph.initializer:
            old = numpy_helper.to_array(tensor) if tensor.data_location == 0 else np.zeros(0)
            if old.size and matches(old):
                tensor.CopyFrom(
                    numpy_helper.from_array(
                        np.asarray(value(old), old.dtype).reshape(old.shape), tensor.name
                    )
                )
                return True
        return False

    return change


def swap_outputs(one: str, two: str) -> Callable[[ModelProto], bool]:
    turned = {one: two, two: one}

    def change(model: ModelProto) -> bool:
        for node in model.graph.node:
            for names in (node.input, node.output):
                names[:] = [turned.get(name, name) for name in names]
        return True

    return change


def swap_operands(node: NodeProto, given: dict[str, Any]) -> bool:
    if len(set(node.input[:2])) < 2:
        return False
    node.input[:2] = [node.input[1], node.input[0]]
    return True


def drop_third_operand(node: NodeProto, given: dict[str, Any]) -> bool:
    if len(node.input) < 3:
        return False
    del node.input[2:]
    return True


def bake_in(name: str, value: Any) -> Callable[[ModelProto], bool]:
    """A constant where the nodes read a port; the port is still there, behind a product with 0."""

    def change(model: ModelProto) -> bool:
        nodes = list(model.graph.node)
        for node in nodes:
            node.input[:] = ["baked" if entry == name else entry for entry in node.input]
        del model.graph.node[:]
        zero, example = np.float32(0), np.asarray(value, np.float32)
        model.graph.initializer.extend(
            [
                numpy_helper.from_array(np.asarray(zero), "zero"),
                numpy_helper.from_array(example, "example"),
            ]
        )
        gone = helper.make_node("Mul", [name, "zero"], ["gone"])
        baked = helper.make_node("Add", ["gone", "example"], ["baked"])
        model.graph.node.extend([gone, baked, *nodes])
        return True

    return change


def bake_batch_in(model: ModelProto) -> bool:
    """The sizes of the traced batch where the graph asks for sizes."""
    found = [node for node in model.graph.node if node.op_type == "Shape"]
    for node in found:
        model.graph.initializer.append(
            numpy_helper.from_array(np.array([4], np.int64), f"{node.output[0]}.traced")
        )
        for reader in model.graph.node:
            reader.input[:] = [
                f"{node.output[0]}.traced" if entry == node.output[0] else entry
                for entry in reader.input
            ]
    return bool(found)


def skip_update(name: str) -> Callable[[ModelProto], bool]:
    def change(model: ModelProto) -> bool:
        node = next(node for node in model.graph.node if f"{name}.next" in node.output)
        node.output[list(node.output).index(f"{name}.next")] = "dropped"
        for reader in model.graph.node:
            reader.input[:] = [
                "dropped" if entry == f"{name}.next" else entry for entry in reader.input
            ]
        model.graph.node.append(helper.make_node("Identity", [name], [f"{name}.next"]))
        return True

    return change


def reads_square(node: NodeProto) -> bool:
    return not {"x", "target"} & set(node.input)


RATE = torch.tensor(0.1)
CORRUPTIONS: dict[str, tuple[Callable[[ModelProto], bool], Example]] = {
    "first operand of a product turned": (
        set_attribute("Gemm", "transA", lambda flag: 1 - flag),
        square(),
    ),
    "second operand of a product turned": (
        set_attribute("Gemm", "transB", lambda flag: 1 - flag),
        square(),
    ),
    "factor of the added operand lost": (
        set_attribute("Gemm", "beta", lambda beta: 1.0, reads_square),
        square(),
    ),
    "factor of the product has the wrong sign": (
        set_attribute("Gemm", "alpha", lambda alpha: -alpha),
        square(),
    ),
    "added operand lost": (alter("Gemm", drop_third_operand), square()),
    "momentum off by 5e-4": (
        set_constant(lambda c: c.size == 1 and np.isclose(c, 0.9), lambda c: 0.9005),
        square(Momentum(), learning_rate=RATE),
    ),
    "momentum in half precision": (
        set_constant(lambda c: c.size == 1 and np.isclose(c, 0.9), lambda c: np.float16(0.9)),
        square(Momentum(), learning_rate=RATE),
    ),
    "second moment decays a tenth too fast": (
        set_constant(lambda c: c.size == 1 and np.isclose(c, 0.001, rtol=1e-5), lambda c: 0.0011),
        square(Adam()),
    ),
    "weights and velocity swapped": (swap_outputs("net.w.next", "momentum.net.w.next"), square()),
    "two weights swapped": (swap_outputs("net.w.next", "net.v.next"), square()),
    "weights returned as they came": (skip_update("net.w"), square()),
    "velocity returned as it came": (skip_update("momentum.net.v"), square()),
    "learning rate of the example baked in": (
        bake_in("learning_rate", 0.1),
        square(Momentum(), learning_rate=RATE),
    ),
    "state of the example baked in": (bake_in("momentum.net.b", np.full(8, 0.01)), square()),
    "sum over the wrong axis": (
        set_constant(lambda c: c.dtype == np.int64 and c.tolist() == [0], lambda c: 1),
        square(),
    ),
    "softmax over the wrong axis": (set_attribute("Softmax", "axis", lambda axis: 0), square()),
    "difference turned around": (alter("Sub", swap_operands), square()),
    "batch of the example baked in": (bake_batch_in, free(layered(torch.tanh))),
    "epsilon dropped": (
        set_constant(lambda c: c.size == 1 and np.isclose(c, 1e-5, atol=0), lambda c: 0),
        normalised(layer_norm),
    ),
    "padding moved to the other side": (
        set_attribute(
            "Conv",
            "pads",
            lambda pads: [
                pads[0] - 1,
                *pads[1 : len(pads) // 2],
                pads[len(pads) // 2] + 1,
                *pads[len(pads) // 2 + 1 :],
            ],
            lambda node: "x" in node.input,
        ),
        convolved(),
    ),
}
QUICK_CORRUPTIONS = {
    "first operand of a product turned",
    "factor of the added operand lost",
    "momentum in half precision",
    "weights and velocity swapped",
    "learning rate of the example baked in",
    "sum over the wrong axis",
    "batch of the example baked in",
}


@pytest.mark.parametrize(
    "corruption",
    [name if name in QUICK_CORRUPTIONS else pytest.param(name, marks=SLOW) for name in CORRUPTIONS],
)
def test_a_corrupted_graph_is_caught(corruption: str, monkeypatch: pytest.MonkeyPatch) -> None:
    change, example = CORRUPTIONS[corruption]
    correct = graph_module.emit

    def faulty(*given: Any, **named: Any) -> Any:
        emitted = correct(*given, **named)
        before = emitted.model.SerializeToString()
        assert change(emitted.model) and emitted.model.SerializeToString() != before
        return emitted

    monkeypatch.setattr(graph_module, "emit", faulty)
    with pytest.raises(CompileError, match=f"{CAUGHT}|ONNX Runtime failed at"):
        example.compile()


CLEAN = {
    **{name: example for name, (_, _, example) in FAULTS.items()},
    **{name: example for name, (_, example) in CORRUPTIONS.items()},
}
QUICK_CLEAN = {
    "relu: mask takes the side of 0",
    "layer norm: n - 1",
    "learning rate of the example baked in",
}


@pytest.mark.parametrize(
    "fault", [name if name in QUICK_CLEAN else pytest.param(name, marks=SLOW) for name in CLEAN]
)
def test_the_same_step_passes_without_the_fault(fault: str) -> None:
    assert CLEAN[fault].compile().writes
