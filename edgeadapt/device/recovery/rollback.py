"""Back to an earlier commit. Durable in the same way as every change."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from edgeadapt.device.commits.commit_log import CommitLog
from edgeadapt.device.commits.evidence_change import change_evidence
from edgeadapt.device.commits.holdout import Split
from edgeadapt.device.recovery.rebuild import rebuild
from edgeadapt.device.storage.journal import Journal
from edgeadapt.device.storage.rows import EvidenceRow, accepted_at
from edgeadapt.errors import StateError


def rollback(log: CommitLog, to: int | None) -> int:
    """Back to the state after commit ``to``; the one before the last change by default."""
    live = log.live.current
    target = _change_before(log.journal, live.commit) if to is None else to
    if not 0 <= target < max(live.commit, 1):
        raise StateError(f"cannot roll back to commit {target}: the last is {live.commit}")
    horizon = log.journal.horizon()
    if target < horizon:
        raise StateError(
            f"cannot roll back to commit {target}: the history of before commit {horizon} was"
            " compacted (Keep.commits), or its rows have expired"
        )
    then = accepted_at(log.journal.steps(target), [target])[target]
    now = {
        row.seq: row
        for row in log.journal.evidence(
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
    back = replace(rebuild(log.journal, log.program, target), domain_serial=live.domain_serial)
    accepted = [
        replace(now[seq], status=status, commit_number=number)
        for seq, (status, number) in then.items()
        if seq in now
    ]
    gone = then.keys() - now.keys()
    # what was learned from these is in the state; the others are as if they had never been
    expired = gone & log.journal.expired_after(0, deleted_only=True)
    split = _settled(log, accepted) if len(expired) < len(gone) else Split()
    change = change_evidence(log, back, split)
    candidate = replace(change.candidate, labels=len(accepted) + len(expired))
    counted = {row.seq: (row.label, row.status) for row in accepted}
    counted |= {row.seq: (row.label, "learned") for row in split.added} | {
        row.seq: (row.label, "held_out") for row in split.held_out
    }
    log.record(
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
    log.held_out.restore(counted.values())
    return target


def _settled(log: CommitLog, accepted: Sequence[EvidenceRow]) -> Split:
    """Labels that change sides, so that a fifth of every class is held out."""
    judging, teaching = log.held_out.rebalance(accepted)
    whole = {
        row.seq: row for row in log.journal.evidence_of([row.seq for row in (*judging, *teaching)])
    }
    taken, added = (
        [replace(row, features=whole[row.seq].features) for row in rows]
        for rows in (judging, teaching)
    )
    return Split(tuple(taken), tuple(added), tuple(taken))


def _change_before(journal: Journal, number: int) -> int:
    """The commit before the last one that changed the state: vetoes and checkpoints are stepped
    over.
    """
    changed = journal.last_change(number)
    if changed:
        return changed - 1
    raise StateError("nothing was changed yet: there is nothing to roll back")


__all__ = ["rollback"]
