"""Constructs that exporters and engines were seen to get wrong without a word, or to refuse: here
the numbers are right or the error has a name.

Each was found with torch 2.13, ONNX Runtime 1.32 and TensorRT-RTX 1.7; the comments say what
happened.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.func import functional_call, grad

from edgeadapt.errors import CompileError
from edgeadapt.host.compile import CompiledGraph, compile_graph

Values = dict[str, Tensor]


def ports(generator: torch.Generator, batch: int) -> Values:
    return {
        "x": torch.randn(batch, 6, generator=generator),
        "y": torch.randint(0, 5, (batch,), generator=generator),
    }


def run(graph: CompiledGraph, given: Values, tensors: Values | None = None) -> dict[str, Any]:
    options = onnxruntime.SessionOptions()
    if graph.frozen:
        options.add_external_initializers(
            list(graph.frozen),
            [
                onnxruntime.OrtValue.ortvalue_from_numpy((tensors or {})[name].numpy())
                for name in graph.frozen
            ],
        )
    session = onnxruntime.InferenceSession(graph.model, options, providers=["CPUExecutionProvider"])
    fed = {**given, **(tensors or {})}
    names = [output.name for output in session.get_outputs()]
    return dict(
        zip(
            names,
            session.run(None, {i.name: fed[i.name].numpy() for i in session.get_inputs()}),
            strict=True,
        )
    )


def compiled(
    fn: Callable[[Tensor], Tensor], make_ports: Any = ports, **options: Any
) -> CompiledGraph:
    return compile_graph(
        "reproducer", lambda p, t: ({"out": fn(p["x"])}, {}), make_ports, {}, **options
    )


# An optimiser that matches constants with a tolerance made Identity of all of these, and NaN of the
# last.
SMALL = {
    "x + 1e-8": lambda x: x + 1e-8,
    "x + 9e-9": lambda x: x + 9e-9,
    "x * 0.999995": lambda x: x * 0.999995,
    "x / 1.000009": lambda x: x / 1.000009,
    "x / sqrt(x^2 + 1e-12)": lambda x: x / (x * x + 1e-12).sqrt(),
}


def test_constants_near_the_neutral_element_stay() -> None:
    graph = compile_graph(
        "reproducer",
        lambda p, t: ({f"out{i}": fn(p["x"]) for i, fn in enumerate(SMALL.values())}, {}),
        ports,
        {},
    )
    x = torch.tensor([[0.0, 1e-8, 3e-8, 1.0, -1.0, 7.0]])
    got = run(graph, {"x": x})
    for i, (name, fn) in enumerate(SMALL.items()):
        np.testing.assert_allclose(got[f"out{i}"], fn(x).numpy(), rtol=2e-7, err_msg=name)
    assert got["out0"][0, 0] == np.float32(1e-8) and got["out4"][0, 0] == 0


@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
def test_the_gradient_of_cross_entropy_is_not_off_by_the_batch(reduction: str) -> None:
    """The translation of ``nll_loss_forward`` takes the number of outputs for the sum of the
    weights.
    """
    share = torch.tensor([0.5, 2.0, 1.0, 0.0, 3.0, 1.0, 1.0, 4.0])

    def loss(x: Tensor, y: Tensor) -> Tensor:
        value = F.cross_entropy(x[:, :5], y, reduction=reduction)
        return (value * share).sum() if reduction == "none" else value

    graph = compile_graph(
        "reproducer",
        lambda p, t: ({"out": grad(loss)(p["x"], p["y"])}, {}),
        ports,
        {},
        dynamic_batch=False,
    )
    given = ports(torch.Generator().manual_seed(9), 8)
    rows = {"mean": torch.full((8,), 1 / 8), "sum": torch.ones(8), "none": share}[reduction]
    want = (
        F.softmax(given["x"][:, :5].double(), 1) - (given["y"][:, None] == torch.arange(5)).double()
    ) * rows[:, None]
    np.testing.assert_allclose(run(graph, given)["out"][:, :5], want.numpy(), atol=1e-6)


def test_scatter_reduce_with_mean_is_refused() -> None:
    """It is exported as a scatter whose last writer wins."""
    with pytest.raises(CompileError, match=r"differs from torch|Scatter"):
        compile_graph(
            "reproducer",
            lambda p, t: ({}, {"a.b": t["a.b"].scatter_reduce(0, p["y"], p["x"][:, 0], "mean")}),
            ports,
            {"a.b": torch.zeros(5)},
        )


@pytest.mark.parametrize(
    "read",
    [
        lambda x: x * x.tolist()[0][0],
        lambda x: x * float(x.numpy()[0, 0]),
        lambda x: x * x[0, 0].item(),
    ],
)
def test_values_read_by_python_are_not_baked_in(read: Callable[[Tensor], Tensor]) -> None:
    try:
        graph = compiled(read, dynamic_batch=False)
    except CompileError as error:
        assert "reads data" in str(error)
        return
    x = torch.full((8, 6), 3.0)
    np.testing.assert_allclose(run(graph, {"x": x})["out"], np.full((8, 6), 9.0))


def test_repeated_and_passed_through_outputs_keep_their_names() -> None:
    """Outputs ``p, q, a.next`` of ``y, y, a`` were called ``q, q, a.next``, and the input ``a`` was
    renamed to ``a.next``.
    """

    def fn(p: Values, t: Values) -> tuple[Values, Values]:
        y = p["x"] * 2
        return {"p": y, "q": y}, {"s.a": t["s.a"]}

    graph = compile_graph("reproducer", fn, ports, {"s.a": torch.arange(3.0)})
    assert [output.name for output in graph.outputs] == [
        "p",
        "q",
    ] and graph.reads == graph.writes == ("s.a",)
    x = torch.ones(2, 6)
    got = run(graph, {"x": x}, {"s.a": torch.tensor([5.0, 6.0, 7.0])})
    assert got["p"].tolist() == got["q"].tolist() == (x * 2).tolist() and got[
        "s.a.next"
    ].tolist() == [5, 6, 7]


def test_a_finite_guard_fires_for_nan_and_infinity() -> None:
    """ONNX Runtime's maximum of 1, NaN and 3 is 3, so a guard must ask ``isfinite`` of every value
    and not of their maximum.
    """
    graph = compiled(lambda x: torch.where(torch.isfinite(x).all(1), 1.0, 0.0))
    for bad in (float("nan"), float("inf"), -float("inf")):
        x = torch.ones(3, 6)
        x[1, 2] = bad
        assert run(graph, {"x": x})["out"].tolist() == [1, 0, 1]


def test_a_choice_among_ties_may_not_reach_a_number() -> None:
    """Of equal values ONNX Runtime takes the first ones and torch others: the values agree, what
    lies at their indices does not.
    """
    graph = compiled(lambda x: x.topk(3, 1).values)
    assert run(graph, {"x": torch.ones(2, 6)})["out"].tolist() == [[1.0] * 3] * 2
    position = torch.arange(6.0)
    with pytest.raises(CompileError, match="differs from torch: out on zeros"):
        compiled(lambda x: position[x.topk(3, 1).indices].sum(1))


@pytest.mark.parametrize("fn", [torch.expm1, torch.log1p])
def test_functions_for_small_numbers_are_right_there_or_refused(
    fn: Callable[[Tensor], Tensor],
) -> None:
    """``exp(x) - 1`` and ``log(1 + x)`` are off by 0.6% at 1e-6."""

    def small(generator: torch.Generator, batch: int) -> Values:
        return {"x": 1e-6 * torch.rand(batch, 6, generator=generator)}

    try:
        graph = compiled(fn, small)
    except CompileError as error:
        assert "differs from torch" in str(error)
        return
    x = torch.full((1, 6), 1e-6)
    np.testing.assert_allclose(run(graph, {"x": x})["out"], fn(x.double()).numpy(), rtol=1e-5)


def test_statistics_of_a_module_in_a_closure_are_neither_lost_nor_changed() -> None:
    """The trace updated the module, and the graph had no output for it."""
    norm = torch.nn.BatchNorm1d(6)
    before = {key: value.clone() for key, value in norm.state_dict().items()}
    with pytest.raises(CompileError, match=r"outside of the function|in place"):
        compiled(norm)
    assert all(
        torch.equal(norm.state_dict()[key], before[key]) for key in ("running_mean", "running_var")
    )


def test_statistics_of_a_module_that_are_tensors_of_the_step_are_written() -> None:
    norm = torch.nn.BatchNorm1d(6)
    start = {f"bn.{key}": value for key, value in norm.named_buffers() if value.is_floating_point()}

    def fn(p: Values, t: Values) -> tuple[Values, Values]:
        buffers = {key.removeprefix("bn."): value.clone() for key, value in t.items()}
        out = functional_call(
            norm,
            {
                **{k: v.detach() for k, v in norm.named_parameters()},
                **buffers,
                "num_batches_tracked": torch.zeros((), dtype=torch.int64),
            },
            (p["x"],),
        )
        return {"out": out}, {f"bn.{key}": value for key, value in buffers.items()}

    graph = compile_graph("reproducer", fn, ports, start, dynamic_batch=False)
    x = ports(torch.Generator().manual_seed(5), 8)["x"]
    got = run(graph, {"x": x}, start)
    np.testing.assert_allclose(
        got["bn.running_mean.next"], 0.1 * x.mean(0).numpy(), rtol=1e-5, atol=1e-7
    )
    np.testing.assert_allclose(got["bn.running_var.next"], 0.9 + 0.1 * x.var(0).numpy(), rtol=1e-5)


def test_a_write_to_a_tensor_of_the_step_is_refused_and_leaves_it_alone() -> None:
    start = {"a.b": torch.ones(6)}
    with pytest.raises(CompileError, match="in place"):
        compile_graph("reproducer", lambda p, t: ({}, {"a.b": t["a.b"].mul_(0.5)}), ports, start)
    assert start["a.b"].tolist() == [1.0] * 6


def test_a_float64_port_is_refused() -> None:
    """TensorRT binds it as float32 without a word."""

    def double(generator: torch.Generator, batch: int) -> Values:
        return {"x": torch.randn(batch, 6, generator=generator, dtype=torch.float64)}

    with pytest.raises(CompileError, match=r"x: DOUBLE is not one of.*cast it in torch"):
        compiled(lambda x: x.float() * 2, double)


def test_frozen_values_arrive_with_the_optimiser_on() -> None:
    """Handed over by ``add_initializer`` they were zeros."""
    weight = {"w.a": torch.randn(6, 6, generator=torch.Generator().manual_seed(1))}
    graph = compile_graph(
        "reproducer",
        lambda p, t: ({"out": p["x"] @ (t["w.a"] + t["w.a"].T)}, {}),
        ports,
        weight,
        frozen=["w.a"],
    )
    x = ports(torch.Generator().manual_seed(2), 3)["x"]
    np.testing.assert_allclose(
        run(graph, {"x": x}, weight)["out"],
        (x @ (weight["w.a"] + weight["w.a"].T)).numpy(),
        atol=1e-5,
    )


def test_a_free_batch_is_free_or_the_graph_is_refused() -> None:
    """Symbolic shapes with an ordinary trace were exported without complaint at the traced size."""
    graph = compiled(
        lambda x: grad(lambda v: v.softmax(1).square().mean() + v.mean(0).square().sum())(x)
    )
    for batch in (1, 3, 20):
        x = torch.randn(batch, 6, generator=torch.Generator().manual_seed(batch))
        want = x.double().requires_grad_()
        (want.softmax(1).square().mean() + want.mean(0).square().sum()).backward()
        np.testing.assert_allclose(run(graph, {"x": x})["out"], want.grad.numpy(), atol=1e-6)  # type: ignore[union-attr]
    with pytest.raises(CompileError, match="batch"):
        compiled(lambda x: x.reshape(8, 2, 3).sum(1))


def pool_border(**options: Any) -> Callable[[Tensor], Tensor]:
    return lambda x: F.avg_pool2d(x.reshape(-1, 1, 2, 3), (2, 2), ceil_mode=True, **options)


def test_average_pooling_in_ceil_mode_counts_nothing_at_the_border() -> None:
    """ONNX Runtime 1.23 divides the last window by the whole kernel: with values of 1 it gives
    0.5.
    """
    graph = compiled(pool_border())
    pools = [
        node
        for node in onnx.load_from_string(graph.model).graph.node
        if node.op_type == "AveragePool"
    ]
    assert all(
        {a.name: a.i for a in node.attribute}.get("count_include_pad", 0) == 0 for node in pools
    )
    assert run(graph, {"x": torch.ones(2, 6)})["out"].tolist() == [[[[1.0, 1.0]]]] * 2
    with pytest.raises(CompileError, match="AveragePool with ceil_mode"):
        compiled(pool_border(padding=(1, 1)))


def image(x: Tensor) -> Tensor:
    """``(B, 6)`` as ``(B, 2, 6, 6)``, so that gradients of image operators reach the port."""
    return (x[:, None, :, None] * x[:, None, None, :]) * torch.tensor([1.0, -0.5])[:, None, None]


def slope(fn: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
    return lambda x: grad(lambda v: (fn(v) ** 2).sum())(x)


def first_rows_zero(x: Tensor) -> Tensor:
    y = x * 1
    y[0:2] = 0.0
    return y


LOUD: dict[str, Callable[[Tensor], Tensor]] = {
    "eye of 256": lambda x: x @ torch.eye(256)[:6, :6],
    "eye of 6": lambda x: x @ torch.eye(6),
    "silu": slope(F.silu),
    "mish": slope(F.mish),
    "binary cross entropy": slope(
        lambda x: F.binary_cross_entropy_with_logits(x, torch.sigmoid(-x.detach()))
    ),
    "amax of everything": lambda x: x / (1 + x.abs().amax()),
    "one_hot": lambda x: F.one_hot(x.argmax(1), 6).float() * x,
    "avg_pool2d": slope(lambda x: F.avg_pool2d(image(x), 2)),
    "adaptive_avg_pool2d": slope(lambda x: F.adaptive_avg_pool2d(image(x), 3)),
    "uneven adaptive_avg_pool2d": slope(lambda x: F.adaptive_avg_pool2d(image(x), 4)),
    "max_pool2d": slope(lambda x: F.max_pool2d(image(x), 2)),
    "max_pool2d with overlap": slope(lambda x: F.max_pool2d(image(x), 3, 2, 1)),
    "nearest upsample": slope(lambda x: F.interpolate(image(x), scale_factor=2.0)),
    "bilinear upsample": slope(
        lambda x: F.interpolate(image(x), scale_factor=2.0, mode="bilinear")
    ),
    "layer_norm": slope(lambda x: F.layer_norm(x, (6,)) * torch.arange(6.0)),
    "group_norm": slope(lambda x: F.group_norm(image(x), 2) * torch.arange(6.0)),
    "attention": slope(lambda x: F.scaled_dot_product_attention(image(x), image(x), image(x))),
    "conv1d": slope(lambda x: F.conv1d(x[:, None], torch.ones(2, 1, 3), stride=2)),
    "cdist": lambda x: torch.cdist(x, torch.eye(6)),
    "median": lambda x: x.median(1).values,
    "cummax": lambda x: x.cummax(1).values,
    "cumprod": lambda x: x.cumprod(1),
    "lgamma": lambda x: torch.lgamma(x.abs() + 1),
    "inverse": lambda x: torch.linalg.inv(x.T @ x + torch.eye(6)),
    "solve": lambda x: torch.linalg.solve(x.T @ x + torch.eye(6), x.T).T,
    "cholesky": lambda x: torch.linalg.cholesky(x.T @ x + torch.eye(6)),
    "determinant": lambda x: torch.linalg.det(x.T @ x + torch.eye(6)),
    "diagonal": slope(lambda x: torch.diagonal(image(x), 0, 2, 3)),
    "gather": slope(lambda x: x.gather(1, x.detach().argsort(1))),
    "index": slope(lambda x: x[:, torch.tensor([0, 2, 2])]),
    "index_add": lambda x: torch.zeros(6, 6).index_add(0, torch.tensor([0, 1]), x[:2]),
    "scatter_add": (
        lambda x: torch.zeros_like(x).scatter_add(1, torch.zeros_like(x, dtype=torch.int64), x)
    ),
    "assignment to rows": first_rows_zero,
}
QUICK = {
    "eye of 256",
    "mish",
    "amax of everything",
    "max_pool2d",
    "determinant",
    "scatter_add",
    "assignment to rows",
    "uneven adaptive_avg_pool2d",
}


@pytest.mark.parametrize(
    "name", [name if name in QUICK else pytest.param(name, marks=pytest.mark.slow) for name in LOUD]
)
def test_what_has_no_translation_is_written_out_or_refused_by_name(name: str) -> None:
    try:
        graph = compiled(LOUD[name], dynamic_batch=False)
    except CompileError as error:
        assert any(
            mark in str(error)
            for mark in ("aten.", "aten_", "prims.", "Scatter", "Gather", "Python reads data")
        ), error
        return
    for seed in (31, 32):
        x = torch.randn(8, 6, generator=torch.Generator().manual_seed(seed))
        want = LOUD[name](x).detach().numpy()
        np.testing.assert_allclose(
            run(graph, {"x": x})["out"], want, atol=2e-5 * np.abs(want).max()
        )
