"""A paused worker starts nothing but what somebody waits for, and goes on where it was."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from learner_steps import BATCH, Opener
from sample_images import images

from edgeadapt.device.resources.worker import Worker
from edgeadapt.errors import StateError
from edgeadapt.testing import inspect_state


@pytest.fixture
def worker() -> Iterator[Worker]:
    worker = Worker()
    yield worker
    worker.close()


def within(seconds: float, task: Callable[[], Any]) -> Any:
    """The result of a task that must not hang."""
    box: list[Any] = []
    thread = threading.Thread(target=lambda: box.append(task()), daemon=True)
    thread.start()
    thread.join(seconds)
    assert not thread.is_alive(), "it hangs"
    return box[0]


def test_while_paused_no_queued_task_starts_and_afterwards_all_do_in_their_order(
    worker: Worker,
) -> None:
    done: list[str] = []
    worker.pause()
    worker.submit(lambda: done.append("patient"))
    worker.submit(lambda: done.append("urgent"), urgent=True)
    worker.offer(lambda: done.append("offered"))
    worker.submit_later(lambda: done.append("later"), 0.0)
    assert not worker.settle(0.1) and worker.is_paused and done == [] and worker.backlog == 3
    worker.pause(False)
    assert worker.settle(5.0) and not worker.is_paused
    assert done == ["urgent", "later", "patient", "offered"]


def test_a_call_runs_while_paused_and_leaves_the_queue_as_it_is(worker: Worker) -> None:
    done: list[str] = []
    worker.pause()
    for number in range(3):
        worker.submit(lambda number=number: done.append(str(number)), urgent=True)  # type: ignore[misc]
    assert within(2.0, lambda: worker.call(lambda: "called")) == "called" and done == []
    with pytest.raises(ValueError, match="no"):
        worker.call(lambda: int("no"))
    worker.pause(False)
    assert worker.settle(5.0) and done == ["0", "1", "2"]


def test_calls_get_through_however_many_threads_wait_for_the_end_of_the_pause(
    worker: Worker,
) -> None:
    worker.pause()
    worker.submit(lambda: None)
    settled: list[bool] = []
    waiting = [
        threading.Thread(target=lambda: settled.append(worker.settle(10.0))) for _ in range(8)
    ]
    for thread in waiting:
        thread.start()
    for number in range(50):
        assert within(2.0, lambda number=number: worker.call(lambda: number)) == number
    assert settled == []
    worker.pause(False)
    for thread in waiting:
        thread.join(5.0)
    assert settled == [True] * 8


def test_the_task_that_runs_goes_on_and_what_it_leaves_undone_is_first_afterwards(
    worker: Worker,
) -> None:
    done: list[str] = []
    started, go_on = threading.Event(), threading.Event()

    def long() -> None:
        started.set()
        go_on.wait(5.0)
        done.append("stopped early" if worker.is_paused else "whole")

    worker.submit(long)
    assert started.wait(5.0)
    worker.submit(lambda: done.append("next"), urgent=True)
    worker.pause(rest=lambda: done.append("rest"))
    worker.pause(rest=lambda: done.append("rest"))  # it is paused already
    go_on.set()
    assert not worker.settle(0.1) and done == ["stopped early"]
    worker.pause(False)
    assert worker.settle(5.0) and done == ["stopped early", "rest", "next"]


def test_a_paused_worker_sleeps_even_if_a_delayed_task_is_due(worker: Worker) -> None:
    worker.pause()
    worker.submit_later(lambda: None, 0.0)
    time.sleep(0.05)
    before = time.process_time()
    time.sleep(0.3)
    assert time.process_time() - before < 0.1


def test_closing_a_paused_worker_does_not_hang_and_starts_nothing() -> None:
    worker, done = Worker(), []
    worker.pause()
    worker.submit(lambda: done.append(1), urgent=True)
    started = time.monotonic()
    worker.close()
    assert time.monotonic() - started < 1.0 and done == [] and not worker._thread.is_alive()
    with pytest.raises(StateError, match="closed"):
        worker.call(lambda: None)


# -- the learner -----------------------------------------------------------------------------------
def test_a_paused_learner_answers_and_takes_labels_and_learns_them_afterwards(
    opened: Opener,
) -> None:
    learner = opened()
    x, names = images(BATCH)
    learner.pause()
    assert learner.is_paused
    seen = learner.observe(x)
    learner.label(seen.ids, names)
    assert not learner.settle(0.2)
    assert learner.counters()["evidence"] == {"received": len(x)} and learner.history() == []
    learner.pause(False)
    assert learner.settle(30.0) and not learner.is_paused
    assert "received" not in learner.counters()["evidence"] and sum(
        learner.counters()["evidence"].values()
    ) == len(x)


def test_rollback_checkpoint_add_class_and_forget_do_not_hang_while_paused(opened: Opener) -> None:
    learner = opened()
    x, names = images(2 * BATCH)
    learner.learn(x[:BATCH], names[:BATCH], source="first")
    learner.settle()
    learner.pause()
    learner.learn(x[BATCH:], names[BATCH:], source="second")
    assert within(10.0, learner.checkpoint) >= 1
    within(10.0, lambda: learner.add_class("Hat"))
    assert "Hat" in learner.classes
    assert within(10.0, learner.rollback) >= 1 and "Hat" not in learner.classes
    assert within(10.0, lambda: learner.forget(source="first")).removed == BATCH
    assert learner.counters()["evidence"]["received"] == BATCH


def test_a_pause_in_the_middle_of_many_labels_is_met_at_the_next_commit(opened: Opener) -> None:
    learner = opened()
    x, names = images(8 * BATCH)
    learner.freeze()
    for start in range(0, len(x), BATCH):  # one commit for each source
        learner.learn(x[start : start + BATCH], names[start : start + BATCH], source=str(start))
    assert learner.settle(30.0)
    learn, first = inspect_state(learner).label_worker._updates.learn, threading.Event()

    def slowly(*args: Any, **settings: Any) -> Any:
        first.set()
        time.sleep(0.1)
        return learn(*args, **settings)

    inspect_state(learner).label_worker._updates.learn = slowly  # type: ignore[method-assign]
    learner.freeze(False)
    assert first.wait(10.0)
    learner.pause()
    assert not learner.settle(1.5)
    assert 0 < learner.counters()["evidence"]["received"] < len(x)
    learner.pause(False)
    assert learner.settle(30.0) and "received" not in learner.counters()["evidence"]


def test_closing_while_paused_keeps_the_labels_for_the_next_opening(
    opened: Opener, state: Path
) -> None:
    learner = opened(state)
    x, names = images(BATCH)
    learner.pause()
    learner.learn(x, names)
    learner.observe(x)
    within(10.0, learner.close)
    again = opened(state)
    assert again.settle(30.0) and "received" not in again.counters()["evidence"]
    assert sum(again.counters()["evidence"].values()) == BATCH and not again.is_paused
