"""What is done now and then: session state is made durable, old rows expire, the file is kept
small.
"""

from __future__ import annotations

import time

from edgeadapt.device.adaptation.domain_manager import DomainManager
from edgeadapt.device.commits.commit_log import CommitLog
from edgeadapt.device.commits.domain_changes import save_domains
from edgeadapt.device.detection.policy import Keep
from edgeadapt.device.recovery.retention import Retention
from edgeadapt.errors import StateError

# without being asked: a correction that is lost with the power is at most as old as this
_EVERY_S = 600.0
_DECISION_BYTES = 128
# a clock that moved by a day since it was last read is doubted for an hour
_DOUBTFUL_S, _CONFIRMED_S = 86_400.0, 3600.0


class Maintenance:
    """Runs on the worker."""

    def __init__(
        self,
        log: CommitLog,
        retention: Retention,
        conditions: DomainManager,
        keep: Keep,
        raw_per_class: int,
    ) -> None:
        self._log, self._journal, self._live = log, log.journal, log.live
        self._retention = retention
        self._conditions = conditions
        self._room = log.room
        self._keep = keep
        self._raw_per_class = raw_per_class
        self._last = time.monotonic()
        self._doubted_at: float | None = None

    def run(self) -> None:
        self._last = time.monotonic()
        if not self._live.is_frozen:
            self._conditions.merge()
            save_domains(self._log)
            now = time.time() if self._clock_is_believed() else float("-inf")
            self._retention.expire(
                now - 86_400.0 * self._keep.features_days, self._keep.rows, self._keep.selection
            )
            self._journal.thin_raw(self._raw_per_class)
            if self._room.has_room(self._live.current.tensors.nbytes):
                self._retention.compact(self._keep.commits)
        self.record_decisions()
        if self._room.has_room(0):
            self._journal.shrink()

    def _clock_is_believed(self) -> bool:
        """Nothing expires by a clock that has just jumped: the new time must still hold an hour
        later, or at the next start.

        A device without a battery starts in 1970; one whose clock is set wrong for a moment must
        not lose a month of labels.
        """
        now, known = time.time(), self._journal.meta("clock")  # there from the first opening on
        try:
            elapsed = now - float(str(known))
        except ValueError as error:
            raise StateError(f"the journal is damaged: its clock says {known!r:.40}") from error
        if 0.0 <= elapsed < _DOUBTFUL_S:
            if elapsed > _CONFIRMED_S:
                self._journal.set_meta({"clock": repr(now)})
            return self._doubted_at is None or time.monotonic() - self._doubted_at > _CONFIRMED_S
        self._journal.set_meta({"clock": repr(now)})
        self._doubted_at = time.monotonic()
        return False

    def run_if_due(self) -> None:
        if time.monotonic() - self._last > _EVERY_S:
            self.run()

    def record_decisions(self) -> None:
        """Make decisions durable; where little may be written they wait in memory, the oldest
        falling out.
        """
        waiting = self._conditions.decisions
        if self._room.has_room(_DECISION_BYTES * len(waiting)):
            self._journal.decide(list(waiting))
            waiting.clear()
