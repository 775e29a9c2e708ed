"""The runtime keeps the contract that every runtime keeps: on each version of TensorRT, and in each
way of running.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from edgeadapt_tensorrt import TensorRT
from fake_device import LATE
from fake_tensorrt import VERSIONS
from tiny_models import build, step_graph

from edgeadapt.errors import InputError
from edgeadapt.runtime import GraphFile, Tensors
from edgeadapt.testing import check_runtime

pytest.importorskip("onnx")
from onnx import TensorProto, helper


@pytest.mark.parametrize("version", VERSIONS)
def test_the_contract_is_kept(tensorrt: Callable[[str], Any], version: str) -> None:
    tensorrt(version)
    check_runtime(TensorRT(cache=None), steps=60)


@pytest.mark.parametrize(
    "settings",
    [{"copy_limit": 0}, {"graphs": 0}, {"lanes": 1, "graphs": 1}, {"copy_limit": 1 << 30}],
    ids=str,
)
def test_the_contract_is_kept_in_every_way_of_running(trt: Any, settings: dict[str, int]) -> None:
    check_runtime(TensorRT(cache=None, **settings), steps=60)


@pytest.mark.parametrize("shares_memory", [False, True])
def test_the_contract_is_kept_by_a_device_that_is_late(
    trt: Any, device: Any, shares_memory: bool
) -> None:
    device.mode(LATE)
    if shares_memory:
        device.integrated()
    check_runtime(TensorRT(cache=None), steps=60)


def test_a_gpu_that_shares_its_memory_reads_ports_in_place(trt: Any, device: Any) -> None:
    x = np.arange(6, dtype=np.float32).reshape(2, 3)
    for is_shared, copies in ((False, (1, 1)), (True, (0, 0))):
        if is_shared:
            device.integrated()
        graph = TensorRT(cache=None).load(
            GraphFile(
                "neg",
                build([helper.make_node("Neg", ["x"], ["y"])], {"x": ["B", 3]}, {"y": ["B", 3]}),
            )
        )
        before = device.counts("to_device", "to_host")
        np.testing.assert_array_equal(graph({"x": x}, Tensors())[0]["y"], -x)
        after = device.counts("to_device", "to_host")
        assert (
            after["to_device"] - before["to_device"],
            after["to_host"] - before["to_host"],
        ) == copies


def test_every_dtype_of_a_bundle_crosses_the_boundary(runtime: Any) -> None:
    kinds = {
        "float32": TensorProto.FLOAT,
        "int64": TensorProto.INT64,
        "int32": TensorProto.INT32,
        "uint8": TensorProto.UINT8,
        "bool": TensorProto.BOOL,
    }
    nodes = [helper.make_node("Identity", [name], [f"out_{name}"]) for name in kinds]
    model = build(
        nodes,
        {n: (k, ["B", 2]) for n, k in kinds.items()},
        {f"out_{n}": (k, ["B", 2]) for n, k in kinds.items()},
    )
    ports = {name: np.array([[1, 0], [3, 1]]).astype(name) for name in kinds}
    outputs = runtime.load(GraphFile("all", model))(ports, Tensors())[0]
    for name, value in ports.items():
        assert outputs[f"out_{name}"].dtype == value.dtype and np.array_equal(
            outputs[f"out_{name}"], value
        )


def test_numbers_in_python_are_taken_if_the_dtype_can_hold_them(runtime: Any) -> None:
    model = build(
        [helper.make_node("Identity", ["n"], ["y"])],
        {"n": (TensorProto.INT64, [])},
        {"y": (TensorProto.INT64, [])},
    )
    graph = runtime.load(GraphFile("number", model))
    assert graph({"n": 7}, Tensors())[0]["y"] == 7
    with pytest.raises(InputError, match=r"'number': port 'n' takes int64\[\].* cannot hold 0.5"):
        graph({"n": 0.5}, Tensors())


def test_one_batch_has_one_size_in_a_call(runtime: Any) -> None:
    model = build(
        [helper.make_node("Add", ["a", "b"], ["y"])],
        {"a": ["B", 2], "b": ["B", 2]},
        {"y": ["B", 2]},
    )
    with pytest.raises(
        InputError, match=r"port 'b' takes float32\[B, 2\], got float32\[3, 2\], B = 2"
    ):
        runtime.load(GraphFile("sum", model))(
            {"a": np.ones((2, 2), np.float32), "b": np.ones((3, 2), np.float32)}, Tensors()
        )


def test_a_batch_above_the_usual_ones_gets_an_engine_once(runtime: Any, trt: Any) -> None:
    graph = runtime.load(
        GraphFile(
            "neg", build([helper.make_node("Neg", ["x"], ["y"])], {"x": ["B", 3]}, {"y": ["B", 3]})
        )
    )
    assert trt.fake.builds == 1
    for batch in (40, 64, 33, 2, 100):
        x = np.random.default_rng(batch).standard_normal((batch, 3)).astype(np.float32)
        np.testing.assert_array_equal(graph({"x": x}, Tensors())[0]["y"], -x)
    assert trt.fake.builds == 3 and any(
        "batch 40 is above 32, so an engine up to 64 is built" in note for note in runtime.notes
    )
    for batch in (0, 4097):
        with pytest.raises(InputError, match=f"takes batches of 1 to 4096, got {batch}"):
            graph({"x": np.ones((batch, 3), np.float32)}, Tensors())


def test_settings_that_cannot_be_are_refused(trt: Any) -> None:
    for settings in (
        {"batches": ()},
        {"batches": (0, 1)},
        {"batches": (8,), "largest_batch": 4},
        {"lanes": 0},
    ):
        with pytest.raises(InputError, match="at least 1"):
            TensorRT(cache=None, **settings)


def test_tensors_of_another_runtime_are_refused_and_named(runtime: Any, trt: Any) -> None:
    from edgeadapt_onnxruntime import OnnxRuntime

    values = {"W.w": np.zeros((2, 2), np.float32)}
    step = runtime.load(step_graph([2, 2]))
    for other in (OnnxRuntime(), TensorRT(cache=None)):
        foreign = other.upload(values)
        with pytest.raises(InputError, match=r"tensor 'W.w' is a .*Buffer of another runtime"):
            step({}, foreign)
        with pytest.raises(InputError, match=r"tensor 'W.w' is a .*Buffer of another runtime"):
            runtime.download(foreign)
    with pytest.raises(InputError, match=r"no tensor 'W.v' to download; there are: W.w"):
        runtime.download(runtime.upload(values), ["W.v"])
    with pytest.raises(InputError, match=r"'W.w' cannot be uploaded: dtype complex64"):
        runtime.upload({"W.w": np.zeros(2, np.complex64)})


def test_arrays_larger_than_the_stage_go_in_pieces(runtime: Any) -> None:
    rng = np.random.default_rng(0)
    values = {
        f"t.t{k}": rng.standard_normal(size).astype(np.float32)
        for k, size in enumerate((3, 1_500_000, 0, 1_048_576, 77, 2_100_000))
    }
    back = runtime.download(runtime.upload(values))
    for name, value in values.items():
        np.testing.assert_array_equal(back[name], value)
