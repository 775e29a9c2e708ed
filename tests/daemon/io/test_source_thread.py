"""A source that fails is tried again, ever less often, and says so; one that ends has ended."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

from edgeadapt.daemon.io.source_thread import SourceThread
from edgeadapt.daemon.messages import Arrival, LabelArrival


def feeder(
    source: Any, *, takes: bool = True, **waits: float
) -> tuple[SourceThread, list[Arrival | LabelArrival]]:
    came: list[Arrival | LabelArrival] = []

    def deliver(what: Arrival | LabelArrival) -> bool:
        came.append(what)
        return takes

    return SourceThread(source, deliver, **waits), came


def test_what_a_source_brings_arrives_and_is_counted_and_a_source_without_more_has_finished(
    playing: Any,
) -> None:
    source = playing(
        "camera",
        [
            Arrival("camera", "camera"),
            LabelArrival("x", "Coat", "camera"),
            Arrival("camera", "camera"),
        ],
    )
    fed, came = feeder(source)
    fed.start()
    assert fed.join(5.0)
    assert len(came) == 3 and len(source.runs) == 1
    assert fed.health() == {
        "name": "camera",
        "stream": "camera",
        "state": "finished",
        "is_up": True,
        "delivered": 2,
        "refused": 0,
        "labels": 1,
        "failures": 0,
        "error": "",
        "failed_at": 0.0,
    }


def test_a_source_that_fails_is_run_again_after_waits_that_double_up_to_the_longest(
    playing: Any,
) -> None:
    source = playing("camera", [Arrival("camera", "camera")], failing=6)
    fed, came = feeder(source, first_s=0.05, longest_s=0.4)
    fed.start()
    assert fed.join(20.0)
    waits = [after - before for before, after in zip(source.runs, source.runs[1:], strict=False)]
    for wait, longest in zip(waits, (0.05, 0.1, 0.2, 0.4, 0.4, 0.4), strict=True):
        # jitter takes at most half; a busy machine adds
        assert 0.5 * longest <= wait < longest + 1.0
    assert len(came) == 1 and fed.failures == 6
    assert (
        fed.state == "finished" and fed.error == "ConnectionError: failure 6" and fed.failed_at > 0
    )


def test_waits_start_over_after_a_run_that_was_long_enough(playing: Any) -> None:
    source = playing("camera", failing=8)
    fed, _ = feeder(source, first_s=0.02, longest_s=60.0, good_s=0.0)
    fed.start()
    assert fed.join(5.0)  # eight doublings would take five seconds
    assert len(source.runs) == 9


def test_a_source_that_waits_to_be_tried_again_stops_at_once(
    playing: Any, until: Callable[..., None]
) -> None:
    fed, _ = feeder(playing("camera", failing=100), first_s=60.0)
    fed.start()
    until(lambda: fed.state == "waiting")
    fed.stop.set()
    assert fed.join(1.0) and fed.state == "stopped"


class Camera:
    """Gone: it runs for a while and brings nothing, until it is there again."""

    name = stream = "camera"

    def __init__(self) -> None:
        self.is_there = threading.Event()

    def run(self, deliver: Callable[[Any], bool], stop: threading.Event) -> None:
        if not self.is_there.wait(0.05):
            raise ConnectionError("no frame")
        deliver(Arrival("camera", "camera"))
        stop.wait()


def test_a_source_that_failed_is_not_up_while_it_runs_and_brings_nothing(
    until: Callable[..., None],
) -> None:
    camera = Camera()
    fed, _ = feeder(camera, first_s=0.02, longest_s=0.02)
    assert fed.is_up
    fed.start()
    until(lambda: fed.failures)
    seen = set()
    while fed.failures < 8:
        seen.add((fed.state, fed.is_up))
    assert seen == {("waiting", False), ("running", False)} and fed.health()["is_up"] is False
    camera.is_there.set()
    until(lambda: fed.delivered)
    assert fed.is_up
    fed.stop.set()
    assert fed.join(5.0) and fed.is_up


def test_a_source_that_failed_and_then_came_to_its_end_is_up(playing: Any) -> None:
    fed, _ = feeder(playing("camera", failing=1), first_s=0.01)
    fed.start()
    assert fed.join(5.0) and fed.failures == 1 and fed.is_up


def test_a_source_that_failed_and_has_little_to_bring_is_up_after_a_good_run(
    until: Callable[..., None],
) -> None:
    class Folder:
        name = stream = "folder"

        def run(self, deliver: Callable[[Any], bool], stop: threading.Event) -> None:
            if not fed.failures:
                raise ConnectionError("not mounted")
            stop.wait()

    fed, _ = feeder(Folder(), first_s=0.01, good_s=0.5)
    fed.start()
    until(lambda: fed.failures and fed.state == "running")
    assert not fed.is_up
    until(lambda: fed.is_up, 5.0)
    fed.stop.set()
    assert fed.join(5.0)


def test_what_the_inbox_refuses_is_counted_apart(playing: Any) -> None:
    fed, _ = feeder(playing("camera", [Arrival("camera", "camera")] * 3), takes=False)
    fed.start()
    assert fed.join(5.0)
    assert (fed.delivered, fed.refused) == (0, 3)
