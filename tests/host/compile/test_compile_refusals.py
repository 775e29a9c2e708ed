"""What the compiler must not let through, and what it must say."""

from __future__ import annotations

import onnx
import pytest
import torch
from onnx import TensorProto, helper

from edgeadapt.errors import CompileError, CompileWarning
from edgeadapt.host.compile import compile_graph, compile_step
from edgeadapt.host.compile import trace as trace_module
from edgeadapt.host.compile.decompose import aten, decompositions
from edgeadapt.host.compile.lint import lint, operator_table


def ports(generator, batch):
    z = torch.randn(batch, 6, generator=generator)
    return {
        "z": z,
        "y": torch.randint(0, 4, (batch,), generator=generator),
        "sample_weight": torch.ones(batch),
    }


STATE = {"head.weight": torch.linspace(-1, 1, 24).reshape(4, 6)}


def refused(fn, match, make_ports=ports, tensors=STATE, **options):
    with pytest.raises(CompileError, match=match):
        compile_graph("graph", fn, make_ports, tensors, **options)


def test_a_write_to_an_input_is_refused_and_does_not_touch_the_example():
    before = STATE["head.weight"].clone()
    refused(
        lambda p, t: ({}, {"head.weight": t["head.weight"].add_(1)}), "add_.*in place.*head.weight"
    )
    assert torch.equal(STATE["head.weight"], before)


def test_a_write_to_a_view_of_an_input_is_refused():
    def fn(p, t):
        t["head.weight"][0] += 1
        return {}, {"head.weight": t["head.weight"] * 2}

    refused(fn, "in place.*head.weight")


def test_a_write_to_a_part_of_an_inner_tensor_is_refused():
    def fn(p, t):
        x = p["z"] * 2
        x[:, 0] = 0
        return {"out": x}, {}

    refused(fn, "part of a tensor")


@pytest.mark.parametrize(
    "draw",
    [
        torch.randn_like,
        torch.rand_like,
        lambda z: torch.nn.functional.dropout(z, 0.5),
        torch.bernoulli,
    ],
)
def test_random_operators_are_refused_by_name(draw):
    refused(
        lambda p, t: ({"out": p["z"] + draw(p["z"].sigmoid())}, {}),
        r"aten\.\w*(rand|dropout|bernoulli)\w*\.\w+ draws random numbers",
    )


@pytest.mark.parametrize(
    "read",
    [
        lambda z: z * float(z.sum()),
        lambda z: z if z.sum() > 0 else -z,
        lambda z: z * z.numpy().sum(),
    ],
)
def test_reading_a_value_in_python_is_refused(read):
    refused(lambda p, t: ({"out": read(p["z"])}, {}), "reads data")


def test_a_reducing_scatter_is_refused_with_the_way_out():
    refused(
        lambda p, t: ({}, {"head.weight": t["head.weight"].index_add(0, p["y"], p["z"])}),
        "Scatter.*reduction.*one-hot matmul",
    )


def test_the_gradient_of_a_gather_is_refused():
    def fn(p, t):
        return {"out": torch.func.grad(lambda w: (w[p["y"]] * p["z"]).sum())(t["head.weight"])}, {}

    refused(fn, "Scatter.*reduction")


def test_the_silently_wrong_scatter_mean_is_caught_by_parity():
    def fn(p, t):
        index = p["y"][:, None].expand(-1, 6)
        return {}, {"head.weight": t["head.weight"].scatter_reduce(0, index, p["z"], "mean")}

    refused(fn, "differs from torch: head.weight.next")


def test_an_operator_without_translation_is_named():
    refused(lambda p, t: ({"out": torch.linalg.inv(p["z"].T @ p["z"])}, {}), "linalg_inv")


def test_a_float64_constant_from_a_closure_is_refused():
    constant = torch.tensor([0.1], dtype=torch.float64)
    refused(lambda p, t: ({"out": (p["z"] + constant).float()}, {}), "DOUBLE")


def test_a_function_that_fixes_the_batch_is_refused_only_while_the_batch_is_free():
    def fn(p, t):
        return {"out": p["z"].reshape(8, 6) * 2}, {}

    refused(fn, "batch")
    graph = compile_graph("graph", fn, ports, STATE, dynamic_batch=False)
    assert graph.outputs[0].shape == (8, 6)


