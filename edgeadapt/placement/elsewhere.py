"""What work has cost its thread where a part of it is done by a device: CPU seconds, and the
seconds for which the device was waited for.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager


class Elsewhere(threading.local):
    """Seconds that the calling thread has waited for work that other runtimes did for it."""

    def __init__(self) -> None:
        self.seconds = 0.0

    @contextmanager
    def waiting(self) -> Iterator[None]:
        """Count the time of a block in which the thread itself does not compute. Blocks do not
        nest.
        """
        started, computed = time.perf_counter(), time.thread_time()
        try:
            yield
        finally:
            self.seconds += max(
                0.0, time.perf_counter() - started - (time.thread_time() - computed)
            )

    def spent(self) -> float:
        """Seconds of work of the calling thread, here and elsewhere; only differences mean
        something.
        """
        return time.thread_time() + self.seconds


__all__ = ["Elsewhere"]
