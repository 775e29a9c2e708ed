"""Work that lets others go first: opening a runtime, building an engine. Linux has a priority per
thread; elsewhere nothing changes.

What is measured runs at the priority of those who call: others that want the core would else be
part of the figures. A thread that a runtime starts takes the priority of the one that starts it, so
those that it keeps get their own back. Without the right to raise a priority (root,
``CAP_SYS_NICE``, or an ``RLIMIT_NICE`` that allows it) that is refused, and they stay as they are.
"""

from __future__ import annotations

import logging
import os
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

log = logging.getLogger("edgeadapt")
_NICE = 10
_TASKS = Path("/proc/self/task")
_low: set[int] = set()  # threads that are to stay low: builds of other runtimes
Result = TypeVar("Result")


def at_low_priority(work: Callable[[], Result]) -> Result:
    """Have something done by a thread that lets others go first, and wait for it.

    Raises:
        what the work raises.
    """
    results: list[Result] = []
    errors: list[BaseException] = []

    def run() -> None:
        me = threading.get_native_id()
        before, usual = _threads(), _step_back(me)
        _low.add(me)
        try:
            results.append(work())
        except BaseException as error:  # raised again where it is waited for
            errors.append(error)
        finally:
            _low.discard(me)
            _bring_back(_threads() - before - _low - {me}, usual)

    thread = threading.Thread(target=run, name="placement build", daemon=True)
    thread.start()
    thread.join()
    if errors:
        raise errors[0]
    return results[0]


def _threads() -> set[int]:
    return {int(task.name) for task in _TASKS.iterdir()} if _TASKS.is_dir() else set()


def _step_back(thread: int) -> int:
    """Let a thread wait where others need the core; what its priority was."""
    if sys.platform != "linux":
        return 0
    usual = os.getpriority(os.PRIO_PROCESS, thread)
    os.setpriority(os.PRIO_PROCESS, thread, min(19, usual + _NICE))
    return usual


def _bring_back(threads: set[int], usual: int) -> None:
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


__all__ = ["at_low_priority"]
