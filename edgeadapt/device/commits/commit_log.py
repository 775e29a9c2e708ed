"""The one way to record a change: one SQLite transaction makes a candidate durable, one assignment
publishes it. A kill at any point leaves the state before or the state after.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from numpy.typing import NDArray

from edgeadapt.device.commits.holdout import HeldOut
from edgeadapt.device.commits.serialization import snapshot_of, state_digest
from edgeadapt.device.inference.live_state import LiveState
from edgeadapt.device.inference.program import Program
from edgeadapt.device.inference.state import LearnerState
from edgeadapt.device.resources.budget import WriteRoom
from edgeadapt.device.storage.journal import Journal
from edgeadapt.device.storage.rows import CommitChanges, CommitRow, RowTransitions

_REPLAY_S, _REPLAY_BYTES = 0.15, 16 << 20  # a snapshot is due when a replay would cost more
_LONGEST_REPLAY_S = 2.0  # beyond it a snapshot is taken even where little may be written


class CommitLog:
    """Called by the worker only, one change at a time.

    Args:
        replay_s: seconds that replaying the commits since the last snapshot has just taken.

    Attributes:
        on_labels_removed: called with the conditions of labels that stop counting, so that what was
            trained from them is trained again.
        write_s: seconds spent in the journal so far.
    """

    def __init__(
        self,
        program: Program,
        journal: Journal,
        held_out: HeldOut,
        live: LiveState,
        room: WriteRoom,
        replay_s: float = 0.0,
    ) -> None:
        self.program, self.journal, self.held_out = program, journal, held_out
        self.live, self.room = live, room
        self.on_labels_removed: list[Callable[[frozenset[str]], None]] = []
        self.write_s = 0.0
        self._replay_s, self._replay_bytes = replay_s, 0

    def record(
        self,
        kind: str,
        outcome: str,
        detail: Mapping[str, Any],
        candidate: LearnerState,
        *,
        moves: RowTransitions | None = None,
        snapshot: bool = False,
        tensors: Mapping[str, NDArray[Any]] | None = None,
        **changes: Any,
    ) -> LearnerState:
        """Make a candidate durable and publish it. ``changes`` are those of
        :class:`CommitChanges`.
        """
        candidate = replace(candidate, commit=self.journal.last_number() + 1)
        started = time.perf_counter()
        tables = candidate.tables()
        row = CommitRow(
            candidate.commit,
            kind,
            outcome,
            detail,
            moves or RowTransitions(),
            tables,
            tensors or {},
            state_digest(self.program, candidate, json.loads(tables)),
        )
        due = snapshot or self._snapshot_is_due(candidate)
        self.journal.commit(
            row,
            CommitChanges(**changes),
            snapshot_of(self.program, candidate) if due else None,
        )
        self.write_s += time.perf_counter() - started
        if due:
            self._replay_s, self._replay_bytes = 0.0, 0
        self.live.publish(candidate)
        return candidate

    def _snapshot_is_due(self, candidate: LearnerState) -> bool:
        if self._replay_s <= _REPLAY_S and self._replay_bytes <= _REPLAY_BYTES:
            return False
        return self._replay_s > _LONGEST_REPLAY_S or self.room.has_room(candidate.tensors.nbytes)

    def costs_replay(self, seconds: float, nbytes: int) -> None:
        """What a replay of the next commit would take: seconds of computing, and bytes of rows to
        read.
        """
        self._replay_s += seconds
        self._replay_bytes += nbytes

    def labels_removed(self, domains: frozenset[str]) -> None:
        for react in self.on_labels_removed:
            react(domains)


__all__ = ["CommitLog"]
