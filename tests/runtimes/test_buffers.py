"""Buffers are values: readers beside a writer, reuse only when nobody holds on, memory that stays
flat.
"""

from __future__ import annotations

import gc
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from edgeadapt_onnxruntime import OnnxRuntime
from edgeadapt_onnxruntime._pool import Layout, Pool, PooledBuffer

from edgeadapt.runtime import GraphFile

pytest.importorskip("onnx")
from onnx import helper, numpy_helper
from tiny_models import build, predict_graph, step_graph


def race(runtime: OnnxRuntime) -> tuple[int, int]:
    """At least 10,000 predictions beside a thread that learns ``W.next = W + 1``.

    Returns how many were torn, and how many had a step completed while they ran, which is what
    makes a zero worth anything. At batch 1 both threads mostly take turns and a broken pool passed
    in 3 of 7 runs. With 256 rows nearly every call meets a step and it was found in 12 of 12; where
    the scheduler puts both threads on one core, more calls are made.
    """
    step, predict = runtime.load(step_graph([256, 64])), runtime.load(predict_graph(256, 64))
    zero = runtime.upload({"W.w": np.zeros((256, 64), np.float32)})
    published, is_done, step_count = [zero], threading.Event(), 0

    def learn() -> None:
        nonlocal step_count
        state = zero
        while not is_done.is_set():
            # 256 x 4096 is exact in float32
            state = step({}, state)[1] if step_count % 4096 else zero
            published[0] = state
            step_count += 1

    learner = threading.Thread(target=learn)
    learner.start()
    x = np.ones((256, 256), np.float32)
    torn = met = calls = 0
    deadline = time.monotonic() + 8
    while calls < 10_000 or (met < 1000 and time.monotonic() < deadline):
        calls += 1
        before = step_count
        y = predict({"x": x}, published[0])[0]["y"]
        met += int(step_count > before)
        torn += int(y.min() != y.max() or y[0, 0] % 256 != 0)
    is_done.set()
    learner.join()
    return torn, met


def test_ten_thousand_predictions_beside_a_learning_thread_and_none_is_torn() -> None:
    torn, met = race(OnnxRuntime())
    assert met > 100
    assert torn == 0


def test_the_race_does_tear_predictions_when_buffers_are_reused_too_early(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The control: without reference counts the same race finds torn predictions, so zero above
    means something.
    """
    take = Pool.take

    def take_one_that_others_may_take(pool: Pool, layout: Layout) -> PooledBuffer:
        buffer = take(pool, layout)
        layout.idle.insert(0, buffer.value)
        del layout.idle[:-3]
        return buffer

    monkeypatch.setattr(Pool, "take", take_one_that_others_may_take)
    assert race(OnnxRuntime())[0] > 0


def test_memory_is_flat_over_two_thousand_steps() -> None:
    runtime = OnnxRuntime()
    step = runtime.load(step_graph([512, 512]))
    state = runtime.upload({"W.w": np.zeros((512, 512), np.float32)})

    def resident_mib() -> float:
        return int(Path("/proc/self/statm").read_text().split()[1]) * 4096 / 2**20

    for _ in range(50):
        state = step({}, state)[1].over(state)
    allocations, before = runtime.pool.allocation_count, resident_mib()
    for _ in range(2000):
        state = step({}, state)[1].over(state)
    assert runtime.pool.allocation_count == allocations == 2
    assert resident_mib() - before < 8
    assert float(state["W.w"].numpy()[0, 0]) == 2050


def test_the_pool_frees_what_exceeds_its_limit() -> None:
    pool = Pool(idle_limit=1000)
    layout = pool.layout(np.dtype(np.float32), (100,))
    held = [pool.take(layout) for _ in range(5)]
    addresses = {buffer.value.data_ptr() for buffer in held}
    assert len(addresses) == 5
    held.clear()
    assert pool.idle_bytes == 800
    again = [pool.take(layout) for _ in range(2)]
    assert {buffer.value.data_ptr() for buffer in again} <= addresses
    assert pool.idle_bytes == 0 and pool.allocation_count == 5


def test_idle_layouts_make_room_for_a_new_one() -> None:
    pool = Pool(idle_limit=1000)
    held = [pool.take(pool.layout(np.dtype(np.float32), (size,))) for size in (200, 100, 50)]
    held.clear()
    assert pool.idle_bytes == 1400
    kept = pool.take(pool.layout(np.dtype(np.float32), (7,)))
    assert pool.idle_bytes == 600 and kept.nbytes == 28


def test_a_finaliser_that_runs_inside_the_pool_does_not_wait() -> None:
    pool = Pool(idle_limit=1000)
    buffer = pool.take(pool.layout(np.dtype(np.float32), (4,)))
    with pool._lock:
        del buffer
        gc.collect()
    assert pool.idle_bytes == 16


def test_a_small_result_does_not_keep_a_large_sibling_alive() -> None:
    runtime, large = OnnxRuntime(), 1 << 20
    one = numpy_helper.from_array(np.ones(1, np.float32), "one")
    nodes = [
        helper.make_node("Add", ["big.b", "one"], ["big.b.next"]),
        helper.make_node("Add", ["n.n", "one"], ["n.n.next"]),
    ]
    model = build(
        nodes, {"big.b": [large], "n.n": [1]}, {"big.b.next": [large], "n.n.next": [1]}, [one]
    )
    executable = runtime.load(GraphFile("pair", model))
    tensors = runtime.upload({"big.b": np.zeros(large, np.float32), "n.n": np.zeros(1, np.float32)})
    kept = [executable({}, tensors)[1].only(["n.n"]) for _ in range(10)]
    assert runtime.pool.idle_bytes == 4 * large and len(kept) == 10
