"""Labels come in: from any thread, late, twice, or as corrections. What is accepted is durable
before the caller hears of it.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from edgeadapt.device.inference.program import F32
from edgeadapt.device.pipeline.evidence_builder import EvidenceBuilder
from edgeadapt.device.pipeline.label_worker import LabelWorker
from edgeadapt.device.pipeline.restoring import Correction
from edgeadapt.device.querying.pending import Pending, PendingBatch, new_ids
from edgeadapt.device.querying.questions import Questions
from edgeadapt.device.resources.budget import WriteRoom
from edgeadapt.device.storage.features import as_stored, check_storable
from edgeadapt.device.storage.journal import Journal
from edgeadapt.device.storage.rows import AskedSample, EvidenceRow
from edgeadapt.errors import InputError
from edgeadapt.inputs import check_name

_OVERHEAD = 512  # bytes of a row beside its features
Found = tuple[PendingBatch, int] | EvidenceRow
"""Where a sample's features are: still pending, or in the evidence row of the label it has."""


@dataclass(frozen=True, eq=False)
class _Said:
    """Labels of samples, where their features are, and the rows that these become."""

    samples: list[str]
    places: list[Found]
    rows: list[EvidenceRow]
    is_new: list[bool]


class LabelIntake:
    """The door for labels. ``raw_per_class`` above 0 keeps raw inputs with them."""

    def __init__(
        self,
        journal: Journal,
        pending: Pending,
        questions: Questions,
        labelling: EvidenceBuilder,
        learning: LabelWorker,
        room: WriteRoom,
        raw_per_class: int,
        pending_s: float,
        asked: Callable[[Sequence[str]], list[AskedSample]],
    ) -> None:
        self._journal, self._pending, self._questions = journal, pending, questions
        self._labelling, self._learning, self._room = labelling, learning, room
        self._raw_per_class, self._pending_s, self._asked = raw_per_class, pending_s, asked
        self._lock = threading.Lock()  # one id, one label at a time
        # nothing is forgotten between looking a sample up and writing its label
        self.writing = threading.Lock()

    def label(
        self, samples: Sequence[str], labels: Any, source: str, *, is_trusted: bool = False
    ) -> None:
        """Labels of observed samples; see ``Learner.label``."""
        if len(set(samples)) != len(samples):
            raise InputError("an id is given twice")
        with self._lock:
            said = self._said(samples, labels, source, is_trusted)
            with self.writing:
                self._found(samples)  # again: one may have been forgotten meanwhile
                self._receive(said.rows, self._raws_of(said), self._asked(said.samples))
                self._pending.drop(samples)
        self._questions.close(samples)
        self._learning.answered(said.samples, said.rows, said.is_new)

    def _said(self, samples: Sequence[str], labels: Any, source: str, is_trusted: bool) -> _Said:
        """What is not there already."""
        found = self._labelling.at_home(samples, self._found(samples), self._pending.input_of)
        check_storable(
            [
                given.features if isinstance(given, EvidenceRow) else given[0].features[given[1]]
                for given in found
            ]
        )
        names = self._labelling.names(labels, len(samples))
        said = [
            (sample, given, name)
            for sample, given, name in zip(samples, found, names, strict=True)
            if not _says_so(given, name, source)
        ]
        ids, places = [s for s, _, _ in said], [g for _, g, _ in said]
        rows = self._labelling.rows_of(ids, places, [n for _, _, n in said], source, is_trusted)
        return _Said(ids, places, rows, [self._labelling.is_new(name) for _, _, name in said])

    def _raws_of(self, said: _Said) -> list[Any]:
        return [self._raw_of(*one) for one in zip(said.samples, said.places, strict=True)]

    def learn(
        self,
        inputs: Any,
        z: F32,
        taps: F32,
        labels: Any,
        source: str,
        stream: str,
        domain: str,
        *,
        is_raw: bool,
        is_trusted: bool = False,
    ) -> tuple[str, ...]:
        """Labelled data in hand; see ``Learner.learn``. ``is_raw``: the inputs went through the
        encoder.
        """
        check_name(source, "a source")
        kept = as_stored(z, taps)
        check_storable(kept)
        names = self._labelling.names(labels, len(z))
        ids = new_ids(len(z))
        rows = self._labelling.rows_in_hand(ids, kept, z, taps, names, source, stream, domain)
        rows = [replace(row, trusted=is_trusted or row.trusted) for row in rows]
        self._receive(rows, list(inputs) if self._raw_per_class and is_raw else [])
        self._learning.request()
        return ids

    def restore(
        self,
        rows: Sequence[EvidenceRow],
        raw: Sequence[Any],
        asked: Sequence[AskedSample] = (),
        corrections: Sequence[Correction] = (),
    ) -> dict[str, str]:
        """Rows of samples that another state or tool had, and corrections of others, all or none.

        Returns:
            sample -> why its label cannot be corrected; the others are.
        """
        refused: dict[str, str] = {}
        given: list[_Said] = []
        with self._lock:
            for one in corrections:
                try:
                    given.append(self._said([one.sample], one.label, one.source, False))
                except InputError as error:
                    refused[one.sample] = str(error)
            samples = [sample for said in given for sample in said.samples]
            corrected = [row for said in given for row in said.rows]
            with self.writing:
                if there := self._journal.newest_of([row.id for row in rows]):
                    raise InputError(
                        f"sample {next(iter(there))!r} is there already: label(id, name)"
                        " corrects it"
                    )
                self._found(samples)  # again: one may have been forgotten meanwhile
                raws = list(raw) if self._raw_per_class else [None] * len(rows)
                raws += [kept for said in given for kept in self._raws_of(said)]
                self._receive([*rows, *corrected], raws, [*asked, *self._asked(samples)])
                self._pending.drop(samples)
        self._questions.close(samples)
        if samples:
            self._learning.answered(
                samples, corrected, [new for said in given for new in said.is_new]
            )
        if rows:
            self._learning.request()
        return refused

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
                    f" or is older than {self._pending_s:g} s and has no label"
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
