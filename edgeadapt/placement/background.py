"""The one thread that tries graphs elsewhere: it waits for a bell, holds nothing meanwhile, and ends with the runtime that it works for.

What takes long, opening and building, it has done at low priority. What is measured runs at the priority of those who call: others that want the core
would else be part of the figures.
"""

from __future__ import annotations

import logging
import os
import sys
import threading
from collections.abc import Callable
from typing import Any, Protocol, TypeVar
from weakref import ref

log = logging.getLogger("edgeadapt")
_NICE = 10
Result = TypeVar("Result")


class Trying(Protocol):
    """What the thread works for."""

    def try_next(self) -> bool:
        """Do one piece of work; False if there is none."""
        ...


class Bell:
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


def start(works_for: Trying, bell: Bell) -> threading.Thread:
    """A daemon thread."""
    thread = threading.Thread(target=_try, args=(ref(works_for), bell), name="placement", daemon=True)
    thread.start()
    return thread


def _try(works_for: Callable[[], Any], bell: Bell) -> None:
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


def at_low_priority(work: Callable[[], Result]) -> Result:
    """Have something done by a thread that lets others go first, and wait for it.

    Raises:
        what the work raises.
    """
    results: list[Result] = []
    errors: list[BaseException] = []

    def run() -> None:
        _step_back()
        try:
            results.append(work())
        except BaseException as error:  # raised again where it is waited for
            errors.append(error)

    thread = threading.Thread(target=run, name="placement build", daemon=True)
    thread.start()
    thread.join()
    if errors:
        raise errors[0]
    return results[0]


def _step_back() -> None:
    """Let this thread wait where others need the core. Linux has a priority per thread; elsewhere nothing changes."""
    if sys.platform == "linux":
        thread = threading.get_native_id()
        os.setpriority(os.PRIO_PROCESS, thread, min(19, os.getpriority(os.PRIO_PROCESS, thread) + _NICE))


__all__ = ["Bell", "at_low_priority", "start"]
