"""The one thread that tries graphs elsewhere: it waits for a bell, holds nothing meanwhile, and
ends with the runtime that it works for, or the process.
"""

from __future__ import annotations

import atexit
import logging
import threading
import time
from collections.abc import Callable
from typing import Any, Protocol
from weakref import WeakKeyDictionary, ref

log = logging.getLogger("edgeadapt")
# that the end of the process waits for all of them; a build that nobody can cancel may take minutes
_END_S = 5.0


class Trying(Protocol):
    """What the thread works for."""

    def try_next(self) -> bool:
        """Do one piece of work; False if there is none."""
        ...


class WakeEvent:
    """Rung when there may be work; stopped for good when there will be none."""

    def __init__(self) -> None:
        self._rung = threading.Event()
        self.is_stopped = False

    @property
    def has_rung(self) -> bool:
        """Somebody has rung, and the thread has not heard it yet."""
        return self._rung.is_set()

    def ring(self) -> None:
        self._rung.set()

    def stop(self) -> None:
        self.is_stopped = True
        self._rung.set()

    def wait(self) -> bool:
        """Wait until it rings; False if it has stopped."""
        self._rung.wait()
        self._rung.clear()
        return not self.is_stopped


def start(works_for: Trying, bell: WakeEvent) -> threading.Thread:
    """A daemon thread."""
    thread = threading.Thread(
        target=_try, args=(ref(works_for), bell), name="placement", daemon=True
    )
    _running[thread] = bell
    thread.start()
    return thread


_running: WeakKeyDictionary[threading.Thread, WakeEvent] = WeakKeyDictionary()


@atexit.register
def _end() -> None:
    """Python ends daemon threads where they come back from native code, and C++ answers that with
    ``abort``: they have to be over before.

    A stopped bell cancels the builds that can be cancelled. One that takes longer than the wait is
    left to end as it may.
    """
    running = list(_running.items())
    for _, bell in running:
        bell.stop()
    end = time.monotonic() + _END_S
    for thread, _ in running:
        thread.join(max(0.0, end - time.monotonic()))
    if any(thread.is_alive() for thread, _ in running):
        log.warning(
            "placement: a build cannot be cancelled; if it comes back while Python ends, the"
            " process aborts. What was acknowledged is in the journal"
        )


def _try(works_for: Callable[[], Any], bell: WakeEvent) -> None:
    while bell.wait():
        while not bell.is_stopped:
            trying: Trying | None = works_for()
            if trying is None:
                return
            try:
                has_more = trying.try_next()
            except Exception:  # a fault of ours: what serves goes on serving where it is
                log.exception("placement: trying graphs elsewhere has ended")
                return
            del trying
            if not has_more:
                break


__all__ = ["WakeEvent", "start"]
