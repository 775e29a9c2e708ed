"""What is asked of TensorRT's builder on each version, and what becomes of every refusal."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from edgeadapt_tensorrt import DeviceError, EngineError, Flags, OutOfDeviceMemory, TensorRT
from edgeadapt_tensorrt._logger import listening, process_logger
from fake_tensorrt import VERSIONS
from tiny_models import FLOAT, build, external, predict_graph, step_graph

from edgeadapt.errors import BundleError, RuntimeUnavailable
from edgeadapt.runtime import GraphFile, Tensors

pytest.importorskip("onnx")
from onnx import TensorProto, helper, numpy_helper


@pytest.mark.parametrize("version", VERSIONS)
def test_networks_are_strongly_typed_without_tf32_within_a_limit(
    tensorrt: Callable[[str], Any], version: str
) -> None:
    trt = tensorrt(version)
    assert hasattr(trt.BuilderFlag, "FP16") == (version < "11") and hasattr(
        trt.NetworkDefinitionCreationFlag, "EXPLICIT_BATCH"
    ) == (version < "11")
    TensorRT(cache=None, batches=(1, 4, 16), flags=Flags(workspace_mib=64, level=2)).load(
        predict_graph(4, 2)
    )
    built = trt.fake.built[0]
    assert built.network.is_strong and not built.config.flags & {"TF32", "FP16", "INT8", "BF16"}
    assert (
        built.config.limits == {"WORKSPACE": 64 << 20}
        and built.config.builder_optimization_level == 2
    )
    assert built.config.profiles[0].shapes == {"x": [[1, 4], [4, 4], [16, 4]]}


def test_tf32_stays_on_only_where_it_is_asked_for(trt: Any) -> None:
    TensorRT(cache=None, flags=Flags(tf32=True)).load(predict_graph(4, 2))
    assert "TF32" in trt.fake.built[0].config.flags


def test_a_graph_without_a_free_axis_needs_no_profile(runtime: Any, trt: Any) -> None:
    runtime.load(step_graph([2, 2]))
    assert trt.fake.built[0].config.profiles == []


def one_node(operator: str, outputs: Any, **attributes: Any) -> GraphFile:
    node = helper.make_node(operator, ["x"], ["y"], name="where_it_is", **attributes)
    return GraphFile("odd", build([node], {"x": ["B", 3]}, {"y": outputs}))


def test_an_unsupported_operator_is_named_with_its_node(runtime: Any) -> None:
    with pytest.raises(
        EngineError,
        match=(
            r"'odd': TensorRT 10.16.2.10 does not take NonZero at node 'where_it_is': Plugin not"
            r" found for operator NonZero \(UNSUPPORTED_NODE\)"
        ),
    ):
        runtime.load(one_node("NonZero", (TensorProto.INT64, [2, "found"])))


def test_a_scatter_that_adds_is_named(runtime: Any) -> None:
    indices = numpy_helper.from_array(np.zeros((1, 3), np.int64), "i")
    node = helper.make_node("ScatterElements", ["x", "i", "x"], ["y"], name="s", reduction="add")
    with pytest.raises(
        EngineError, match=r"ScatterElements at node 's': reduction is not supported"
    ):
        runtime.load(GraphFile("scatter", build([node], {"x": [1, 3]}, {"y": [1, 3]}, [indices])))


def test_a_builder_that_gives_nothing_is_an_error_with_its_words(runtime: Any, trt: Any) -> None:
    trt.fake.refuses_to_build = True
    with pytest.raises(
        EngineError,
        match=(
            r"'step': TensorRT 10.16.2.10 parsed it and does not build it. TensorRT said: error:"
            r" .*Could not find any implementation for node"
        ),
    ):
        runtime.load(step_graph([2, 2]))
    trt.fake.refuses_to_build = False
    assert runtime.load(step_graph([2, 2]))


def test_a_plan_that_does_not_load_is_an_error_with_its_words(runtime: Any, trt: Any) -> None:
    trt.fake.refuses_to_load = True
    with pytest.raises(
        EngineError,
        match=r"cannot load the plan that it built. TensorRT said: .*kEXPECTED_MAGIC_TAG failed",
    ):
        runtime.load(step_graph([2, 2]))


def test_float64_at_the_boundary_is_refused_because_it_would_be_narrowed(runtime: Any) -> None:
    model = build(
        [helper.make_node("Neg", ["x"], ["y"])],
        {"x": (TensorProto.DOUBLE, ["B"])},
        {"y": (TensorProto.DOUBLE, ["B"])},
    )
    with pytest.raises(EngineError, match=r"makes 'x' float32 where the graph has float64"):
        runtime.load(GraphFile("narrow", model))


def test_an_input_that_is_an_output_is_refused_because_it_would_be_renamed(runtime: Any) -> None:
    model = build([helper.make_node("Neg", ["x"], ["y"])], {"x": [2]}, {"y": [2], "x": [2]})
    with pytest.raises(EngineError, match=r"makes an input '__x' that the graph does not have"):
        runtime.load(GraphFile("renamed", model))


@pytest.mark.parametrize(
    ("version", "is_asked"),
    [("10.3.0", False), ("10.13.3.9", False), ("10.16.2.10", True), ("11.4.1.9", True)],
)
def test_an_output_over_its_input_is_refused_where_the_version_can_tell(
    tensorrt: Callable[[str], Any], version: str, is_asked: bool
) -> None:
    trt = tensorrt(version)
    trt.fake.aliases["W.w.next"] = "W.w"
    if not is_asked:
        assert TensorRT(cache=None).load(step_graph([2, 2]))
        return
    with pytest.raises(EngineError, match=r"writes 'W.w.next' over its input"):
        TensorRT(cache=None).load(step_graph([2, 2]))


def test_an_input_that_decides_a_shape_is_refused(runtime: Any, trt: Any) -> None:
    node = helper.make_node("Reshape", ["x", "shape"], ["y"])
    model = build([node], {"x": [4], "shape": (TensorProto.INT64, [2])}, {"y": [2, 2]})
    with pytest.raises(
        EngineError, match=r"input 'shape' decides a shape, so TensorRT wants it on the host"
    ):
        runtime.load(GraphFile("reshape", model))
    trt.fake.on_host.add("W.w")
    with pytest.raises(EngineError, match=r"wants 'W.w' on the host"):
        runtime.load(step_graph([2, 2]))


def test_an_output_whose_shape_depends_on_data_is_refused(runtime: Any) -> None:
    graph = runtime.load(one_node("Relu", ["found", 3]))
    with pytest.raises(EngineError, match=r"the shape of 'y' depends on data \(\[-1, 3\]\)"):
        graph({"x": np.ones((2, 3), np.float32)}, Tensors())


def test_only_the_first_logger_counts_so_there_is_one(runtime: Any, trt: Any) -> None:
    TensorRT(cache=None).load(step_graph([2, 2]))
    assert len(trt.fake.loggers) == 1 and process_logger(trt) is trt.fake.loggers[0]

    class Second(trt.ILogger):
        def log(self, severity: Any, message: str) -> None:
            raise AssertionError("ignored")

    with listening() as lines:
        trt.Builder(Second())
    assert "differs from one already registered" in lines[0]


def test_where_another_logger_came_first_an_error_says_so(trt: Any) -> None:
    class First(trt.ILogger):
        def log(self, severity: Any, message: str) -> None:
            pass

    trt.Builder(First())
    trt.fake.refuses_to_build = True
    with pytest.raises(
        EngineError,
        match="TensorRT said nothing; if another part of this process gave it a logger first",
    ):
        TensorRT(cache=None).load(step_graph([2, 2]))


def test_a_builder_that_cannot_start_is_an_error(
    runtime: Any, trt: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(self: Any, logger: Any) -> None:
        raise TypeError("pybind11::init(): factory function returned nullptr")

    monkeypatch.setattr(trt.Builder, "__init__", refuse)
    with pytest.raises(
        RuntimeUnavailable,
        match=r"cannot build here: pybind11::init\(\): factory function returned nullptr",
    ):
        runtime.load(step_graph([2, 2]))


def test_a_context_that_is_refused_is_named_and_a_later_call_may_succeed(
    runtime: Any, trt: Any
) -> None:
    step = runtime.load(step_graph([2, 2]))
    state = runtime.upload({"W.w": np.zeros((2, 2), np.float32)})
    for words, error in (
        (
            "Error Code 2: OutOfMemory (Requested size was 1 bytes; out of memory)",
            OutOfDeviceMemory,
        ),
        ("Error Code 1: Internal Error", DeviceError),
    ):
        trt.fake.refuses_context = words
        with pytest.raises(
            error,
            match=r"'step': TensorRT gives no execution context. TensorRT said: error: Error Code",
        ):
            step({}, state)
    trt.fake.refuses_context = ""
    assert float(step({}, state)[1]["W.w"].numpy()[0, 0]) == 1


def test_an_enqueue_that_fails_leaves_the_inputs_and_the_executable(runtime: Any, trt: Any) -> None:
    step = runtime.load(step_graph([2, 2]))
    state = runtime.upload({"W.w": np.zeros((2, 2), np.float32)})
    trt.fake.fails_at = 2
    step({}, state)
    with pytest.raises(
        DeviceError,
        match=(
            r"'step' failed in TensorRT 10.16.2.10. TensorRT said: error: .*Cask convolution"
            r" execution"
        ),
    ):
        step({}, state)
    assert state["W.w"].numpy().tolist() == [[0, 0], [0, 0]]
    assert float(step({}, state)[1]["W.w"].numpy()[0, 0]) == 1


def scaled(value: float) -> dict[str, Any]:
    return {"k.scale": np.full(3, value, np.float32), "k.shift": np.full(3, 1, np.float32)}


def affine() -> bytes:
    nodes = [
        helper.make_node("Mul", ["x", "k.scale"], ["m"]),
        helper.make_node("Add", ["m", "k.shift"], ["y"]),
    ]
    return build(
        nodes,
        {"x": ["B", 3]},
        {"y": ["B", 3]},
        [external(name, value) for name, value in scaled(1).items()],
    )


def test_new_constants_are_an_upload_and_not_a_build(runtime: Any, trt: Any) -> None:
    """A re-folded encoder comes with every refresh of a correction; on a Jetson a build takes
    minutes.
    """
    graph, x = GraphFile("affine", affine(), scaled(2)), np.ones((2, 3), np.float32)
    assert runtime.load(graph)({"x": x}, Tensors())[0]["y"].tolist() == [[3, 3, 3]] * 2
    for value in range(5, 25):
        refolded = runtime.load(graph, {"k.scale": np.full(3, value, np.float32)})
        assert refolded({"x": x}, Tensors())[0]["y"].tolist() == [[value + 1] * 3] * 2
        assert not refolded.signature.reads
    assert (
        trt.fake.builds == 2
        and runtime.load(graph)({"x": x}, Tensors())[0]["y"].tolist() == [[3, 3, 3]] * 2
    )
    with pytest.raises(
        BundleError, match=r"has no frozen tensor 'k.scael' to replace; it has: k.scale, k.shift"
    ):
        runtime.load(graph, {"k.scael": np.ones(3, np.float32)})


def test_where_a_weight_must_be_constant_each_set_is_a_build(runtime: Any, trt: Any) -> None:
    trt.fake.refuses_inputs = {"k.scale"}
    graph, x = GraphFile("affine", affine(), scaled(2)), np.ones((1, 3), np.float32)
    for value in (5, 6):
        assert runtime.load(graph, {"k.scale": np.full(3, value, np.float32)})({"x": x}, Tensors())[
            0
        ]["y"].tolist() == [[value + 1] * 3]
    assert trt.fake.builds == 4 and "with k.scale as inputs it does not build" in runtime.notes[0]


def test_a_float16_weight_and_a_scalar_are_injected(runtime: Any) -> None:
    frozen = {"k.half": np.array([0.5, 2], np.float16), "k.one": np.array(3, np.float32)}
    nodes = [
        helper.make_node("Cast", ["k.half"], ["h"], to=FLOAT),
        helper.make_node("Mul", ["x", "h"], ["m"]),
        helper.make_node("Add", ["m", "k.one"], ["y"]),
    ]
    model = build(
        nodes,
        {"x": ["B", 2]},
        {"y": ["B", 2]},
        [external(name, value) for name, value in frozen.items()],
    )
    assert runtime.load(GraphFile("half", model, frozen))(
        {"x": np.ones((1, 2), np.float32)}, Tensors()
    )[0]["y"].tolist() == [[3.5, 5]]
