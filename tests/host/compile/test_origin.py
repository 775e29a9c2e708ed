"""An operator that cannot be compiled is named, with the module it ran in and a way out."""

from __future__ import annotations

import re
from functools import partial

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.func import functional_call, grad
from torch.fx.experimental.proxy_tensor import make_fx
from torch.nn.modules.module import _global_forward_hooks, _global_forward_pre_hooks

from edgeadapt.errors import CompileError
from edgeadapt.host.compile import compile_graph
from edgeadapt.host.compile.origin import META, Origins
from edgeadapt.host.compile.trace import trace
from edgeadapt.host.compile.way_out import way_out

WIDTH = 6


class Written(nn.Module):
    """A layer that is one function."""

    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, x):
        return self.function(x)


class Network(nn.Module):
    def __init__(self, last: nn.Module) -> None:
        super().__init__()
        self.first = nn.Linear(WIDTH, WIDTH)
        self.blocks = nn.ModuleList(
            [
                nn.Sequential(nn.LayerNorm(WIDTH), nn.GELU()),
                nn.Sequential(nn.LayerNorm(WIDTH), last),
            ]
        )

    def forward(self, x):
        return self.blocks[1](self.blocks[0](self.first(x)))


def ports(generator, batch):
    return {"x": torch.randn(batch, WIDTH, generator=generator)}


def refusal(last, is_gradient: bool, **options) -> str:
    encoder = Network(last if isinstance(last, nn.Module) else Written(last))
    tensors = {f"encoder.{name}": value.detach() for name, value in encoder.named_parameters()}

    def fn(p, t):
        def loss(x):
            return (
                functional_call(
                    encoder,
                    {name.removeprefix("encoder."): value for name, value in t.items()},
                    (x,),
                )
                .square()
                .sum()
            )

        return {"out": grad(loss)(p["x"]) if is_gradient else loss(p["x"])}, {}

    with pytest.raises(CompileError) as caught:
        compile_graph("graph", fn, ports, tensors, **options)
    return str(caught.value)


def write_a_part(x):
    x = x * 2
    x[:, 0] = 0
    return x


GRID = torch.rand(4, 2, 3, 2)
HERE = "in encoder.blocks.1.1 (Written)"
FORWARD = {
    "aten._linalg_eigh.default": (lambda x: x @ torch.linalg.eigh(x.T @ x)[1], "power iteration"),
    "aten.linalg_inv_ex.default": (lambda x: x @ torch.linalg.inv(x.T @ x), "Newton-Schulz"),
    "aten.linalg_cholesky_ex.default": (
        lambda x: x @ torch.linalg.cholesky(x.T @ x),
        "solve outside of the graph",
    ),
    "aten.nonzero.default": (lambda x: x[x.sum(1).nonzero()[:, 0]], "torch.where"),
    "aten.index.Tensor": (lambda x: x[x.sum(1) > 0], "torch.where"),
    "aten._fft_r2c.default": (lambda x: torch.fft.rfft(x).abs(), "constant cosines and sines"),
    "aten.complex.default": (lambda x: torch.complex(x, x).real, "real and imaginary part"),
    "aten.rand_like.default": (lambda x: x + torch.rand_like(x), "noise or the mask a port"),
    "aten._cdist_forward.default": (lambda x: torch.cdist(x, x), "|a|^2 - 2 a b + |b|^2"),
    "aten.equal.default": (lambda x: x if torch.equal(x, x * 1) else -x, "Python reads data"),
    "aten.copy_.default": (write_a_part, "torch.where or torch.cat"),
}


@pytest.mark.parametrize("operator", FORWARD)
def test_the_operator_its_module_and_a_way_out_are_named(operator):
    function, advice = FORWARD[operator]
    message = refusal(function, is_gradient=False)
    assert message.startswith(f"graph: {operator} {HERE} ") and advice in message


GRADIENTS = {
    "aten.grid_sampler_2d_backward.default": (
        lambda x: F.grid_sample(x.reshape(4, 1, 2, 3), GRID, align_corners=False).flatten(1),
        "matrix of interpolation weights",
    ),
    "aten.index_put.default": (lambda x: x[torch.tensor([0, 0, 1])], "one-hot matmul"),
    "aten.scatter_add.default": (
        lambda x: x.gather(1, x.argmax(1, keepdim=True)),
        "one-hot matmul",
    ),
    "aten._linalg_eigh.default": (lambda x: torch.linalg.eigh(x.T @ x)[0], "power iteration"),
}


@pytest.mark.parametrize("operator", GRADIENTS)
def test_an_operator_of_a_gradient_is_found_in_the_module_whose_gradient_it_is(operator):
    function, advice = GRADIENTS[operator]
    message = refusal(function, is_gradient=True, dynamic_batch=False, batch=4)
    assert message.startswith(f"graph: {operator} {HERE} ") and advice in message


