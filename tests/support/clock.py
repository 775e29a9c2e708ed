"""A clock that the test turns."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass
class Clock:
    """Seconds; ``clock()`` reads it."""

    now: float = 0.0

    def __call__(self) -> float:
        return self.now
