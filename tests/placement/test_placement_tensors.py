"""Tensors over several runtimes: copied when they are read, once; let go together; threads, and
what trials leave behind.
"""

from __future__ import annotations

import gc
import threading
import time
import weakref
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from edgeadapt_onnxruntime import OnnxRuntime
from fake_runtimes import (
    BuildsConstants,
    Hangs,
    MadeUp,
    WrongInTheEnd,
    batch,
    learn_graph,
    predict_graph,
    scale_graph,
    table,
)
from placement_trials import drive, rows, settle

from edgeadapt.errors import InputError
from edgeadapt.placement import PlacedRuntime, Rules
from edgeadapt.placement.places import PlacedBuffer


def copies(runtime: PlacedRuntime) -> dict[tuple[str, str], tuple[int, int]]:
    return {
        (row["from"], row["to"]): (row["count"], row["bytes"])
        for row in runtime.report()["copies"]
        if not row["is_trial"]
    }


def test_a_tensor_crosses_once_and_only_when_it_is_read(
    slow_cpu: dict[str, Any], register: Callable[..., None], opened: Callable[..., PlacedRuntime]
) -> None:
    register(MadeUp)
    runtime = opened()
    tensors, predict = runtime.upload(table()), runtime.load(predict_graph())
    drive(runtime, lambda: predict({"x": batch(8)}, tensors))
    # the table, not the count, and not at every call
    assert copies(runtime) == {("onnxruntime", "made-up"): (1, 65536)}
    for _ in range(5):
        predict({"x": batch(8)}, tensors)
    assert copies(runtime) == {("onnxruntime", "made-up"): (1, 65536)}


def test_neighbours_in_one_place_exchange_nothing(
    slow_cpu: dict[str, Any], register: Callable[..., None], opened: Callable[..., PlacedRuntime]
) -> None:
    register(MadeUp)
    runtime = opened()
    state = runtime.upload(table())
    predict = runtime.load(predict_graph())
    learn = runtime.load(learn_graph())
    drive(
        runtime,
        lambda: (
            predict({"x": batch(8)}, state),
            learn({"amount": np.array(1, np.float32)}, state),
        ),
    )
    assert (runtime.where(predict), runtime.where(learn)) == ("made-up", "made-up")
    before = copies(runtime)
    for _ in range(20):
        state = learn({"amount": np.array(1, np.float32)}, state)[1].over(state)
        predict({"x": batch(8)}, state)
    # the count, which predict does not read
    assert copies(runtime)["onnxruntime", "made-up"][0] <= before["onnxruntime", "made-up"][0] + 1
    assert ("made-up", "onnxruntime") not in copies(runtime)
    np.testing.assert_allclose(
        runtime.download(state)["w.table"], table()["w.table"] + 20, atol=1e-4
    )
    np.testing.assert_allclose(state["w.table"].numpy(), table()["w.table"] + 20, atol=1e-4)


def test_old_values_stay_what_they_were_wherever_they_lie(
    slow_cpu: dict[str, Any], register: Callable[..., None], opened: Callable[..., PlacedRuntime]
) -> None:
    register(MadeUp)
    runtime = opened()
    state, learn = runtime.upload(table()), runtime.load(learn_graph())
    held = [state]
    for _ in range(12):
        state = drive(
            runtime,
            lambda: learn({"amount": np.array(1, np.float32)}, held[-1])[1].over(held[-1]),
            1,
        )
        held.append(state)
    assert runtime.where(learn) == "made-up"
    for age, one in enumerate(held):
        np.testing.assert_allclose(
            runtime.download(one, ["w.table"])["w.table"], table()["w.table"] + age, atol=1e-4
        )


def test_downloads_refuse_what_is_not_theirs(
    register: Callable[..., None], opened: Callable[..., PlacedRuntime]
) -> None:
    register(MadeUp)
    runtime = opened()
    with pytest.raises(InputError, match="of another runtime"):
        runtime.download(OnnxRuntime().upload(table()))
    with pytest.raises(
        InputError, match=r"no tensor 'w.other' to download; there are: w.count, w.table"
    ):
        runtime.download(runtime.upload(table()), ["w.other"])


