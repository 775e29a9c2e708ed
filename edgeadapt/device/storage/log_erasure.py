"""What was deleted leaves the write-ahead log too: tried again until no reader is in the way."""

from __future__ import annotations

import logging

from edgeadapt.device.resources.worker import Worker
from edgeadapt.device.storage.journal import Journal

log = logging.getLogger("edgeadapt")
_FIRST_RETRY_S, _LAST_RETRY_S = 0.25, 60.0


class LogErasure:
    """Empties the log of a journal that says ``holds_deleted``. Runs on the worker.

    A reader of another connection (a backup, ``edgeadapt state``, somebody's SQLite shell) keeps
    the log as it is for as long as it reads an older state.
    """

    def __init__(self, journal: Journal, worker: Worker) -> None:
        self._journal, self._worker = journal, worker
        self._retry_s, self._is_queued = 0.0, False

    def request(self) -> None:
        """Try again later, if there is anything left to do."""
        if self._journal.holds_deleted and not self._is_queued:
            self._is_queued = True
            self._retry_s = min(_LAST_RETRY_S, max(_FIRST_RETRY_S, 2 * self._retry_s))
            self._worker.submit_later(self._again, self._retry_s)

    def _again(self) -> None:
        self._is_queued = False
        self.finish()

    def finish(self, wait_s: float = 0.0) -> bool:
        """Try now, waiting so long for readers; True if nothing that was deleted is left."""
        if self._journal.holds_deleted:
            self._journal.write_back(wait_s=wait_s)
        if self._journal.holds_deleted:
            if not self._is_queued:
                log.warning("%s", self._journal.unerased)
            self.request()
            return False
        self._retry_s = 0.0
        return True