@pytest.mark.parametrize("is_gradient", [False, True])
def test_dropout_and_batch_norm_in_training_mode_are_found_by_their_class(is_gradient):
    dropout = refusal(nn.Dropout(0.5), is_gradient)
    norm = refusal(nn.BatchNorm1d(WIDTH), is_gradient)
    assert "in encoder.blocks.1.1 (Dropout) " in dropout and "a port" in dropout
    assert "in encoder.blocks.1.1 (BatchNorm1d) " in norm and "F.batch_norm(x, None, None" in norm


def test_an_error_of_python_is_found_too():
    message = refusal(lambda x: x.no_such_attribute, is_gradient=False)
    assert message.startswith(f"graph: {HERE} cannot be traced: AttributeError")
    assert "numpy" in refusal(lambda x: x * x.detach().numpy().sum(), is_gradient=False)
    wrong = refusal(lambda x: x @ torch.ones(3, 3), is_gradient=False)
    assert (
        wrong.startswith(f"graph: aten.mm.default {HERE} cannot be traced")
        and "decompose" not in wrong
    )


def test_without_a_module_the_operator_stands_alone():
    with pytest.raises(
        CompileError, match=r"graph: aten\._linalg_eigh\.default is a matrix factorisation"
    ):
        compile_graph(
            "graph", lambda p, t: ({"out": torch.linalg.eigh(p["x"].T @ p["x"])[0]}, {}), ports, {}
        )


class Learner:
    """A network behind an attribute, and one that no name reaches."""

    def __init__(self) -> None:
        self.backbone = nn.Sequential(nn.Linear(WIDTH, WIDTH), nn.Tanh())
        self.rest = [nn.Linear(WIDTH, 2)]

    def step(self, p, t):
        return {"out": self.rest[0](self.backbone(p["x"]))}, {}


BODY = nn.Sequential(
    nn.Linear(WIDTH, WIDTH), nn.Sequential(nn.LayerNorm(WIDTH), nn.Linear(WIDTH, 3))
)


def call_body(x, t):
    return functional_call(
        BODY, {name.removeprefix("body."): value for name, value in t.items()}, (x,)
    )


def paths(fn, tensors=None):
    example = ports(torch.Generator().manual_seed(0), 4)
    traced = trace("graph", fn, example, tensors or {}, ("x",))
    return [
        (str(node.target), node.meta.get(META))
        for node in traced.module.graph.nodes
        if node.op == "call_function"
    ]


def test_roots_are_called_by_the_name_that_reaches_them_or_else_by_their_class():
    found = {path for _, path in paths(Learner().step)}
    assert found == {"backbone.0 (Linear)", "backbone.1 (Tanh)", "Linear"}
    tensors = {f"body.{name}": value.detach() for name, value in BODY.named_parameters()}
    found = {
        path
        for _, path in paths(
            partial(lambda scale, p, t: ({"out": scale * call_body(p["x"], t)}, {}), 2.0), tensors
        )
    }
    assert found == {"BODY.0 (Linear)", "BODY.1.0 (LayerNorm)", "BODY.1.1 (Linear)", None}


def test_every_operator_between_two_modules_has_none_and_gradients_lie_inside_theirs():
    tensors = {f"body.{name}": value.detach() for name, value in BODY.named_parameters()}

    def fn(p, t):
        return {"out": grad(lambda x: call_body(torch.tanh(x), t).square().sum())(p["x"])}, {}

    found = paths(fn, tensors)
    order = [path for _, path in found if path]
    turns = [path for index, path in enumerate(order) if index == 0 or order[index - 1] != path]
    assert turns == [
        "BODY.0 (Linear)",
        "BODY.1.0 (LayerNorm)",
        "BODY.1.1 (Linear)",
        "BODY.1.0 (LayerNorm)",
        "BODY.0 (Linear)",
    ]
    assert found[0] == ("aten.tanh.default", None) and found[-1][1] is None


def test_following_changes_no_operator_and_leaves_no_hook():
    before = len(_global_forward_hooks), len(_global_forward_pre_hooks)

    def fn(x):
        return grad(lambda v: BODY(v).square().sum())(x)

    def followed(x):
        with Origins(fn):
            return fn(x)

    x = torch.randn(4, WIDTH)
    with pytest.raises(ZeroDivisionError), Origins(fn):
        BODY(x / (1 // 0))
    plain, marked = (
        make_fx(f, tracing_mode="fake", _allow_non_fake_inputs=True)(x) for f in (fn, followed)
    )
    assert [str(node.target) for node in plain.graph.nodes] == [
        str(node.target) for node in marked.graph.nodes
    ]
    assert (len(_global_forward_hooks), len(_global_forward_pre_hooks)) == before


def test_advice_looks_at_operators_only_where_it_should():
    error = RuntimeError("operand of rank 2: weights were normalised in the product")
    assert way_out(None, error) == "Keep the function pure and its shapes fixed"
    unknown = way_out("aten.lgamma.default", RuntimeError("No ONNX function found for aten.lgamma"))
    assert re.search(r"edgeadapt/host/compile/decompose$", unknown)
