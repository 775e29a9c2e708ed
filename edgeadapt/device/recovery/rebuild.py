"""From journal to memory: the state after any commit, by the nearest snapshot and a replay of what
followed.
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, Literal

import msgspec
import numpy as np
from numpy.typing import NDArray

from edgeadapt.device.commits.evidence_sums import (
    apply_rows,
    clear_class,
    factory_memory,
    finish,
    take_rows,
)
from edgeadapt.device.commits.serialization import (
    Blobs,
    corrections_in,
    domain_values,
    take_prototypes,
    with_domains,
)
from edgeadapt.device.inference.program import Program
from edgeadapt.device.inference.state import (
    AS_SHIPPED,
    Domain,
    DomainKind,
    HeadChoice,
    LearnerState,
)
from edgeadapt.device.storage.corruption import reads
from edgeadapt.device.storage.journal import Journal
from edgeadapt.device.storage.rows import CommitRow
from edgeadapt.errors import StateError
from edgeadapt.runtime import Tensors


@reads
def rebuild(
    journal: Journal, program: Program, upto: int | None = None, *, from_factory: bool = False
) -> LearnerState:
    """The memory after commit ``upto`` (the last one by default)."""
    return rebuild_timed(journal, program, upto, from_factory=from_factory)[0]


def rebuild_timed(
    journal: Journal, program: Program, upto: int | None = None, *, from_factory: bool = False
) -> tuple[LearnerState, float]:
    """The memory after commit ``upto``, and the seconds that replaying commits took.

    Args:
        from_factory: replay every commit and use no snapshot, as a check on the snapshots.

    Raises:
        StateError: a snapshot does not fit the bundle, or the commit is too old to be reached by a
            replay.
    """
    last = journal.last_number() if upto is None else upto
    memory = factory_memory(program)
    tensors, blobs, replay_s = memory.tensors, Blobs(), 0.0
    for start, commits in reversed(_way_to(journal, last, from_factory)):
        found = None if from_factory else journal.snapshot(start)
        if (
            found is not None
            and found[0] == start
            and not (commits and commits[0].kind == "rollback")
        ):
            tensors, blobs = restore_tensors(program, memory.tensors, found[1]), dict(found[1])
        tables = tables_at(journal, start) or json.loads(memory.tables())
        started = time.thread_time()
        for commit in commits:
            tensors = replay_commit(journal, program, commit, tensors, tables)
            tables = json.loads(commit.tables)
            blobs = with_domains(blobs, commit.tensors)
        replay_s += time.thread_time() - started
    found_tables = tables_at(journal, last)
    head = HeadChoice(**(found_tables or {}).get("head", {}))
    classes = () if found_tables is None else found_tables["classes"]
    if (
        tensors is not memory.tensors
        or head != AS_SHIPPED
        or tuple(classes) not in ((), memory.classes)
    ):
        # else the factory's, which were just derived
        tensors = program.derive(tensors, head, classes)
    memory = replace(memory, commit=last, head=head, tensors=tensors)
    if found_tables is not None:
        memory = _with_tables(program, memory, found_tables, blobs)
    return finish(program, memory), replay_s


def _way_to(journal: Journal, last: int, from_factory: bool) -> list[tuple[int, list[CommitRow]]]:
    """(where a stretch starts, the commits of the stretch), the last stretch first; a rollback
    starts one from where it went back to.
    """
    way: list[tuple[int, list[CommitRow]]] = []
    horizon = journal.horizon()
    while True:
        start = 0 if from_factory else journal.snapshot_before(last)
        if start < horizon:
            raise StateError(
                f"commit {last} cannot be reached any more: rows of before commit {horizon} have"
                " expired, or its history was compacted"
            )
        commits = journal.commits(start, last)
        expired = journal.expired_after(start)
        if expired and any(expired & commit.moves.needs() for commit in commits):
            raise StateError(
                f"commit {last} cannot be reached any more: it needs labels whose rows have expired"
                " (Keep.features_days, Keep.rows)"
            )
        back = max(
            (index for index, commit in enumerate(commits) if commit.kind == "rollback"),
            default=None,
        )
        if back is None:
            return [*way, (start, commits)]
        way.append((commits[back].detail["to"], commits[back:]))
        last = commits[back].detail["to"]


def replay_commit(
    journal: Journal,
    program: Program,
    commit: CommitRow,
    tensors: Tensors,
    tables: Mapping[str, Any],
) -> Tensors:
    """One commit on top of the tensors before it, whose class table is in ``tables``."""
    moves = commit.moves
    if commit.kind == "remove_class":
        if not commit.digest:  # written by a version that did not say what it took
            raise StateError(
                f"commit {commit.number} (remove_class) cannot be replayed: an earlier version"
                " wrote it, and its snapshot was replaced by newer ones"
            )
        taken = [(number, journal.evidence_of(rows)) for number, rows in moves.taken]
        slots = _slots(tables["classes"])
        return clear_class(
            program,
            take_rows(program, journal, tensors, taken, slots),
            slots[commit.detail["class"]],
        )
    if moves.taken:
        taken = [(number, journal.evidence_of(rows)) for number, rows in moves.taken]
        tensors = take_rows(program, journal, tensors, taken, _slots(tables["classes"]))
    if moves.added:  # without what was forgotten since
        slots = _slots(json.loads(commit.tables)["classes"])
        tensors, _ = apply_rows(
            program,
            tensors,
            journal.evidence_of(moves.added),
            slots,
            corrections_in(program, commit),
        )
    return tensors


def restore_tensors(
    program: Program, factory: Tensors, values: Mapping[str, NDArray[Any]]
) -> Tensors:
    """Global tensors of a snapshot over the factory's.

    Raises:
        StateError: one is not finite, or does not fit the bundle.
    """
    kept = {name: values[name] for name in program.checkpointed if name in values}
    for name in program.checkpointed:
        if name in kept and not np.isfinite(kept[name]).all():
            raise StateError(
                f"the journal is damaged: the stored tensor {name!r} has values that are not finite"
            )
        if name not in kept or kept[name].shape != factory[name].shape:
            raise StateError(
                f"the stored tensor {name!r} does not fit this bundle; it was made with other"
                " settings: edgeadapt migrate OLD_STATE NEW.edge"
            )
    return program.runtime.upload(kept).over(factory)


@reads
def tables_at(journal: Journal, number: int) -> dict[str, Any] | None:
    """Class table, domain table and counters after a commit; None for the factory's."""
    if number == 0:
        return None
    found = journal.commits(number - 1, number)
    tables: dict[str, Any] = json.loads(found[0].tables)
    msgspec.convert(tables, _Tables)
    return tables


