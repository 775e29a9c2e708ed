"""Samples are forgotten wherever a learner has them: pending, asked about, in rows, in sums."""

from __future__ import annotations

import threading
from collections.abc import MutableMapping
from dataclasses import replace

from edgeadapt.device.adaptation.stream import Stream
from edgeadapt.device.commits.commit_log import CommitLog
from edgeadapt.device.querying.pending import Pending
from edgeadapt.device.querying.questions import Questions
from edgeadapt.device.recovery.label_removal import LabelRemoval, reasons_for
from edgeadapt.device.recovery.label_selection import Selection
from edgeadapt.device.storage.log_erasure import LogErasure
from edgeadapt.results import Receipt


class SampleErasure:
    """Runs on the worker. ``writing`` is held by a label between finding its sample and being
    durable.
    """

    def __init__(
        self,
        log: CommitLog,
        removal: LabelRemoval,
        pending: Pending,
        questions: Questions,
        streams: MutableMapping[str, Stream],
        erasure: LogErasure,
        writing: threading.Lock,
    ) -> None:
        self._log, self._journal, self._removal = log, log.journal, removal
        self._pending, self._questions, self._streams = pending, questions, streams
        self._erasure, self._writing = erasure, writing

    def forget(self, selection: Selection) -> Receipt:
        # a label that is on its way is either seen here or refused
        with self._writing:
            receipt = self._forget(selection)
            reasons = [*receipt.unreachable]
            reasons += self._removal.factory_reasons(selection.whole_classes)
            reasons += filter(None, [self._journal.unerased])
            self._erasure.request()
            return replace(receipt, unreachable=tuple(reasons))

    def _forget(self, selection: Selection) -> Receipt:
        rows = [
            row
            for clause, values in selection.clauses()
            for row in self._journal.evidence(where=clause, values=values)
        ]
        ids = list(selection.ids or ())
        pending = self._pending.drop(ids) if selection.is_of_ids_alone else 0
        self._questions.close([*ids, *(row.id for row in rows)])
        reasons = list(self._removal.out_of_reach())
        names = self._removal.named_by(rows, selection.source, selection.classes or ())
        if not rows and not self._journal.only_in_history(names):
            return Receipt(pending, 0, 0, unreachable=tuple(reasons))
        streams = dict(self._streams)
        remembered = [name for name, stream in streams.items() if stream.memories]
        reasons += reasons_for(rows, self._log.live.current, self._log, remembered)
        for name in {row.stream for row in rows} & set(streams):
            streams[name].asking.forget()
        return self._removal.forget(rows, pending, names, reasons)


__all__ = ["SampleErasure"]
