"""What is chosen and trained from labels when none waits: heads, and adaptors of conditions."""

from __future__ import annotations

from edgeadapt.device.adaptors.trainer import AdaptorTrainer
from edgeadapt.device.commits.commit_log import CommitLog
from edgeadapt.device.commits.head_choice import HeadChoices
from edgeadapt.device.resources.worker import Worker

_PUT_OFF_S = 10.0  # until work that the budget had no room for is offered again


class DeferredTraining:
    """Offers what is due to the worker."""

    def __init__(
        self, log: CommitLog, trainer: AdaptorTrainer, choices: HeadChoices, worker: Worker
    ) -> None:
        self._live, self._worker = log.live, worker
        self._trainer, self._choices = trainer, choices
        log.on_labels_removed += [trainer.on_labels_removed, choices.on_labels_removed]

    def offer(self) -> None:
        if not self._live.is_frozen and self._choices.is_due():
            self._worker.offer(self._choose_heads)
        if not self._live.is_frozen and self._trainer.is_due():
            self._worker.offer(self._trainer.run)

    def _choose_heads(self) -> None:
        self._choices.run()
        if not self._live.is_frozen and self._choices.is_due():  # the budget put something off
            self._worker.submit_later(self.offer, _PUT_OFF_S)

    def on_labels_learned(self, domain: str, count: int) -> None:
        """So many labels of a condition more were learned."""
        self._trainer.on_labels_learned(domain, count)
        self._choices.on_labels_learned(domain, count)

    def on_rollback(self) -> None:
        self._trainer.on_rollback()
        self._choices.on_labels_removed()
        self.offer()


__all__ = ["DeferredTraining"]
