"""The worker's half of a label: what was received is learned, in groups of one source and one
condition, again and again if the disk will not take it.
"""

from __future__ import annotations

from collections import deque
from collections.abc import MutableMapping, Sequence

from edgeadapt.device.adaptation.domain_manager import DomainManager
from edgeadapt.device.adaptation.stream import Stream
from edgeadapt.device.commits.commit_log import CommitLog
from edgeadapt.device.commits.label_update import LabelUpdate
from edgeadapt.device.pipeline.deferred_training import DeferredTraining
from edgeadapt.device.pipeline.label_intake import AcceptedLabels
from edgeadapt.device.pipeline.maintenance import Maintenance
from edgeadapt.device.resources.budget import Meter
from edgeadapt.device.resources.worker import Worker
from edgeadapt.device.storage.rows import EvidenceRow
from edgeadapt.errors import EdgeadaptError, StorageError
from edgeadapt.inputs import chunks

_AT_ONCE = 64  # labels of one source and condition that share a commit
_FETCHED = 4096  # rows read at a time
_ANSWERS = 10_000  # the newest
_FIRST_RETRY_S, _LAST_RETRY_S = 1.0, 60.0


class LabelWorker:
    """Runs on the worker; :meth:`accept` and :meth:`request` may be called from any thread."""

    def __init__(
        self,
        log: CommitLog,
        updates: LabelUpdate,
        conditions: DomainManager,
        streams: MutableMapping[str, Stream],
        training: DeferredTraining,
        maintenance: Maintenance,
        meter: Meter,
        worker: Worker,
    ) -> None:
        self._journal, self._live, self._updates = log.journal, log.live, updates
        self._conditions, self._streams = conditions, streams
        self._training, self._maintenance = training, maintenance
        self._meter, self._worker = meter, worker
        # (sample, domain, is new) of labels that came while frozen
        self._answers: deque[tuple[str, str, bool]] = deque(maxlen=_ANSWERS)
        self._retry_s = 0.0

    @property
    def _rests(self) -> bool:
        """A pause is met between two commits, not at the end of a thousand."""
        return self._live.is_frozen or self._worker.is_paused

    def request(self) -> None:
        """Have the worker learn what has been received."""
        self._worker.submit(self.learn_received, urgent=True)

    def accept(self, labels: AcceptedLabels) -> None:
        """Labels of observed samples speak for a condition or for new classes; then they are
        learned.
        """
        # not the rows: they may wait long
        answers = [
            (sample, row.domain, row.label, new)
            for sample, row, new in zip(labels.samples, labels.rows, labels.is_new, strict=True)
        ]

        def run() -> None:
            for sample, _, label, _ in answers:
                self._conditions.field_accuracy.answered(sample, label)
            self._answers.extend((sample, domain, new) for sample, domain, _, new in answers)
            self.learn_received()

        self._worker.submit(run, urgent=True)

    def learn_received(self) -> None:
        """Learn every received row.

        Raises:
            StorageError: the disk is full or fails; it is tried again soon, and ever less often.
        """
        if self._rests:
            return
        try:
            self._apply_answers()
            if outdated := self._journal.superseded():
                self._updates.supersede(outdated)
            while not self._rests and (
                rows := self._journal.evidence(where="status = 'received'", limit=_FETCHED)
            ):
                self._learn(rows)
        except StorageError:
            self._retry_s = min(_LAST_RETRY_S, max(_FIRST_RETRY_S, 2 * self._retry_s))
            self._worker.submit_later(self.learn_received, self._retry_s)
            raise
        if self._retry_s and isinstance(self._worker.failure, StorageError):
            self._worker.failure = None  # it has been made good
        self._retry_s = 0.0
        self._training.offer()
        self._maintenance.run_if_due()

    def _apply_answers(self) -> None:
        """Those that could not be recorded are kept for the next time."""
        answers, self._answers = list(self._answers), deque(maxlen=_ANSWERS)
        try:
            self._conditions.answered(answers, self._streams)
        except BaseException:
            self._answers.extendleft(reversed(answers))
            raise

    def _learn(self, rows: Sequence[EvidenceRow]) -> None:
        groups: dict[tuple[str, str, bool], list[EvidenceRow]] = {}
        for row in rows:
            groups.setdefault((row.source, row.domain, row.trusted), []).append(row)
        for (_, domain, _), group in groups.items():
            for part in chunks(len(group), _AT_ONCE):
                if self._rests:
                    return
                with self._meter.spending("learn"):
                    try:
                        self._updates.learn(group[part])
                        self._training.on_labels_learned(domain, len(group[part]))
                    except StorageError:
                        raise
                    except EdgeadaptError as error:
                        self._updates.give_up(group[part], str(error))
        for domain in dict.fromkeys(row.domain for row in rows):
            if self._rests:
                return
            with self._meter.spending("learn"):
                self._updates.reconsider(domain)


__all__ = ["LabelWorker"]