@pytest.mark.parametrize(
    ("fn", "options", "match"),
    [
        (lambda p, t: ({}, {}), {}, "returns nothing"),
        (lambda p, t: ({"z": p["z"] + 1}, {}), {}, "'z' is both a port and an output"),
        (lambda p, t: ({}, {"head.bias": p["z"]}), {}, "writes 'head.bias'"),
        (
            lambda p, t: ({}, {"head.weight": t["head.weight"] + 1}),
            {"frozen": ["head.weight"]},
            "writes the frozen tensor",
        ),
        (lambda p, t: ({"out": p["z"] + 1}, {}), {"frozen": ["nobody.knows"]}, "nobody.knows"),
        (lambda p, t: ({"a.b": p["z"] + 1}, {}), {}, "without a dot"),
        (lambda p, t: ({"out": p["z"] / 0}, {}), {}, "not finite on the traced input"),
        (lambda p, t: ({"out": p["z"] + 1}, {}), {"is_step": True}, "writes no tensor"),
    ],
)
def test_a_bad_signature_is_refused(fn, options, match):
    refused(fn, match, **options)


def test_a_wrong_decomposition_is_caught_by_parity(monkeypatch):
    def faulty():
        table = decompositions()
        table[aten.tanh_backward.default] = lambda grad, y: grad * (1 - 0.98 * y * y)
        return table

    def fn(p, t):
        gradient = torch.func.grad(lambda w: torch.tanh(p["z"] @ w.T).sum())(t["head.weight"])
        return {}, {"head.weight": t["head.weight"] - 0.1 * gradient}

    assert compile_graph("graph", fn, ports, STATE).parity.worst_error < 1e-5
    monkeypatch.setattr(trace_module, "decompositions", faulty)
    refused(fn, "differs from torch: head.weight.next")


BEHAVIOURS = {
    "does not change": lambda w, p: w + 0 * p["sample_weight"].sum(),
    "sample_weight has no effect": lambda w, p: w + p["z"].mean(),
    "every sample_weight is 0": lambda w, p: 0.9 * w + p["sample_weight"] @ p["z"],
    "depends on rows": lambda w, p: w + p["sample_weight"].sum() * p["z"].mean(),
}


@pytest.mark.parametrize("match", BEHAVIOURS)
def test_a_step_that_misbehaves_is_refused_although_torch_agrees_with_it(match):
    def fn(p, t):
        return {}, {"head.weight": BEHAVIOURS[match](t["head.weight"], p)}

    assert compile_graph("graph", fn, ports, STATE).parity.worst_error < 1e-4
    refused(fn, match, is_step=True)


@pytest.mark.parametrize("sign", [1, -1])
def test_a_gradient_step_up_the_hill_is_refused(sign):
    def loss(w, p):
        weight = p["sample_weight"]
        each = torch.nn.functional.cross_entropy(p["z"] @ w.T, p["y"], reduction="none")
        return (each * weight).sum() / weight.sum().clamp(min=1)

    def fn(p, t):
        gradient, value = torch.func.grad_and_value(loss)(t["head.weight"], p)
        return {"loss": value}, {"head.weight": t["head.weight"] - sign * 0.5 * gradient}

    if sign > 0:
        assert compile_graph("graph", fn, ports, STATE, is_step=True).writes == ("head.weight",)
    else:
        refused(fn, "not to half", is_step=True)
        with pytest.warns(
            CompileWarning, match=r"not to half; check the sign .*toy_loss=\"accept\" takes it"
        ):
            assert compile_step("graph", fn, ports, STATE).writes == ("head.weight",)


def model(nodes, inputs=(("x", 1),), outputs=(("out", 1),), constants=(), opset=18):
    graph = helper.make_graph(
        nodes,
        "graph",
        [helper.make_tensor_value_info(name, kind, [4, 4]) for name, kind in inputs],
        [helper.make_tensor_value_info(name, kind, [4, 4]) for name, kind in outputs],
        list(constants),
    )
    return helper.make_model(
        graph,
        opset_imports=[helper.make_opsetid("", opset), helper.make_opsetid("com.microsoft", 1)],
    )


