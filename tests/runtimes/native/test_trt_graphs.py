"""CUDA graphs: recorded after a warm run, replayed for the same addresses, bounded, and never
needed.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from edgeadapt_tensorrt import DeviceError, TensorRT
from edgeadapt_tensorrt._executable import Lanes
from fake_device import Interface
from tiny_models import build, step_graph

from edgeadapt.runtime import GraphFile, Tensors

pytest.importorskip("onnx")
from onnx import helper


def lane(executable: Any) -> Any:
    """The one lane that was used."""
    return next(iter(executable.engines.lanes.values())).idle[-1]


def affine(rows: int = 8, wide: int = 3) -> GraphFile:
    """y = x @ w + b"""
    nodes = [
        helper.make_node("MatMul", ["x", "d.w"], ["m"]),
        helper.make_node("Add", ["m", "d.b"], ["y"]),
    ]
    return GraphFile(
        "affine",
        build(nodes, {"x": ["B", rows], "d.w": [rows, wide], "d.b": [wide]}, {"y": ["B", wide]}),
    )


def test_the_third_run_is_recorded_and_the_fourth_only_replayed(
    runtime: Any, trt: Any, device: Any
) -> None:
    graph, x = runtime.load(affine()), np.ones((2, 8), np.float32)
    tensors = runtime.upload({"d.w": np.ones((8, 3), np.float32), "d.b": np.zeros(3, np.float32)})
    enqueued, graphs, launches = [], [], []
    for k in range(6):
        assert np.all(graph({"x": k * x}, tensors)[0]["y"] == 8 * k)
        enqueued.append(trt.fake.enqueued)
        graphs.append(lane(graph).graph_count)
        launches.append(device.count("launches"))
    assert (
        enqueued == [1, 2, 3, 3, 3, 3]
        and graphs == [0, 0, 1, 1, 1, 1]
        and launches == [1, 2, 3, 4, 5, 6]
    )


def test_each_shape_has_a_graph_and_the_oldest_goes(trt: Any, device: Any) -> None:
    runtime = TensorRT(cache=None, graphs=3)
    graph = runtime.load(affine())
    tensors = runtime.upload({"d.w": np.ones((8, 3), np.float32), "d.b": np.zeros(3, np.float32)})
    before = device.count("graphs")
    for batch in (8, 1, 2, 3, 4, 5, 1, 5):
        for _ in range(3):
            assert np.all(graph({"x": np.ones((batch, 8), np.float32)}, tensors)[0]["y"] == 8)
    assert lane(graph).graph_count == 3 and device.count("graphs") - before == 3


def test_a_learning_loop_replays_because_addresses_come_back(runtime: Any, trt: Any) -> None:
    step = runtime.load(step_graph([200, 200]))
    state = runtime.upload({"W.w": np.zeros((200, 200), np.float32)})
    for _ in range(12):
        state = step({}, state)[1].over(state)
    before = trt.fake.enqueued
    for _ in range(40):
        state = step({}, state)[1].over(state)
    assert trt.fake.enqueued == before and float(state["W.w"].numpy()[0, 0]) == 52


def test_a_domain_switch_copies_its_small_tensors_and_records_nothing(
    runtime: Any, trt: Any, device: Any
) -> None:
    graph, x = runtime.load(affine(200, 200)), {"x": np.ones((1, 200), np.float32)}
    shared = runtime.upload({"d.w": np.ones((200, 200), np.float32)})
    domains = [runtime.upload({"d.b": np.full(200, k, np.float32)}).over(shared) for k in range(5)]
    for _ in range(4):
        graph(x, domains[0])
    before = (
        trt.fake.enqueued,
        device.counts("on_device", "on_device_bytes", "to_host", "to_device"),
    )
    for k in (3, 3, 1, 4, 4, 0):
        assert np.all(graph(x, domains[k])[0]["y"] == 200 + k)
    after = trt.fake.enqueued, device.counts("on_device", "on_device_bytes", "to_host", "to_device")
    assert after[0] == before[0]
    assert {name: after[1][name] - before[1][name] for name in after[1]} == {
        "on_device": 4,
        "on_device_bytes": 4 * 800,
        "to_host": 6,
        "to_device": 6,
    }


@pytest.mark.parametrize("copy_limit", [0, 64 << 10])
def test_no_tensor_visits_the_host_between_steps(trt: Any, device: Any, copy_limit: int) -> None:
    runtime = TensorRT(cache=None, copy_limit=copy_limit)
    step = runtime.load(step_graph([64, 64]))
    state = runtime.upload({"W.w": np.zeros((64, 64), np.float32)})
    before = device.counts("to_device", "to_host", "pageable")
    for _ in range(20):
        state = step({}, state)[1].over(state)
    assert device.counts("to_device", "to_host", "pageable") == before
    state["W.w"].numpy()
    assert device.count("to_host") == before["to_host"] + 1


def test_what_cannot_be_recorded_runs_plainly_and_is_noted_once(
    runtime: Any, trt: Any, device: Any
) -> None:
    trt.fake.refuses_capture = True
    graph = runtime.load(affine())
    tensors = runtime.upload({"d.w": np.ones((8, 3), np.float32), "d.b": np.zeros(3, np.float32)})
    for k in range(8):
        assert np.all(graph({"x": np.full((2, 8), k, np.float32)}, tensors)[0]["y"] == 8 * k)
    assert lane(graph).graph_count == 0
    assert [note for note in runtime.notes if "runs without a CUDA graph" in note] == list(
        runtime.notes
    ) and len(runtime.notes) == 1


@pytest.mark.parametrize(
    "function",
    [
        "cudaStreamBeginCapture",
        "cudaStreamEndCapture",
        "cudaGraphInstantiateWithFlags",
        "cudaGraphLaunch",
        "cudaGraphDestroy",
    ],
)
def test_a_failure_while_recording_is_survived(runtime: Any, device: Any, function: str) -> None:
    graph = runtime.load(affine())
    tensors = runtime.upload({"d.w": np.ones((8, 3), np.float32), "d.b": np.zeros(3, np.float32)})
    device.fail(function, code=1)
    answers = []
    for k in range(6):
        try:
            answers.append(
                graph({"x": np.full((2, 8), k, np.float32)}, tensors)[0]["y"][0, 0] == 8 * k
            )
        except Exception as error:
            assert function == "cudaGraphLaunch" and function in str(error)
    assert all(answers) and len(answers) >= 5


def test_a_larger_stage_forgets_the_graphs_that_used_the_old_one(runtime: Any) -> None:
    graph = runtime.load(affine())
    tensors = runtime.upload({"d.w": np.ones((8, 3), np.float32), "d.b": np.zeros(3, np.float32)})
    for batch in (1, 1, 1, 1, 32, 1, 1, 1, 1, 32, 32):
        assert np.all(
            graph({"x": np.full((batch, 8), batch, np.float32)}, tensors)[0]["y"] == 8 * batch
        )
    assert lane(graph).graph_count == 2


def test_graphs_that_would_read_an_old_stage_or_slot_are_forgotten(runtime: Any) -> None:
    """Two free axes: the second shape needs a larger slot in a stage of the same size, the third a
    larger stage and no larger slot.
    """
    nodes = [helper.make_node("Neg", ["a"], ["na"]), helper.make_node("Neg", ["b"], ["nb"])]
    graph = runtime.load(
        GraphFile(
            "two", build(nodes, {"a": ["A", 8], "b": ["B", 8]}, {"na": ["A", 8], "nb": ["B", 8]})
        )
    )
    counts: list[int] = []
    for sizes in ((30, 1), (1, 30), (30, 30), (30, 1)):
        for k in range(4):
            a, b = (np.full((size, 8), k + size, np.float32) for size in sizes)
            outputs = graph({"a": a, "b": b}, Tensors())[0]
            assert np.array_equal(outputs["na"], -a) and np.array_equal(outputs["nb"], -b)
        counts.append(lane(graph).graph_count)
    assert counts == [1, 1, 1, 2]


def test_the_graph_that_was_launched_last_stays(trt: Any) -> None:
    runtime = TensorRT(cache=None, graphs=2)
    graph = runtime.load(affine())
    tensors = runtime.upload({"d.w": np.ones((8, 3), np.float32), "d.b": np.zeros(3, np.float32)})

    def run(batch: int, times: int) -> int:
        before = trt.fake.enqueued
        for _ in range(times):
            graph({"x": np.ones((batch, 8), np.float32)}, tensors)
        return int(trt.fake.enqueued - before)

    for batch in (3, 2):
        run(batch, 4)
    assert run(3, 1) == 0
    run(1, 4)
    assert run(3, 1) == 0 and run(2, 1) == 1


def test_a_device_array_that_is_copied_into_the_slot_is_not_taken_for_a_host_array(
    runtime: Any, device: Any
) -> None:
    """Both end at the address of the slot, but only one comes from the stage."""
    graph, host = runtime.load(affine()), np.ones((2, 8), np.float32)
    tensors = runtime.upload({"d.w": np.ones((8, 3), np.float32), "d.b": np.zeros(3, np.float32)})
    theirs = Interface(device, 5 * host, shift=16)
    for _ in range(5):
        assert np.all(graph({"x": host}, tensors)[0]["y"] == 8)
    for _ in range(5):
        assert np.all(graph({"x": theirs}, tensors)[0]["y"] == 40)
        assert np.all(graph({"x": host}, tensors)[0]["y"] == 8)


def test_after_a_failure_no_slot_is_trusted(runtime: Any, trt: Any, device: Any) -> None:
    graph, x = runtime.load(affine()), {"x": np.ones((2, 8), np.float32)}
    tensors = runtime.upload({"d.w": np.ones((8, 3), np.float32), "d.b": np.zeros(3, np.float32)})
    copies = []
    trt.fake.fails_at = 2
    for _ in range(4):
        before = device.count("on_device")
        try:
            graph(x, tensors)
        except DeviceError:
            copies.append(-1)
        else:
            copies.append(device.count("on_device") - before)
    assert copies == [2, -1, 2, 0]


def test_a_lane_of_a_rare_graph_is_closed_even_where_somebody_holds_it(
    runtime: Any, device: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    held, take = [], Lanes._take

    def take_and_hold(lanes: Lanes) -> Any:
        held.append(take(lanes))
        return held[-1]

    monkeypatch.setattr(Lanes, "_take", take_and_hold)
    file = step_graph([64, 64])
    rare = runtime.load(GraphFile(file.name, file.model, is_rare=True))
    state = runtime.upload({"W.w": np.zeros((64, 64), np.float32)})
    streams = device.count("streams")
    for _ in range(3):
        state = rare({}, state)[1].over(state)
        assert device.count("streams") == streams and device.is_idle()
    assert len(held) == 3 and np.all(state["W.w"].numpy() == 3)


def test_a_graph_that_runs_rarely_keeps_no_memory(runtime: Any, device: Any) -> None:
    file = step_graph([64, 64])
    rare = runtime.load(GraphFile(file.name, file.model, is_rare=True))
    state = runtime.upload({"W.w": np.zeros((64, 64), np.float32)})
    used, graphs = runtime.pool.arena.used, device.count("graphs")
    for _ in range(5):
        state = rare({}, state)[1].over(state)
        assert device.is_idle()
    assert np.all(state["W.w"].numpy() == 5)
    runtime.pool.reclaim()
    assert runtime.pool.arena.used == used and device.count("graphs") == graphs


def test_without_graphs_everything_is_enqueued(trt: Any) -> None:
    runtime = TensorRT(cache=None, graphs=0)
    graph = runtime.load(
        GraphFile("neg", build([helper.make_node("Neg", ["x"], ["y"])], {"x": ["B"]}, {"y": ["B"]}))
    )
    for _ in range(5):
        graph({"x": np.ones(2, np.float32)}, Tensors())
    assert trt.fake.enqueued == 5 and trt.fake.contexts == 2
