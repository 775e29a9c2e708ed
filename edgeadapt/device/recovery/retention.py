"""What is kept no longer: rows beyond their age or number, and the oldest commits."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from edgeadapt.device.commits.commit_log import CommitLog
from edgeadapt.device.commits.holdout import Split
from edgeadapt.device.commits.serialization import snapshot_of
from edgeadapt.device.coreset import Samples, choose
from edgeadapt.device.detection.policy import Kept
from edgeadapt.device.inference.state import LearnerState
from edgeadapt.device.recovery.rebuild import rebuild
from edgeadapt.device.storage.features import rows_to_arrays
from edgeadapt.device.storage.rows import EvidenceRow, RowTransitions, Step, accepted_at
from edgeadapt.errors import StateError, StorageError

_CANDIDATES = 8  # times as many of the oldest rows as must go


class Retention:
    """Expires and compacts through the commit log. Called by the worker only."""

    def __init__(self, log: CommitLog) -> None:
        self._log, self._program, self._journal = log, log.program, log.journal

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
        accepted = [row for row in rows if row.status in ("learned", "held_out")]
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
        self._log.held_out.accept(Split(gone=tuple(row for row in accepted if row.seq in deleted)))
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
            : _CANDIDATES * over
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
            # rows that it needs have expired: a later snapshot has what was learned from them
            except StateError:
                continue
        return None


__all__ = ["Retention"]