def test_threads_that_predict_while_a_graph_moves_there_and_back_get_the_right_numbers(
    slow_cpu: dict[str, Any], register: Callable[..., None], opened: Callable[..., PlacedRuntime]
) -> None:
    slow_cpu["ms"] = 1.0
    register(MadeUp)
    runtime = opened()
    run, states = runtime.load(predict_graph()), [runtime.upload(table(seed)) for seed in range(3)]
    x = batch(8)
    right = [x @ table(seed)["w.table"] for seed in range(3)]
    wrong: list[Any] = []
    seen: set[str] = set()
    end = threading.Event()

    def go(which: int) -> None:
        while not end.is_set():
            y = run({"x": x}, states[which])[0]["y"]
            seen.add(runtime.where(run))
            if np.abs(y - right[which]).max() > 1e-3:
                wrong.append(y)

    threads = [threading.Thread(target=go, args=(which,)) for which in (0, 1, 2)]
    for thread in threads:
        thread.start()
    deadline = time.monotonic() + 20
    while runtime.where(run) != "made-up" and time.monotonic() < deadline:
        time.sleep(0.01)
    time.sleep(0.1)
    MadeUp.opened[0].is_broken = True
    while runtime.where(run) != "onnxruntime" and time.monotonic() < deadline:
        time.sleep(0.01)
    time.sleep(0.05)
    end.set()
    for thread in threads:
        thread.join(10)
    assert not wrong and seen == {"onnxruntime", "made-up"}


def placed_buffers() -> int:
    gc.collect()
    return sum(isinstance(one, PlacedBuffer) for one in gc.get_objects())


def test_trials_leave_no_tensors_and_no_calls_behind(
    slow_cpu: dict[str, Any], register: Callable[..., None], opened: Callable[..., PlacedRuntime]
) -> None:
    register(MadeUp)
    runtime = opened()
    before = placed_buffers()
    run = runtime.load(predict_graph())
    held = [runtime.upload(table())]
    drive(runtime, lambda: run({"x": batch(8)}, held[0]))
    drive(runtime, lambda: run({"x": batch(1)}, held[0]), 2)  # this one is still under trial
    assert runtime.where(run) == "made-up+onnxruntime"
    idle = MadeUp.opened[0].pool.idle_bytes
    held.clear()
    assert placed_buffers() == before
    assert MadeUp.opened[0].pool.idle_bytes == idle + 65536  # the copy goes with it
    assert runtime._scheduler.budget.used == 0


def test_calls_that_wait_to_be_run_again_are_bounded(
    hanging: None, register: Callable[..., None], opened: Callable[..., PlacedRuntime]
) -> None:
    register(MadeUp)
    runtime = opened(rules=Rules(sample_mib=1))
    run, tensors = runtime.load(predict_graph()), runtime.upload(table())
    room = runtime._scheduler.budget
    settle(runtime)
    held = []
    for size in (1, 2, 4, 8, 16, 32, 64, 128, 256, 512):
        for _ in range(6):
            run({"x": batch(size)}, tensors)
            held.append(room.used)
    assert max(held) <= 1 << 20
    settle(runtime)
    assert room.used == 0


@pytest.fixture
def hanging() -> Any:
    Hangs.let_go.clear()
    yield
    Hangs.let_go.set()


def test_the_thread_ends_when_the_runtime_is_let_go(register: Callable[..., None]) -> None:
    from edgeadapt.runtime import open_runtime

    register(MadeUp)
    runtime = open_runtime("auto")
    assert isinstance(runtime, PlacedRuntime)
    run, tensors = runtime.load(predict_graph()), runtime.upload(table())
    drive(runtime, lambda: run({"x": batch(8)}, tensors), 2)
    thread, gone = runtime._thread, weakref.ref(runtime)
    del runtime
    gc.collect()
    thread.join(10)
    assert gone() is None and not thread.is_alive()
    # and what is loaded goes on
    np.testing.assert_allclose(
        run({"x": batch(8)}, tensors)[0]["y"], batch(8) @ table()["w.table"], atol=1e-3
    )


# -- graphs with other constants -------------------------------------------------------------------
def constants(k: float) -> dict[str, Any]:
    return {"k.scale": np.array([k, 2 * k, 3 * k], np.float32)}


def scaled(run: Any, k: float) -> None:
    x = np.random.default_rng(int(k)).standard_normal((4, 3)).astype(np.float32)
    np.testing.assert_array_equal(
        run({"x": x}, {})[0]["y"], x * np.array([k, 2 * k, 3 * k], np.float32)
    )


