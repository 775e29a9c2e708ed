"""Corners where a graph once differed from torch, or a right function was refused."""

from __future__ import annotations

import onnx
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import edgeadapt.host.compile.trace as tracing
from edgeadapt.errors import CompileError, InputError
from edgeadapt.host import gradient_step
from edgeadapt.host.compile import CompiledGraph, compile_graph, compile_step
from edgeadapt.host.compile.session import array
from edgeadapt.host.steps.flat_parameters import Flat
from edgeadapt.host.steps.optimisers import SGD
from edgeadapt.runtime import GraphFile, open_runtime


def run(
    graph: CompiledGraph, ports: dict[str, Tensor], tensors: dict[str, Tensor]
) -> dict[str, Tensor]:
    runtime = open_runtime()
    executable = runtime.load(
        GraphFile(graph.name, graph.model, {name: array(tensors[name]) for name in graph.frozen})
    )
    held = runtime.upload({name: array(tensors[name]) for name in graph.reads})
    outputs, written = executable({name: array(value) for name, value in ports.items()}, held)
    return {
        name: torch.from_numpy(value)
        for name, value in {**outputs, **runtime.download(written)}.items()
    }


def of_input(fn, *shape: int, **options) -> CompiledGraph:
    """Compile ``x (B, *shape) -> fn(x)``."""

    def make_ports(generator: torch.Generator, batch: int) -> dict[str, Tensor]:
        return {"x": torch.randn(batch, *shape, generator=generator)}

    return compile_graph(
        "edge", lambda ports, tensors: ({"out": fn(ports["x"])}, {}), make_ports, {}, **options
    )


def slope(fn):
    return lambda x: torch.func.grad(lambda value: (fn(value) ** 2).sum())(x)


def operators(graph: CompiledGraph) -> list[str]:
    return [node.op_type for node in onnx.load_from_string(graph.model).graph.node]


def test_labels_that_are_all_ignored_change_nothing() -> None:
    def make_ports(generator: torch.Generator, batch: int) -> dict[str, Tensor]:
        return {
            "x": torch.randn(batch, 5, generator=generator),
            "y": torch.randint(0, 3, (batch,), generator=generator),
        }

    step = gradient_step(
        nn.Linear(5, 3),
        lambda out, ports: F.cross_entropy(out, ports["y"]),
        SGD(),
        learning_rate=0.1,
    )
    graph = compile_step("ignored", step.fn, make_ports, step.tensors)
    ports = {"x": torch.randn(4, 5), "y": torch.full((4,), -100)}
    after = run(graph, ports, step.tensors)
    assert torch.equal(after["model.weight"], step.tensors["model.weight"])
    some = {**ports, "y": torch.tensor([-100, 2, -100, 0])}
    torch.testing.assert_close(
        run(graph, some, step.tensors)["model.weight"],
        step.fn(some, step.tensors)[1]["model.weight"],
    )


def test_a_query_that_sees_no_key_attends_to_nothing() -> None:
    def fn(ports, tensors):
        def loss(weight):
            out = F.scaled_dot_product_attention(
                ports["x"] @ weight, ports["x"], ports["x"], attn_mask=ports["seen"][:, None, :] > 0
            )
            return (out**2).sum()

        return {}, {"w.w": tensors["w.w"] - 0.1 * torch.func.grad(loss)(tensors["w.w"])}

    def make_ports(generator: torch.Generator, batch: int) -> dict[str, Tensor]:
        return {"x": torch.randn(batch, 3, 4, generator=generator), "seen": torch.ones(batch, 3)}

    tensors = {"w.w": torch.eye(4)}
    graph = compile_graph("attend", fn, make_ports, tensors)
    ports = {"x": torch.randn(2, 3, 4), "seen": torch.tensor([[1.0, 0.0, 1.0], [0.0, 0.0, 0.0]])}
    want = fn(ports, tensors)[1]["w.w"]
    assert torch.isfinite(want).all()
    torch.testing.assert_close(run(graph, ports, tensors)["w.w"], want)


@pytest.mark.parametrize(
    "fn",
    [
        lambda x: torch.cat([x, x]),
        lambda x: x.reshape(-1),
        lambda x: torch.cat([x, torch.ones(1, 5)]),
    ],
)
def test_an_axis_that_depends_on_the_batch_otherwise_is_refused(fn) -> None:
    with pytest.raises(CompileError, match=r"an axis of out has .*batch.* elements"):
        of_input(fn, 5)


