"""A batch of labels becomes a checked, durable, published state, or the journal says why not.

The order is fixed: the candidate is a new ``LearnerState`` and the live one is untouched; labels
that contradict a head which is known to be right are held; the guard may veto; one transaction
records what became of the rows, and one assignment publishes the candidate.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

from edgeadapt.device.commits.commit_log import CommitLog
from edgeadapt.device.commits.evidence_change import change_evidence
from edgeadapt.device.commits.factory_samples import FactorySamples
from edgeadapt.device.commits.guard import GuardDecision
from edgeadapt.device.commits.label_guard import LabelGuard, Proposal
from edgeadapt.device.commits.label_noise import LabelNoiseDetector
from edgeadapt.device.storage.rows import EvidenceRow, RowTransitions

# held labels that are tested again, batches of a source, and how many more labels it takes
_RECONSIDERED, _BATCHES, _GROWN = 256, 4, 1.25
_OVERRIDE = {"override": "label(ids, labels, trusted=True)"}


class LabelUpdate:
    """Called by the worker only, one batch at a time."""

    def __init__(self, log: CommitLog, factory: FactorySamples) -> None:
        self._log, self._journal, self._live = log, log.journal, log.live
        self._guard = LabelGuard(log, factory)
        self._noise = LabelNoiseDetector(log.program, log.journal, log.held_out, factory)
        # labels that were there when held ones of a source and condition were last considered
        self._reconsidered: dict[tuple[str, str], int] = {}

    def learn(self, received: Sequence[EvidenceRow]) -> GuardDecision:
        """Learn received rows of one source and one condition, or record why not. A row of a sample
        that had a label before corrects it.
        """
        newest = {row.id: row for row in received}
        rows = list(newest.values())
        outdated = tuple(row.seq for row in received if newest[row.id] is not row)
        slots = self._live.current.slots
        # a class may have gone while the label waited
        if orphans := [row for row in rows if row.label not in slots]:
            why = f"the class {min(row.label for row in orphans)!r} is gone"
            self._refuse("vetoed", orphans, why, outdated)
            return GuardDecision(why)
        if not rows[0].trusted:
            rows, why = self._without_copies(rows)
            if why:
                self._hold(rows, why, outdated)
                return GuardDecision(why)
        before = self._journal.accepted_of([row.id for row in rows])
        proposal = self._guard.propose(self._live.current, rows, before)
        decision = proposal.decision
        if not decision.passed:
            self._refuse("vetoed", proposal.rows, decision.why, outdated, proposal.notes)
            return decision
        self._accept(proposal, before, outdated)
        return decision

    def _without_copies(self, rows: list[EvidenceRow]) -> tuple[list[EvidenceRow], str]:
        """Rows without frames that are labelled often enough, which are held; and why the others
        are to be held, too.
        """
        live = self._live.current
        why = self._noise.of(live, rows)
        surplus = {row.seq for row in self._noise.surplus(live, rows)} if why else set()
        if not surplus:
            return rows, why
        copies = [row for row in rows if row.seq in surplus]
        self._refuse("held", copies, "frames that are labelled often enough already")
        rest = [row for row in rows if row.seq not in surplus]
        return rest, self._noise.of(self._live.current, rest)

    def _accept(
        self, proposal: Proposal, before: Sequence[EvidenceRow], outdated: tuple[int, ...]
    ) -> None:
        split, new = proposal.change.split, {row.seq for row in proposal.rows}
        detail = {
            **_summary(proposal.rows),
            **proposal.notes,
            "learned": sum(row.seq in new for row in split.added),
            "held_out": sum(row.seq in new for row in split.held_out),
        }
        detail |= {"corrected": len(before)} if before else {}
        detail |= {
            f"accuracy on {name}": round(after, 3) for name, _, after in proposal.decision.accuracy
        }
        self._log.record(
            "learn",
            "learned",
            detail,
            proposal.change.candidate,
            moves=proposal.change.moves(withdrawn=(*(row.seq for row in before), *outdated)),
            tensors=proposal.change.corrections,
            receipts=proposal.change.receipts,
            weights=proposal.weights,
        )
        self._log.held_out.accept(split)

    def reconsider(self, domain: str) -> None:
        """Learn labels of a condition that were held or vetoed, where what was learned since
        explains them.

        All that a source has there together first, then its batches. Considered again only when a
        quarter more labels are there than the last time.
        """
        held = self._journal.refused_in(domain, _RECONSIDERED)
        details = self._journal.details(
            {row.commit_number for row in held if row.commit_number is not None}
        )
        # what spoke against them was taken back with them
        found_out = {number for number, detail in details.items() if "withdrawn" in detail}
        held = [row for row in held if row.commit_number not in found_out]
        for source in dict.fromkeys(row.source for row in held):
            slots = self._live.current.slots
            waiting = [
                row
                for row in held
                if row.source == source and row.has_features and row.label in slots
            ]
            known = self._journal.count_learned_by_domain().get(domain, 0) + len(waiting)
            if not waiting or known < _GROWN * self._reconsidered.get((source, domain), 0):
                continue
            self._reconsidered[source, domain] = known
            batches = [
                [row for row in waiting if row.commit_number == number]
                for number in dict.fromkeys(row.commit_number for row in waiting)
            ]
            for batch in [waiting, *batches[-_BATCHES:]] if len(batches) > 1 else batches:
                if not self._noise.of(self._live.current, batch):
                    self.learn(batch)
                    break

    def supersede(self, seqs: Sequence[int]) -> None:
        """Labels that waited while a later label of the same sample came: only the last one counts,
        whoever gave it.
        """
        self._log.record(
            "learn",
            "superseded",
            {"labels": len(seqs)},
            self._live.current,
            moves=RowTransitions(withdrawn=tuple(seqs)),
        )

    def give_up(self, rows: Sequence[EvidenceRow], why: str) -> None:
        """Labels that cannot be learned must not keep others waiting."""
        self._refuse("vetoed", rows, why)

    def _refuse(
        self,
        outcome: Literal["vetoed", "held"],
        rows: Sequence[EvidenceRow],
        why: str,
        outdated: tuple[int, ...] = (),
        notes: Mapping[str, Any] | None = None,
    ) -> None:
        """Rows that are not learned; the state stays as it is."""
        seqs = tuple(row.seq for row in rows)
        is_held = outcome == "held"
        self._log.record(
            "learn",
            outcome,
            {**_summary(rows), **(notes or {}), "why": why, **(_OVERRIDE if is_held else {})},
            self._live.current,
            moves=RowTransitions(
                vetoed=() if is_held else seqs, held=seqs if is_held else (), withdrawn=outdated
            ),
        )

    def _hold(self, rows: Sequence[EvidenceRow], why: str, outdated: tuple[int, ...]) -> None:
        """Held rows are not learned; earlier rows of the source go with them where they contradict
        the head too.
        """
        live = self._live.current
        earlier = self._noise.withdraws(live, rows)
        if not earlier:
            self._refuse("held", rows, why, outdated)
            return
        change = change_evidence(self._log, live, self._log.held_out.split((), earlier))
        self._log.record(
            "learn",
            "held",
            {**_summary(rows), "why": why, **_OVERRIDE, "withdrawn": len(earlier)},
            change.candidate,
            moves=change.moves(
                withdrawn=(*(row.seq for row in earlier), *outdated),
                held=tuple(row.seq for row in rows),
            ),
            tensors=change.corrections,
            receipts=change.receipts,
        )
        self._log.held_out.accept(change.split)


def _summary(rows: Sequence[EvidenceRow]) -> dict[str, Any]:
    return {"source": rows[0].source, "domain": rows[0].domain, "labels": len(rows)}


__all__ = ["LabelUpdate"]
