"""Threads that call the daemon, so that no request keeps another from being read."""

from __future__ import annotations

import asyncio
import contextlib
import queue
import threading
from collections.abc import Callable
from typing import Any

from edgeadapt.daemon.decoding.codec import Refused


class Workers:
    """Threads that call the service. They are daemons: a call that hangs keeps no process from
    ending.
    """

    def __init__(self, count: int, waiting: int) -> None:
        self._waiting: queue.Queue[tuple[Callable[[], Any], asyncio.Future[Any]] | None] = (
            queue.Queue(waiting)
        )
        self._threads = [
            threading.Thread(target=self._work, name="edgeadapt-http-call", daemon=True)
            for _ in range(count)
        ]
        self._is_started = False

    async def run(self, work: Callable[[], Any]) -> Any:
        """The result of ``work``, or its error.

        Raises:
            Refused: all threads are busy and as many wait as may.
        """
        if not self._is_started:
            self._is_started = True
            for thread in self._threads:
                thread.start()
        done: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        try:
            self._waiting.put_nowait((work, done))
        except queue.Full:
            raise Refused(503, "Busy", "too many requests wait", retry_s=1) from None
        return await done

    def _work(self) -> None:
        while (taken := self._waiting.get()) is not None:
            work, done = taken
            if done.cancelled():  # its time was up before its turn came
                continue
            try:
                outcome: tuple[Any, BaseException | None] = work(), None
            except BaseException as error:
                outcome = None, error
            with contextlib.suppress(RuntimeError):  # the loop has ended: nobody waits
                done.get_loop().call_soon_threadsafe(_settle, done, *outcome)

    def close(self) -> None:
        """No turn comes any more for what waits; threads end after their present call."""
        with contextlib.suppress(queue.Empty):
            while True:
                self._waiting.get_nowait()
        for _ in self._threads:
            with contextlib.suppress(queue.Full):
                self._waiting.put_nowait(None)


def _settle(done: asyncio.Future[Any], result: Any, error: BaseException | None) -> None:
    if done.cancelled():
        return
    if error is None:
        done.set_result(result)
    else:
        done.set_exception(
            error
            if isinstance(error, Exception) and not isinstance(error, StopIteration)
            else RuntimeError(repr(error))
        )


__all__ = ["Workers"]
