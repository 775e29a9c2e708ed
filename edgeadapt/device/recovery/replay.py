"""Is a state what its journal says? It is rebuilt twice and held against the digests that were
recorded.

Once as a device resumes: the newest snapshot and the commits after it. Once from the factory
through every commit that can be reached, without snapshots, commit by commit. Bits are promised on
the same machine, runtime and version; elsewhere the same up to rounding.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from edgeadapt.device.commits.serialization import snapshot_of, state_digest
from edgeadapt.device.inference.program import Program
from edgeadapt.device.inference.state import LearnerState
from edgeadapt.device.recovery.rebuild import rebuild
from edgeadapt.device.recovery.walk import last_commit, memory_at, reachable_start, walk
from edgeadapt.device.storage.journal import Journal
from edgeadapt.device.storage.name_erasure import NAMES_FORGOTTEN
from edgeadapt.device.storage.rows import CommitRow

TOLERANCE = 1e-4
"""Largest difference that counts as rounding, as a share of the largest value of the tensor."""
Agreement = Literal["equal", "different", "not recorded", "without rows that were forgotten since"]
Arrays = Mapping[str, NDArray[Any]]


@dataclass(frozen=True)
class Step:
    """One commit: what its replay from the factory says of the digest recorded with it."""

    number: int
    kind: str
    outcome: str
    digest: Agreement


@dataclass(frozen=True)
class Replayed:
    """A state, rebuilt.

    Attributes:
        start: the commit that the long replay starts after; 0 is the factory.
        snapshot: the one a device resumes from.
        upto: the last.
        resumed: the state as a device resumes it, against the digest of the last commit.
        steps: the long replay.
        continued: snapshots that it went on from, because rows of before were forgotten since and
            what they left are rounded sums.
        difference: largest between the long replay and the kept snapshots or the resumed state, as
            a share of the largest value of the tensor; tensor: where; at: after which commit.
        is_measured: a snapshot or the resumed state was taken at or after the first commit with
            another digest.
    """

    start: int
    snapshot: int
    upto: int
    resumed: Agreement
    steps: tuple[Step, ...]
    continued: tuple[int, ...]
    difference: float
    tensor: str
    at: int
    is_measured: bool

    @property
    def first_different(self) -> Step | None:
        return next(
            (step for step in self.steps if step.digest not in ("equal", "not recorded")), None
        )

    @property
    def verdict(self) -> Literal["equal", "equal to tolerance", "different"]:
        """Equal: every recorded digest was met. To tolerance: the digests were not, the tensors
        were up to rounding.
        """
        if self.difference > TOLERANCE:
            return "different"
        first = self.first_different
        if first is None and self.resumed in ("equal", "not recorded"):
            return "equal" if self.difference == 0.0 else "equal to tolerance"
        is_explained = first is not None and first.digest != "different"
        return (
            "equal to tolerance"
            if self.is_measured and (self.difference > 0.0 or is_explained)
            else "different"
        )

    def as_dict(self) -> Mapping[str, Any]:
        """For JSON."""
        first = self.first_different
        return asdict(self) | {
            "verdict": self.verdict,
            "first_different": None if first is None else first.number,
            "tolerance": TOLERANCE,
        }

    def lines(self) -> list[str]:
        """For people."""
        recorded = sum(step.digest != "not recorded" for step in self.steps)
        equal = sum(step.digest == "equal" for step in self.steps)
        start, first = f"commit {self.start}" if self.start else "the factory", self.first_different
        snapshot = f"the snapshot of commit {self.snapshot}" if self.snapshot else "the factory"
        unrecorded = (
            f" ({len(self.steps) - recorded} not recorded)" if recorded < len(self.steps) else ""
        )
        lines = [
            f"  as a device resumes, from {snapshot}: digest of commit {self.upto} {self.resumed}",
            (
                f"  from {start}, commit by commit: {equal} of {recorded} recorded digests"
                f" equal{unrecorded}"
            ),
        ]
        lines += (
            [
                f"  first other digest: commit {first.number} ({first.kind}: {first.outcome}),"
                f" {first.digest}"
            ]
            if first
            else []
        )
        if self.continued:
            lines.append(
                f"  gone on from the snapshot of commit {', '.join(map(str, self.continued))}: sums"
                " that rows were taken out of are rounded"
            )
        where = (
            f", {self.difference:.2g} of its largest value in {self.tensor} at commit {self.at}"
            if self.difference
            else ""
        )
        return [*lines, f"  {self.verdict}{where}"]


def replay(journal: Journal, program: Program, upto: int | None = None) -> Replayed:
    """Rebuild the state after commit ``upto`` (the last by default) both ways.

    Raises:
        StateError: another feature space, no such commit, or nothing that can be reached.
    """
    last = last_commit(journal, program, upto)
    start = reachable_start(journal, last)
    resumed, from_snapshot = rebuild(journal, program, last), journal.snapshot_before(last)
    long = _LongReplay(journal, program)
    memory = long.run(start, last)
    long.compare(memory, snapshot_of(program, resumed), last, is_reference=from_snapshot > start)
    recorded = journal.commits(last - 1, last) if last else []
    agreed = (
        _agreement(recorded[0].digest, _digest(program, recorded[0], resumed), False)
        if recorded
        else "not recorded"
    )
    first = next(
        (step.number for step in long.steps if step.digest not in ("equal", "not recorded")), 0
    )
    return Replayed(
        start,
        from_snapshot,
        last,
        agreed,
        tuple(long.steps),
        tuple(long.continued),
        *long.worst,
        is_measured=long.measured >= first,
    )


class _LongReplay:
    """Commit by commit, held against the recorded digests and the kept snapshots."""

    def __init__(self, journal: Journal, program: Program) -> None:
        self._journal, self._program = journal, program
        self._snapshots = frozenset(journal.snapshot_numbers())
        self._rows = frozenset(row.seq for row in journal.evidence(narrow=True))
        self._is_short = False  # of rows that were forgotten since
        self.steps: list[Step] = []
        self.continued: list[int] = []
        self.worst = (0.0, "", 0)
        self.measured = 0  # the last commit with something to compare tensors with

    def run(self, start: int, last: int) -> LearnerState:
        """Where rows are missing that were forgotten since, the replay goes on from the first
        snapshot that has all that is still there.
        """
        memory = memory_at(self._journal, self._program, start)
        for commit, memory in walk(self._journal, self._program, start, last):
            self._is_short = self._is_short or not self._rows.issuperset(_rows_of(commit))
            agreement = _agreement(
                commit.digest, _digest(self._program, commit, memory), self._is_short
            )
            self.steps.append(Step(commit.number, commit.kind, commit.outcome, agreement))
            if commit.number in self._snapshots and self._goes_on_from(commit, memory, last):
                self.continued.append(commit.number)
                self._is_short = False
                return self.run(commit.number, last)
        return memory

    def _goes_on_from(self, commit: CommitRow, memory: LearnerState, last: int) -> bool:
        found = self._journal.snapshot(commit.number)
        assert found is not None
        self.compare(memory, found[1], commit.number)
        if not self._is_short or commit.number == last:
            return False
        kept = memory_at(self._journal, self._program, commit.number)
        returns = [
            after.detail["to"]
            for after in self._journal.history(1 << 60)
            if after.kind == "rollback" and commit.number < after.number <= last
        ]
        return (
            commit.digest == _digest(self._program, commit, kept)
            and min(returns, default=last) >= commit.number
        )

    def compare(
        self, memory: LearnerState, reference: Arrays, number: int, is_reference: bool = True
    ) -> None:
        self.worst = max(
            self.worst, (*difference(snapshot_of(self._program, memory), reference), number)
        )
        self.measured = number if is_reference else self.measured


def difference(a: Arrays, b: Arrays) -> tuple[float, str]:
    """The largest difference of two snapshots, as a share of the largest value of its tensor, and
    which tensor; infinite if one lacks it.
    """
    worst = (0.0, "")
    # of conditions, which versions store in their own ways
    for name in sorted(name for name in a.keys() | b.keys() if "/signature." not in name):
        if name not in a or name not in b or a[name].shape != b[name].shape:
            return float("inf"), name
        scale = float(np.abs(b[name]).max(initial=0.0))
        gap = float(np.abs(a[name].astype(np.float64) - b[name]).max(initial=0.0))
        worst = max(worst, (gap / scale if scale else gap, name if gap else ""))
    return worst


def _digest(program: Program, commit: CommitRow, memory: LearnerState) -> str:
    return state_digest(program, memory, json.loads(commit.tables))


def _agreement(recorded: str, found: str, forgotten: bool) -> Agreement:
    if not recorded:
        return "not recorded"
    is_short = forgotten or recorded == NAMES_FORGOTTEN
    return (
        "equal"
        if recorded == found
        else "without rows that were forgotten since"
        if is_short
        else "different"
    )


def _rows_of(commit: CommitRow) -> set[int]:
    """Rows that a replay of this commit needs; those that it forgets itself it does not."""
    return (
        set()
        if commit.kind == "forget"
        else {*commit.moves.added, *(seq for _, rows in commit.moves.taken for seq in rows)}
    )


__all__ = ["TOLERANCE", "Replayed", "Step", "difference", "replay"]