class _Condition(msgspec.Struct):
    name: str
    kind: DomainKind
    answers_known: int
    answers_new: int


class _Tables(msgspec.Struct):
    """What a commit's tables must hold."""

    classes: list[str | None]
    domains: list[_Condition]
    labels: int
    domain_serial: int
    head: dict[Literal["factory_weight", "shrinkage", "temperature"], float] = {}


def _slots(classes: Sequence[str | None]) -> dict[str, int]:
    return {name: slot for slot, name in enumerate(classes) if name is not None}


def _check_domain(program: Program, domain: str, values: Mapping[str, NDArray[Any]]) -> None:
    specs = {
        spec.name: spec
        for spec in program.specs("evidence", "parameter", "statistic", scope="domain")
    }
    for name, value in values.items():
        fits = name in specs and (str(value.dtype), value.shape) == (
            specs[name].dtype,
            specs[name].shape,
        )
        if not fits or not np.isfinite(value).all():
            raise StateError(
                f"the journal is damaged: the tensor {name!r} of {domain!r} does not fit this"
                " bundle"
            )


def _with_tables(
    program: Program,
    memory: LearnerState,
    tables: Mapping[str, Any],
    blobs: Mapping[str, NDArray[Any]],
) -> LearnerState:
    if len(tables["classes"]) != program.manifest.class_slots:
        raise StateError(
            f"the state has {len(tables['classes'])} class slots and the bundle"
            f" {program.manifest.class_slots}: edgeadapt migrate OLD_STATE NEW.edge"
        )
    domains = {}
    for order, entry in enumerate(tables["domains"]):
        values = domain_values(blobs, entry["name"])
        if not values:
            continue  # never checkpointed: it was session state
        signature = take_prototypes(values, program.manifest.class_slots)
        _check_domain(program, entry["name"], values)
        tensors = program.runtime.upload(values)
        is_corrected = entry["kind"] != "novelty" and not _is_factory(program, values)
        encode = program.refold(tensors) if is_corrected else None
        domains[entry["name"]] = Domain(
            entry["name"],
            entry["kind"],
            signature,
            tensors,
            tensors,
            encode,
            entry["answers_known"],
            entry["answers_new"],
            refreshes=int(is_corrected),
            used_at=order,
        )
    return replace(
        memory,
        classes=tuple(tables["classes"]),
        domains=domains,
        labels=tables["labels"],
        domain_serial=tables["domain_serial"],
    )


def _is_factory(program: Program, values: Mapping[str, NDArray[Any]]) -> bool:
    """True if a condition corrects nothing: it was saved before its first correction, or after that
    was taken back.
    """
    factory = program.factory_domain()
    bare = program.runtime.download(factory, [name for name in values if name in factory])
    return all(np.array_equal(bare[name], values[name]) for name in bare)


__all__ = ["rebuild", "rebuild_timed", "replay_commit", "restore_tensors", "tables_at"]
