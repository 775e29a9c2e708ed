"""Who wants the learner to wait: it is paused while anybody does."""

from __future__ import annotations

import threading
from collections.abc import Callable

from edgeadapt.daemon.engine.learner_lease import LearnerLease
from edgeadapt.device.learner import Learner


class PauseReasons:
    """Reasons for a pause, each with its own beginning and end: ``user``, ``latency``,
    ``checkpoint``.
    """

    def __init__(self, lease: LearnerLease) -> None:
        self._lease = lease
        self._reasons: set[str] = set()
        self._lock = threading.Lock()

    @property
    def reasons(self) -> list[str]:
        return sorted(self._reasons)

    def set(self, why: str, paused: bool, while_waiting: Callable[[], None] | None = None) -> None:
        """Begin or end one reason; borrows the learner."""
        with self._lease.borrow(while_waiting) as learner:
            self.set_on(learner, why, paused)

    def set_on(self, learner: Learner, why: str, paused: bool) -> None:
        """The same for whoever has borrowed it already."""
        with self._lock:
            (self._reasons.add if paused else self._reasons.discard)(why)
            learner.pause(bool(self._reasons))

    def apply(self, learner: Learner) -> None:
        """A learner that was opened in another's place waits as that one did."""
        with self._lock:
            learner.pause(bool(self._reasons))


__all__ = ["PauseReasons"]
