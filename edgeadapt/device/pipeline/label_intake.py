"""Labels come in: from any thread, late, twice, or as corrections. What is accepted is durable
when the caller has its answer.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from edgeadapt.device.inference.program import F32
from edgeadapt.device.pipeline.evidence_builder import EvidenceBuilder, Found, Origin
from edgeadapt.device.pipeline.restored_samples import Correction
from edgeadapt.device.querying.pending import Pending, new_ids
from edgeadapt.device.querying.questions import Questions
from edgeadapt.device.resources.budget import WriteRoom
from edgeadapt.device.storage.features import as_stored, check_storable
from edgeadapt.device.storage.journal import Journal
from edgeadapt.device.storage.rows import AskedSample, EvidenceRow
from edgeadapt.errors import InputError

_OVERHEAD = 512  # bytes of a row beside its features


@dataclass(frozen=True, eq=False)
class AcceptedLabels:
    """Labels of observed samples that are durable, for the worker.

    Attributes:
        samples, rows, is_new: of each label its sample, its row, and whether its class is new to
            the device. What had been said before is left out.
        raw: inputs that are kept with the rows.
        answered: open questions that these labels answer.
    """

    samples: list[str]
    rows: list[EvidenceRow]
    is_new: list[bool]
    raw: list[Any]
    answered: int = 0


class LabelIntake:
    """The caller's half of a label. ``raw_per_class`` above 0 keeps raw inputs with labels;
    ``asked`` gives the questions about samples that have no answer yet.
    """

    def __init__(
        self,
        journal: Journal,
        pending: Pending,
        questions: Questions,
        builder: EvidenceBuilder,
        room: WriteRoom,
        raw_per_class: int,
        asked: Callable[[Sequence[str]], list[AskedSample]],
    ) -> None:
        self._journal, self._pending, self._questions = journal, pending, questions
        self._builder, self._room = builder, room
        self._raw_per_class, self._asked = raw_per_class, asked
        self._lock = threading.Lock()  # one id, one label at a time
        # nothing is forgotten between finding a sample and writing its label
        self.writing = threading.Lock()

    def label(
        self, samples: Sequence[str], labels: Any, source: str, *, is_trusted: bool = False
    ) -> AcceptedLabels:
        """Labels of observed samples; see ``Learner.label``."""
        if len(set(samples)) != len(samples):
            raise InputError("an id is given twice")
        with self._lock:
            accepted = self._checked(samples, labels, source, is_trusted)
            with self.writing:
                self._found(samples)  # again: one may have been forgotten meanwhile
                self._receive(accepted.rows, accepted.raw, self._asked(accepted.samples))
                self._pending.drop(samples)
        answered = len(self._questions.close(samples))
        return AcceptedLabels(accepted.samples, accepted.rows, accepted.is_new, [], answered)

    def learn(self, inputs: Any, z: F32, taps: F32, labels: Any, origin: Origin) -> tuple[str, ...]:
        """Labelled data in hand; see ``Learner.learn``. ``inputs`` are None if they did not go
        through the encoder.
        """
        kept = as_stored(z, taps)
        check_storable(kept)
        names = self._builder.names(labels, len(z))
        ids = new_ids(len(z))
        rows = self._builder.rows_in_hand(ids, kept, z, taps, names, origin)
        self._receive(rows, list(inputs) if self._raw_per_class and inputs is not None else [])
        return ids

    def restore(
        self,
        rows: Sequence[EvidenceRow],
        raw: Sequence[Any],
        asked: Sequence[AskedSample] = (),
        corrections: Sequence[Correction] = (),
    ) -> tuple[AcceptedLabels, dict[str, str]]:
        """Rows of samples that another state or tool had, and corrections of others, all or none.

        Returns:
            The corrections, and sample -> why its label cannot be corrected.
        """
        refused: dict[str, str] = {}
        given: list[AcceptedLabels] = []
        with self._lock:
            for one in corrections:
                try:
                    given.append(self._checked([one.sample], one.label, one.source, False))
                except InputError as error:
                    refused[one.sample] = str(error)
            accepted = AcceptedLabels(
                [sample for one in given for sample in one.samples],
                [row for one in given for row in one.rows],
                [new for one in given for new in one.is_new],
                [kept for one in given for kept in one.raw],
            )
            with self.writing:
                if there := self._journal.newest_of([row.id for row in rows]):
                    raise InputError(
                        f"sample {next(iter(there))!r} is there already: label(id, name)"
                        " corrects it"
                    )
                self._found(accepted.samples)  # again: one may have been forgotten meanwhile
                raws = list(raw) if self._raw_per_class else [None] * len(rows)
                self._receive(
                    [*rows, *accepted.rows],
                    [*raws, *accepted.raw],
                    [*asked, *self._asked(accepted.samples)],
                )
                self._pending.drop(accepted.samples)
        self._questions.close(accepted.samples)
        return accepted, refused

    def _checked(
        self, samples: Sequence[str], labels: Any, source: str, is_trusted: bool
    ) -> AcceptedLabels:
        """What is not there already."""
        found = self._builder.in_factory_space(
            samples, self._found(samples), self._pending.input_of
        )
        check_storable(
            [
                given.features if isinstance(given, EvidenceRow) else given[0].features[given[1]]
                for given in found
            ]
        )
        names = self._builder.names(labels, len(samples))
        new = [
            (sample, given, name)
            for sample, given, name in zip(samples, found, names, strict=True)
            if not _says_so(given, name, source)
        ]
        return AcceptedLabels(
            [sample for sample, _, _ in new],
            self._builder.rows_of(new, source, is_trusted),
            [self._builder.is_new(name) for _, _, name in new],
            [self._raw_of(sample, given) for sample, given, _ in new],
        )

    def _found(self, samples: Sequence[str]) -> list[Found]:
        pending = {sample: self._pending.find(sample) for sample in samples}
        labelled = self._journal.newest_of(
            [sample for sample, found in pending.items() if found is None]
        )
        result: list[Found] = []
        for sample in samples:
            given = pending[sample] or labelled.get(sample)
            if given is None:
                raise InputError(
                    f"no sample has the id {sample!r}: it was never observed here, was forgotten,"
                    f" or is older than {self._pending.keep_s:g} s and has no label"
                )
            if isinstance(given, EvidenceRow) and not given.has_features:
                raise InputError(
                    f"the features of sample {sample!r} have expired: its label can be withdrawn or"
                    " forgotten, not corrected"
                )
            result.append(given)
        return result

    def _raw_of(self, sample: str, given: Found) -> Any:
        if not self._raw_per_class:
            return None
        return (
            self._journal.raw_of(given.seq)
            if isinstance(given, EvidenceRow)
            else self._pending.input_of(sample)
        )

    def _receive(
        self, rows: Sequence[EvidenceRow], raw: Sequence[Any], asked: Sequence[AskedSample] = ()
    ) -> None:
        self._room.require_room(
            sum(row.features.nbytes + _OVERHEAD for row in rows)
            + sum(value.nbytes for value in raw if value is not None)
        )
        self._journal.receive(rows, raw, asked)


def _says_so(given: Found, name: str, source: str) -> bool:
    """True if this very label is there already: said twice, or delivered twice, it counts once."""
    return (
        isinstance(given, EvidenceRow)
        and (given.label, given.source) == (name, source)
        and given.status in ("received", "learned", "held_out")
    )


__all__ = ["AcceptedLabels", "LabelIntake"]
