"""What lets others go first, and what must not."""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import pytest
from fake_runtimes import MadeUp, batch, predict_graph, table
from placement_trials import drive

from edgeadapt.placement import PlacedRuntime
from edgeadapt.placement.background import at_low_priority

pytestmark = pytest.mark.skipif(
    sys.platform != "linux", reason="only Linux has a priority per thread"
)


def nice(thread: int | None = None) -> int:
    return os.getpriority(os.PRIO_PROCESS, thread or threading.get_native_id())


@pytest.fixture
def let_end() -> Iterator[threading.Event]:
    event = threading.Event()
    yield event
    event.set()


def may_raise() -> bool:
    def there_and_back() -> bool:
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), nice() + 1)
        try:
            os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), nice() - 1)
        except PermissionError:
            return False
        return True

    said: list[bool] = []
    thread = threading.Thread(target=lambda: said.append(there_and_back()))
    thread.start()
    thread.join()
    return said[0]


def started_at_low_priority(let_end: threading.Event) -> int:
    """A thread that outlives the work which has started it, as a pool of a runtime does."""
    began = threading.Event()

    def lives() -> None:
        began.set()
        let_end.wait(30)

    thread = threading.Thread(target=lives, daemon=True)
    thread.start()
    assert began.wait(10)
    assert nice(thread.native_id) == nice() > 0
    return thread.native_id or 0


def test_threads_that_a_runtime_keeps_get_their_priority_back(let_end: threading.Event) -> None:
    if not may_raise():
        pytest.skip("this process may not raise a priority")
    assert nice(at_low_priority(lambda: started_at_low_priority(let_end))) == nice()


def test_where_no_priority_may_be_raised_the_work_is_done_all_the_same(
    let_end: threading.Event, monkeypatch: pytest.MonkeyPatch
) -> None:
    lower = os.setpriority

    def refuse(which: int, thread: int, value: int) -> None:
        if value < nice(thread):
            raise PermissionError(1, "Operation not permitted")
        lower(which, thread, value)

    monkeypatch.setattr(os, "setpriority", refuse)
    assert nice(at_low_priority(lambda: started_at_low_priority(let_end))) > nice()


def test_the_first_call_of_each_batch_lets_others_go_first_and_what_is_measured_does_not(
    slow_cpu: dict[str, Any], register: Callable[..., None], opened: Callable[..., PlacedRuntime]
) -> None:
    class Notes(MadeUp):
        def __init__(self) -> None:
            super().__init__()
            self.calls_at: list[tuple[int, int]] = []

        def before_call(self, name: str, ports: Mapping[str, Any]) -> None:
            self.calls_at.append((len(ports["x"]), nice()))

    register(Notes)
    runtime = opened()
    tensors, run = runtime.upload(table()), runtime.load(predict_graph())
    drive(runtime, lambda: run({"x": batch(6)}, tensors), 3)
    usual, seen = nice(), Notes.opened[0].calls_at
    assert [size for size, at in seen if at > usual] == [5, 8, 6]
    assert len(seen) > 6 and all(at == usual for _, at in seen[3:])
