"""What samples and references hold, for how long, and who waits for it."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any

import numpy as np
from fake_runtimes import MadeUp, scale_graph
from placement_trials import drive, settle

from edgeadapt.placement import PlacedRuntime
from edgeadapt.placement.places import Place
from edgeadapt.placement.routes import SampleBudget, Trial
from edgeadapt.runtime import Tensors

Open = Callable[..., PlacedRuntime]
Register = Callable[..., None]


def folded(runtime: PlacedRuntime, first: float) -> Any:
    return runtime.load(scale_graph(), {"k.scale": np.array([first, 2, 3], np.float32)})


def scale(run: Any, size: int) -> Any:
    return run({"x": np.ones((size, 3), np.float32)}, Tensors())[0]["y"]


def test_a_sample_of_a_graph_that_nobody_holds_gives_its_room_back() -> None:
    room = SampleBudget(1000)
    trial = Trial(Place(1, "made-up"), lambda ports, tensors: ({}, Tensors()), room, ())  # type: ignore[arg-type]
    assert trial.offer({"x": np.zeros(100, np.float64)}, (), Tensors()) and room.used == 800
    assert not room.take(300)
    del trial
    assert room.used == 0 and room.take(300)


def test_a_sample_that_was_done_gives_its_room_back_once() -> None:
    room = SampleBudget(1000)
    trial = Trial(Place(1, "made-up"), lambda ports, tensors: ({}, Tensors()), room, ())  # type: ignore[arg-type]
    for _ in range(3):
        assert trial.offer({"x": np.zeros(100, np.float64)}, (), Tensors())
        trial.done()
        assert room.used == 0
    del trial
    assert room.used == 0


def test_room_comes_back_even_on_the_thread_that_holds_its_lock() -> None:
    room = SampleBudget(1000)
    assert room.take(800)

    def collected() -> None:
        with room._lock:
            room.give_back(800)

    thread = threading.Thread(target=collected, daemon=True)
    thread.start()
    thread.join(5)
    assert not thread.is_alive() and room.used == 0


def test_a_reference_that_a_call_has_needed_outlives_a_comparison(
    slow_cpu: dict[str, Any], register: Register, opened: Open
) -> None:
    register(MadeUp)
    runtime = opened()
    load = runtime._reference.load
    loads: list[int] = []

    def slowly(*arguments: Any) -> Any:
        loads.append(1)
        time.sleep(0.05)
        return load(*arguments)

    runtime._reference.load = slowly  # type: ignore[method-assign]
    first = folded(runtime, 1)
    drive(runtime, lambda: scale(first, 4))
    second = folded(runtime, 5)
    assert second.reference.run is None
    loads.clear()
    with second.reference.borrowed():
        scale(second, 100)  # of a size that only the reference serves
    scale(second, 100)
    assert len(loads) == 1


def test_calls_elsewhere_do_not_wait_for_the_reference_to_load(
    slow_cpu: dict[str, Any], register: Register, opened: Open
) -> None:
    register(MadeUp)
    runtime = opened()
    load, began, let_go = runtime._reference.load, threading.Event(), threading.Event()

    def slowly(*arguments: Any) -> Any:
        time.sleep(0.05)
        return load(*arguments)

    def hangs(*arguments: Any) -> Any:
        began.set()
        assert let_go.wait(30)
        return load(*arguments)

    runtime._reference.load = slowly  # type: ignore[method-assign]
    first = folded(runtime, 1)
    drive(runtime, lambda: scale(first, 4))
    second = folded(runtime, 5)
    assert runtime.where(first) == "made-up" and second.reference.run is None
    runtime._reference.load = hangs  # type: ignore[method-assign]
    waiting = threading.Thread(target=second.reference.get)
    waiting.start()
    answered: list[Any] = []
    # a new size, of a range that runs elsewhere
    calling = threading.Thread(target=lambda: answered.append(scale(second, 3)), daemon=True)
    try:
        assert began.wait(10)
        calling.start()
        calling.join(10)
        assert answered and waiting.is_alive()
    finally:
        let_go.set()
        waiting.join(10)
    settle(runtime)
