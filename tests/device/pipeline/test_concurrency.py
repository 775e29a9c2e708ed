"""Many threads, one learner: nothing is torn, nothing is lost."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any

from learner_steps import BATCH, Opener
from sample_images import KNOWN, images

from edgeadapt.device.inference.state import LearnerState
from edgeadapt.device.learner import Learner
from edgeadapt.testing import inspect_state


def in_threads(*tasks: Callable[[], Any]) -> None:
    """Run all at once; the first error is raised here."""
    errors: list[BaseException] = []

    def guarded(task: Callable[[], Any]) -> None:
        try:
            task()
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=guarded, args=(task,)) for task in tasks]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if errors:
        raise errors[0]


def remember_published(learner: Learner) -> list[LearnerState]:
    """Every memory the learner publishes from now on, the present one first."""
    published, publish = [inspect_state(learner).state], inspect_state(learner).published.publish

    def both(memory: LearnerState) -> None:
        published.append(memory)
        publish(memory)

    inspect_state(learner).published.publish = both  # type: ignore[method-assign]
    return published


def test_while_it_learns_every_prediction_matches_exactly_one_published_memory(
    opened: Opener,
) -> None:
    learner = opened()
    published = remember_published(learner)
    probe, _ = images(8, seed=70)
    z, taps = inspect_state(learner).program.encode(probe)
    seen: list[Any] = []
    done = threading.Event()

    def predict() -> None:
        while not done.is_set():
            seen.append(learner.predict(probe, stream="probe"))

    def teach() -> None:
        try:
            for number in range(45):
                learner.learn(*images(8, seed=number))
                learner.settle()
                if number % 10 == 3:
                    learner.rollback()
                if number == 30:
                    learner.add_class("Bag")
                    learner.learn(*images(8, classes=("Bag",)))
            learner.settle()
        finally:
            done.set()

    in_threads(predict, predict, teach)
    possible = [
        inspect_state(learner).observer.predictor.prediction(
            inspect_state(learner).program.forward_head(z, taps, memory.tensors), memory
        )
        for memory in published
    ]
    keys = {(p.classes, p.probs.tobytes()) for p in possible}
    torn = [p for p in seen if (p.classes, p.probs.tobytes()) not in keys]
    assert len(keys) > 25 and len(seen) > 100
    assert len(torn) == 0
    # they really met different memories
    assert len({(p.classes, p.probs.tobytes()) for p in seen}) > 10


def test_conditions_and_labels_publish_without_losing_each_others_work(opened: Opener) -> None:
    learner = opened()
    published = remember_published(learner)
    fog, _ = images(16 * BATCH, condition="fog", seed=71)
    dark, _ = images(16 * BATCH, condition="contrast", seed=72)

    def watch(x: Any, stream: str) -> None:
        for start in range(0, len(x), BATCH):
            learner.observe(x[start : start + BATCH], stream=stream)

    def teach() -> None:
        for number in range(40):
            learner.learn(*images(4, seed=number), source=f"person {number}", stream="table")

    in_threads(lambda: watch(fog, "one"), lambda: watch(dark, "two"), teach)
    learner.settle()
    assert (
        inspect_state(learner).state.labels == 160 == sum(learner.counters()["evidence"].values())
    )
    assert learner.domain("one") != learner.domain("two") and {
        learner.domain("one"),
        learner.domain("two"),
    } <= set(learner.domains())
    labels = [memory.labels for memory in published]
    assert labels == sorted(labels)  # no publication took a label back
    serials = [memory.domain_serial for memory in published]
    assert serials == sorted(serials)
    refreshes = {
        name: [m.domains[name].refreshes for m in published if name in m.domains]
        for name in learner.domains()
    }
    assert any(max(counts) > 0 for counts in refreshes.values())


def test_streams_observed_from_different_threads_stay_apart(opened: Opener) -> None:
    learner = opened()
    x, _ = images(10 * BATCH, seed=73)
    fog, _ = images(10 * BATCH, condition="fog", seed=73)
    readings: dict[str, list[Any]] = {"clear": [], "foggy": []}

    def watch(name: str, frames: Any) -> None:
        for start in range(0, len(frames), 8):
            readings[name].append(learner.observe(frames[start : start + 8], stream=name).reading)

    in_threads(lambda: watch("clear", x), lambda: watch("foggy", fog))
    learner.settle()
    assert not any(r.is_shifted or r.domain != "source" for r in readings["clear"])
    assert any(r.is_shifted for r in readings["foggy"]) and learner.domain("foggy") == "condition-1"
    assert learner.counters()["pending"] == len(x) + len(fog)


def test_one_stream_observed_from_two_threads_keeps_a_whole_window(opened: Opener) -> None:
    learner = opened()
    x, _ = images(20 * BATCH, seed=74)
    ids: list[str] = []

    def watch(frames: Any) -> None:
        for start in range(0, len(frames), 5):
            ids.extend(learner.observe(frames[start : start + 5]).ids)

    in_threads(lambda: watch(x[: len(x) // 2]), lambda: watch(x[len(x) // 2 :]))
    learner.settle()
    window = inspect_state(learner).streams.observed("default").window
    held = set(window.take().ids)
    assert window.count == BATCH and len(held) == BATCH and held <= set(ids)
    assert all(learner.is_pending(sample) for sample in ids) and len(set(ids)) == len(x)


def test_every_question_ever_shown_can_be_answered_at_once(opened: Opener) -> None:
    learner = opened()
    x, names = images(16 * BATCH, condition="fog", seed=75)
    truth: dict[str, str] = {}
    done = threading.Event()

    def watch() -> None:
        try:
            for start in range(0, len(x), BATCH):
                seen = learner.observe(x[start : start + BATCH])
                truth.update(zip(seen.ids, names[start : start + BATCH], strict=True))
                learner.settle()
        finally:
            done.set()

    answered = []

    def answer() -> None:
        while not done.is_set():
            for q in learner.questions(3):
                learner.label(q.id, KNOWN[0] if q.id not in truth else truth[q.id])
                answered.append(q.id)

    in_threads(watch, answer)
    assert len(answered) == len(set(answered)) >= 10


def test_an_error_in_background_work_is_raised_by_settle_once_and_work_goes_on(
    opened: Opener,
) -> None:
    learner = opened()

    def fail() -> None:
        raise ZeroDivisionError("a fault of the test")

    inspect_state(learner).worker.submit(fail)
    try:
        learner.settle()
        raise AssertionError("the error was lost")
    except ZeroDivisionError:
        pass
    assert learner.settle()
    learner.learn(*images(8))
    learner.settle()
    assert sum(learner.counters()["evidence"].values()) == 8


def test_settle_says_when_time_is_up(opened: Opener) -> None:
    learner = opened()
    release = threading.Event()
    inspect_state(learner).worker.submit(release.wait)
    assert not learner.settle(0.05)
    release.set()
    assert learner.settle(5.0)


def test_labels_go_before_windows_that_wait(opened: Opener) -> None:
    learner = opened()
    order: list[str] = []
    release = threading.Event()
    inspect_state(learner).worker.submit(release.wait)
    time.sleep(0.05)
    for number in range(3):
        inspect_state(learner).worker.submit(lambda number=number: order.append(f"window {number}"))
    inspect_state(learner).worker.submit(lambda: order.append("label"), urgent=True)
    release.set()
    learner.settle()
    assert order == ["label", "window 0", "window 1", "window 2"]


def test_frames_are_served_while_the_worker_is_busy(opened: Opener) -> None:
    learner = opened()
    release = threading.Event()
    inspect_state(learner).worker.submit(release.wait)
    x, _ = images(4 * BATCH)
    started = time.perf_counter()
    for start in range(0, len(x), BATCH):
        learner.observe(x[start : start + BATCH])
    assert time.perf_counter() - started < 5.0 and learner.counters()["backlog"] == 5
    release.set()
    assert learner.settle(10.0)
