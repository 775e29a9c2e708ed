"""Labels that were received become learned: in groups of one source and one condition, again and
again if the disk will not take it.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, MutableMapping, Sequence

from edgeadapt.device.adaptation.domain_manager import DomainManager, Stream
from edgeadapt.device.adaptors.trainer import AdaptorTrainer
from edgeadapt.device.commits.head_choice import HeadChoices
from edgeadapt.device.commits.transactions import Transactions
from edgeadapt.device.inference.live_state import LiveState
from edgeadapt.device.resources.budget import Meter
from edgeadapt.device.resources.worker import Worker
from edgeadapt.device.storage.journal import Journal
from edgeadapt.device.storage.rows import EvidenceRow
from edgeadapt.errors import EdgeadaptError, StorageError
from edgeadapt.inputs import chunks

_AT_ONCE = 64  # labels of one source and condition that share a commit
_FETCHED = 4096  # rows read at a time
_ANSWERS = 10_000  # the newest
_PUT_OFF_S = 10.0  # until work that the budget had no room for is offered again
_FIRST_RETRY_S, _LAST_RETRY_S = 1.0, 60.0


class LabelWorker:
    """Runs on the worker."""

    def __init__(
        self,
        transactions: Transactions,
        journal: Journal,
        conditions: DomainManager,
        meter: Meter,
        worker: Worker,
        streams: MutableMapping[str, Stream],
        live: LiveState,
        growth: AdaptorTrainer,
        choices: HeadChoices,
        afterwards: Callable[[], None],
    ) -> None:
        """``afterwards`` is called when everything that had been received is learned."""
        self._transactions, self._journal, self._conditions = transactions, journal, conditions
        self._meter, self._worker, self._streams = meter, worker, streams
        self._live = live
        self._growth = growth
        self._choices = choices
        self._afterwards = afterwards
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

    def answered(
        self, samples: Sequence[str], rows: Sequence[EvidenceRow], is_new: Sequence[bool]
    ) -> None:
        """Labels of observed samples speak for a condition or for new classes; then they are
        learned.
        """

        # not the rows: they may wait long
        told = [
            (sample, row.domain, new)
            for sample, row, new in zip(samples, rows, is_new, strict=True)
        ]

        labels = [(sample, row.label) for sample, row in zip(samples, rows, strict=True)]

        def run() -> None:
            for sample, label in labels:
                self._conditions.field_accuracy.answered(sample, label)
            self._answers.extend(told)
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
            self._hear()
            if outdated := self._journal.superseded():
                self._transactions.supersede(outdated)
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
        self.offer_patient_work()
        self._afterwards()

    def offer_patient_work(self) -> None:
        """Have heads chosen and adaptors grown for conditions that are due, when no label waits."""
        if not self._rests and self._choices.is_due():
            self._worker.offer(self._choose_heads)
        if not self._rests and self._growth.is_due():
            self._worker.offer(self._growth.run)

    def _choose_heads(self) -> None:
        self._choices.run()
        if not self._rests and self._choices.is_due():  # the budget put something off
            self._worker.submit_later(self.offer_patient_work, _PUT_OFF_S)

    def went_back(self) -> None:
        """After a rollback."""
        self._growth.went_back()
        self._choices.reconsider()
        self.offer_patient_work()

    def _hear(self) -> None:
        """Answers speak for a condition or for new classes; those that could not be recorded are
        heard again.
        """
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
        for group in groups.values():
            for part in chunks(len(group), _AT_ONCE):
                if self._rests:
                    return
                with self._meter.spending("learn"):
                    try:
                        self._transactions.learn(group[part])
                        self._growth.taught(group[part][0].domain, len(group[part]))
                        self._choices.taught(group[part][0].domain, len(group[part]))
                    except StorageError:
                        raise
                    except EdgeadaptError as error:
                        self._transactions.give_up(group[part], str(error))
        for domain in dict.fromkeys(row.domain for row in rows):
            if self._rests:
                return
            with self._meter.spending("learn"):
                self._transactions.reconsider(domain)