NODE = helper.make_node
LINTS = {
    "RandomNormalLike draws random": model([NODE("RandomNormalLike", ["x"], ["out"])]),
    "NonZero has a shape that depends on data": model(
        [NODE("NonZero", ["x"], ["out"])], outputs=[("out", 7)]
    ),
    "Det is exported": model([NODE("Det", ["x"], ["out"])]),
    "FusedMatMul is of a foreign domain": model(
        [NODE("FusedMatMul", ["x", "x"], ["out"], domain="com.microsoft")]
    ),
    "Swish is not supported by every engine": model([NODE("Swish", ["x"], ["out"])]),
    "Unheard is not in the operator table": model([NODE("Unheard", ["x"], ["out"])]),
    "opset 21 is newer": model([NODE("Abs", ["x"], ["out"])], opset=21),
    "ScatterND with a reduction": model(
        [NODE("ScatterND", ["x", "i", "x"], ["out"], reduction="add")], inputs=[("x", 1), ("i", 7)]
    ),
    "LayerNormalization with more than one output": model(
        [NODE("LayerNormalization", ["x", "x"], ["out", "mean"])], outputs=[("out", 1), ("mean", 1)]
    ),
    "MaxPool with indices": model(
        [NODE("MaxPool", ["x"], ["out", "i"], kernel_shape=[2])], outputs=[("out", 1), ("i", 7)]
    ),
    "output x is also an input": model([NODE("Abs", ["x"], ["y"])], outputs=[("x", 1)]),
    "x: DOUBLE is not one of": model(
        [NODE("Cast", ["x"], ["out"], to=1)], inputs=[("x", TensorProto.DOUBLE)]
    ),
    "x: UINT16 is not one of": model(
        [NODE("Cast", ["x"], ["out"], to=1)], inputs=[("x", TensorProto.UINT16)]
    ),
    "constant c: DOUBLE": model(
        [NODE("Cast", ["c"], ["d"], to=1), NODE("Add", ["x", "d"], ["out"])],
        constants=[helper.make_tensor("c", TensorProto.DOUBLE, [], [0.1])],
    ),
    "MatMul of INT32 is refused": model(
        [NODE("MatMul", ["x", "x"], ["out"])], inputs=[("x", 6)], outputs=[("out", 6)]
    ),
    "Gather of uint8 is refused": model(
        [NODE("Gather", ["x", "i"], ["out"])], inputs=[("x", 2), ("i", 7)], outputs=[("out", 2)]
    ),
    "ReduceSum takes operand 1 from a computation": model(
        [NODE("ReduceSum", ["x", "i"], ["out"])], inputs=[("x", 1), ("i", 7)]
    ),
    "Reshape takes a shape from the values of an input": model(
        [NODE("Reshape", ["x", "i"], ["out"])], inputs=[("x", 1), ("i", 7)]
    ),
    "BatchNormalization in training mode": model(
        [NODE("BatchNormalization", ["x"] * 5, ["out"], training_mode=1)]
    ),
}


@pytest.mark.parametrize("finding", LINTS)
def test_lint_names_the_operator_and_the_reason(finding):
    with pytest.raises(CompileError) as caught:
        lint("graph", LINTS[finding])
    assert finding in str(caught.value) and str(caught.value).startswith("graph: ")


def test_lint_passes_a_clean_model_and_the_table_is_whole():
    lint("graph", model([NODE("Abs", ["x"], ["y"]), NODE("MatMul", ["y", "x"], ["out"])]))
    operators = [key for key in operator_table() if not key.startswith("_")]
    assert len(operators) > 170 and not operator_table()["NonZero"]["notes"].startswith(
        "measured: OK"
    )
    assert onnx.defs.has("MatMul")


def test_a_loss_with_a_floor_is_warned_about_and_can_be_accepted_and_refused(recwarn):
    def fn(p, t):
        def floored(w):
            return 10 + (p["sample_weight"] * (p["z"] @ w.T).square().mean(1)).sum()

        gradient, value = torch.func.grad_and_value(floored)(t["head.weight"])
        return {"loss": value}, {"head.weight": t["head.weight"] - 0.01 * gradient}

    assert compile_step("graph", fn, ports, STATE, toy_loss="accept").writes == ("head.weight",)
    assert not [one for one in recwarn if one.category is CompileWarning]
    with pytest.warns(
        CompileWarning, match="graph: 50 steps .* not to half; check the learning rate"
    ):
        compile_step("graph", fn, ports, STATE)
    with pytest.raises(CompileError, match="not to half"):
        compile_step("graph", fn, ports, STATE, toy_loss="refuse")
