"""Labelled samples of one state are learned again in another: encoded anew, or by their features
where the space is the same.

They go through the ordinary guarded transactions, source by source in order of arrival, and keep
id, source, stream and time.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from edgeadapt._prepare import prepare
from edgeadapt.bundle.schema import InputSpec
from edgeadapt.device.commits.commit_log import CommitLog
from edgeadapt.device.commits.factory_samples import FactorySamples
from edgeadapt.device.commits.guard import judge
from edgeadapt.device.commits.label_update import LabelUpdate
from edgeadapt.device.inference.state import SOURCE, LearnerState
from edgeadapt.device.recovery.label_removal import LabelRemoval
from edgeadapt.device.storage.features import as_stored, check_storable
from edgeadapt.device.storage.journal import Journal
from edgeadapt.device.storage.rows import EvidenceRow, Met
from edgeadapt.errors import InputError
from edgeadapt.inputs import check_batch, chunks

_AT_ONCE = 64  # samples of one source and one condition that share a commit
_COUNTING = "status IN ('learned', 'held_out', 'received')"


@dataclass(frozen=True, eq=False)
class Selected:
    """Labels of the old state that count or wait, the newest of each sample; in order of arrival,
    without features.

    ``usable`` are the rows that can be learned again.
    """

    rows: tuple[EvidenceRow, ...]
    usable: frozenset[int]

    @classmethod
    def of(cls, journal: Journal, by_features: bool) -> Selected:
        newest = {row.id: row for row in journal.evidence(where=_COUNTING, narrow=True)}
        has_what_it_takes = (
            "length(features) > 0" if by_features else "seq IN (SELECT seq FROM raw)"
        )
        usable = frozenset(
            row.seq
            for row in journal.evidence(where=f"{_COUNTING} AND {has_what_it_takes}", narrow=True)
        )
        rows = tuple(sorted(newest.values(), key=lambda row: row.seq))
        return cls(rows, usable & {row.seq for row in rows})

    def learnt(self) -> list[list[EvidenceRow]]:
        """What counted, as it is learned again: one source and one condition at a time, those that
        came first first.
        """
        groups: dict[tuple[str, str, bool], list[EvidenceRow]] = {}
        for row in self.rows:
            if row.seq in self.usable and row.status != "received":
                groups.setdefault((row.source, row.domain, row.met == "factory"), []).append(row)
        return list(groups.values())

    def waiting(self) -> list[EvidenceRow]:
        return [row for row in self.rows if row.seq in self.usable and row.status == "received"]


@dataclass(eq=False)
class EvidenceTransfer:
    """From one journal into the state behind a commit log."""

    old: Journal
    by_features: bool
    log: CommitLog
    updates: LabelUpdate
    factory: FactorySamples
    shipped: LearnerState
    at: Callable[[str], None]
    converted: int = 0
    refused: dict[str, str] = field(default_factory=dict)  # sample -> why

    def carry(self, selected: Selected) -> None:
        """Learn what counted; what waited waits again."""
        for group in selected.learnt():
            for part in chunks(len(group), _AT_ONCE):
                self._learn(group[part])
                self.at("carried")
        waiting = selected.waiting()
        for part in chunks(len(waiting), _AT_ONCE):
            self._receive(waiting[part])

    def _learn(self, rows: Sequence[EvidenceRow]) -> None:
        journal = self.log.journal
        self._receive(rows)
        received = journal.evidence(where="status = 'received'")
        why = self.updates.learn(received).why
        if not why:
            live = self.log.live.current
            worse = judge(
                self.log.program,
                self.shipped,
                live,
                self.factory.sets(live),
                self.log.program.manifest.policy.guard,
            )
            why = worse.why  # step by step each was good enough, together they are not
            if why:
                LabelRemoval(self.log).withdraw(journal.evidence_of([row.seq for row in received]))
        self.refused |= dict.fromkeys((row.id for row in rows), why) if why else {}

    def _receive(self, rows: Sequence[EvidenceRow]) -> None:
        raws = [self.old.raw_of(row.seq) for row in rows]
        if self.by_features:
            kept = np.stack(
                [row.features for row in self.old.evidence_of([row.seq for row in rows])]
            )
        else:
            inputs = [
                self._fitted(raw, row.id)
                for raw, row in zip(raws, rows, strict=True)
                if raw is not None
            ]
            raws = list(inputs)
            kept = as_stored(
                *self.log.program.encode(
                    check_batch(np.stack(inputs), self.log.program.manifest.input)
                )
            )
        check_storable(kept)
        self.log.journal.receive(
            [self._row(row, features) for row, features in zip(rows, kept, strict=True)], raws
        )

    def _row(self, row: EvidenceRow, features: NDArray[np.float16]) -> EvidenceRow:
        """The label in the new state: another encoder saw the sample as shifted as it was, never as
        adapted.
        """
        manifest = self.log.program.manifest
        met: Met = "shifted" if row.met == "adapted" and not self.by_features else row.met
        is_factory = met == "factory" or (
            met == "shifted" and not self.log.held_out.is_settled(row.label)
        )
        return replace(
            row,
            domain=SOURCE,
            weight=manifest.policy.learn.field_weight,
            space=manifest.space,
            is_factory=is_factory,
            features=features,
            met=met,
            status="received",
            commit_number=None,
            seq=0,
            draw=0,
            receipt=b"",
        )

    def _fitted(self, raw: NDArray[Any], sample: str) -> NDArray[Any]:
        spec = self.log.program.manifest.input
        known = self.old.meta("input")
        before = msgspec.json.decode(known, type=InputSpec) if known else spec
        means_the_same = (before.layout, before.colour, before.range) == (
            spec.layout,
            spec.colour,
            spec.range,
        )
        if raw.shape == spec.shape and raw.dtype == np.dtype(spec.dtype) and means_the_same:
            return raw
        try:
            converted = _converted(raw, spec)
        except InputError as error:
            raise InputError(
                f"the raw input of sample {sample!r} is {raw.dtype} {raw.shape}, and the encoder of"
                f" {self.log.program.manifest.name!r} takes {spec.dtype} {spec.shape}, layout"
                f" {spec.layout}: {error}"
            ) from error
        self.converted += 1
        return converted


def _converted(raw: NDArray[Any], spec: InputSpec) -> NDArray[Any]:
    """A gray frame in bytes says what it is; of anything else the old encoder knew more than is
    kept.
    """
    is_gray = raw.dtype == np.uint8 and (raw.ndim == 2 or (raw.ndim == 3 and raw.shape[2] == 1))
    if not is_gray:
        raise InputError(
            "only gray uint8 frames can be converted, for anything else the new encoder must take"
            " what the old one took"
        )
    return prepare(raw, spec)


__all__ = ["EvidenceTransfer", "Selected"]
