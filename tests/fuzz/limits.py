"""Bounds on what one call may cost, for tests of inputs that ask for much."""

from __future__ import annotations

import threading
import time
import tracemalloc
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any


@contextmanager
def modestly(mib: float = 16.0, seconds: float = 3.0) -> Iterator[None]:
    """Python and numpy take no more memory than this at any time, and no more processor time."""
    tracemalloc.start()
    started = time.thread_time()
    try:
        yield
        assert tracemalloc.get_traced_memory()[1] < mib * 2**20
        assert time.thread_time() - started < seconds
    finally:
        tracemalloc.stop()


def within(seconds: float, call: Callable[[], Any]) -> Any:
    """The outcome of a call, which must not wait."""
    outcome: list[Any] = []

    def run() -> None:
        try:
            outcome.append((call(), None))
        except Exception as error:
            outcome.append((None, error))

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    thread.join(seconds)
    assert outcome, "it waits"
    if outcome[0][1] is not None:
        raise outcome[0][1]
    return outcome[0][0]
