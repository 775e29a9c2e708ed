"""Threads beside each other, and a GPU that works by itself meanwhile: no answer is torn, old, or
of somebody else.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest
from edgeadapt_tensorrt import TensorRT
from edgeadapt_tensorrt._buffers import DeviceBuffer, Pool
from tiny_models import predict_graph, step_graph

ROWS, COLUMNS = 256, 64


@contextmanager
def working(device: Any) -> Iterator[None]:
    """A GPU that runs one operation of some stream after the other, as fast as it can."""
    is_done = threading.Event()

    def work() -> None:
        rng = np.random.default_rng(0)
        while not is_done.is_set():
            if not sum(device.library.fake_step(int(k)) for k in rng.integers(0, 64, 32)):
                time.sleep(1e-4)

    thread = threading.Thread(target=work)
    thread.start()
    try:
        yield
    finally:
        is_done.set()
        thread.join()


def race(runtime: TensorRT, meetings: int, readers: int = 2) -> tuple[int, int]:
    """Predictions by some threads beside one that learns ``W.next = W + 1``: how many were wrong,
    and how many met a step.

    It goes on until so many have met one, which is what makes a zero worth anything, or for a few
    seconds.
    """
    step = runtime.load(step_graph([ROWS, COLUMNS]))
    predict = runtime.load(predict_graph(ROWS, COLUMNS))
    zero = runtime.upload({"W.w": np.zeros((ROWS, COLUMNS), np.float32)})
    published, is_done, failures = [(0, zero)], threading.Event(), []
    wrong = met = 0
    deadline = time.monotonic() + 6

    def learn() -> None:
        count, state = 0, zero
        try:
            while not is_done.is_set():
                state = step({}, state)[1]
                count += 1
                published[0] = (count, state)
        except Exception as error:
            failures.append(error)

    def read() -> None:
        nonlocal wrong, met
        x = np.ones((8, ROWS), np.float32)
        try:
            while met < meetings and time.monotonic() < deadline:
                count, state = published[0]
                y = predict({"x": x}, state)[0]["y"]
                wrong += int(not np.all(y == ROWS * count))
                met += int(published[0][0] > count)
        except Exception as error:
            failures.append(error)

    threads = [threading.Thread(target=read) for _ in range(readers)]
    learner = threading.Thread(target=learn)
    for thread in (learner, *threads):
        thread.start()
    for thread in threads:
        thread.join()
    is_done.set()
    learner.join()
    assert not failures, failures[0]
    return wrong, met


@pytest.mark.parametrize(
    "settings", [{}, {"copy_limit": 0}, {"copy_limit": 0, "graphs": 2, "lanes": 1}], ids=str
)
def test_predictions_beside_a_learning_thread_are_exact(
    trt: Any, device: Any, settings: dict[str, int]
) -> None:
    runtime = TensorRT(cache=None, **settings)
    with working(device):
        wrong, met = race(runtime, 80)
    assert wrong == 0 and met >= 80


def test_the_race_finds_a_pool_that_reuses_too_early(
    trt: Any, device: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The control: where what a buffer's last user does is not waited for, answers are wrong or the
    fake complains.
    """
    take, recent = Pool.take, []

    def take_what_others_may_take(pool: Pool, *layout: Any) -> DeviceBuffer:
        buffer = take(pool, *layout)
        if buffer.nbytes == ROWS * COLUMNS * 4:
            recent.append(buffer._block)
            if len(recent) > 3:
                pool.returned.append((recent.pop(0), ()))
        return buffer

    monkeypatch.setattr(Pool, "take", take_what_others_may_take)
    monkeypatch.setattr(DeviceBuffer, "__del__", lambda self: None)
    runtime = TensorRT(cache=None, copy_limit=0)
    with working(device):
        wrong, _ = race(runtime, 80)
    assert wrong or device.violations()[0]
    device.reset()


@pytest.mark.parametrize("lanes", [1, 3])
def test_calls_at_once_have_a_context_each_and_no_more_than_allowed(
    trt: Any, device: Any, lanes: int
) -> None:
    runtime = TensorRT(cache=None, lanes=lanes, graphs=0)
    predict = runtime.load(predict_graph(4, 2))
    state = runtime.upload({"W.w": np.ones((4, 2), np.float32)})
    gate, answers = threading.Barrier(6), []

    def call(number: int) -> None:
        gate.wait()
        for _ in range(30):
            answers.append(
                bool(
                    np.all(
                        predict({"x": np.full((3, 4), number, np.float32)}, state)[0]["y"]
                        == 4 * number
                    )
                )
            )

    threads = [threading.Thread(target=call, args=(number,)) for number in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(answers) == 180 and all(answers)
    assert trt.fake.contexts <= 1 + lanes  # one that measures shapes


def test_answers_have_the_highest_priority_and_learning_the_lowest(
    runtime: Any, device: Any
) -> None:
    step, predict = runtime.load(step_graph([4, 2])), runtime.load(predict_graph(4, 2))
    state = runtime.upload({"W.w": np.ones((4, 2), np.float32)})
    step({}, state)
    predict({"x": np.ones((1, 4), np.float32)}, state)
    priorities = [
        device.library.fake_priority(next(iter(e.engines.lanes.values())).idle[0].stream)
        for e in (step, predict)
    ]
    assert priorities == [0, -5]


def test_a_lane_that_cannot_be_made_is_not_lost(trt: Any, device: Any) -> None:
    runtime = TensorRT(cache=None, lanes=1)
    predict = runtime.load(predict_graph(4, 2))
    state = runtime.upload({"W.w": np.ones((4, 2), np.float32)})
    for _ in range(3):
        device.fail("cudaStreamCreateWithPriority", code=1)
        with pytest.raises(Exception, match="cudaStreamCreateWithPriority"):
            predict({"x": np.ones((1, 4), np.float32)}, state)
    assert predict({"x": np.ones((1, 4), np.float32)}, state)[0]["y"].tolist() == [[4, 4]]


def test_uploads_and_downloads_of_several_threads_do_not_mix(runtime: Any, device: Any) -> None:
    failures: list[Any] = []

    def move(number: int) -> None:
        for size in range(1, 40):
            value = np.full(size * 100, number * 1000 + size, np.float32)
            back = runtime.download(runtime.upload({"a.a": value}))["a.a"]
            if not np.array_equal(back, value):
                failures.append((number, size))

    threads: list[threading.Thread] = [
        threading.Thread(target=move, args=(number,)) for number in range(4)
    ]
    run: Callable[[], None]
    for run in [thread.start for thread in threads] + [thread.join for thread in threads]:
        run()
    assert not failures
