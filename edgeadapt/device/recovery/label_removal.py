"""Labels taken back: forgotten with their samples, or withdrawn. Durable in the same way as every
change.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgeadapt.device.commits.commit_log import CommitLog
from edgeadapt.device.commits.evidence_change import change_evidence
from edgeadapt.device.commits.evidence_sums import by_commit, correction_names, subtract_evidence
from edgeadapt.device.commits.serialization import domain_arrays, without_adaptors
from edgeadapt.device.inference.state import LearnerState
from edgeadapt.device.recovery.rebuild import tables_at
from edgeadapt.device.storage.name_erasure import Names
from edgeadapt.device.storage.rows import EvidenceRow, accepted_at
from edgeadapt.errors import InputError
from edgeadapt.results import Receipt

_ACCEPTED = ("learned", "held_out")
# of the factory's sums of a class: what rounding may leave when they are taken away
_RESIDUE = 0.01


class LabelRemoval:
    """Takes labels back through the commit log. Called by the worker only."""

    def __init__(self, log: CommitLog) -> None:
        self._log, self._program, self._journal = log, log.program, log.journal
        self._held_out = log.held_out

    # -- forgetting --------------------------------------------------------------------------------
    def forget(
        self, rows: Sequence[EvidenceRow], pending: int, names: Names, unreachable: Sequence[str]
    ) -> Receipt:
        """Delete rows, subtract what was learned from them, rewrite retained snapshots, and erase
        names that nothing else has.
        """
        live = self._log.live.current
        slots = live.slots
        split = self._held_out.split(
            (), [row for row in rows if row.status in _ACCEPTED and row.label in slots]
        )
        learned = [row for row in split.gone if row.status == "learned"]
        change = change_evidence(self._log, live, split)
        rewritten = self._rewritten_snapshots(rows, live)
        domains = self._grown_from(rows)
        rewritten |= self._relieved(self._kept_snapshots(rewritten) if domains else (), domains)
        self._log.record(
            "forget",
            "forgotten",
            {"rows": len(rows), "subtracted": len(learned)},
            self._shed(change.candidate, domains)[0],
            moves=change.moves(),
            tensors=change.corrections,
            receipts=change.receipts,
            deleted=[row.seq for row in rows],
            snapshot=True,
            rewritten=rewritten,
            unnamed=names,
            relieved=self._relieved(self._journal.commit_tensors() if domains else (), domains),
        )
        self._held_out.accept(split)
        bare = [row for row in (*split.taken, *split.added) if not row.has_features]
        exact = tuple(
            spec.name
            for spec in self._program.specs("evidence")
            if _is_integer(spec.dtype) or spec.name not in self._program.beyond_receipts
        )
        return Receipt(
            removed=len(rows) + pending,
            subtracted=len(learned),
            snapshots=len(rewritten),
            moved=len(split.added)
            + len({row.seq for row in split.taken} - {row.seq for row in learned}),
            exact=exact if learned else (),
            unreachable=(*unreachable, *self._beyond_receipts(bare)),
        )

    def _grown_from(self, rows: Sequence[EvidenceRow]) -> set[str]:
        """Conditions whose adaptors these rows may have been trained into."""
        if not self._program.adaptors:
            return set()
        return {row.domain for row in rows if row.commit_number is not None}

    def _shed(
        self, memory: LearnerState, domains: Collection[str]
    ) -> tuple[LearnerState, dict[str, NDArray[Any]]]:
        """Conditions without the adaptors that were trained from their labels, and what a commit
        stores of them.
        """
        blob: dict[str, NDArray[Any]] = {}
        for domain in [memory.domains[name] for name in domains if name in memory.domains]:
            saved = None if domain.saved is None else self._program.adaptors.without(domain.saved)
            bare = replace(
                domain, tensors=self._program.adaptors.without(domain.tensors), saved=saved
            )
            if bare.tensors is not domain.tensors or bare.saved is not domain.saved:
                memory = memory.with_domain(bare)
                blob |= (
                    domain_arrays(self._program, replace(bare, tensors=saved))
                    if saved is not None
                    else {}
                )
        self._log.labels_removed(frozenset(domains))
        return memory, blob

    def _kept_snapshots(
        self, rewritten: Mapping[int, Mapping[str, NDArray[Any]]]
    ) -> list[tuple[int, Mapping[str, NDArray[Any]]]]:
        found = {
            number: self._journal.snapshot(number) for number in self._journal.snapshot_numbers()
        }
        return [
            (number, rewritten.get(number, kept[1]))
            for number, kept in found.items()
            if kept is not None
        ]

    def _relieved(
        self, stored: Iterable[tuple[int, Mapping[str, NDArray[Any]]]], domains: Collection[str]
    ) -> dict[int, dict[str, NDArray[Any]]]:
        """What is left of stored tensors that hold an adaptor of these conditions."""
        left = (
            (number, tensors, without_adaptors(self._program, tensors, domains))
            for number, tensors in stored
        )
        return {number: kept for number, tensors, kept in left if len(kept) < len(tensors)}

    def _beyond_receipts(self, bare: Sequence[EvidenceRow]) -> tuple[str, ...]:
        """What rows without features leave behind."""
        if not bare or not self._program.beyond_receipts:
            return ()
        names = ", ".join(self._program.beyond_receipts)
        why = f"the features of {len(bare)} rows have expired: their part in {names} cannot be told"
        return (f"{why} apart any more",)

    def named_by(
        self, rows: Sequence[EvidenceRow], source: str | None, classes: Iterable[str]
    ) -> Names:
        """Names that forgetting these rows may leave in the history alone; what the bundle itself
        names is left out.
        """
        labels = {row.label for row in rows} | set(classes)
        sources = {row.source for row in rows} | {source or ""}
        return Names(
            frozenset(sources - {""}), frozenset(labels - set(self._program.manifest.classes))
        )

    def out_of_reach(self) -> tuple[str, ...]:
        """Why forgetting cannot reach everything that was ever learned here."""
        horizon = self._journal.last_expiry()
        why = f"rows of before commit {horizon} have expired: what was learned from them cannot be"
        return (f"{why} told apart any more",) if horizon else ()

    def factory_reasons(self, classes: Collection[str]) -> tuple[str, ...]:
        """Classes that the factory's own samples still answer for, when every label of theirs is
        forgotten.
        """
        live, known = self._log.live.current, self._program.manifest.classes
        slots = [
            slot
            for slot, name in enumerate(known)
            if name in classes and live.classes[slot] == name
        ]
        specs = [spec for spec in self._program.specs("evidence") if spec.class_axis is not None]
        runtime, names = self._program.runtime, [spec.name for spec in specs]
        now, before = (
            runtime.download(tensors, names) for tensors in (live.tensors, self._program.factory())
        )

        def part(values: Mapping[str, NDArray[Any]], slot: int) -> NDArray[Any]:
            return np.array(
                [
                    np.abs(np.take(values[s.name], slot, axis=s.class_axis)).max(initial=0.0)
                    for s in specs
                ]
            )

        return tuple(
            f"{known[slot]!r}: the factory's own samples of it are in the bundle and still answer"
            f" for it; remove_class({known[slot]!r}) takes them out as well"
            for slot in slots
            if (part(now, slot) > _RESIDUE * part(before, slot)).any()
        )

    def _rewritten_snapshots(
        self, rows: Sequence[EvidenceRow], live: LearnerState
    ) -> dict[int, dict[str, NDArray[Any]]]:
        """Snapshots without these rows, withdrawn ones included: an old snapshot still holds what
        was taken back later.
        """
        result: dict[int, dict[str, NDArray[Any]]] = {}
        numbers = self._journal.snapshot_numbers()
        if not numbers or not rows:
            return result
        then_at = accepted_at(self._journal.steps(), numbers, only={row.seq for row in rows})
        for number in numbers:
            then = then_at.get(number, {})
            inside = [
                replace(r, commit_number=then[r.seq][1])
                for r in rows
                if then.get(r.seq, ("", 0))[0] == "learned"
            ]
            found, tables = self._journal.snapshot(number), tables_at(self._journal, number)
            if not inside or found is None or tables is None:
                continue
            values = found[1]
            kept = {name: values[name] for name in self._program.checkpointed}
            old = replace(
                live,
                tensors=self._program.runtime.upload(kept).over(live.tensors),
                classes=tuple(tables["classes"]),
            )
            subtracted = subtract_evidence(
                self._program, self._journal, old.tensors, by_commit(inside), old.slots
            )
            result[number] = values | self._program.runtime.download(subtracted, list(kept))
        return result

    # -- withdrawing -------------------------------------------------------------------------------
    def withdraw_labels(self, samples: Sequence[str], source: str | None) -> Receipt:
        """Take back the labels of these samples, all or none.

        Raises:
            InputError: a sample without a label, or with one of another source.
        """
        rows = [
            row
            for row in self._journal.rows_of(list(samples))
            if row.status in ("received", "held", "learned", "held_out")
        ]
        newest = {row.id: row for row in rows}
        for sample in samples:
            if sample not in newest:
                raise InputError(f"sample {sample!r} has no label that could be withdrawn")
        for row in newest.values():
            if source is not None and row.source != source:
                raise InputError(
                    f"the label of sample {row.id!r} is not {source!r}'s, and none was withdrawn:"
                    " whoever gave it, or an admin, takes it back"
                )
        return self.withdraw(rows)

    def withdraw(self, rows: Sequence[EvidenceRow]) -> Receipt:
        """Labels that were wrong: as if they had never been given. The samples stay, and can be
        labelled again.
        """
        live = self._log.live.current
        slots = live.slots
        split = self._held_out.split(
            (), [row for row in rows if row.status in _ACCEPTED and row.label in slots]
        )
        learned = [row for row in split.gone if row.status == "learned"]
        change = change_evidence(self._log, live, split)
        candidate, bare = self._shed(change.candidate, self._grown_from(learned))
        self._log.record(
            "withdraw",
            "withdrawn",
            {"rows": len(rows), "subtracted": len(learned)},
            candidate,
            moves=change.moves(withdrawn=tuple(row.seq for row in rows)),
            tensors=change.corrections | bare,
            receipts=change.receipts,
        )
        self._held_out.accept(split)
        return Receipt(
            0,
            len(learned),
            0,
            unreachable=self._beyond_receipts(
                [row for row in (*split.taken, *split.added) if not row.has_features]
            ),
        )


def reasons_for(
    rows: Sequence[EvidenceRow],
    memory: LearnerState,
    log: CommitLog,
    streams_with_inputs: Sequence[str],
) -> list[str]:
    """Where traces of these rows may be that no subtraction reaches."""
    streams, domains = {row.stream for row in rows}, {row.domain for row in rows}
    reasons = [
        f"unlabelled inputs of stream {s!r} may be in the statistics of a condition"
        for s in sorted(streams & set(streams_with_inputs))
    ]
    reasons += [
        f"the statistics of {name!r} were made from unlabelled inputs, these samples may be among"
        " them"
        for name in sorted(domains & set(memory.domains))
    ]
    others = [
        d.name
        for d in memory.domains.values()
        if d.name not in domains and log.program.adaptors.held_in(d.tensors)
    ]
    reasons += [
        f"the adaptor of {name!r} was trained through a head that may have known these samples"
        for name in sorted(others)
    ]
    if correction_names(log.program):
        known = {commit.number for commit in log.journal.history(1 << 60)}
        if any(row.status == "learned" and row.commit_number not in known for row in rows):
            reasons.append(
                "learned through a correction that is kept no longer: subtracted without one"
            )
    return reasons


def _is_integer(dtype: str) -> bool:
    return dtype.startswith(("int", "uint"))


__all__ = ["LabelRemoval", "reasons_for"]
