"""The one thread that changes anything. Labels come first; windows follow; an error is kept, not
swallowed.
"""

from __future__ import annotations

import heapq
import logging
import os
import sys
import threading
import time
from collections import deque
from collections.abc import Callable
from typing import Any, TypeVar

from edgeadapt.errors import EdgeadaptError, StateError

log = logging.getLogger("edgeadapt")
Result = TypeVar("Result")


_NICE = 10
# going back walks over many rows in Python: predictions get the interpreter ten times as often
# meanwhile (p99 6.5 -> 1.9 ms)
_SWITCH_S = 5e-4


def _step_back() -> None:
    """Let this thread wait where predictions need the core. Linux has a priority per thread;
    elsewhere nothing changes.
    """
    if sys.platform == "linux":
        thread = threading.get_native_id()
        niceness = min(19, os.getpriority(os.PRIO_PROCESS, thread) + _NICE)
        os.setpriority(os.PRIO_PROCESS, thread, niceness)


class _Call:
    """A task that somebody waits for: it runs while the worker is paused, too."""

    def __init__(self, run: Callable[[], None]) -> None:
        self.run = run

    def __call__(self) -> None:
        self.run()


class Worker:
    """A queue in two ranks, urgent and not, served by one daemon thread.

    While it is paused only calls start: somebody waits for them.
    """

    def __init__(self) -> None:
        self._urgent: deque[Callable[[], Any]] = deque()
        self._patient: deque[Callable[[], Any]] = deque()
        # a heap of (when, serial, task)
        self._later: list[tuple[float, int, Callable[[], Any]]] = []
        self._serial = 0
        self._wake = threading.Condition()
        self._is_busy = False
        self._is_closing = False
        self._is_paused = False
        self.failure: BaseException | None = None
        self.busy_s = 0.0
        self._thread = threading.Thread(target=self._serve, name="edgeadapt-worker", daemon=True)
        self._thread.start()

    def submit(self, task: Callable[[], Any], *, urgent: bool = False) -> None:
        with self._wake:
            if self._is_closing:
                raise StateError("the learner is closed")
            (self._urgent if urgent else self._patient).append(task)
            self._wake.notify_all()  # who waits for the end of a pause waits here, too

    def offer(self, task: Callable[[], Any]) -> None:
        """Queue patient work that may as well be done another time: closing drops it."""
        with self._wake:
            if not self._is_closing:
                self._patient.append(task)
                self._wake.notify_all()

    def submit_later(self, task: Callable[[], Any], delay_s: float) -> None:
        """Queue an urgent task when ``delay_s`` have passed. ``settle`` does not wait for it, and
        closing drops it.
        """
        with self._wake:
            if not self._is_closing:
                self._serial += 1
                heapq.heappush(self._later, (time.monotonic() + delay_s, self._serial, task))
                self._wake.notify_all()

    def call(self, task: Callable[[], Result]) -> Result:
        """Run on the worker, after urgent work that is already queued (while paused: before it),
        and wait for the result.
        """
        if threading.current_thread() is self._thread:
            return task()
        done = threading.Event()
        box: list[Any] = []

        def run() -> None:
            interval = sys.getswitchinterval()
            sys.setswitchinterval(min(interval, _SWITCH_S))
            try:
                box.append((True, task()))
            except BaseException as error:
                box.append((False, error))
            finally:
                sys.setswitchinterval(interval)
                done.set()

        self.submit(_Call(run), urgent=True)
        while not done.wait(0.5):
            if not self._thread.is_alive():
                raise StateError("the learner's worker has stopped")
        succeeded, value = box[0]
        if not succeeded:
            raise value
        result: Result = value
        return result

    def pause(self, paused: bool = True, *, rest: Callable[[], Any] | None = None) -> None:
        """Start nothing but calls from now on, or everything again.

        Args:
            rest: a task that does what the one that runs now leaves undone, if it looks at
                ``is_paused`` and stops early.
        """
        with self._wake:
            if paused and not self._is_paused and self._is_busy and rest is not None:
                self._urgent.appendleft(rest)
            self._is_paused = paused
            self._wake.notify_all()

    @property
    def is_paused(self) -> bool:
        return self._is_paused

    def settle(self, timeout_s: float | None = None) -> bool:
        """Wait until nothing is queued or running; False on time-out. What is queued when the
        worker is paused waits for the pause to end.
        """
        with self._wake:
            return self._wake.wait_for(self._is_settled, timeout_s)

    def settle_unless_paused(self) -> None:
        """Wait until nothing is queued or running, or the worker is paused."""
        with self._wake:
            self._wake.wait_for(lambda: self._is_paused or self._is_settled())

    def _is_settled(self) -> bool:
        return not (self._urgent or self._patient or self._is_busy)

    @property
    def is_busy(self) -> bool:
        return self._is_busy

    @property
    def backlog(self) -> int:
        return len(self._urgent) + len(self._patient) + self._is_busy

    def close(self, timeout_s: float = 10.0) -> None:
        """Finish what is queued, then stop; a worker that is paused drops what is no call."""
        with self._wake:
            self._is_closing = True
            self._wake.notify_all()
        self._thread.join(timeout_s)

    def _next(self) -> Callable[[], Any] | None:
        """The task whose turn it is, or None. Under the lock."""
        if self._is_paused:
            call = next((task for task in self._urgent if isinstance(task, _Call)), None)
            if call is not None:
                self._urgent.remove(call)
            return call
        while self._later and not self._is_closing and self._later[0][0] <= time.monotonic():
            self._urgent.append(heapq.heappop(self._later)[2])
        return (self._urgent or self._patient).popleft() if self._urgent or self._patient else None

    def _patience_s(self) -> float | None:
        """How long to wait for the next task, if nobody wakes the worker."""
        if not self._later or self._is_paused:
            return None
        return max(0.0, self._later[0][0] - time.monotonic())

    def _serve(self) -> None:
        _step_back()
        while True:
            with self._wake:
                while (task := self._next()) is None:
                    if self._is_closing:
                        return
                    self._wake.wait(self._patience_s())
                self._is_busy = True
            started = time.perf_counter()
            try:
                task()
            except EdgeadaptError as error:
                self.failure = error
                log.warning("background work failed: %s", error)
            except Exception as error:
                self.failure = error
                log.exception("background work failed")
            finally:
                self.busy_s += time.perf_counter() - started
                with self._wake:
                    self._is_busy = False
                    self._wake.notify_all()
