"""The one queue between sources and loop: bounded, in order, and what it lets go is counted and
told.
"""

from __future__ import annotations

import threading
import time
from typing import Any

import numpy as np
import pytest

from edgeadapt.daemon.messages import OTHER_STREAMS, Answer, Arrival, Drop, SampleQueue


def frame(number: int, stream: str = "a", **more: Any) -> Arrival:
    return Arrival(stream, "test", x=np.full((2, 2), number, np.uint8), **more)


def numbers(arrivals: list[Arrival]) -> list[int]:
    return [int(one.x[0, 0]) for one in arrivals if one.x is not None]


def test_samples_leave_in_the_order_in_which_they_came() -> None:
    inbox = SampleQueue(8)
    assert all(inbox.put(frame(number)) for number in range(5))
    assert (
        numbers(inbox.take(3, 0)) == [0, 1, 2]
        and numbers(inbox.take(3, 0)) == [3, 4]
        and inbox.take(3, 0) == []
    )


def test_a_batch_is_of_one_stream_the_one_that_waited_longest_and_the_others_keep_their_turn() -> (
    None
):
    inbox = SampleQueue(8)
    for number, stream in enumerate("abab"):
        inbox.put(frame(number, stream))
    assert numbers(inbox.take(8, 0)) == [0, 2] and numbers(inbox.take(8, 0)) == [1, 3]


def test_frames_and_features_are_never_in_one_batch() -> None:
    inbox = SampleQueue(8)
    inbox.put(frame(0))
    inbox.put(Arrival("a", "test", features={"z": np.zeros(4, np.float32)}))
    inbox.put(frame(1))
    assert numbers(inbox.take(8, 0)) == [0, 1]
    assert [one.x for one in inbox.take(8, 0)] == [None]


def test_a_full_inbox_forgets_the_oldest_counts_it_by_stream_and_tells_it() -> None:
    inbox, told = SampleQueue(2, "oldest"), list[Answer]()
    inbox.put(frame(0, "old", reply=told.append))
    assert inbox.put(frame(1)) and inbox.put(frame(2))
    assert inbox.dropped == {"old": 1} and numbers(inbox.take(9, 0)) == [1, 2]
    assert [answer.error for answer in told] == ["dropped: the inbox was full"]


def test_a_full_inbox_may_refuse_the_newest_instead() -> None:
    inbox = SampleQueue(2, "newest")
    assert [inbox.put(frame(number)) for number in range(3)] == [True, True, False]
    assert inbox.dropped == {"a": 1} and numbers(inbox.take(9, 0)) == [0, 1]


def test_with_wait_a_source_goes_on_when_there_is_room_and_nothing_is_lost() -> None:
    inbox, taken = SampleQueue(2, "wait"), list[int]()
    thread = threading.Thread(target=lambda: [inbox.put(frame(number)) for number in range(50)])
    thread.start()
    while len(taken) < 50:
        assert len(inbox) <= 2
        taken += numbers(inbox.take(1, 1.0))
    thread.join(5)
    assert taken == list(range(50)) and inbox.dropped == {}


def test_who_cannot_wait_for_ever_says_how_long() -> None:
    inbox = SampleQueue(1, "wait")
    inbox.put(frame(0))
    started = time.monotonic()
    assert not inbox.put(frame(1), timeout_s=0.1)
    assert (
        0.1 <= time.monotonic() - started < 2.0
        and inbox.dropped == {"a": 1}
        and numbers(inbox.take(2, 0)) == [0]
    )


@pytest.mark.parametrize("drop", ["oldest", "newest", "wait"])
def test_closing_hands_back_what_waits_wakes_everybody_and_takes_no_more(drop: Drop) -> None:
    inbox, results = SampleQueue(1, drop), list[Any]()
    taker = threading.Thread(target=lambda: results.append(inbox.take(1, 30.0)))
    taker.start()
    assert inbox.put(frame(7))
    taker.join(5)
    inbox.put(frame(8))
    putter = threading.Thread(target=lambda: results.append(inbox.put(frame(9))))
    if drop == "wait":
        putter.start()
        time.sleep(0.05)
    left = inbox.close()
    if drop == "wait":
        putter.join(5)
        assert results[1] is False
    assert numbers(results[0]) == [7] and numbers(left) == [8]
    assert not inbox.put(frame(10)) and inbox.take(1, 30.0) == []


def test_however_many_streams_are_invented_what_they_lost_is_counted_in_bounded_memory() -> None:
    inbox = SampleQueue(1, "newest")
    inbox.put(Arrival("first", "s", features={}))
    for n in range(1000):
        assert not inbox.put(Arrival(f"stream {n}", "s", features={}))
    assert (
        sum(inbox.dropped.values()) == 1000
        and len(inbox.dropped) == 257
        and inbox.dropped[OTHER_STREAMS] == 744
    )


def test_an_inbox_that_grows_lets_in_who_waited() -> None:
    inbox = SampleQueue(1, "wait")
    inbox.put(frame(0))
    putter = threading.Thread(target=lambda: inbox.put(frame(1)))
    putter.start()
    inbox.change(4, "oldest")
    putter.join(5)
    assert numbers(inbox.take(9, 0)) == [0, 1]
