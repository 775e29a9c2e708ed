"""Faults of one batch, one graph, one family or one device: what goes back to the CPU, and what
stays.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import pytest
from edgeadapt_onnxruntime._executable import OnnxExecutable
from fake_runtimes import (
    BuildsConstants,
    Hangs,
    MadeUp,
    OutOfMemory,
    WrongInTheEnd,
    batch,
    learn_graph,
    predict_graph,
    scale_graph,
    table,
)
from placement_trials import drive, rows, settle

from edgeadapt.errors import InputError, RuntimeUnavailable
from edgeadapt.placement import PlacedRuntime
from edgeadapt.runtime import GraphFile, Tensors

Open = Callable[..., PlacedRuntime]
Register = Callable[..., None]


def where(runtime: PlacedRuntime, graph: str = "check-predict") -> dict[str, str]:
    return {row["batch"]: row["where"] for row in rows(runtime, graph)}


def folded(runtime: PlacedRuntime, first: float) -> Any:
    return runtime.load(scale_graph(), {"k.scale": np.array([first, 2, 3], np.float32)})


def scale(run: Any, size: int) -> Any:
    return run({"x": np.ones((size, 3), np.float32)}, Tensors())[0]["y"]


# -- one batch -------------------------------------------------------------------------------------
class Profiled(MadeUp):
    """A batch above its profile is a failure like any other, as ONNX Runtime has it."""

    largest = 32

    def before_call(self, name: str, ports: Mapping[str, Any]) -> None:
        super().before_call(name, ports)
        if len(ports["x"]) > self.largest:
            raise RuntimeUnavailable("graph 'check-predict' failed: input shape out of profile")


def test_a_batch_that_a_candidate_cannot_take_leaves_the_others_there(
    slow_cpu: dict[str, Any], register: Register, opened: Open
) -> None:
    register(Profiled)
    runtime = opened()
    tensors, run = runtime.upload(table()), runtime.load(predict_graph())
    for size in (1, 8):
        drive(runtime, lambda: run({"x": batch(size)}, tensors))  # noqa: B023
    drive(runtime, lambda: run({"x": batch(40)}, tensors), 4)
    assert where(runtime) == {"1": "made-up", "5-8": "made-up", "33-64": "onnxruntime"}
    row = next(row for row in rows(runtime, "check-predict") if row["batch"] == "33-64")
    assert (
        "out of profile" in row["why"]
        and not row["refused"]
        and "batch 33-64, does not run in made-up" in runtime.report()["notes"][-1]
    )


def test_a_range_that_fails_later_goes_back_alone_and_a_second_one_takes_the_graph_with_it(
    slow_cpu: dict[str, Any], register: Register, opened: Open
) -> None:
    register(Profiled)
    runtime = opened()
    tensors, run = runtime.upload(table()), runtime.load(predict_graph())
    for size in (1, 4, 8):
        drive(runtime, lambda: run({"x": batch(size)}, tensors))  # noqa: B023
    candidate = Profiled.opened[0]
    candidate.largest = 4
    np.testing.assert_allclose(
        run({"x": batch(8)}, tensors)[0]["y"], batch(8) @ table()["w.table"], atol=1e-3
    )
    assert where(runtime) == {"1": "made-up", "3-4": "made-up", "5-8": "onnxruntime"}
    candidate.largest = 2
    run({"x": batch(4)}, tensors)
    assert (
        set(where(runtime).values()) == {"onnxruntime"}
        and "out of profile" in rows(runtime, "check-predict")[0]["refused"]["made-up"]
    )


def test_what_was_taken_back_while_it_stood_aside_stays_there(
    slow_cpu: dict[str, Any], register: Register, opened: Open
) -> None:
    register(MadeUp)
    runtime = opened()
    tensors, run = runtime.upload(table()), runtime.load(predict_graph())
    for size in (1, 8):
        drive(runtime, lambda: run({"x": batch(size)}, tensors))  # noqa: B023
    one, eight = run.routes
    with run.paused_at(runtime.places[1]):
        assert one.live is None and eight.live is None
        run.leave(one, runtime.places[1], "it refuses a batch that was under way")
    assert one.live is None and "under way" in one.why and eight.live is not None


def test_a_batch_refused_when_it_is_compared_again_is_not_served_there(
    slow_cpu: dict[str, Any], register: Register, opened: Open
) -> None:
    class Strict(MadeUp):
        def before_call(self, name: str, ports: Mapping[str, Any]) -> None:
            if self.is_broken and threading.current_thread().name.startswith("placement"):
                raise InputError("x is not contiguous")

    register(Strict)
    runtime = opened()
    tensors, run = runtime.upload(table()), runtime.load(predict_graph())
    drive(runtime, lambda: run({"x": batch(8)}, tensors))
    Strict.opened[0].is_broken = True
    drive(runtime, lambda: run({"x": batch(8)}, tensors), 12)
    (row,) = rows(runtime, "check-predict")
    assert row["where"] == "onnxruntime" and "not contiguous" in row["why"]


# -- comparing again -------------------------------------------------------------------------------
def test_what_is_wrong_from_its_first_calls_there_goes_back_after_a_few_however_many_the_cpu_served(
    slow_cpu: dict[str, Any], register: Register, opened: Open
) -> None:
    class Late(Hangs, WrongInTheEnd):
        let_go, began = threading.Event(), threading.Event()

    slow_cpu["ms"] = 0.0
    register(Late)
    runtime = opened()
    tensors, run = runtime.upload(table()), runtime.load(predict_graph())
    try:
        for _ in range(1100):  # the next power of two is 2048
            run({"x": batch(8)}, tensors)
    finally:
        Late.let_go.set()
    slow_cpu["ms"] = 3.0
    settle(runtime)
    while runtime.where(run) != "made-up":
        drive(runtime, lambda: run({"x": batch(8)}, tensors), 1)
    Late.opened[0].is_wrong = True
    drive(runtime, lambda: run({"x": batch(8)}, tensors), 5)
    assert runtime.where(run) == "onnxruntime"


def test_comparisons_that_only_ever_tie_send_the_graph_back(
    slow_cpu: dict[str, Any], register: Register, opened: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Flips(MadeUp):
        flips = False

        def after_call(self, name: str, outputs: Any, written: Tensors) -> Any:
            y = np.rint(outputs["y"])
            y[0, 0] += self.flips
            return {"y": y}, written

    original = OnnxExecutable.__call__

    def rounded(self: Any, ports: Any, held: Any) -> Any:
        outputs, written = original(self, ports, held)
        return {name: np.rint(value) for name, value in outputs.items()}, written

    monkeypatch.setattr(OnnxExecutable, "__call__", rounded)
    register(Flips)
    runtime = opened()
    tensors, run = runtime.upload(table()), runtime.load(predict_graph())
    drive(runtime, lambda: run({"x": batch(8)}, tensors), 8)
    (route,) = run.routes
    assert runtime.where(run) == "made-up"
    while route.served != 16:
        drive(runtime, lambda: run({"x": batch(8)}, tensors), 1)
    Flips.opened[0].flips = True
    drive(runtime, lambda: run({"x": batch(8)}, tensors), 3)
    assert runtime.where(run) == "made-up" and route.ties == 3  # one after the other: 17, 18, 19
    drive(runtime, lambda: run({"x": batch(8)}, tensors), 1)
    assert (
        runtime.where(run) == "onnxruntime"
        and "4 calls, which ties alone do not explain"
        in rows(runtime, "check-predict")[0]["refused"]["made-up"]
    )


# -- one family ------------------------------------------------------------------------------------
def test_what_refutes_one_takes_back_all_that_differ_in_constants_alone(
    slow_cpu: dict[str, Any], register: Register, opened: Open
) -> None:
    register(WrongInTheEnd)
    runtime = opened()
    load = runtime._reference.load

    # as a real encoder: other constants are an upload elsewhere, not here
    def slowly(*arguments: Any) -> Any:
        time.sleep(0.05)
        return load(*arguments)

    runtime._reference.load = slowly  # type: ignore[method-assign]
    first = folded(runtime, 1)
    for size in (1, 4):
        drive(runtime, lambda: scale(first, size))  # noqa: B023
    second, third = folded(runtime, 5), folded(runtime, 7)
    drive(runtime, lambda: scale(second, 1), 1)
    assert (runtime.where(first), runtime.where(second)) == ("made-up", "made-up")
    WrongInTheEnd.opened[0].is_wrong = True
    drive(runtime, lambda: scale(first, 1), 40)
    assert runtime.where(first) == "onnxruntime"
    for run, k in ((second, 5), (third, 7)):
        for size in (1, 4):  # of a range that was met before, and of a new one
            np.testing.assert_array_equal(
                scale(run, size), np.tile(np.float32([k, 2, 3]), (size, 1))
            )
        assert runtime.where(run) == "onnxruntime"


def test_what_runs_where_others_would_be_a_build_stays_there(
    slow_cpu: dict[str, Any], register: Register, opened: Open
) -> None:
    register(BuildsConstants)
    runtime = opened()
    first = folded(runtime, 1)
    drive(runtime, lambda: scale(first, 4))
    folded(runtime, 5)
    drive(runtime, lambda: scale(first, 1))
    assert {route.batches: route.where("onnxruntime") for route in first.routes} == {
        "3-4": "made-up",
        "1": "made-up",
    }


# -- tensors ---------------------------------------------------------------------------------------
class FailsToDownload(MadeUp):
    """So many downloads fail, on the threads whose name starts like this."""

    failures, thread = 0, ""

    def download(self, tensors: Tensors, names: Any = None) -> Any:
        if self.failures and threading.current_thread().name.startswith(self.thread):
            self.failures -= 1
            raise OutOfMemory("no room for a staging buffer of 65536 bytes")
        return super().download(tensors, names)


@pytest.mark.parametrize(
    ("thread", "failures", "is_lost"),
    [("placement", 1, False), ("MainThread", 1, False), ("MainThread", 2, True)],
)
def test_a_download_that_fails_once_loses_nothing(
    thread: str,
    failures: int,
    is_lost: bool,
    slow_cpu: dict[str, Any],
    register: Register,
    opened: Open,
) -> None:
    register(FailsToDownload)
    runtime = opened()
    held, learn = [runtime.upload(table())], runtime.load(learn_graph())

    def step() -> None:
        held[0] = learn({"amount": np.float32(1)}, held[0])[1].over(held[0])

    drive(runtime, step, 9)
    candidate = FailsToDownload.opened[0]
    assert runtime.where(learn) == "made-up"
    candidate.thread, candidate.failures = thread, failures
    if thread == "placement":
        drive(runtime, step, 16)  # one of them is compared again
        assert candidate.failures == 0 and runtime.where(learn) == "onnxruntime"
    elif is_lost:
        with pytest.raises(RuntimeUnavailable, match="lies only in 'made-up'"):
            runtime.download(held[0])
    assert bool(runtime.lost) is is_lost
    steps = 25 if thread == "placement" else 9
    np.testing.assert_allclose(
        runtime.download(held[0])["w.table"], table()["w.table"] + steps, atol=1e-4
    )


def test_what_a_graph_writes_itself_does_not_count_as_brought(
    slow_cpu: dict[str, Any], register: Register, opened: Open
) -> None:
    """Its own table is new at each call and lies where it runs; the other tensor never changes."""
    onnx = pytest.importorskip("onnx")
    helper, number = onnx.helper, onnx.TensorProto.FLOAT

    class SlowUploads(MadeUp):
        def before_upload(self) -> None:
            time.sleep(0.03)

    inputs = [("amount", []), ("w.table", [256, 64]), ("k.one", [1])]
    graph = helper.make_graph(
        [
            helper.make_node("Add", ["w.table", "amount"], ["sum"]),
            helper.make_node("Mul", ["sum", "k.one"], ["w.table.next"]),
        ],
        "step",
        [helper.make_tensor_value_info(name, number, shape) for name, shape in inputs],
        [helper.make_tensor_value_info("w.table.next", number, [256, 64])],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    slow_cpu["ms"] = 10.0
    register(SlowUploads)
    runtime = opened()
    run = runtime.load(GraphFile("step", model.SerializeToString()))
    held = [runtime.upload({"w.table": table()["w.table"], "k.one": np.ones(1, np.float32)})]

    def step() -> None:
        held[0] = run({"amount": np.float32(0.1)}, held[0])[1].over(held[0])

    drive(runtime, step, 10)
    (row,) = rows(runtime, "step")
    assert row["where"] == "made-up", (row["why"], row["tried"], row["refused"])
