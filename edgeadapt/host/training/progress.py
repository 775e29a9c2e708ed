"""Lines on a terminal: where training stands, after about a second and then every five."""

from __future__ import annotations

import time
from collections.abc import Callable


class Meter:
    """Says epoch, step, loss and the time that is left."""

    def __init__(self, say: Callable[[str], None], epochs: int, steps: int, first: int) -> None:
        self._say, self._epochs, self._steps, self._first = say, epochs, steps, first
        self._started = time.perf_counter()
        self._next = self._started + 0.8

    def step(self, epoch: int, step: int, loss: float) -> None:
        """After a step; ``epoch`` and ``step`` count from 0."""
        now = time.perf_counter()
        if now < self._next:
            return
        self._next = now + 5.0
        done = epoch * self._steps + step + 1
        left = (now - self._started) / (done - self._first) * (self._epochs * self._steps - done)
        self._say(
            f"train: epoch {epoch + 1} of {self._epochs}  step {step + 1} of {self._steps}  loss"
            f" {loss:.3f}  about {left:.0f} s left"
        )


__all__ = ["Meter"]
