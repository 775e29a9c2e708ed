"""Who plays frames in turns: the process that plays, and the suite's side of it."""

from __future__ import annotations

import http.client
import os
import socket
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from typing import Any, Protocol

from edgeadapt.errors import RuntimeUnavailable
from edgeadapt_bench.harness.child.job_server import Job
from edgeadapt_bench.harness.process import MeasuringProcess

Said = dict[str, Any]
_ASKED_EVERY_S, _PATIENCE_S = 1.0, 60.0


class Playing(Protocol):
    """What plays the frames, in its process."""

    def play(self, frames: int, rate_hz: float) -> Said:
        """The next frames, as fast as they are taken or at a rate (0: as fast)."""
        ...

    def end(self) -> Said: ...


def jobs_of(make: Callable[..., Playing]) -> Mapping[str, Job]:
    """The jobs of a process that plays: ``start`` (what ``make`` takes), ``play``, ``end``."""
    started: list[Playing] = []

    def start(*, on_one_core: bool, **arguments: Any) -> Said:
        if on_one_core:
            os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})  # before any thread is started
        started.append(make(**arguments))
        return {}

    return {
        "start": start,
        "play": lambda **order: started[0].play(**order),
        "end": lambda: started[0].end(),
    }


class MetricsReader:
    """Whoever reads ``/metrics`` once a second while the daemon has its turn; ``path`` of its
    socket.
    """

    def __init__(self, path: str) -> None:
        self.path, self.count = path, 0

    @contextmanager
    def reading(self) -> Iterator[None]:
        done = threading.Event()
        thread = threading.Thread(target=self._read, args=(done,))
        thread.start()
        try:
            yield
        finally:
            done.set()
            thread.join()

    def _read(self, done: threading.Event) -> None:
        while True:
            connection = http.client.HTTPConnection("localhost")
            connection.sock = socket.socket(socket.AF_UNIX)
            connection.sock.settimeout(_PATIENCE_S)
            connection.sock.connect(self.path)
            connection.request("GET", "/metrics")
            self.count += b"edgeadapt_refreshes_total" in connection.getresponse().read()
            connection.close()
            if done.wait(_ASKED_EVERY_S):
                return


class Player:
    """A process that plays frames, and that runs only while it has its turn.

    Args:
        reader: reads while it plays, and stops before it is stopped.
        on_one_core: it shares one core with all that it starts.
        arguments: of what the module plays with.
    """

    def __init__(
        self,
        module: str,
        reader: MetricsReader | None = None,
        *,
        on_one_core: bool = False,
        **arguments: Any,
    ) -> None:
        self._reader = reader
        self._process = MeasuringProcess.of_module(module)
        try:
            with self._process.running():
                self._process.ask("start", on_one_core=on_one_core, **arguments)
        except RuntimeUnavailable:
            self._process.close()
            raise

    def play(self, frames: int, rate_hz: float = 0.0) -> Said:
        """The next frames, at a rate or as fast as they are taken."""
        reading = self._reader.reading() if self._reader else nullcontext()
        with self._process.running(), reading:
            return self._process.ask("play", frames=frames, rate_hz=rate_hz)

    def end(self) -> Said:
        with self._process.running():
            return self._process.ask("end")

    def __enter__(self) -> Player:
        return self

    def __exit__(self, *raised: object) -> None:
        self._process.close()
