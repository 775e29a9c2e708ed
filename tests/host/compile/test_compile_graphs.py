"""Graphs that must come out right: the numbers are compared with torch here too, not only inside
the compiler.
"""

from __future__ import annotations

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
import torch.nn.functional as F
from onnx import TensorProto

from edgeadapt.host.compile import compile_graph
from edgeadapt.host.compile.parity import run_float64


def run(graph, ports, tensors):
    """Load as a runtime does, frozen values injected, and run with numpy only."""
    options = onnxruntime.SessionOptions()
    if graph.frozen:
        values = [
            onnxruntime.OrtValue.ortvalue_from_numpy(tensors[name].numpy()) for name in graph.frozen
        ]
        options.add_external_initializers(list(graph.frozen), values)
    session = onnxruntime.InferenceSession(graph.model, options, providers=["CPUExecutionProvider"])
    given = {**ports, **tensors}
    names = [value.name for value in session.get_outputs()]
    return dict(
        zip(
            names,
            session.run(None, {i.name: given[i.name].numpy() for i in session.get_inputs()}),
            strict=True,
        )
    )


def features(generator, batch, width=64, classes=5):
    return {
        "z": torch.randn(batch, width, generator=generator),
        "y": torch.randint(0, classes, (batch,), generator=generator),
        "sample_weight": torch.ones(batch),
    }


def example(seed=99, batch=8, **sizes):
    return features(torch.Generator().manual_seed(seed), batch, **sizes)


