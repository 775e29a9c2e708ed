"""The states that a history went through: from the factory or a snapshot, commit by commit."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

from numpy.typing import NDArray

from edgeadapt.device.commits.evidence_sums import factory_memory
from edgeadapt.device.commits.serialization import domain_values, take_prototypes, with_domains
from edgeadapt.device.inference.program import Program
from edgeadapt.device.inference.state import Domain, LearnerState
from edgeadapt.device.recovery.rebuild import replay_commit, restore_tensors, tables_at
from edgeadapt.device.storage.journal import Journal
from edgeadapt.device.storage.rows import CommitRow
from edgeadapt.errors import StateError
from edgeadapt.runtime import Tensors

_PAGE = 128  # commits
Arrays = Mapping[str, NDArray[Any]]


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
        tensors = replay_commit(journal, program, commit, point.tensors, point.tables)
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
        restore_tensors(program, factory.tensors, found[1]),
        tables,
        with_domains({}, found[1]),
    )


def _memory(program: Program, factory: LearnerState, number: int, point: _Point) -> LearnerState:
    """Without the encoders of its conditions: what is judged here is judged by features."""
    domains = {}
    for entry in point.tables["domains"]:
        if values := domain_values(point.blobs, entry["name"]):
            prototypes = take_prototypes(values, program.manifest.class_slots)
            tensors = program.runtime.upload(values)
            domains[entry["name"]] = Domain(
                entry["name"], entry["kind"], prototypes, tensors, tensors
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


__all__ = ["commits_in_pages", "last_commit", "memory_at", "reachable_start", "walk"]
