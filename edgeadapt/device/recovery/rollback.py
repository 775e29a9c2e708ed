"""Going back: labels forgotten, withdrawn or expired, commits rolled back or compacted. Durable in
the same way as every change.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgeadapt.device.commits.commit_log import CommitLog
from edgeadapt.device.commits.evidence_change import change_evidence
from edgeadapt.device.commits.evidence_sums import by_commit, correction_names, take_rows
from edgeadapt.device.commits.holdout import Split
from edgeadapt.device.commits.serialization import domain_blob, snapshot_of, without_adaptors
from edgeadapt.device.coreset import Samples, choose
from edgeadapt.device.detection.policy import Kept
from edgeadapt.device.inference.state import LearnerState
from edgeadapt.device.recovery.rebuild import rebuild, tables_at
from edgeadapt.device.storage.features import rows_to_arrays
from edgeadapt.device.storage.name_erasure import Names
from edgeadapt.device.storage.rows import EvidenceRow, RowTransitions, Step, accepted_at
from edgeadapt.errors import InputError, StateError, StorageError
from edgeadapt.results import Receipt

_ACCEPTED = ("learned", "held_out")
_LOOKED_AT = 8  # times as many of the oldest rows as must go
# of the factory's sums of a class: what rounding may leave when they are taken away
_RESIDUE = 0.01


class HistoryEditor:
    """Takes things back through the commit log. Called by the worker only."""

    def __init__(self, log: CommitLog) -> None:
        self._log, self._program, self._journal = log, log.program, log.journal
        self._held_out = log.held_out

    # -- forgetting --------------------------------------------------------------------------------
    def forget(
        self, rows: Sequence[EvidenceRow], pending: int, names: Names, unreachable: Sequence[str]
    ) -> Receipt:
        """Delete rows, subtract what was learned from them, rewrite retained snapshots, take names
        that nothing else has out of the history.
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
        return (
            {row.domain for row in rows if row.commit_number is not None}
            if self._program.adaptors
            else set()
        )

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
                    domain_blob(self._program, replace(bare, tensors=saved))
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
        return (
            (
                f"the features of {len(bare)} rows have expired: their part in"
                f" {', '.join(self._program.beyond_receipts)} cannot be told apart any more"
            ),
        )

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
        return (
            (
                (
                    f"rows of before commit {horizon} have expired: what was learned from them"
                    " cannot be told apart any more"
                ),
            )
            if horizon
            else ()
        )

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
            subtracted = take_rows(
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

    # -- rolling back ------------------------------------------------------------------------------
    def rollback(self, to: int | None) -> int:
        """Back to the state after commit ``to``; the one before the last change by default."""
        live = self._log.live.current
        target = self._change_before(live.commit) if to is None else to
        if not 0 <= target < max(live.commit, 1):
            raise StateError(f"cannot roll back to commit {target}: the last is {live.commit}")
        horizon = self._journal.horizon()
        if target < horizon:
            raise StateError(
                f"cannot roll back to commit {target}: the history of before commit {horizon} was"
                " compacted (Keep.commits), or its rows have expired"
            )
        then = accepted_at(self._journal.steps(target), [target])[target]
        now = {
            row.seq: row
            for row in self._journal.evidence(
                where="status IN ('learned', 'held_out', 'withdrawn')", narrow=True
            )
        }
        statuses = {
            seq: then.get(seq, ("withdrawn", live.commit + 1))
            for seq, row in now.items()
            if then.get(seq, ("withdrawn",))[0] != row.status
        }
        undone = sum(status == "withdrawn" for status, _ in statuses.values())
        # a name is never used for two conditions
        back = replace(
            rebuild(self._journal, self._program, target), domain_serial=live.domain_serial
        )
        accepted = [
            replace(now[seq], status=status, commit_number=number)
            for seq, (status, number) in then.items()
            if seq in now
        ]
        gone = then.keys() - now.keys()
        # what these taught is in the state; the others were forgotten, as if they had never been
        expired = gone & self._journal.expired_after(0, deleted_only=True)
        split = self._settled(accepted) if len(expired) < len(gone) else Split()
        change = change_evidence(self._log, back, split)
        candidate = replace(change.candidate, labels=len(accepted) + len(expired))
        counted = {row.seq: (row.label, row.status) for row in accepted}
        counted |= {row.seq: (row.label, "learned") for row in split.added} | {
            row.seq: (row.label, "held_out") for row in split.held_out
        }
        self._log.record(
            "rollback",
            "rolled back",
            {"to": target, "labels": undone},
            candidate,
            moves=change.moves(),
            tensors=change.corrections,
            receipts=change.receipts,
            statuses=statuses,
            snapshot=True,
        )
        self._held_out.restore(counted.values())
        return target

    def _settled(self, accepted: Sequence[EvidenceRow]) -> Split:
        """Labels that move between teaching and judging so that every class has its fifth."""
        judging, teaching = self._held_out.fifths(accepted)
        whole = {
            row.seq: row
            for row in self._journal.evidence_of([row.seq for row in (*judging, *teaching)])
        }
        taken, added = (
            [replace(row, features=whole[row.seq].features) for row in rows]
            for rows in (judging, teaching)
        )
        return Split(tuple(taken), tuple(added), tuple(taken))

    def _change_before(self, number: int) -> int:
        """The commit before the last one that changed the state: vetoes and checkpoints are stepped
        over.
        """
        changed = self._journal.last_change(number)
        if changed:
            return changed - 1
        raise StateError("nothing was changed yet: there is nothing to roll back")

    # -- what is kept no longer --------------------------------------------------------------------
    def expire(self, before: float, most: int, selection: Kept = "oldest") -> int:
        """Rows that are older, or more, than may be kept.

        What was learned from them stays in the sums, and a snapshot stands in for them. Where every
        sum has receipts only the features go: such a row can still be forgotten, and rolled back
        over.
        """
        rows = (
            self._journal.older_than(before, most)
            if selection == "oldest"
            else self._left_out(before, most)
        )
        if not rows:
            return 0
        accepted = [row for row in rows if row.status in _ACCEPTED]
        bare = [row.seq for row in accepted if row.receipt and self._program.gives_receipts]
        deleted = {row.seq for row in rows} - set(bare)
        is_covered = not self._program.beyond_receipts
        outcome = (
            "thinned" if is_covered and not any(row.seq in deleted for row in accepted) else "saved"
        )
        moves = RowTransitions(
            expired=tuple(sorted(deleted)), emptied=() if is_covered else tuple(bare)
        )
        live = self._log.live.current
        live = replace(live, heads={})  # they were made from features that go
        self._log.record(
            "expire",
            outcome,
            {"rows": len(rows)},
            live,
            moves=moves,
            deleted=moves.expired,
            emptied=bare,
            snapshot=outcome == "saved",
        )
        self._held_out.accept(Split(gone=tuple(row for row in accepted if row.seq in deleted)))
        self._log.labels_removed(frozenset())
        return len(rows)

    def _left_out(self, before: float, most: int) -> list[EvidenceRow]:
        """As ``older_than``, but of those that are too many the ones that adaptive data selection
        leaves out of the oldest.
        """
        aged, gone = (
            self._journal.older_than(before, 1 << 60),
            self._journal.older_than(before, most),
        )
        over, known = len(gone) - len(aged), {row.seq for row in aged}
        if not over:
            return aged
        slots = self._log.live.current.slots
        found = self._journal.evidence(
            where="status IN ('learned', 'held_out') AND length(features) > 0", narrow=True
        )
        pool = [row.seq for row in found if row.seq not in known and row.label in slots][
            : _LOOKED_AT * over
        ]
        if len(pool) <= over:
            return gone
        rows = self._journal.evidence_of(pool)
        z, _, y, _, _ = rows_to_arrays(rows, slots, self._program.manifest.feature_dim)
        kept = set(choose("adaptive", Samples(z, y), len(rows) - over).tolist())
        return [*aged, *(row for i, row in enumerate(rows) if i not in kept)]

    def compact(self, most: int) -> int:
        """Keep at most ``most`` commits; the statuses and the snapshot of the first that stays
        stand in for the others. Returns how many went.
        """
        first, last = self._journal.first_number(), self._journal.last_number()
        if last - first + 1 <= most + most // 10:
            return 0
        steps = self._journal.steps()
        found = self._first_to_keep(steps, last - most + 1)
        if found is None:
            return 0
        upto, memory = found
        present, groups = self._journal.present(), dict[tuple[str, int], list[int]]()
        for seq, (status, number) in accepted_at(steps, [upto])[upto].items():
            if seq in present:
                groups.setdefault((status, number), []).append(seq)
        base = RowTransitions(
            base=tuple((status, number, tuple(seqs)) for (status, number), seqs in groups.items())
        )
        return self._journal.compact(upto, base, snapshot_of(self._program, memory))

    def _first_to_keep(self, steps: Sequence[Step], wanted: int) -> tuple[int, LearnerState] | None:
        """The earliest commit from ``wanted`` on that can stand for all before it: no kept rollback
        goes back behind it, and it can be rebuilt.
        """
        rollbacks = [step for step in steps if step.to is not None]
        candidates = {
            wanted,
            *(step.number for step in rollbacks),
            *self._journal.snapshot_numbers(),
        }
        for number in sorted(number for number in candidates if number >= wanted):
            if any(step.to is not None and step.to < number < step.number for step in rollbacks):
                continue
            try:
                return number, rebuild(self._journal, self._program, number)
            except StorageError:
                raise
            # rows that it needs have expired: a later snapshot has what they taught
            except StateError:
                continue
        return None


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


__all__ = ["HistoryEditor", "reasons_for"]
