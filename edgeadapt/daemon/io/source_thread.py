"""One thread per source: what it brings goes in, and a source that fails is tried again, ever less
often.

    wait = min(first 2^k, longest) u,   u uniform in [0.5, 1]
            k: failures since the source last ran for a minute
"""

from __future__ import annotations

import logging
import random
import threading
import time
from typing import Any, Literal

from edgeadapt.daemon.messages import Arrival, Deliver, LabelArrival, Source

log = logging.getLogger("edgeadapt.daemon")
State = Literal["new", "running", "waiting", "finished", "stopped"]


class SourceThread:
    """Runs a source until it has no more or is stopped.

    Args:
        deliver: takes what the source brings.
        first_s, longest_s: the first and the longest wait after a failure.
        good_s: a run of this length starts the waits over.

    Attributes:
        stop: set it to end this source.
    """

    def __init__(
        self,
        source: Source,
        deliver: Deliver,
        *,
        first_s: float = 0.5,
        longest_s: float = 60.0,
        good_s: float = 60.0,
    ) -> None:
        self.source, self.stop = source, threading.Event()
        self.state: State = "new"
        self.delivered, self.refused, self.labels, self.failures = 0, 0, 0, 0
        self.error, self.failed_at = "", 0.0
        self._is_down, self._run_at = False, 0.0
        self._deliver = deliver
        self._first_s, self._longest_s, self._good_s = first_s, longest_s, good_s
        self._thread = threading.Thread(target=self._run, name=f"source-{source.name}", daemon=True)

    def start(self) -> None:
        self._thread.start()

    @property
    def is_up(self) -> bool:
        """False from a failure on until the source has brought something again, runs for
        ``good_s``, or has come to its end.
        """
        return not self._is_down or (
            self.state == "running" and time.monotonic() - self._run_at >= self._good_s
        )

    def join(self, timeout_s: float) -> bool:
        """Wait for the thread; True if it has ended."""
        if self._thread.ident is not None:
            self._thread.join(timeout_s)
        return not self._thread.is_alive()

    def health(self) -> dict[str, Any]:
        """What a status line shows: state, whether it brings what it should, counts, and the last
        error with its time (seconds since the epoch).
        """
        return {
            "name": self.source.name,
            "stream": self.source.stream,
            "state": self.state,
            "is_up": self.is_up,
            "delivered": self.delivered,
            "refused": self.refused,
            "labels": self.labels,
            "failures": self.failures,
            "error": self.error,
            "failed_at": self.failed_at,
        }

    def _take(self, what: Arrival | LabelArrival) -> bool:
        self._is_down = False
        was_taken = self._deliver(what)
        self.refused += not was_taken
        if isinstance(what, LabelArrival):
            self.labels += was_taken
        else:
            self.delivered += was_taken
        return was_taken

    def _run(self) -> None:
        wait_s = self._first_s
        while not self.stop.is_set():
            self.state, self._run_at = "running", time.monotonic()
            try:
                self.source.run(self._take, self.stop)
                self._is_down = False
                break
            # a driver or a client may raise anything: the daemon outlives it
            except Exception as error:
                if self.stop.is_set():
                    break
                if time.monotonic() - self._run_at >= self._good_s:
                    wait_s = self._first_s
                self.failures += 1
                self.error, self.failed_at = f"{type(error).__name__}: {error}", time.time()
                self.state, self._is_down = "waiting", True
                # sources that lost one broker do not come back at once
                pause_s = wait_s * random.uniform(0.5, 1.0)
                log.warning(
                    "source %s failed, tried again in %.1f s: %s",
                    self.source.name,
                    pause_s,
                    self.error,
                )
                self.stop.wait(pause_s)
                wait_s = min(self._longest_s, 2.0 * wait_s)
        self.state = "stopped" if self.stop.is_set() else "finished"


__all__ = ["SourceThread", "State"]
