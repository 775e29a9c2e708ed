"""Is a state what its journal says? It is rebuilt twice and held against the digests that were
recorded.

Once as a device resumes: the newest snapshot and the commits after it. Once from the factory
through every commit that can be reached, without snapshots, commit by commit. Bits are promised on
the same machine, runtime and version; elsewhere the same up to rounding.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from edgeadapt.device.commits.evidence_sums import factory_memory
from edgeadapt.device.commits.serialization import (
    _DOMAIN,
    _signature,
    snapshot_of,
    state_digest,
    with_domains,
)
from edgeadapt.device.inference.program import Program
from edgeadapt.device.inference.state import Domain, LearnerState
from edgeadapt.device.recovery.rebuild import _replay, _restore, rebuild, tables_at
from edgeadapt.device.storage.journal import Journal
from edgeadapt.device.storage.name_erasure import NAMES_FORGOTTEN
from edgeadapt.device.storage.rows import CommitRow
from edgeadapt.errors import StateError
from edgeadapt.runtime import Tensors

TOLERANCE = 1e-4
"""Largest difference that counts as rounding, as a share of the largest value of the tensor."""
_PAGE = 128  # commits
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


def last_commit(journal: Journal, program: Program, upto: int | None) -> int:
    """The commit that is meant.

    Raises:
        StateError: the state is another bundle's, or there is no such commit.
    """
    space, manifest = journal.meta("space"), program.manifest
    if space != manifest.space:
        raise StateError(
            f"the state was learned in feature space {str(space)[:12]} (bundle"
            f" {journal.meta('bundle')!r}), the bundle {manifest.name!r} has {manifest.space[:12]}"
        )
    last = journal.last_number()
    if upto is not None and not 0 <= upto <= last:
        raise StateError(f"there is no commit {upto}: the last is {last}")
    return last if upto is None else upto


def reachable_start(journal: Journal, upto: int) -> int:
    """The earliest state from which every later commit can be replayed: the factory's (0), or a
    snapshot's.

    Raises:
        StateError: there is none.
    """
    horizon = journal.horizon()
    history = [commit for commit in journal.history(1 << 60) if commit.number <= upto]
    returns = [
        (commit.number, commit.detail["to"]) for commit in history if commit.kind == "rollback"
    ]
    removals = [commit.number for commit in history if commit.kind == "remove_class"]
    # version 1 did not say what it took
    opaque = [number for number in removals if not journal.commits(number - 1, number)[0].digest]
    for start in sorted(
        {
            *([] if horizon else [0]),
            *(n for n in journal.snapshot_numbers() if horizon <= n <= upto),
        }
    ):
        if (
            max(opaque, default=0) <= start
            and all(to >= start for number, to in returns if number > start)
            and _has_its_rows(journal, start, upto)
        ):
            return start
    raise StateError(
        f"commit {upto} cannot be reached: rows of before commit {horizon} have expired, or its"
        " history was compacted"
    )


def _has_its_rows(journal: Journal, start: int, upto: int) -> bool:
    """True if no commit between needs a row that has expired since ``start``."""
    expired = journal.expired_after(start)
    return not expired or not any(
        expired & commit.moves.needs() for commit in commits_in_pages(journal, start, upto)
    )


# -- walking ---------------------------------------------------------------------------------------
@dataclass(frozen=True, eq=False)
class _Point:
    """The state between two commits. Derived tensors are not up to date: nothing that learns reads
    them.
    """

    tensors: Tensors
    tables: Mapping[str, Any]
    blobs: Arrays  # of conditions


def walk(
    journal: Journal, program: Program, start: int, upto: int
) -> Iterator[tuple[CommitRow, LearnerState]]:
    """Every commit after ``start``, each with the state after it; derived tensors are left as the
    factory had them.
    """
    factory = factory_memory(program)
    point = _point_at(journal, program, factory, start)
    targets = {
        commit.detail["to"]
        for commit in journal.history(1 << 60)
        if commit.kind == "rollback" and start < commit.number <= upto
    }
    kept = {start: point}
    for commit in commits_in_pages(journal, start, upto):
        if commit.kind == "rollback":
            point = kept[commit.detail["to"]]
        tensors = _replay(journal, program, commit, point.tensors, point.tables)
        point = _Point(
            tensors, json.loads(commit.tables), with_domains(point.blobs, commit.tensors)
        )
        if commit.number in targets:
            kept[commit.number] = point
        yield commit, _memory(program, factory, commit.number, point)


def commits_in_pages(journal: Journal, after: int, upto: int) -> Iterator[CommitRow]:
    """Commits in order, some at a time: with their tensors they may be more than fits into
    memory.
    """
    for start in range(after, upto, _PAGE):
        yield from journal.commits(start, min(start + _PAGE, upto))


def memory_at(journal: Journal, program: Program, number: int) -> LearnerState:
    """The state of the factory (0) or of a snapshot."""
    factory = factory_memory(program)
    return _memory(program, factory, number, _point_at(journal, program, factory, number))


def _point_at(journal: Journal, program: Program, factory: LearnerState, number: int) -> _Point:
    found = journal.snapshot(number) if number else None
    tables = tables_at(journal, number)
    if found is None or tables is None:
        return _Point(factory.tensors, json.loads(factory.tables()), {})
    return _Point(
        _restore(program, factory.tensors, found[1]),
        tables,
        {k: v for k, v in found[1].items() if k.startswith(_DOMAIN)},
    )


def _memory(program: Program, factory: LearnerState, number: int, point: _Point) -> LearnerState:
    """Without the encoders of its conditions: what is judged here is judged by features."""
    domains = {}
    for entry in point.tables["domains"]:
        prefix = f"{_DOMAIN}{entry['name']}/"
        values = {
            key.removeprefix(prefix): value
            for key, value in point.blobs.items()
            if key.startswith(prefix)
        }
        if values:
            signature = _signature(values, program.manifest.class_slots)
            tensors = program.runtime.upload(values)
            domains[entry["name"]] = Domain(
                entry["name"], entry["kind"], signature, tensors, tensors
            )
    tables = point.tables
    return replace(
        factory,
        commit=number,
        tensors=point.tensors,
        classes=tuple(tables["classes"]),
        domains=domains,
        labels=tables["labels"],
        domain_serial=tables["domain_serial"],
    )


# -- comparing -------------------------------------------------------------------------------------
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


__all__ = [
    "TOLERANCE",
    "Replayed",
    "Step",
    "commits_in_pages",
    "difference",
    "last_commit",
    "memory_at",
    "reachable_start",
    "replay",
    "walk",
]
