"""A change of the accepted labels, carried out on a state: what its sums learn and unlearn, and
what its commit records of the rows.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from numpy.typing import NDArray

from edgeadapt.device.commits.commit_log import CommitLog
from edgeadapt.device.commits.evidence_sums import (
    add_evidence,
    by_commit,
    corrections_now,
    subtract_evidence,
    with_host_views,
)
from edgeadapt.device.commits.holdout import Split
from edgeadapt.device.commits.serialization import correction_arrays
from edgeadapt.device.inference.state import SOURCE, LearnerState
from edgeadapt.device.storage.rows import RowTransitions
from edgeadapt.runtime import Tensors


@dataclass(frozen=True, eq=False)
class EvidenceChange:
    """What a split makes of a state.

    Attributes:
        candidate: the state without what the split takes and with what it adds.
        receipts: of the rows, by ``seq``.
        corrections: tensors that the rows were learned through, for a replay.
    """

    split: Split
    candidate: LearnerState
    receipts: dict[int, bytes]
    corrections: dict[str, NDArray[Any]]

    def moves(self, *, withdrawn: Sequence[int] = (), held: Sequence[int] = ()) -> RowTransitions:
        return moves_of(self.split, withdrawn=withdrawn, held=held)


def change_evidence(log: CommitLog, state: LearnerState, split: Split) -> EvidenceChange:
    """Carry a split out on a state; nothing is recorded yet."""
    if split.gone:
        log.labels_removed(frozenset(row.domain for row in split.gone))
    program = log.program
    corrections = corrections_now(
        program, list(dict.fromkeys(row.domain for row in split.added)), state
    )
    started = time.thread_time()
    tensors = subtract_evidence(
        program, log.journal, state.tensors, by_commit(split.taken), state.slots
    )
    tensors, receipts = add_evidence(program, tensors, split.added, state.slots, corrections)
    log.costs_replay(
        time.thread_time() - started,
        sum(row.features.nbytes for row in (*split.taken, *split.added)),
    )
    # a held-out row may be learned after its features have expired: where it would be counted
    # is known from now on
    unread = [
        replace(row, weight=0.0)
        for row in split.held_out
        if not row.receipt and row.has_features and program.gives_receipts
    ]
    if unread:
        receipts |= add_evidence(program, state.tensors, unread, state.slots, {})[1]
    if split.taken or split.added:
        tensors = program.derive(tensors, state.head, state.classes)
    return EvidenceChange(
        split,
        with_host_views(program, counted(state, split, tensors)),
        receipts,
        correction_arrays(program, corrections),
    )


def counted(state: LearnerState, split: Split, tensors: Tensors) -> LearnerState:
    """The state with these tensors and the number of labels that count after the split."""
    accepted_before = {
        row.seq for row in (*split.added, *split.held_out) if row.status in ("learned", "held_out")
    }
    came = len({row.seq for row in (*split.added, *split.held_out)} - accepted_before)
    # a head that has learned what goes must not answer on, and the shared one must have learned
    # what came
    heads = (
        {} if split.gone else {name: head for name, head in state.heads.items() if name != SOURCE}
    )
    return replace(
        state, tensors=tensors, heads=heads, labels=state.labels + came - len(split.gone)
    )


def moves_of(
    split: Split, *, withdrawn: Sequence[int] = (), held: Sequence[int] = ()
) -> RowTransitions:
    """What a commit says about the rows of a split."""
    taken = tuple(
        (number, tuple(row.seq for row in rows)) for number, rows in by_commit(split.taken)
    )
    return RowTransitions(
        taken=taken,
        added=tuple(row.seq for row in split.added),
        held_out=tuple(row.seq for row in split.held_out),
        withdrawn=tuple(withdrawn),
        held=tuple(held),
    )


__all__ = ["EvidenceChange", "change_evidence", "counted", "moves_of"]
