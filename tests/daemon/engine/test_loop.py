"""One thread answers: in batches, in turn, and whatever comes; learning beside it is measured, and
waits when answers get slow.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest

from edgeadapt.daemon.config.schema import LoopSection
from edgeadapt.daemon.engine.label_queue import Labels
from edgeadapt.daemon.engine.latency_governor import LatencyGovernor
from edgeadapt.daemon.engine.loop import Loop
from edgeadapt.daemon.engine.sample_registry import SampleRegistry
from edgeadapt.daemon.messages import Answer, Arrival, SampleQueue
from edgeadapt.demo.sample import CLASSES, Sample
from edgeadapt.device.learner import Learner
from edgeadapt.scenarios.corruptions import corrupt
from edgeadapt.testing import inspect_state


class Parts:
    """A loop around a learner, and what it says."""

    def __init__(self, learner: Learner, **settings: Any) -> None:
        self.learner, self.heard, self.beats = learner, list[dict[str, Any]](), 0
        self.inbox = SampleQueue(10_000, "wait")
        self.labels = Labels(SampleRegistry(), lambda: self.borrow())
        self.pace = LatencyGovernor(learner.pause)
        self.loop = Loop(
            self.borrow,
            self.inbox,
            self.labels,
            self.pace,
            LoopSection(**settings),
            emit=lambda event: self.heard.append(dict(event)),
            beat=self._beat,
        )

    def _beat(self) -> None:
        self.beats += 1

    @contextmanager
    def borrow(self, while_waiting: Callable[[], None] | None = None) -> Iterator[Learner]:
        yield self.learner

    def start(self) -> None:
        self.labels.start()
        self.loop.start()

    def stop(self) -> None:
        self.inbox.close()
        assert self.loop.stop(10.0)
        self.labels.close(5.0)

    def answers(self) -> list[dict[str, Any]]:
        return [event for event in self.heard if event["event"] == "answer"]


@pytest.fixture
def around(learner: Learner) -> Iterator[Callable[..., Parts]]:
    made: list[Parts] = []

    def around(**settings: Any) -> Parts:
        made.append(Parts(learner, **settings))
        return made[-1]

    yield around
    for parts in made:
        parts.stop()


def arrivals(sample: Sample, count: int, **more: Any) -> list[Arrival]:
    rows = np.flatnonzero(sample.y < 6)[:count]
    return [
        Arrival("a", "camera", x=sample.x[row], name=f"{number}.png", **more)
        for number, row in enumerate(rows)
    ]


def test_every_sample_gets_its_answer_in_its_order_with_an_id_that_can_be_labelled(
    around: Callable[..., Parts], sample: Sample, learner: Learner, until: Callable[..., None]
) -> None:
    parts, told = around(batch=8), list[Answer]()
    for one in arrivals(sample, 100, reply=told.append):
        parts.inbox.put(one)
    parts.start()
    until(lambda: len(parts.answers()) == 100)
    assert (
        [answer.name for answer in told]
        == [f"{number}.png" for number in range(100)]
        == [event["name"] for event in parts.answers()]
    )
    expected = learner.predict(
        np.stack([one.x for one in arrivals(sample, 100) if one.x is not None])
    )
    assert [answer.label for answer in told] == list(expected.labels)
    np.testing.assert_allclose(
        [answer.confidence for answer in told], expected.probs.max(axis=1), atol=1e-5
    )
    assert (
        all(learner.is_pending(answer.id) for answer in told)
        and len({answer.id for answer in told}) == 100
    )
    assert (
        told[0].axis == "warming"
        and told[-1].axis in ("clear", "novel")
        and told[-1].domain == "source"
    )
    assert all(answer.took_ms > 0 and answer.waited_ms >= 0 and not answer.error for answer in told)
    assert parts.loop.counts["batches"] == 13 and parts.loop.streams()["a"]["samples"] == 100


@pytest.mark.parametrize(
    "bad",
    [
        np.zeros((5, 5), np.uint8),
        np.zeros((28, 28), np.float32),
        np.full((28, 28), np.nan),
        np.zeros((1, 28, 28), np.uint8),
    ],
)
def test_one_bad_sample_does_not_take_the_others_of_its_batch_with_it(
    around: Callable[..., Parts], sample: Sample, until: Callable[..., None], bad: Any
) -> None:
    parts = around(batch=8)
    good = arrivals(sample, 7)
    for one in [*good[:3], Arrival("a", "camera", x=bad, name="bad"), *good[3:]]:
        parts.inbox.put(one)
    parts.start()
    until(lambda: len(parts.answers()) == 8)
    assert [event["name"] for event in parts.answers() if event["error"]] == ["bad"]
    assert all(event["id"] and event["label"] for event in parts.answers() if not event["error"])
    assert (
        parts.loop.counts["refused"] == 1
        and parts.loop.counts["answered"] == 7
        and parts.loop.counts["failures"] == 0
    )


def test_features_are_answered_as_frames_are(
    around: Callable[..., Parts], sample: Sample, learner: Learner, until: Callable[..., None]
) -> None:
    parts = around(batch=4)
    frames = np.stack([one.x for one in arrivals(sample, 8) if one.x is not None])
    z, taps = inspect_state(learner).program.encode(frames)
    for row in range(8):
        parts.inbox.put(Arrival("vectors", "mqtt", features={"z": z[row], "taps": taps[row]}))
    parts.inbox.put(Arrival("vectors", "mqtt", features={"z": z[0][:-1], "taps": taps[0]}))
    parts.inbox.put(Arrival("vectors", "mqtt", features={"y": z[0]}))
    parts.inbox.put(Arrival("vectors", "mqtt"))
    parts.start()
    until(lambda: len(parts.answers()) == 11)
    assert [event["label"] for event in parts.answers()[:8]] == list(learner.predict(frames).labels)
    assert [bool(event["error"]) for event in parts.answers()] == [False] * 8 + [True] * 3


def test_a_reply_that_fails_does_not_stop_the_loop(
    around: Callable[..., Parts], sample: Sample, until: Callable[..., None]
) -> None:
    def fail(answer: Answer) -> None:
        raise OSError("the client is gone")

    parts = around(batch=8)
    for one in arrivals(sample, 3, reply=fail):
        parts.inbox.put(one)
    parts.start()
    until(lambda: len(parts.answers()) == 3)
    assert (
        parts.loop.counts["failures"] == 3
        and "the client is gone" in parts.loop.error
        and parts.loop.is_alive
    )


def test_labels_that_came_with_samples_are_learned_and_novel_frames_become_questions_for_the_sinks(
    around: Callable[..., Parts], sample: Sample, learner: Learner, until: Callable[..., None]
) -> None:
    parts = around(batch=8)
    rows = np.flatnonzero(sample.y < 6)[:64]
    for row in rows:
        parts.inbox.put(Arrival("a", "folder", x=sample.x[row], label=CLASSES[sample.y[row]]))
    for row in np.flatnonzero(sample.y >= 6)[:256]:
        parts.inbox.put(Arrival("b", "camera", x=sample.x[row]))
    parts.start()
    until(lambda: parts.labels.counts["received"] == 64)
    learner.settle()
    evidence = learner.counters()["evidence"]
    assert sum(evidence.values()) == 64 and evidence.get("received", 0) == 0
    until(lambda: any(event["event"] == "question" for event in parts.heard))
    asked = [event for event in parts.heard if event["event"] == "question"]
    assert {event["id"] for event in asked} <= {event["id"] for event in parts.answers()} and all(
        event["stream"] == "b" for event in asked
    )
    assert len({event["id"] for event in asked}) == len(asked)  # each is told once


def test_whoever_brought_a_sample_whose_label_was_dropped_is_told_so(
    around: Callable[..., Parts], sample: Sample, until: Callable[..., None]
) -> None:
    parts, replies = around(batch=8), list[Any]()
    parts.labels._most = 0
    for label in (None, "Coat"):
        parts.inbox.put(Arrival("door", "folder", sample.x[0], label=label, reply=replies.append))
    parts.start()
    until(lambda: len(replies) == 2)
    assert replies[0].error == "" and "its label was dropped" in replies[1].error
    assert (
        parts.labels.counts["dropped"] == 1
        and parts.loop.counts["answered"] == 2
        and [event["error"] for event in parts.answers()] == ["", ""]
    )


def test_at_a_constant_rate_a_late_sample_is_answered_but_not_observed_unless_it_has_a_label(
    around: Callable[..., Parts], sample: Sample, learner: Learner, until: Callable[..., None]
) -> None:
    parts = around(batch=8, rate_hz=10.0)
    late = arrivals(sample, 6)
    labelled = Arrival("a", "camera", x=sample.x[0], name="labelled", label=CLASSES[sample.y[0]])
    for one in [*late, labelled]:
        parts.inbox.put(one)
    time.sleep(0.15)
    for one in arrivals(sample, 12)[6:]:
        parts.inbox.put(one)
    parts.start()
    until(lambda: len(parts.answers()) == 13)
    unobserved = [event["name"] for event in parts.answers() if not event["id"]]
    assert unobserved == [one.name for one in late] and parts.loop.counts["unadapted"] == 6
    assert all(event["label"] and not event["error"] for event in parts.answers())
    assert learner.counters()["observed"] == 7


def test_the_watchdog_hears_from_the_loop_whether_or_not_samples_come(
    around: Callable[..., Parts], sample: Sample, until: Callable[..., None]
) -> None:
    parts = around(batch=1)
    parts.start()
    until(lambda: parts.beats >= 3, 5.0)
    idle = parts.beats
    for one in arrivals(sample, 50):
        parts.inbox.put(one)
    until(lambda: len(parts.answers()) == 50)
    assert parts.beats >= idle + 50


def test_an_engine_that_fails_is_answered_with_its_error_and_the_next_batch_is_fine(
    around: Callable[..., Parts],
    sample: Sample,
    learner: Learner,
    monkeypatch: pytest.MonkeyPatch,
    until: Callable[..., None],
) -> None:
    parts = around(batch=4)
    encode, calls = inspect_state(learner).program.encode, [0]

    def failing(*arguments: Any) -> Any:
        calls[0] += 1
        if calls[0] == 1:
            raise MemoryError("no memory for the arena")
        return encode(*arguments)

    monkeypatch.setattr(inspect_state(learner).program, "encode", failing)
    for one in arrivals(sample, 8):
        parts.inbox.put(one)
    parts.start()
    until(lambda: len(parts.answers()) == 8)
    assert [event["error"] for event in parts.answers()] == [
        "MemoryError: no memory for the arena"
    ] * 4 + [""] * 4
    assert parts.loop.counts["failures"] == 1 and parts.loop.counts["refused"] == 4


# -- pace ------------------------------------------------------------------------------------------
class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


def paced(ratio: float = 1.5) -> tuple[LatencyGovernor, list[bool], Clock]:
    told, clock = list[bool](), Clock()
    return LatencyGovernor(told.append, ratio, clock), told, clock


def fill(pace: LatencyGovernor, plain_ms: float, learning_ms: float, count: int = 60) -> None:
    for _ in range(count):
        pace.record(1e-3 * plain_ms, is_learning=False)
        pace.record(1e-3 * learning_ms, is_learning=True)


def test_answers_slowed_by_learning_pause_it_for_waits_that_double_up_to_half_a_minute() -> None:
    pace, told, clock = paced()
    waits = []
    for _ in range(7):
        fill(pace, 1.0, 2.0)
        assert told[-1:] == [True] and pace.is_pausing
        started = clock.now
        while pace.is_pausing:
            clock.now += 0.25
            pace.tick()
        waits.append(clock.now - started)
    assert (
        waits == [1.0, 2.0, 4.0, 8.0, 16.0, 30.0, 30.0]
        and told == [True, False] * 7
        and pace.pauses == 7
    )


@pytest.mark.parametrize(
    ("share", "factor", "is_slower"), [(0.02, 1.0, False), (0.05, 1.0, False), (0.02, 2.0, True)]
)
def test_learning_that_slows_nothing_is_hardly_ever_paused(
    share: float, factor: float, is_slower: bool
) -> None:
    """Answers of one distribution with a heavy tail, in bursts with and without learning: an order
    statistic of 200 says little.
    """
    pauses = 0
    for seed in range(10):
        rng, (pace, _, clock) = np.random.default_rng(seed), paced()
        for number in range(4000):
            seconds = (
                0.002
                * rng.lognormal(0.0, 0.1)
                * (1.0 + rng.pareto(2.5) if rng.random() < share else 1.0)
            )
            is_learning = not pace.is_pausing and number // 40 % 2 == 0
            pace.record(factor * seconds if is_learning else seconds, is_learning=is_learning)
            clock.now += 0.005
            pace.tick()
        pauses += pace.pauses
    assert pauses >= 30 if is_slower else pauses <= 1


def test_a_tail_that_is_thin_but_stays_is_met_within_a_thousand_batches_of_each_kind() -> None:
    """One of forty is a hundred times as slow: of 200 chance may make so many, of 1,000 hardly."""
    pace, told, _ = paced()
    for number in range(1250):
        pace.record(0.001, is_learning=False)
        pace.record(0.1 if number % 40 == 39 else 0.001, is_learning=True)
        if number == 900:
            assert told == []
    assert told == [True]


def test_a_measurement_that_is_fine_starts_the_waits_over() -> None:
    pace, _, clock = paced()
    for _ in range(3):
        fill(pace, 1.0, 2.0)
        clock.now += 60.0
        pace.tick()
    fill(pace, 1.0, 1.2, 200)
    assert not pace.is_pausing
    fill(pace, 1.0, 2.0, 200)
    assert pace.is_pausing and pace._until - clock.now == 1.0


def test_a_learner_that_never_rests_is_paused_for_a_second_to_time_answers_without_it() -> None:
    pace, told, clock = paced()
    for _ in range(200):
        pace.record(0.002, is_learning=True)
    assert told == [True] and pace.pauses == 0 and pace._until == clock.now + 1.0
    for _ in range(50):
        pace.record(0.001, is_learning=False)
    clock.now += 1.0
    pace.tick()
    for _ in range(50):
        pace.record(0.002, is_learning=True)
    assert told == [True, False, True] and pace.pauses == 1


def test_fewer_than_fifty_batches_of_a_kind_say_nothing() -> None:
    pace, told, _ = paced()
    for _ in range(49):
        pace.record(0.5, is_learning=True)
    for _ in range(500):
        pace.record(0.001, is_learning=False)
    assert told == [] and pace.latency()["ratio"] is None
    for _ in range(10):
        pace.record(0.5, is_learning=True)
    assert told == [True]


def test_the_percentiles_are_those_of_the_last_two_hundred_of_each_kind() -> None:
    pace, _, _ = paced(float("inf"))
    for _ in range(1000):
        pace.record(9.0, is_learning=False)
    for number in range(200):
        pace.record(1e-3 * number, is_learning=False)
        pace.record(2e-3 * number, is_learning=True)
    said = pace.latency()
    assert said["plain"] == pytest.approx({"batches": 200, "p50_ms": 100.0, "p99_ms": 198.0})
    assert said["learning"] == pytest.approx(
        {"batches": 200, "p50_ms": 200.0, "p99_ms": 396.0}
    ) and said["ratio"] == pytest.approx(2.0)


def test_while_the_learner_is_paused_its_backlog_does_not_count_as_learning() -> None:
    pace, told, _ = paced()
    fill(pace, 1.0, 2.0)
    assert told == [True]
    for _ in range(100):
        pace.record(1e-3, is_learning=True)
    assert pace.latency()["learning"]["batches"] < 50


def test_a_real_learner_is_paused_when_it_slows_answers_beyond_the_limit_and_goes_on_later(
    around: Callable[..., Parts], sample: Sample, learner: Learner, until: Callable[..., None]
) -> None:
    parts = around(batch=1)
    parts.pace.p99_ratio = 0.01  # any learning is too much
    shifted = corrupt(sample.x[:1500], "gaussian_noise", 3, 0)
    stop = threading.Event()

    def play() -> None:
        row = 0
        while not stop.is_set():
            parts.inbox.put(
                Arrival(
                    "a",
                    "camera",
                    x=shifted[row % len(shifted)],
                    label=CLASSES[sample.y[row % len(shifted)]] if row % 7 == 0 else None,
                )
            )
            row += 1

    player = threading.Thread(target=play)
    parts.inbox.change(4, "wait")
    player.start()
    parts.start()
    try:
        # it never rests: first for a second, to know how fast answers are without it
        until(lambda: learner.is_paused, 60.0)
        until(lambda: parts.pace.pauses >= 1 and learner.is_paused, 60.0)
        until(lambda: not learner.is_paused, 60.0)
    finally:
        stop.set()
        player.join(10)
    assert parts.pace.latency()["plain"]["batches"] >= 50 and parts.loop.counts["failures"] == 0