def test_other_constants_go_straight_where_the_family_has_passed(
    slow_cpu: dict[str, Any], register: Callable[..., None], opened: Callable[..., PlacedRuntime]
) -> None:
    register(MadeUp)
    runtime = opened()
    runtime._reference.load = slowly = SlowLoads(runtime._reference.load)  # type: ignore[method-assign]
    first = runtime.load(scale_graph(), constants(5))
    drive(runtime, lambda: scaled(first, 5))
    assert runtime.where(first) == "made-up"
    loads, seen = slowly.count, slow_cpu["calls"]
    second = runtime.load(scale_graph(), constants(7))
    scaled(second, 7)
    assert runtime.where(second) == "made-up" and (slowly.count, slow_cpu["calls"]) == (loads, seen)
    MadeUp.opened[0].is_broken = True
    scaled(second, 7)  # loaded on the CPU now that it is needed
    assert runtime.where(second) == "onnxruntime" and slowly.count == loads + 1
    third = runtime.load(scale_graph(), constants(9))
    scaled(third, 9)
    assert runtime.where(third) == "onnxruntime"


class SlowLoads:
    """A reference that takes 50 ms to load, as a real encoder does."""

    def __init__(self, load: Any) -> None:
        self._load, self.count = load, 0

    def __call__(self, *arguments: Any) -> Any:
        self.count += 1
        time.sleep(0.05)
        return self._load(*arguments)


def test_what_went_straight_is_compared_when_it_is_called(
    slow_cpu: dict[str, Any], register: Callable[..., None], opened: Callable[..., PlacedRuntime]
) -> None:
    register(WrongInTheEnd)
    runtime = opened()
    runtime._reference.load = slowly = SlowLoads(runtime._reference.load)  # type: ignore[method-assign]
    first = runtime.load(scale_graph(), constants(5))
    drive(runtime, lambda: scaled(first, 5))
    loads = slowly.count
    second = runtime.load(scale_graph(), constants(7))
    drive(runtime, lambda: scaled(second, 7), 3)
    # loaded for the comparison, and let go again
    assert (
        runtime.where(second) == "made-up" and slowly.count > loads and second.reference.run is None
    )
    WrongInTheEnd.opened[0].is_wrong = True
    third = runtime.load(scale_graph(), constants(9))
    x = np.ones((4, 3), np.float32)
    drive(runtime, lambda: third({"x": x}, {}), 3)
    assert runtime.where(third) == "onnxruntime"
    scaled(third, 9)
    # the family has lost its standing
    assert runtime.where(runtime.load(scale_graph(), constants(11))) == "onnxruntime"


def test_where_other_constants_are_a_build_only_the_first_is_built(
    slow_cpu: dict[str, Any], register: Callable[..., None], opened: Callable[..., PlacedRuntime]
) -> None:
    register(BuildsConstants)
    runtime = opened()
    first = runtime.load(scale_graph(), constants(5))
    drive(runtime, lambda: scaled(first, 5))
    loads = BuildsConstants.opened[0].loads
    started = time.perf_counter()
    second = runtime.load(scale_graph(), constants(7))
    assert time.perf_counter() - started < 0.2
    drive(runtime, lambda: scaled(second, 7))
    assert runtime.where(second) == "onnxruntime" and BuildsConstants.opened[0].loads == loads
    assert any("other constants take" in note for note in runtime.report()["notes"])


def test_other_constants_do_not_wait_for_a_build_of_something_else(
    hanging: None,
    slow_cpu: dict[str, Any],
    register: Callable[..., None],
    opened: Callable[..., PlacedRuntime],
) -> None:
    register(Hangs)
    Hangs.let_go.set()
    runtime = opened()
    runtime._reference.load = SlowLoads(runtime._reference.load)  # type: ignore[method-assign]
    first = runtime.load(scale_graph(), constants(5))
    drive(runtime, lambda: scaled(first, 5))
    assert runtime.where(first) == "made-up"
    Hangs.let_go.clear()
    Hangs.began.clear()
    runtime.load(predict_graph())
    assert Hangs.began.wait(10)
    started = time.perf_counter()
    second = runtime.load(scale_graph(), constants(7))
    scaled(second, 7)
    assert time.perf_counter() - started < 1 and runtime.where(second) == "onnxruntime"
    Hangs.let_go.set()
    assert rows(runtime, "check-scale")
