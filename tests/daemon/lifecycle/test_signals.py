"""Signals while a reload takes long, in the process that gets them."""

from __future__ import annotations

import os
import signal
import threading
import time

import pytest

from edgeadapt.daemon.lifecycle import signals as supervised


class Slow:
    """Whose settings take long to read."""

    def __init__(self) -> None:
        self.reloads, self.at_once, self.most_at_once, self.stopped = 0, 0, 0, False
        self.go_on = threading.Event()

    def start(self) -> None:
        threading.Thread(target=self._signals, daemon=True).start()

    def _signals(self) -> None:
        for _ in range(3):
            os.kill(os.getpid(), signal.SIGHUP)
            time.sleep(0.3)
        os.kill(os.getpid(), signal.SIGTERM)

    def hang_up(self) -> None:
        self.reloads, self.at_once = self.reloads + 1, self.at_once + 1
        self.most_at_once = max(self.most_at_once, self.at_once)
        self.go_on.wait(30.0)
        self.at_once -= 1

    def stop(self) -> bool:
        self.stopped = True
        return True


def test_a_reload_that_hangs_does_not_keep_the_end_waiting_and_another_waits_for_it() -> None:
    service, started = Slow(), time.monotonic()
    assert supervised.run(service, lambda: False) == 0
    assert service.stopped and time.monotonic() - started < 5.0
    assert service.reloads == service.most_at_once == 1
    service.go_on.set()


def test_a_reload_that_was_asked_for_during_another_comes_after_it() -> None:
    service = Slow()
    service.go_on.set()
    assert supervised.run(service, lambda: False) == 0
    assert service.reloads == 3 and service.most_at_once == 1


class Endless(Slow):
    """Whose start never ends."""

    def start(self) -> None:
        super().start()
        self.go_on.wait(30.0)


def test_a_start_that_never_ends_does_not_keep_the_end_waiting() -> None:
    service, started = Endless(), time.monotonic()
    assert supervised.run(service, lambda: False) == 0
    assert service.stopped and time.monotonic() - started < 2.0
    service.go_on.set()


def test_a_start_that_fails_is_told_in_the_words_of_its_error() -> None:
    class Failing(Slow):
        def start(self) -> None:
            raise OSError("no such address")

    service = Failing()
    with pytest.raises(OSError, match="no such address"):
        supervised.run(service, lambda: False)
    assert service.stopped
