"""Gradients against finite differences: every decomposition in float64, then whole compiled steps
in float32.

Neither comparison uses a gradient of torch, so neither can share a mistake with it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import onnxruntime
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from edgeadapt.host.compile import compile_step
from edgeadapt.host.compile.condition import in_float64
from edgeadapt.host.compile.decompose import decompositions

aten = torch.ops.aten
TABLE = {
    str(operator).removeprefix("aten.").removesuffix(".default"): made
    for operator, made in decompositions().items()
}
OURS = {
    name for name, made in TABLE.items() if getattr(made, "__module__", "").startswith("edgeadapt.")
}
# float32 rounds a loss to 1e-7, and a five-point difference at 0.005 makes a few 1e-5 of it
SHARE_OF_THE_GRADIENT = 2e-3


class Written(torch.autograd.Function):
    """A function with a gradient that is given, for ``gradcheck``."""

    @staticmethod
    def forward(
        ctx: Any,
        run: Callable[..., Tensor],
        gradient: Callable[..., Sequence[Tensor | None]],
        *inputs: Tensor,
    ) -> Tensor:
        ctx.save_for_backward(*inputs)
        ctx.gradient = gradient
        return run(*inputs)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Any:
        return None, None, *wide(lambda: tuple(ctx.gradient(grad, *ctx.saved_tensors)))


def wide(run: Callable[[], Any]) -> Any:
    """Constants inside a decomposition are float32; here they are float64."""
    result = in_float64(run)
    assert result is not None
    return result


def values(seed: int, *shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def points(*kinks: float) -> Tensor:
    """Numbers on both sides of the kinks, none of them near one."""
    grid = torch.linspace(-7.03, 7.01, 41, dtype=torch.float64)
    return grid[
        torch.stack([(grid - kink).abs() > 0.01 for kink in (*kinks, 99.0)]).all(0)
    ].reshape(1, -1)


def convolution(
    stride: list[int],
    padding: list[int],
    dilation: list[int],
    groups: int,
    *sizes: int,
    is_transposed: bool = False,
) -> Any:
    rank = len(sizes)
    kernel = (3, 2)[:rank]
    x = values(1, 2, 4, *sizes)
    weight = (
        values(2, 4, 6 // groups, *kernel) if is_transposed else values(2, 6, 4 // groups, *kernel)
    )
    more = [0] * rank

    def run(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        return aten.convolution(
            x, weight, bias, stride, padding, dilation, is_transposed, more, groups
        )

    def gradient(grad: Tensor, x: Tensor, weight: Tensor, bias: Tensor) -> Any:
        return TABLE["convolution_backward"](
            grad, x, weight, [6], stride, padding, dilation, is_transposed, more, groups, [True] * 3
        )

    return run, gradient, (x, weight, values(3, 6))


def avg_pool(
    kernel: list[int], stride: list[int], padding: list[int], ceil: bool, is_counted: bool
) -> Any:
    given = (kernel, stride, padding, ceil, is_counted, None)
    return (
        lambda x: aten.avg_pool2d(x, *given),
        lambda g, x: [TABLE["avg_pool2d_backward"](g, x, *given)],
        (values(1, 2, 2, 6, 5),),
    )


def max_pool(kernel: list[int], stride: list[int], padding: list[int], dilation: list[int]) -> Any:
    given = (kernel, stride, padding, dilation, False)

    def gradient(grad: Tensor, x: Tensor) -> Any:
        return [
            TABLE["max_pool2d_with_indices_backward"](
                grad, x, *given, aten.max_pool2d_with_indices(x, *given)[1]
            )
        ]

    return lambda x: aten.max_pool2d_with_indices(x, *given)[0], gradient, (values(1, 1, 2, 7, 6),)


def layer_norm(*shape: int) -> Any:
    def gradient(grad: Tensor, x: Tensor, weight: Tensor, bias: Tensor) -> Any:
        _, mean, rstd = TABLE["native_layer_norm"](x, shape, weight, bias, 1e-5)
        return TABLE["native_layer_norm_backward"](
            grad, x, shape, mean, rstd, weight, bias, [True] * 3
        )

    return (
        lambda x, w, b: F.layer_norm(x, shape, w, b, 1e-5),
        gradient,
        (values(1, 3, 2, 4), values(2, *shape), values(3, *shape)),
    )


def batch_norm(*shape: int) -> Any:
    def gradient(grad: Tensor, x: Tensor, weight: Tensor, bias: Tensor) -> Any:
        _, mean, rstd = TABLE["native_batch_norm"](x, weight, bias, None, None, True, 0.1, 1e-5)
        return TABLE["native_batch_norm_backward"](
            grad, x, weight, None, None, mean, rstd, True, 1e-5, [True] * 3
        )

    return (
        lambda x, w, b: F.batch_norm(x, None, None, w, b, True),
        gradient,
        (values(1, 4, *shape), values(2, shape[0]), values(3, shape[0])),
    )


def nll(reduction: int) -> Any:
    y = torch.tensor([2, 0, -100, 1])
    given = (y, None, reduction, -100)

    def gradient(grad: Tensor, x: Tensor) -> Any:
        return [
            TABLE["nll_loss_backward"](grad, x, *given, TABLE["nll_loss_forward"](x, *given)[1])
        ]

    return lambda x: aten.nll_loss_forward(x, *given)[0], gradient, (values(1, 4, 3),)


def attention(is_causal: bool, mask: Tensor | None) -> Any:
    forward = TABLE["_scaled_dot_product_flash_attention_for_cpu"]

    def gradient(grad: Tensor, q: Tensor, k: Tensor, v: Tensor) -> Any:
        out, lse = forward(q, k, v, 0.0, is_causal, attn_mask=mask)
        return TABLE["_scaled_dot_product_flash_attention_for_cpu_backward"](
            grad, q, k, v, out, lse, 0.0, is_causal, attn_mask=mask
        )

    def run(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return F.scaled_dot_product_attention(q, k, v, attn_mask=mask, is_causal=is_causal)

    return run, gradient, tuple(values(seed, 1, 2, 3, 4) for seed in (1, 2, 3))


def embedding(padding_idx: int, is_scaled: bool) -> Any:
    index = torch.tensor([[3, 1, 1], [0, 3, 3]])
    counts = torch.bincount(index.flatten(), minlength=5).clamp(min=1).double()

    # torch scales by frequency in the gradient only: the same as a table that is divided
    def run(table: Tensor) -> Tensor:
        fixed = (
            torch.cat(
                [
                    table[:padding_idx],
                    table[padding_idx : padding_idx + 1].detach() * 0,
                    table[padding_idx + 1 :],
                ]
            )
            if padding_idx >= 0
            else table
        )
        return (fixed / counts[:, None] if is_scaled else fixed)[index]

    return (
        run,
        lambda g, table: [TABLE["embedding_dense_backward"](g, index, 5, padding_idx, is_scaled)],
        (values(1, 5, 2),),
    )


def pointwise(
    name: str, run: Callable[[Tensor], Tensor], *given: Any, kinks: Sequence[float] = ()
) -> Any:
    return run, lambda g, x: [TABLE[name](g, x, *given)], (points(*kinks),)


def adaptive_max(*size: int) -> Any:
    def gradient(grad: Tensor, x: Tensor) -> Any:
        return [
            TABLE["adaptive_max_pool2d_backward"](grad, x, aten.adaptive_max_pool2d(x, size)[1])
        ]

    return lambda x: aten.adaptive_max_pool2d(x, size)[0], gradient, (values(1, 1, 2, 6, 4),)


def adaptive_avg(*size: int) -> Any:
    return (
        lambda x: aten._adaptive_avg_pool2d(x, size),
        lambda g, x: [TABLE["_adaptive_avg_pool2d_backward"](g, x)],
        (values(1, 1, 2, 7, 6),),
    )


def diagonal(offset: int) -> Any:
    return (
        lambda x: torch.diagonal(x, offset, 0, 1),
        lambda g, x: [TABLE["diagonal_backward"](g, [4, 4], offset, 0, 1)],
        (values(1, 4, 4),),
    )


GRADIENTS: dict[str, Any] = {
    "threshold_backward": pointwise("threshold_backward", F.relu, 0.0, kinks=[0]),
    "hardtanh_backward": pointwise("hardtanh_backward", F.relu6, 0.0, 6.0, kinks=[0, 6]),
    "leaky_relu_backward": pointwise(
        "leaky_relu_backward", lambda x: F.leaky_relu(x, 0.2), 0.2, False, kinks=[0]
    ),
    "hardswish_backward": pointwise("hardswish_backward", F.hardswish, kinks=[-3, 3]),
    "hardsigmoid_backward": pointwise("hardsigmoid_backward", F.hardsigmoid, kinks=[-3, 3]),
    "gelu_backward": pointwise("gelu_backward", F.gelu),
    "gelu_backward, tanh": pointwise(
        "gelu_backward", lambda x: F.gelu(x, approximate="tanh"), "tanh"
    ),
    "convolution_backward": convolution([1, 1], [0, 0], [1, 1], 1, 5, 4),
    "convolution_backward, strides": convolution([2, 3], [1, 1], [1, 1], 1, 6, 7),
    "convolution_backward, dilation": convolution([2, 1], [2, 1], [2, 2], 2, 7, 5),
    "convolution_backward, depthwise groups": convolution([1, 2], [1, 0], [1, 1], 2, 5, 6),
    "convolution_backward, wide padding": convolution([1, 2], [3, 2], [1, 1], 1, 4, 5),
    "convolution_backward, 1-D": convolution([2], [2], [2], 2, 9),
    "convolution_backward, transposed": convolution(
        [2, 1], [1, 0], [1, 1], 2, 4, 3, is_transposed=True
    ),
    "avg_pool2d_backward": avg_pool([2, 2], [2, 2], [0, 0], False, True),
    "avg_pool2d_backward, overlap": avg_pool([3, 2], [1, 2], [1, 1], False, True),
    "avg_pool2d_backward, padding not counted": avg_pool([3, 2], [2, 1], [1, 1], False, False),
    "avg_pool2d_backward, ceil": avg_pool([3, 2], [2, 2], [0, 0], True, True),
    "max_pool2d_with_indices_backward": max_pool([2, 2], [2, 2], [0, 0], [1, 1]),
    "max_pool2d_with_indices_backward, overlap": max_pool([3, 3], [2, 1], [1, 1], [1, 1]),
    "max_pool2d_with_indices_backward, dilation": max_pool([2, 2], [1, 2], [0, 1], [2, 1]),
    "_adaptive_avg_pool2d_backward": adaptive_avg(1, 1),
    "_adaptive_avg_pool2d_backward, uneven": adaptive_avg(3, 4),
    "adaptive_max_pool2d_backward": adaptive_max(3, 2),
    "native_layer_norm_backward": layer_norm(4),
    "native_layer_norm_backward, two axes": layer_norm(2, 4),
    "native_batch_norm_backward": batch_norm(3),
    "native_batch_norm_backward, images": batch_norm(2, 3, 2),
    "nll_loss_backward, none": nll(0),
    "nll_loss_backward, mean": nll(1),
    "nll_loss_backward, sum": nll(2),
    "_scaled_dot_product_flash_attention_for_cpu_backward": attention(False, None),
    "_scaled_dot_product_flash_attention_for_cpu_backward, causal": attention(True, None),
    "_scaled_dot_product_flash_attention_for_cpu_backward, mask": attention(
        False, values(9, 1, 1, 3, 3)
    ),
    "embedding_dense_backward": embedding(-1, False),
    "embedding_dense_backward, padding and frequency": embedding(1, True),
    "diagonal_backward": diagonal(0),
    "diagonal_backward, offset": diagonal(-1),
}


@pytest.mark.parametrize("name", GRADIENTS)
def test_a_decomposed_gradient_agrees_with_finite_differences(name: str) -> None:
    run, gradient, inputs = GRADIENTS[name]
    given = tuple(value.clone().requires_grad_() for value in inputs)
    assert torch.autograd.gradcheck(
        lambda *x: Written.apply(run, gradient, *x),
        given,
        eps=1e-6,
        atol=1e-6,
        rtol=1e-5,
        fast_mode=True,
    )


LOGITS = torch.log_softmax(values(1, 4, 3), 1)
LABELS = torch.tensor([2, 0, -100, 1])
QKV = tuple(values(seed, 1, 2, 3, 4) for seed in (1, 2, 3))
FORWARDS: dict[str, tuple[Callable[..., Any], tuple[Any, ...]]] = {
    "gelu": (aten.gelu, (points(),)),
    "nll_loss_forward": (aten.nll_loss_forward, (LOGITS, LABELS, None, 1, -100)),
    "native_layer_norm": (
        aten.native_layer_norm,
        (values(1, 3, 4) * 2 + 5, [4], values(2, 4), values(3, 4), 1e-5),
    ),
    "native_batch_norm": (
        aten.native_batch_norm,
        (values(1, 4, 3, 2) + 9, values(2, 3), values(3, 3), None, None, True, 0.1, 1e-5),
    ),
    "_native_batch_norm_legit.no_stats": (
        aten._native_batch_norm_legit.no_stats,
        (values(1, 4, 3, 2) + 9, values(2, 3), values(3, 3), True, 0.1, 1e-5),
    ),
    "avg_pool2d": (aten.avg_pool2d, (values(1, 2, 2, 6, 5), [3, 2], [2, 2], [0, 0], True, True)),
    "_adaptive_avg_pool2d": (aten._adaptive_avg_pool2d, (values(1, 2, 2, 7, 6), [3, 4])),
    "adaptive_max_pool2d": (aten.adaptive_max_pool2d, (values(1, 2, 2, 6, 4), [3, 2])),
    "_scaled_dot_product_flash_attention_for_cpu": (
        aten._scaled_dot_product_flash_attention_for_cpu,
        (*QKV, 0.0, True),
    ),
    "_native_batch_norm_legit": (
        aten._native_batch_norm_legit,
        (
            values(1, 4, 3, 2) + 9,
            values(2, 3),
            values(3, 3),
            values(4, 3),
            values(5, 3).abs(),
            True,
            0.1,
            1e-5,
        ),
    ),
    "convolution": (
        aten.convolution,
        (
            values(1, 2, 4, 5, 4),
            values(2, 4, 3, 3, 2),
            values(3, 6),
            [2, 1],
            [1, 0],
            [2, 1],
            True,
            [1, 0],
            2,
        ),
    ),
    "squeeze.dims": (aten.squeeze.dims, (values(1, 2, 1, 3, 1), [1, 2, -1])),
    "as_strided": (aten.as_strided, (values(1, 4, 6), [2, 2, 6], [12, 6, 1])),
}


@pytest.mark.parametrize("name", FORWARDS)
def test_a_decomposed_function_agrees_with_torch(name: str) -> None:
    """What a decomposition writes in place, as running statistics, is compared too; other results
    than the first are its own affair.
    """
    operator, given = FORWARDS[name]
    ours, theirs = (
        [value.clone() if isinstance(value, Tensor) else value for value in given] for _ in range(2)
    )
    got, want = wide(lambda: TABLE[name](*ours)), operator(*theirs)
    one, two = (value[0] if isinstance(value, tuple) else value for value in (got, want))
    torch.testing.assert_close(
        [one, *(v for v in ours if isinstance(v, Tensor))],
        [two, *(v for v in theirs if isinstance(v, Tensor))],
        rtol=1e-7,
        atol=1e-7,
    )


def test_every_decomposition_of_this_package_is_checked() -> None:
    covered = {name.split(",")[0] for name in (*GRADIENTS, *FORWARDS)}
    assert OURS - covered == {"empty_permuted"}  # an allocation


Values = dict[str, Tensor]


def vision(p: Values, t: Values) -> Tensor:
    """Convolution with stride and groups, batch norm, gelu, layer norm, self-attention over
    positions, cross-entropy.
    """
    h = F.conv2d(p["x"], t["net.stem"], stride=2, padding=1)
    h = F.gelu(F.batch_norm(h, None, None, t["net.gain"], t["net.bias"], training=True))
    h = F.conv2d(h, t["net.depth"], padding=1, groups=6).flatten(2).transpose(1, 2)
    h = F.layer_norm(h, (6,), t["net.norm"])
    q, k, v = ((h @ t["net.qkv"].T).unsqueeze(1)).chunk(3, -1)
    h = h + F.scaled_dot_product_attention(q, k, v).squeeze(1)
    return F.cross_entropy(F.silu(h.mean(1)) @ t["net.head"].T, p["y"])


def signal(p: Values, t: Values) -> Tensor:
    """1-D convolutions with dilation, group norm, average pooling, softplus, mean squared error."""
    h = F.conv1d(p["x"], t["net.stem"], stride=2, padding=2, dilation=2)
    h = F.softplus(F.group_norm(h, 2, t["net.gain"], t["net.bias"]))
    h = torch.tanh(F.conv1d(F.avg_pool1d(h, 2), t["net.depth"], groups=2))
    return F.mse_loss(h.mean(2) @ t["net.head"].T, p["target"])


def tensors(seed: int, **shapes: tuple[int, ...]) -> Values:
    generator = torch.Generator().manual_seed(seed)
    made = {
        f"net.{key}": torch.randn(*shape, generator=generator) / max(1, np.prod(shape[1:])) ** 0.5
        for key, shape in shapes.items()
    }
    return {
        key: 1 + 0.2 * value if key in ("net.gain", "net.norm") else value
        for key, value in made.items()
    }


STEPS: dict[str, tuple[Any, Values, tuple[int, ...]]] = {
    "vision": (
        vision,
        tensors(
            1,
            stem=(6, 3, 3, 3),
            gain=(6,),
            bias=(6,),
            depth=(6, 1, 3, 3),
            norm=(6,),
            qkv=(18, 6),
            head=(4, 6),
        ),
        (3, 8, 6),
    ),
    "signal": (
        signal,
        tensors(2, stem=(4, 2, 3), gain=(4,), bias=(4,), depth=(6, 2, 2), head=(4, 6)),
        (2, 16),
    ),
}


@pytest.mark.parametrize("name", STEPS)
def test_a_compiled_step_moves_down_the_slope_of_its_own_loss(name: str) -> None:
    """A step of rate 1 returns its gradient; five-point differences of the compiled loss, along it
    and across it, must agree.
    """
    loss, start, sample = STEPS[name]

    def step(p: Values, t: Values) -> tuple[Values, Values]:
        gradient, value = torch.func.grad_and_value(lambda theta: loss(p, theta))(t)
        return {"value": value}, {key: t[key] - gradient[key] for key in t}

    def make_ports(generator: torch.Generator, batch: int) -> Values:
        x = torch.randn(batch, *sample, generator=generator)
        y = torch.randint(0, 4, (batch,), generator=generator)
        return (
            {"x": x, "y": y}
            if name == "vision"
            else {"x": x, "target": torch.randn(batch, 4, generator=generator)}
        )

    graph = compile_step(name, step, make_ports, start, dynamic_batch=False, batch=6)
    session = onnxruntime.InferenceSession(graph.model, providers=["CPUExecutionProvider"])
    ports = {
        key: value.numpy()
        for key, value in make_ports(torch.Generator().manual_seed(77), 6).items()
    }
    outputs = [output.name for output in session.get_outputs()]

    def run(state: Values) -> dict[str, Any]:
        return dict(
            zip(
                outputs,
                session.run(
                    None, {**ports, **{key: value.numpy() for key, value in state.items()}}
                ),
                strict=True,
            )
        )

    after = run(start)
    gradient = {
        key: start[key].double() - torch.from_numpy(after[f"{key}.next"]).double() for key in start
    }
    norm = sum(value.square().sum() for value in gradient.values()).sqrt().item()
    for key, slope in gradient.items():
        if slope.norm() < 1e-5 * norm:  # a bias before a batch norm has none
            continue
        for direction in (slope, values(5, *slope.shape)):
            unit = direction / direction.norm()

            def loss_at(distance: float, key: str = key, unit: Tensor = unit) -> float:
                return float(
                    run({**start, key: (start[key].double() + distance * unit).float()})["value"]
                )

            h = 0.005
            measured = (8 * (loss_at(h) - loss_at(-h)) - (loss_at(2 * h) - loss_at(-2 * h))) / (
                12 * h
            )
            assert abs(measured - (slope * unit).sum().item()) <= SHARE_OF_THE_GRADIENT * norm, key