def random(seed, *shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def test_a_tiny_epsilon_survives():
    graph = compile_graph(
        "eps",
        lambda p, t: ({"out": p["z"] / (p["z"].abs().sqrt() + 1e-8) + p["z"] * 0.999999}, {}),
        features,
        {},
    )
    out = run(graph, {"z": torch.zeros(2, 64)}, {})["out"]
    assert np.all(out == 0)  # 0 / 0 without the epsilon
    constants = {
        float(onnx.numpy_helper.to_array(c))
        for c in onnx.load_from_string(graph.model).graph.initializer
        if not c.dims
    }
    assert {np.float32(1e-8), np.float32(0.999999)} <= {np.float32(c) for c in constants}


@pytest.mark.parametrize("dynamic_batch", [True, False])
def test_the_cross_entropy_gradient_is_not_off_by_the_batch(dynamic_batch):
    def fn(p, t):
        return {
            "gradient": torch.func.grad(lambda w: F.cross_entropy(p["z"] @ w.T, p["y"]))(
                t["head.weight"]
            )
        }, {}

    weight, ports = random(1, 5, 64) * 0.1, example()
    graph = compile_graph("ce", fn, features, {"head.weight": weight}, dynamic_batch=dynamic_batch)
    error = F.softmax(ports["z"] @ weight.T, 1) - F.one_hot(ports["y"], 5)
    np.testing.assert_allclose(
        run(graph, ports, {"head.weight": weight})["gradient"],
        (error.T @ ports["z"] / 8).numpy(),
        atol=1e-6,
    )
    assert "sample_weight" not in [port.name for port in graph.ports]


def test_pass_through_repeated_and_constant_outputs_keep_their_names_and_the_inputs_theirs():
    def fn(p, t):
        y = p["z"] * 2
        return {
            "same": p["z"],
            "twice": y,
            "again": y,
            "equal": p["z"] * 2,
            "fixed": torch.ones(3),
        }, {"a.b": t["a.b"], "a.c": t["a.b"] + 1}

    tensors = {"a.b": torch.arange(4.0), "a.c": torch.zeros(4), "a.unused": torch.zeros(2)}
    graph = compile_graph("outputs", fn, features, tensors)
    assert [o.name for o in graph.outputs] == ["same", "twice", "again", "equal", "fixed"]
    assert (
        graph.reads == ("a.b",)
        and graph.writes == ("a.b", "a.c")
        and [p.name for p in graph.ports] == ["z"]
    )
    z = example(batch=3)["z"]
    out = run(graph, {"z": z}, tensors)
    for key in ("twice", "again", "equal"):
        np.testing.assert_array_equal(out[key], (z * 2).numpy())
    np.testing.assert_array_equal(out["same"], z.numpy())
    np.testing.assert_array_equal(out["fixed"], np.ones(3, "f4"))
    np.testing.assert_array_equal(out["a.c.next"], np.arange(4) + 1)


def encoder(p, t):
    x = p["x"].float().permute(0, 3, 1, 2) / 255
    h = (
        F.conv2d(x, t["enc.w1"], stride=2, padding=1) * t["enc.scale"][:, None, None]
        + t["enc.shift"][:, None, None]
    )
    h = F.max_pool2d(F.relu(h), 2)
    h = F.relu6(F.conv2d(F.pad(h, (0, 1, 0, 1)), t["enc.w2"], padding=1, groups=8))
    return {"z": h.mean((2, 3)) @ t["enc.project"].T, "taps": h.flatten(2).amax(2)}, {}


ENCODER = {
    "enc.w1": random(1, 8, 3, 3, 3),
    "enc.scale": random(2, 8).abs() + 0.5,
    "enc.shift": random(3, 8),
    "enc.w2": random(4, 8, 1, 3, 3),
    "enc.project": random(5, 16, 8),
    "enc.unused": random(6, 9),
}


def images(generator, batch):
    return {"x": torch.randint(0, 256, (batch, 16, 16, 3), generator=generator, dtype=torch.uint8)}


def test_a_frozen_encoder_refers_to_the_bundle_and_takes_any_batch():
    graph = compile_graph("encode", encoder, images, ENCODER, frozen=list(ENCODER))
    assert graph.reads == () and graph.frozen == (
        "enc.w1",
        "enc.scale",
        "enc.shift",
        "enc.w2",
        "enc.project",
    )
    assert graph.ports[0].shape == (None, 16, 16, 3) and graph.ports[0].dtype == "uint8"
    assert [o.shape for o in graph.outputs] == [(None, 16), (None, 8)]
    assert len(graph.model) < 4000  # the weights are elsewhere
    external = [
        c
        for c in onnx.load_from_string(graph.model).graph.initializer
        if c.data_location == TensorProto.EXTERNAL
    ]
    assert {c.name for c in external} == set(graph.frozen)
    for tensor in external:
        assert [(e.key, e.value) for e in tensor.external_data] == [
            ("location", "bundle:")
        ] and not tensor.raw_data
        assert tuple(tensor.dims) == tuple(ENCODER[tensor.name].shape)
    pads = [node for node in onnx.load_from_string(graph.model).graph.node if node.op_type == "Pad"]
    assert pads and all(len(node.input) >= 3 and node.input[2] for node in pads)
    for batch in (1, 2, 7, 32):
        ports = images(torch.Generator().manual_seed(batch), batch)
        want, got = encoder(ports, ENCODER)[0], run(graph, ports, ENCODER)
        for key in want:
            np.testing.assert_allclose(got[key], want[key].numpy(), atol=2e-5)


def test_a_model_without_its_frozen_values_does_not_load():
    graph = compile_graph("encode", encoder, images, ENCODER, frozen=list(ENCODER))
    with pytest.raises(Exception, match=r"bundle:|External data"):
        onnxruntime.InferenceSession(graph.model, providers=["CPUExecutionProvider"])


def adaptor(p, t):
    """LayerNorm, 64-16-64 residual bottleneck, head; weighted cross-entropy; momentum SGD."""

    def loss(theta):
        h = F.layer_norm(p["z"], (64,), theta["a.gain"], theta["a.bias"])
        z = p["z"] + F.relu(h @ theta["a.down"].T) @ theta["a.up"].T
        each = F.cross_entropy(z @ theta["a.head"].T, p["y"], reduction="none")
        return (each * p["sample_weight"]).sum() / p["sample_weight"].sum().clamp(min=1)

    theta = {key: t[key] for key in ADAPTOR if key not in ("a.v",)}
    gradient, value = torch.func.grad_and_value(loss)(theta)
    live = p["sample_weight"].sum() > 0
    flat = torch.cat([gradient[key].flatten() for key in theta])
    velocity = torch.where(live, 0.9 * t["a.v"] + flat, t["a.v"])
    new, start = {"a.v": velocity}, 0
    for key, old in theta.items():
        step = velocity[start : start + old.numel()].reshape(old.shape)
        new[key] = torch.where(live, old - p["learning_rate"] * step, old)
        start += old.numel()
    return {"loss": value}, new


ADAPTOR = {
    "a.gain": torch.ones(64),
    "a.bias": torch.zeros(64),
    "a.down": random(1, 16, 64) / 8,
    "a.up": random(2, 64, 16) / 40,
    "a.head": random(3, 5, 64) / 8,
    "a.v": torch.zeros(64 + 64 + 2 * 1024 + 320),
}


def test_an_adaptor_step_learns_as_torch_does_and_ignores_weightless_samples():
    def make_ports(generator, batch):
        return {**features(generator, batch), "learning_rate": torch.tensor(0.05)}

    graph = compile_graph("fit", adaptor, make_ports, ADAPTOR, dynamic_batch=False, is_step=True)
    assert (
        graph.ports[0].shape == (8, 64)
        and graph.ports[-1].shape == ()
        and set(graph.writes) == set(ADAPTOR)
    )
    assert graph.parity.cases >= 8 and graph.parity.worst_error < 1e-4
    nodes = onnx.load_from_string(graph.model).graph.node
    assert not {"ScatterND", "If"} & {n.op_type for n in nodes}
    # TensorRT refuses its mean and deviation
    assert all(len(n.output) == 1 for n in nodes if n.op_type == "LayerNormalization")
    ports = make_ports(torch.Generator().manual_seed(5), 8)
    mine = dict(ADAPTOR)
    theirs = dict(ADAPTOR)
    losses = []
    for _ in range(20):
        value, new = adaptor(ports, mine)
        mine = {k: v.detach() for k, v in new.items()}
        got = run(graph, ports, theirs)
        theirs = {key: torch.from_numpy(got[key + ".next"]) for key in theirs}
        losses.append((value["loss"].item(), float(got["loss"])))
    assert losses[-1][1] < 0.5 * losses[0][1] and abs(losses[-1][0] - losses[-1][1]) < 1e-5
    for key in ADAPTOR:
        torch.testing.assert_close(theirs[key], mine[key], atol=1e-5, rtol=0)
    idle = run(graph, {**ports, "sample_weight": torch.zeros(8)}, theirs)
    assert all(np.array_equal(idle[key + ".next"], theirs[key].numpy()) for key in theirs)


def test_an_evidence_step_is_exact_on_integers_and_forgets_what_it_learned():
    def learn(p, t):
        hot = (p["y"][:, None] == torch.arange(5)).float() * p["sample_weight"][:, None]
        weighted = p["z"] * p["sample_weight"][:, None]
        return {}, {
            "e.gram": t["e.gram"] + weighted.T @ p["z"],
            "e.sums": t["e.sums"] + hot.T @ p["z"],
            "e.counts": t["e.counts"] + hot.sum(0),
            "e.seen": t["e.seen"] + (hot > 0).to(torch.int32).sum(0).to(torch.int32),
        }

    start = {
        "e.gram": torch.eye(64),
        "e.sums": torch.zeros(5, 64),
        "e.counts": torch.zeros(5),
        "e.seen": torch.zeros(5, dtype=torch.int32),
    }
    graph = compile_graph("learn", learn, features, start, is_step=True)
    ports = {
        **example(batch=7),
        "z": torch.randint(-9, 9, (7, 64), generator=torch.Generator().manual_seed(0)).float(),
    }
    after = {key: torch.from_numpy(run(graph, ports, start)[key + ".next"]) for key in start}
    expected = np.eye(64) + ports["z"].numpy().T.astype(np.int64) @ ports["z"].numpy().astype(
        np.int64
    )
    np.testing.assert_array_equal(after["e.gram"].numpy(), expected)
    assert after["e.counts"].sum() == 7 and after["e.seen"].dtype == torch.int32
    back = run(graph, {**ports, "sample_weight": -torch.ones(7)}, after)
    for key in ("e.gram", "e.sums", "e.counts"):
        np.testing.assert_array_equal(back[key + ".next"], start[key].numpy())


def test_weighted_batch_statistics_hold_for_large_means():
    def fn(p, t):
        weight = p["sample_weight"][:, None, None, None]
        total = (p["sample_weight"].sum() * 16).clamp(min=1e-6)
        mean = (p["x"] * weight).sum((0, 2, 3)) / total
        centred = p["x"] - mean[:, None, None]
        variance = (centred.square() * weight).sum((0, 2, 3)) / total
        live = p["sample_weight"].sum() > 0
        out = centred * (variance + 1e-5).rsqrt()[:, None, None]
        new = {"n.mean": 0.9 * t["n.mean"] + 0.1 * mean, "n.var": 0.9 * t["n.var"] + 0.1 * variance}
        return {"out": out}, {key: torch.where(live, value, t[key]) for key, value in new.items()}

    def make_ports(generator, batch):
        return {
            "x": torch.randn(batch, 3, 4, 4, generator=generator) + 50,
            "sample_weight": torch.rand(batch, generator=generator),
        }

    tensors = {"n.mean": torch.full((3,), 40.0), "n.var": torch.ones(3)}
    graph = compile_graph("statistics", fn, make_ports, tensors, is_step=True)
    ports = make_ports(torch.Generator().manual_seed(3), 8)
    got = run(graph, {**ports, "sample_weight": torch.ones(8)}, tensors)
    want = F.batch_norm(ports["x"].double(), None, None, training=True)
    np.testing.assert_allclose(got["out"], want.numpy(), atol=5e-5)
    variance = ports["x"].double().var((0, 2, 3), unbiased=False)
    np.testing.assert_allclose(got["n.var.next"], (0.9 + 0.1 * variance).numpy(), rtol=1e-5)


@pytest.mark.parametrize("dynamic_batch", [True, False])
@pytest.mark.parametrize(("groups", "stride", "padding", "dilation"), [(4, 2, 1, 1), (1, 1, 2, 2)])
def test_convolution_gradients(groups, stride, padding, dilation, dynamic_batch):
    def value(x, weight, bias):
        return (
            F.avg_pool2d(F.conv2d(x, weight, bias, stride, padding, dilation, groups), 2)
            .tanh()
            .square()
            .sum()
        )

    def fn(p, t):
        gi, gw, gb = torch.func.grad(value, (0, 1, 2))(p["x"], t["c.w"], t["c.b"])
        return {"gi": gi, "gw": gw, "gb": gb}, {}

    def make_ports(generator, batch):
        return {"x": torch.randn(batch, 4, 9, 7, generator=generator)}

    tensors = {"c.w": random(1, 8, 4 // groups, 3, 3) / 3, "c.b": random(2, 8)}
    graph = compile_graph("conv", fn, make_ports, tensors, dynamic_batch=dynamic_batch, batch=3)
    assert graph.parity.worst_error < 1e-5
    x = make_ports(torch.Generator().manual_seed(9), 3)["x"].double().requires_grad_()
    w, b = (tensors[key].double().requires_grad_() for key in ("c.w", "c.b"))
    want = torch.autograd.grad(value(x, w, b), (x, w, b))
    got = run(graph, {"x": x.detach().float()}, tensors)
    for key, gradient in zip(("gi", "gw", "gb"), want, strict=True):
        np.testing.assert_allclose(
            got[key], gradient.numpy(), atol=1e-5 * gradient.abs().max().item()
        )


def test_an_ill_conditioned_step_is_excused_by_float64_and_says_so():
    def variance(p, t):  # cancels: E[x^2] - E[x]^2 with a mean of 300
        x = p["z"] + 300
        return {"variance": x.square().mean(1) - x.mean(1).square()}, {}

    graph = compile_graph("variance", variance, features, {}, tolerance=1e-4)
    assert graph.parity.arbiter == "float64" and graph.parity.worst_error > 1e-4


def test_float64_reaches_constants_and_casts_inside_the_function():
    constant = torch.tensor([1e-9])
    values = run_float64(
        lambda p, t: ({"out": (p["z"] + constant).float()}, {}), {"z": torch.ones(1)}, {}
    )
    assert (
        values is not None
        and values["out"].dtype == torch.float64
        and values["out"].item() == 1 + constant.double().item()
    )


def test_a_graph_without_ports_is_compared_on_other_states():
    tensors = {"r.gram": torch.eye(6) * 3, "r.weight": torch.ones(6)}
    graph = compile_graph(
        "derive",
        lambda p, t: ({}, {"r.weight": t["r.gram"].sum(1) / 2}),
        lambda generator, batch: {},
        tensors,
    )
    assert graph.ports == () and graph.reads == ("r.gram",) and graph.writes == ("r.weight",)
    np.testing.assert_array_equal(
        run(graph, {}, {"r.gram": torch.ones(6, 6)})["r.weight.next"], np.full(6, 3, "f4")
    )


def test_equal_functions_give_equal_bytes():
    one, two = (
        compile_graph("encode", encoder, images, ENCODER, frozen=list(ENCODER), check=False)
        for _ in range(2)
    )
    assert one.model == two.model and "not compared" in one.parity.onnxruntime
