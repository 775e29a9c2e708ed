"""A service under signals: SIGTERM and SIGINT end it, SIGHUP reads its settings again."""

from __future__ import annotations

import contextlib
import logging
import os
import select
import signal
import socket
import threading
from collections.abc import Callable
from typing import Protocol

from edgeadapt.daemon.engine.background_thread import in_background


class Supervised(Protocol):
    """What signals reach."""

    def start(self) -> None: ...
    def stop(self) -> bool: ...
    def hang_up(self) -> None: ...


def run(service: Supervised, has_failed: Callable[[], bool]) -> int:
    """Serve until a signal or a failure ends it. For the main thread.

    Returns:
        The exit code: 1 if it failed, else 0.
    """
    ours, theirs = socket.socketpair()
    ours.setblocking(False)
    theirs.setblocking(False)
    before = {
        number: signal.signal(number, lambda *_: None)
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
    }
    fd = signal.set_wakeup_fd(theirs.fileno(), warn_on_full_buffer=False)
    try:
        try:
            starting = _Starting(service.start, lambda: theirs.send(b"\0"))
            _watch(ours, service, has_failed, starting)
        finally:
            is_closed = service.stop()
    finally:
        signal.set_wakeup_fd(fd)
        for number, old in before.items():
            signal.signal(number, old)
        ours.close()
        theirs.close()
    code = 1 if has_failed() else 0
    if not is_closed:
        logging.shutdown()
        # a checkpoint that hangs on a disk cannot be interrupted, and the journal is as safe as
        # after a kill
        os._exit(code)
    return code


class _Starting:
    """A start on a thread of its own: a graph that never ends must not keep a signal waiting.

    Args:
        done: called when it has ended, well or not.
    """

    def __init__(self, start: Callable[[], None], done: Callable[[], object]) -> None:
        self.error: BaseException | None = None
        self.is_done = False
        self._start, self._done = start, done
        threading.Thread(target=self._run, name="start", daemon=True).start()

    def _run(self) -> None:
        try:
            self._start()
        except BaseException as error:
            self.error = error
        self.is_done = True
        with contextlib.suppress(OSError):  # it was ended meanwhile: nobody listens
            self._done()


def _watch(
    signals: socket.socket, service: Supervised, has_failed: Callable[[], bool], starting: _Starting
) -> None:
    """Wait for signals, which come as bytes: nothing of ours runs inside a handler."""
    # on a thread of its own: who waits for the end must not wait for a bundle to load
    hanging_up: threading.Thread | None = None
    is_due = False
    while not has_failed():
        ready, _, _ = select.select([signals], [], [], 0.1 if is_due else 1.0)
        came = signals.recv(64) if ready else b""
        if starting.error is not None:
            raise starting.error
        if signal.SIGTERM in came or signal.SIGINT in came:
            return
        is_due = is_due or signal.SIGHUP in came
        if is_due and starting.is_done and (hanging_up is None or not hanging_up.is_alive()):
            hanging_up, is_due = in_background(service.hang_up, "reload"), False


__all__ = ["Supervised", "run"]