@pytest.mark.parametrize("scale", [1.0, 200.0])
def test_a_small_part_of_a_flat_vector_is_judged_by_itself(
    monkeypatch: pytest.MonkeyPatch, scale: float
) -> None:
    layout = Flat.of({"far.w": torch.zeros(5), "near.s": torch.zeros(3)})

    def fn(ports, tensors):
        def loss(vector: Tensor) -> Tensor:
            parts = layout.unpack(vector)
            near = 0.05 * torch.relu(ports["x"][:, :3] * parts["near.s"]).sum(1).mean()
            return (scale * (ports["x"] * parts["far.w"]).sum(1)).square().mean() + near

        return {}, {
            "all.vector": (
                tensors["all.vector"] - 0.01 * torch.func.grad(loss)(tensors["all.vector"])
            )
        }

    def make_ports(generator: torch.Generator, batch: int) -> dict[str, Tensor]:
        return {"x": torch.randn(batch, 5, generator=generator)}

    tensors = {"all.vector": torch.linspace(-1, 1, 8)}
    assert compile_graph("flat", fn, make_ports, tensors).parity.worst_error < 1e-4
    right = tracing.decompositions

    def wrong():
        return {
            **right(),
            torch.ops.aten.threshold_backward.default: lambda grad, x, threshold: (
                -grad * (x < threshold).to(grad.dtype)
            ),
        }

    monkeypatch.setattr(tracing, "decompositions", wrong)
    with pytest.raises(CompileError, match=r"all.vector\[1\].next"):
        compile_graph("flat", fn, make_ports, tensors)


def test_a_squeeze_that_drops_nothing_is_no_operator() -> None:
    assert "Squeeze" not in operators(of_input(lambda x: x.squeeze(-1) + x.sum().squeeze(), 5))


def test_a_permutation_that_moves_nothing_is_no_transposition() -> None:
    weight = torch.randn(5, 5)
    assert of_input(lambda x: x.permute(0, 1) @ weight.permute(0, 1), 5).parity.worst_error < 1e-5


@pytest.mark.parametrize("axes", [0, (0, 1)])
def test_a_norm_centred_over_other_axes_is_no_layer_norm(axes) -> None:
    def fn(x: Tensor) -> Tensor:
        centred = x - x.mean(axes, keepdim=True)
        return centred * torch.rsqrt((centred * centred).mean(-1, keepdim=True) + 1e-3)

    assert "LayerNormalization" not in operators(of_input(fn, 6))


def test_a_norm_centred_over_its_own_axis_is_one() -> None:
    def fn(x: Tensor) -> Tensor:
        centred = x - x.mean(-1, keepdim=True)
        return centred * torch.rsqrt((centred * centred).mean(-1, keepdim=True) + 1e-3)

    assert "LayerNormalization" in operators(of_input(fn, 6))


@pytest.mark.parametrize(
    ("fn", "shape"),
    [
        (lambda x: F.max_pool2d(x, 5, 5, padding=1), (2, 10, 10)),
        (lambda x: F.max_pool2d(x, 2), (6, 6)),
        (lambda x: F.avg_pool2d(x, 2), (6, 6)),
        (lambda x: F.avg_pool2d(x, 2, 2, divisor_override=3), (2, 6, 6)),
    ],
)
def test_gradients_of_pooling_at_its_corners(fn, shape: tuple[int, ...]) -> None:
    assert of_input(slope(fn), *shape).parity.worst_error < 1e-5


@pytest.mark.parametrize(
    "fn", [lambda x: x.var(0), lambda x: x.std(0), lambda x: x.var(0, correction=0)]
)
def test_a_variance_of_one_repeated_sample_is_rounding(fn) -> None:
    assert of_input(fn, 5, dynamic_batch=False).parity.median_error < 1e-5


def test_a_variance_over_a_free_batch_has_no_gradient_and_says_so() -> None:
    with pytest.raises(CompileError, match="variance or deviation over a free batch"):
        of_input(slope(lambda x: x.var(0)), 5)


def doubled_into_itself(x: Tensor) -> Tensor:
    return torch.mul(x, 2, out=x)


def doubled_in_a_chunk(x: Tensor) -> Tensor:
    first, second = x.chunk(2, 1)
    second.mul_(2)
    return first + second


@pytest.mark.parametrize("fn", [doubled_into_itself, doubled_in_a_chunk])
def test_writes_through_out_and_through_chunks_are_refused(fn) -> None:
    with pytest.raises(CompileError, match="writes in place to the input 'x'"):
        of_input(fn, 4)


@pytest.mark.parametrize("value", [1.7, float("nan"), 10**30])
def test_a_number_that_an_integer_port_cannot_hold_is_refused(value: float) -> None:
    graph = compile_graph(
        "count",
        lambda p, t: ({"out": p["x"] * p["n"]}, {}),
        lambda generator, batch: {
            "x": torch.randn(batch, 2, generator=generator),
            "n": torch.tensor(3),
        },
        {},
    )
    executable = open_runtime().load(GraphFile("count", graph.model))
    with pytest.raises(InputError, match="port 'n' takes int64"):
        executable({"x": array(torch.ones(1, 2)), "n": value}, open_runtime().upload({}))
    outputs, _ = executable({"x": array(torch.ones(1, 2)), "n": 2.0}, open_runtime().upload({}))
    assert outputs["out"].tolist() == [[2.0, 2.0]]
