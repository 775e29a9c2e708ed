"""The thread that tries graphs elsewhere, and work that lets others go first."""

from __future__ import annotations

import atexit
import logging
import os
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol, TypeVar
from weakref import WeakKeyDictionary, ref

log = logging.getLogger("edgeadapt")
# that the end of the process waits for all of them; a build that nobody can cancel may take minutes
_END_S = 5.0
_NICE = 10
_TASKS = Path("/proc/self/task")
_low: set[int] = set()  # threads that are to stay low: builds of other runtimes
Result = TypeVar("Result")


class Trying(Protocol):
    """What the thread works for."""

    def try_next(self) -> bool:
        """Do one piece of work; False if there is none."""
        ...


class WakeEvent(threading.Event):
    """Set when there may be work; stopped for good when there will be none."""

    is_stopped = False

    def stop(self) -> None:
        self.is_stopped = True
        self.set()


_running: WeakKeyDictionary[threading.Thread, WakeEvent] = WeakKeyDictionary()


def start(works_for: Trying, wake: WakeEvent) -> threading.Thread:
    """A daemon thread. It keeps nothing alive while it waits, and ends with what it works for."""
    thread = threading.Thread(
        target=_try, args=(ref(works_for), wake), name="placement", daemon=True
    )
    _running[thread] = wake
    thread.start()
    return thread


def _try(works_for: Callable[[], Any], wake: WakeEvent) -> None:
    while wake.wait():
        wake.clear()
        has_more = True
        while has_more and not wake.is_stopped:
            trying: Trying | None = works_for()
            if trying is None:
                return
            try:
                has_more = trying.try_next()
            except Exception:  # a fault of ours: what serves goes on serving where it is
                log.exception("placement: trying graphs elsewhere has ended")
                return
            del trying
        if wake.is_stopped:
            return


@atexit.register
def _end() -> None:
    """Python ends daemon threads where they come back from native code, and C++ answers that with
    ``abort``: they have to be over before.

    A stop cancels the builds that can be cancelled. One that takes longer than the wait is left to
    end as it may.
    """
    running = list(_running.items())
    for _, wake in running:
        wake.stop()
    end = time.monotonic() + _END_S
    for thread, _ in running:
        thread.join(max(0.0, end - time.monotonic()))
    if any(thread.is_alive() for thread, _ in running):
        log.warning(
            "placement: a build cannot be cancelled; if it comes back while Python ends, the"
            " process aborts. What was acknowledged is in the journal"
        )


def at_low_priority(work: Callable[[], Result]) -> Result:
    """Have something done by a thread that lets others go first, and wait for it: opening a
    runtime, building an engine. Linux has a priority per thread; elsewhere nothing changes.

    What is measured runs at the priority of those who call: others that want the core would else be
    part of the figures. A thread that a runtime starts takes the priority of the one that starts
    it, so those that it keeps get their own back. Without the right to raise a priority (root,
    ``CAP_SYS_NICE``, or an ``RLIMIT_NICE`` that allows it) that is refused, and they stay as they
    are.

    Raises:
        what the work raises.
    """
    results: list[Result] = []
    errors: list[BaseException] = []

    def run() -> None:
        me = threading.get_native_id()
        before, usual = _threads(), _lower(me)
        _low.add(me)
        try:
            results.append(work())
        except BaseException as error:  # raised again where it is waited for
            errors.append(error)
        finally:
            _low.discard(me)
            _restore(_threads() - before - _low - {me}, usual)

    thread = threading.Thread(target=run, name="placement build", daemon=True)
    thread.start()
    thread.join()
    if errors:
        raise errors[0]
    return results[0]


def _threads() -> set[int]:
    return {int(task.name) for task in _TASKS.iterdir()} if _TASKS.is_dir() else set()


def _lower(thread: int) -> int:
    """Let a thread wait where others need the core; what its priority was."""
    if sys.platform != "linux":
        return 0
    usual = os.getpriority(os.PRIO_PROCESS, thread)
    os.setpriority(os.PRIO_PROCESS, thread, min(19, usual + _NICE))
    return usual


def _restore(threads: set[int], usual: int) -> None:
    """Give those that were started meanwhile the priority that they would have had."""
    for thread in threads:
        try:
            if os.getpriority(os.PRIO_PROCESS, thread) == min(19, usual + _NICE):
                os.setpriority(os.PRIO_PROCESS, thread, usual)
        except ProcessLookupError:  # it has ended
            continue
        except PermissionError:
            log.info(
                "placement: threads that a runtime has started keep a low priority: this process"
                " may not raise one (RLIMIT_NICE)"
            )
            return


__all__ = ["WakeEvent", "at_low_priority", "start"]
