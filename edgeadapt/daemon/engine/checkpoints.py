"""What was learned, and what folder sources have taken, made durable: now and then, when asked, and
at the end.
"""

from __future__ import annotations

import logging
import threading
import time

from edgeadapt.daemon.config.schema import FolderSource
from edgeadapt.daemon.engine.context import ServiceContext
from edgeadapt.device.learner import Learner
from edgeadapt.errors import EdgeadaptError

log = logging.getLogger("edgeadapt.daemon")
_SETTLING_S = 1.0  # a checkpoint waits so long for queued work: under load there is always some


class Checkpoints:
    """Thread-safe; what fails is kept for health, and tried again."""

    def __init__(self, context: ServiceContext) -> None:
        self._context = context
        # one after the other: an older table of folders must not come last
        self._taking = threading.Lock()
        self._writing = threading.Lock()

    def take(self) -> int:
        """Make what was learned durable; returns the number of the last commit. Work that is still
        queued after a second is done after it.

        Raises:
            StorageError: the disk is full or fails.
        """
        with self._taking:
            return self._take()

    def _take(self) -> int:
        context = self._context
        folders = self._folders()
        try:
            with context.lease.borrow() as learner:
                self._settle(learner)
                context.pause_reasons.set_on(learner, "checkpoint", True)
                try:
                    commit = learner.checkpoint()
                finally:
                    context.pause_reasons.set_on(learner, "checkpoint", False)
        except EdgeadaptError as error:
            context.checkpoint_error = str(error)
            log.error("checkpoint: %s", error)
            raise
        context.checkpoint_error, context.checkpointed_at = "", time.time()
        # labels that came with these files are the learner's now
        if not folders or context.labels.settle(_SETTLING_S):
            with self._writing:
                if not context.is_stopping:  # else the last table is written, or will be
                    context.folders.write(folders, self._bytes_per_day)
        return commit

    def _settle(self, learner: Learner) -> None:
        try:
            learner.settle(_SETTLING_S)
            self._context.work_error = ""
        # of background work, since the last time: whatever a graph or the disk raised
        except Exception as error:
            self._context.work_error = f"{type(error).__name__}: {error}"

    def now_and_then(self, stop: threading.Event) -> None:
        """Every ``loop.checkpoint_s``, until ``stop`` is set."""
        while not stop.wait(self._context.settings.loop.checkpoint_s):
            if self._context.certificate is not None:
                self._context.certificate.watch()
            try:
                self.take()
            except EdgeadaptError:
                pass  # kept for health, and tried again
            except Exception as error:  # what nobody foresaw: checkpoints outlive it
                self._context.checkpoint_error = f"{type(error).__name__}: {error}"
                log.exception("checkpoint")

    def write_folders(self) -> None:
        """What folder sources have taken, at the end: no sample and no label is on its way any
        more.
        """
        with self._writing:
            self._context.folders.write(self._folders(), self._bytes_per_day, is_last=True)

    def _folders(self) -> dict[str, bytes]:
        named = [
            source.name
            for source in self._context.settings.source
            if isinstance(source, FolderSource) and source.existing == "new"
        ]
        return self._context.folders.table(named)

    @property
    def _bytes_per_day(self) -> float:
        return self._context.settings.budget.write_mib_per_day * 2**20


__all__ = ["Checkpoints"]
