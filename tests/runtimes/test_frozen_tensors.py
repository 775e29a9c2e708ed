"""Weights at location ``bundle:``: injected, replaced, cached and refused by name."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Callable
from typing import Any

import numpy as np
import onnxruntime
import pytest
from edgeadapt_onnxruntime import OnnxRuntime
from numpy.typing import NDArray

from edgeadapt.errors import BundleError
from edgeadapt.runtime import GraphFile, Tensors

pytest.importorskip("onnx")
from onnx import TensorProto, helper, numpy_helper
from tiny_models import FLOAT, Arrays, build, external


def encoder(
    frozen: Arrays, as_initializers: Callable[[str, NDArray[Any]], TensorProto] = external
) -> bytes:
    """features = relu(conv(x, w, b) * scale) @ m + float(table[i]): every kind of weight that an
    optimiser folds or packs.
    """
    nodes = [
        helper.make_node("Conv", ["x", "enc.w", "enc.b"], ["c"], pads=[1, 1, 1, 1]),
        helper.make_node("Mul", ["c", "enc.scale"], ["s"]),
        helper.make_node("Relu", ["s"], ["r"]),
        helper.make_node("Flatten", ["r"], ["f"]),
        helper.make_node("Add", ["enc.m", "enc.m"], ["m2"]),
        helper.make_node("MatMul", ["f", "m2"], ["p"]),
        helper.make_node("Cast", ["enc.int8"], ["q"], to=FLOAT),
        helper.make_node("Add", ["p", "q"], ["a"]),
        helper.make_node("Mul", ["a", "enc.gain"], ["features"]),
    ]
    return build(
        nodes,
        {"x": ["B", 3, 8, 8]},
        {"features": ["B", 5]},
        [as_initializers(name, value) for name, value in frozen.items()],
    )


@pytest.fixture
def frozen() -> Arrays:
    rng = np.random.default_rng(0)
    return {
        "enc.w": rng.standard_normal((4, 3, 3, 3)).astype(np.float32),
        "enc.b": rng.standard_normal(4).astype(np.float32),
        "enc.scale": rng.uniform(0.5, 2, (4, 1, 1)).astype(np.float32),
        "enc.m": rng.standard_normal((256, 5)).astype(np.float32),
        "enc.int8": rng.integers(-9, 9, 5).astype(np.int8),
        "enc.gain": np.array(0.5, np.float32),
    }


@pytest.fixture
def images() -> NDArray[np.float32]:
    return np.random.default_rng(1).standard_normal((2, 3, 8, 8)).astype(np.float32)


def inline_features(frozen: Arrays, x: NDArray[Any]) -> NDArray[Any]:
    """The same encoder with its weights inside the file and no optimisation."""
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    model = encoder(frozen, lambda name, value: numpy_helper.from_array(value, name))
    session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    features: NDArray[Any] = session.run(None, {"x": x})[0]
    return features


def test_frozen_weights_give_the_values_of_inline_weights_with_all_optimisations(
    frozen: Arrays, images: NDArray[Any]
) -> None:
    """``add_initializer`` was seen to give silent zeros; onnxruntime 1.23.2 and 1.32 give no
    session at all.
    """
    executable = OnnxRuntime().load(GraphFile("encoder", encoder(frozen), frozen))
    features = executable({"x": images}, Tensors())[0]["features"]
    expected = inline_features(frozen, images)
    assert np.abs(expected).min() > 1e-3
    np.testing.assert_allclose(features, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", ["enc.w", "enc.b", "enc.scale", "enc.m", "enc.int8", "enc.gain"])
def test_a_replaced_constant_gives_the_refolded_result(
    frozen: Arrays, images: NDArray[Any], name: str
) -> None:
    runtime, graph = OnnxRuntime(), GraphFile("encoder", encoder(frozen), frozen)
    base = runtime.load(graph)
    tripled = np.array(frozen[name] * 3, frozen[name].dtype)
    expected = {**frozen, name: tripled.copy()}
    refolded = runtime.load(graph, {name: tripled})
    tripled[...] = 0
    np.testing.assert_allclose(
        refolded({"x": images}, Tensors())[0]["features"],
        inline_features(expected, images),
        rtol=1e-4,
        atol=1e-3,
    )
    np.testing.assert_allclose(
        base({"x": images}, Tensors())[0]["features"],
        inline_features(frozen, images),
        rtol=1e-4,
        atol=1e-3,
    )


def test_frozen_tensors_the_model_does_not_refer_to_are_ignored(
    frozen: Arrays, images: NDArray[Any]
) -> None:
    executable = OnnxRuntime().load(
        GraphFile("encoder", encoder(frozen), {**frozen, "other.w": np.zeros(3, np.float32)})
    )
    assert np.abs(executable({"x": images}, Tensors())[0]["features"]).max() > 0


def test_the_least_recently_used_of_sixteen_is_let_go_and_still_works(
    frozen: Arrays, images: NDArray[Any]
) -> None:
    runtime = OnnxRuntime()
    graphs = [
        GraphFile("encoder", encoder(values), values)
        for values in ({**frozen, "enc.gain": np.array(gain, np.float32)} for gain in range(1, 18))
    ]
    loaded = [runtime.load(graph) for graph in graphs[:16]]
    assert runtime.load(graphs[0]) is loaded[0]
    runtime.load(graphs[16])
    assert runtime.load(graphs[0]) is loaded[0]
    assert runtime.load(graphs[1]) is not loaded[1]
    unit = loaded[0]({"x": images}, Tensors())[0]["features"]
    np.testing.assert_allclose(
        loaded[1]({"x": images}, Tensors())[0]["features"], 2 * unit, rtol=1e-5, atol=1e-5
    )


def test_a_refolded_graph_is_shared_while_it_is_held_and_then_gone(
    frozen: Arrays, images: NDArray[Any]
) -> None:
    """Every refresh of a correction loads one: a cache of them would keep sixteen encoders that
    nobody uses.
    """
    runtime, graph = OnnxRuntime(), GraphFile("encoder", encoder(frozen), frozen)
    held = runtime.load(graph, {"enc.gain": np.array(2, np.float32)})
    assert runtime.load(graph, {"enc.gain": np.array(2, np.float32)}) is held
    for gain in range(3, 30):
        runtime.load(graph, {"enc.gain": np.array(gain, np.float32)})
    assert runtime.load(graph, {"enc.gain": np.array(2, np.float32)}) is held
    gone = weakref.ref(held)
    del held
    gc.collect()
    assert gone() is None and runtime.load(graph) is runtime.load(graph)


def test_damaged_and_incomplete_graphs_are_refused_by_name(frozen: Arrays) -> None:
    runtime, model = OnnxRuntime(), encoder(frozen)
    without = {name: value for name, value in frozen.items() if name != "enc.scale"}
    with pytest.raises(BundleError, match=r"'encoder': no value for frozen tensor 'enc.scale'"):
        runtime.load(GraphFile("encoder", model, without))
    with pytest.raises(BundleError, match=r"'enc.b' must be float32\[4\], got float32\[3\]"):
        runtime.load(GraphFile("encoder", model, {**frozen, "enc.b": frozen["enc.b"][:3]}))
    with pytest.raises(BundleError, match=r"'enc.int8' must be int8\[5\], got int32\[5\]"):
        runtime.load(GraphFile("encoder", model, frozen), {"enc.int8": np.zeros(5, np.int32)})
    with pytest.raises(BundleError, match=r"has no frozen tensor 'enc.gian' to replace"):
        runtime.load(GraphFile("encoder", model, frozen), {"enc.gian": np.array(1, np.float32)})
    with pytest.raises(BundleError, match="'encoder'"):
        runtime.load(GraphFile("encoder", model[:-40], frozen))
    with pytest.raises(BundleError, match="'empty'"):
        runtime.load(GraphFile("empty", b""))
    elsewhere = external("k.s", np.ones(3), "../../etc/passwd")
    escape = build(
        [helper.make_node("Mul", ["x", "k.s"], ["y"])], {"x": [3]}, {"y": [3]}, [elsewhere]
    )
    with pytest.raises(
        BundleError, match=r"'k.s' points to '../../etc/passwd'; only 'bundle:' is accepted"
    ):
        runtime.load(GraphFile("escape", escape, {"k.s": np.ones(3)}))
