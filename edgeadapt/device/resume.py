"""From journal to memory: the state after any commit, by the nearest snapshot and a replay of what followed."""

from __future__ import annotations

import json
import time
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from typing import Any, Literal

import msgspec
import numpy as np
from numpy.typing import NDArray

from edgeadapt.device.damage import reads
from edgeadapt.device.evidence import rows_to_arrays
from edgeadapt.device.journal import Journal
from edgeadapt.device.journal_rows import CommitRow, EvidenceRow
from edgeadapt.device.memory import AS_SHIPPED, SOURCE, Domain, DomainKind, HeadChoice, Memory, Signature, digest
from edgeadapt.device.program import Program
from edgeadapt.errors import StateError
from edgeadapt.runtime import Tensors

_DOMAIN, _CORRECTION = "domain/", "correction/"
Blobs = dict[str, NDArray[Any]]
Corrections = Mapping[str, Tensors]
"""Condition -> the tensors of its correction that learning reads."""


def factory_memory(program: Program) -> Memory:
    """The state a bundle ships with."""
    manifest = program.manifest
    classes = (*manifest.classes, *[None] * (manifest.class_slots - len(manifest.classes)))
    return finish(program, Memory(commit=0, tensors=program.factory(), classes=classes, domains={}))


def finish(program: Program, memory: Memory) -> Memory:
    """Refresh the small host copies that decisions read."""
    values = program.runtime.download(memory.tensors, ("shift.moment", "shift.mean", "head.mean", "head.active"))
    means = values["head.mean"][values["head.active"] > 0]
    lengths = np.sqrt((means * means).sum(axis=1, keepdims=True))
    prototypes = means[lengths[:, 0] > 0] / lengths[lengths[:, 0] > 0]
    return replace(memory, class_counts=values["shift.moment"][-1].copy(), class_places=values["shift.mean"], prototypes=prototypes)


# -- rows ---------------------------------------------------------------------------------------------
def apply_rows(
    program: Program, tensors: Tensors, rows: Sequence[EvidenceRow], slots: Mapping[str, int], corrections: Corrections, sign: float = 1.0
) -> tuple[Tensors, dict[int, bytes]]:
    """Add (or with ``sign`` -1 subtract) stored rows: condition by condition, in order and in the same chunks every time. Derives nothing.

    A row whose features have expired is counted by its receipt; what only a feature can tell stays as it is.

    Returns:
        The tensors, and the receipt of each row by ``seq`` where the bundle gives any.
    """
    receipts: dict[int, bytes] = {}
    for domain in dict.fromkeys(row.domain for row in rows):
        whole = [row for row in rows if row.domain == domain and row.has_features]
        if whole:
            z, taps, y, weight, is_factory = rows_to_arrays(whole, slots, program.manifest.feature_dim)
            learned, given = program.learn(corrections.get(domain, Tensors()).over(tensors), z, taps, y, weight * np.float32(sign), is_factory)
            tensors = learned.only(tensors)
            if given is not None:
                receipts |= {row.seq: receipt.astype(receipt.dtype.newbyteorder("<")).tobytes() for row, receipt in zip(whole, given, strict=True)}
    bare = [row for row in rows if not row.has_features and row.receipt]
    if bare and program.gives_receipts:
        y = np.array([slots[row.label] for row in bare], np.int64)
        weight = np.array([row.weight for row in bare], np.float32) * np.float32(sign)
        tensors = program.redeem(tensors, program.receipts_of([row.receipt for row in bare]), y, weight)
    return tensors, receipts


def correction_names(program: Program) -> list[str]:
    """Domain tensors that learning reads, if any: a replay needs them as they were."""
    return [s.name for s in program.manifest.tensors if s.scope == "domain" and s.name in program.manifest.graphs_for("learn")[0].reads]


def corrections_now(program: Program, domains: Sequence[str], memory: Memory) -> Corrections:
    """What learning under these conditions reads today."""
    names = correction_names(program)
    if not names:
        return {}
    return {name: (memory.domains[name].tensors if name in memory.domains else program.factory_domain()).only(names) for name in domains}


def correction_blob(program: Program, corrections: Corrections) -> Blobs:
    """What a commit stores of the corrections that it learned through."""
    return {f"{_CORRECTION}{domain}/{name}": value for domain, tensors in corrections.items() for name, value in program.runtime.download(tensors).items()}


def corrections_in(program: Program, commit: CommitRow) -> Corrections:
    """What a commit learned through."""
    found: dict[str, Blobs] = {}
    for key, value in commit.tensors.items():
        if key.startswith(_CORRECTION):
            domain, _, name = key.removeprefix(_CORRECTION).rpartition("/")
            found.setdefault(domain, {})[name] = value
    return {domain: program.runtime.upload(values) for domain, values in found.items()}


def take_rows(
    program: Program, journal: Journal, tensors: Tensors, taken: Sequence[tuple[int, Sequence[EvidenceRow]]], slots: Mapping[str, int]
) -> Tensors:
    """Subtract rows, each under the correction that it was learned through; under none if the commit that knows it was compacted.

    It must not depend on today's corrections: a replay knows nothing of them.
    """
    for number, rows in taken:
        known = journal.commits(number - 1, number) if correction_names(program) else []
        corrections = corrections_in(program, known[0]) if known else {}
        known_rows = [row for row in rows if row.label in slots]
        tensors, _ = apply_rows(program, tensors, known_rows, slots, corrections, sign=-1.0)
    return tensors


def by_commit(rows: Sequence[EvidenceRow]) -> list[tuple[int, list[EvidenceRow]]]:
    """Learned rows by the commit that learned them."""
    groups: dict[int, list[EvidenceRow]] = {}
    for row in rows:
        groups.setdefault(row.commit_number or 0, []).append(row)
    return sorted(groups.items())


def clear_class(program: Program, tensors: Tensors, slot: int) -> Tensors:
    """Zero a slot along every tensor's class axis. Shared sums (a Gram matrix) keep what they hold: see ``remove_class``."""
    cleared: Blobs = {}
    for spec in program.manifest.tensors:
        if spec.class_axis is not None and spec.kind == "evidence" and spec.scope == "global":
            value = program.runtime.download(tensors, [spec.name])[spec.name]
            value[(slice(None),) * spec.class_axis + (slot,)] = 0
            cleared[spec.name] = value
    return program.runtime.upload(cleared).over(tensors)


# -- what is kept -------------------------------------------------------------------------------------
def domain_blob(program: Program, domain: Domain) -> Blobs:
    """What a commit stores of a domain: its tensors and its signature."""
    values: Blobs = {f"{_DOMAIN}{domain.name}/{name}": value for name, value in program.runtime.download(domain.tensors).items()}
    met = np.flatnonzero(domain.signature.counts)  # of a thousand slots a condition meets few
    signature: Blobs = {"slots": met.astype(np.int32), "sums": domain.signature.sums[met], "counts": domain.signature.counts[met]}
    return values | {f"{_DOMAIN}{domain.name}/signature.{name}": value for name, value in signature.items()}


def with_domains(blobs: Mapping[str, NDArray[Any]], stored: Mapping[str, NDArray[Any]]) -> Blobs:
    """Stored conditions in place of what was known of them: each was stored whole."""
    new = {key: value for key, value in stored.items() if key.startswith(_DOMAIN)}
    if not new:
        return dict(blobs)
    whole = tuple({key.rpartition("/")[0] + "/" for key in new})
    return {key: value for key, value in blobs.items() if not key.startswith(whole)} | new


def without_adaptors(program: Program, stored: Mapping[str, NDArray[Any]], domains: Collection[str]) -> Blobs:
    """What is stored of a commit or a snapshot, without the adaptors of some conditions."""
    gone = {f"{_DOMAIN}{domain}/{name}" for domain in domains for name in program.adaptors.all_names}
    return {key: value for key, value in stored.items() if key not in gone}


def _signature(values: Blobs, slots: int) -> Signature:
    """Take a signature out of a domain's values; earlier versions stored every slot."""
    sums, counts = values.pop("signature.sums"), values.pop("signature.counts")
    met = values.pop("signature.slots", None)
    if met is None:
        return Signature(sums, counts)
    whole = Signature.empty(slots, sums.shape[1])
    whole.sums[met], whole.counts[met] = sums, counts
    return whole


def snapshot_of(program: Program, memory: Memory) -> Blobs:
    """Everything a replay needs to start from here."""
    values = program.checkpoint(memory.tensors)
    for domain in memory.domains.values():
        if domain.saved is not None:
            values |= domain_blob(program, replace(domain, tensors=domain.saved))
    return values


def durable_tables(tables: Mapping[str, Any], memory: Memory) -> str:
    """A commit's tables as a reopened learner would have them: without conditions that were never checkpointed."""
    saved = {domain.name for domain in memory.domains.values() if domain.saved is not None}
    kept = {key: value for key, value in tables.items() if key != "head"}  # a choice follows from the labels, when there was time to make it
    return json.dumps({**kept, "domains": [entry for entry in tables["domains"] if entry["name"] in saved]}, sort_keys=True)


def state_digest(program: Program, memory: Memory, tables: Mapping[str, Any], evidence: bytes = b"") -> str:
    """SHA-256 of what a reopened learner would have: tables, checkpointed tensors, conditions that were saved."""
    domains = {d.name: program.runtime.download(d.saved) for d in memory.domains.values() if d.saved is not None}
    return digest(durable_tables(tables, memory), program.checkpoint(memory.tensors), domains, evidence)


# -- replaying ----------------------------------------------------------------------------------------
@reads
def rebuild(journal: Journal, program: Program, upto: int | None = None, *, from_factory: bool = False) -> Memory:
    """The memory after commit ``upto`` (the last one by default)."""
    return rebuild_timed(journal, program, upto, from_factory=from_factory)[0]


def rebuild_timed(journal: Journal, program: Program, upto: int | None = None, *, from_factory: bool = False) -> tuple[Memory, float]:
    """The memory after commit ``upto``, and the seconds that replaying commits took.

    Args:
        from_factory: replay every commit and use no snapshot, as a check on the snapshots.

    Raises:
        StateError: a snapshot does not fit the bundle, or the commit is too old to be reached by a replay.
    """
    last = journal.last_number() if upto is None else upto
    memory = factory_memory(program)
    tensors, blobs, replay_s = memory.tensors, Blobs(), 0.0
    for start, commits in reversed(_way_to(journal, last, from_factory)):
        found = None if from_factory else journal.snapshot(start)
        if found is not None and found[0] == start and not (commits and commits[0].kind == "rollback"):
            tensors, blobs = _restore(program, memory.tensors, found[1]), dict(found[1])
        tables = tables_at(journal, start) or json.loads(memory.tables())
        started = time.thread_time()
        for commit in commits:
            tensors = _replay(journal, program, commit, tensors, tables)
            tables = json.loads(commit.tables)
            blobs = with_domains(blobs, commit.tensors)
        replay_s += time.thread_time() - started
    found_tables = tables_at(journal, last)
    head = HeadChoice(**(found_tables or {}).get("head", {}))
    classes = () if found_tables is None else found_tables["classes"]
    if tensors is not memory.tensors or head != AS_SHIPPED or tuple(classes) not in ((), memory.classes):
        tensors = program.derive(tensors, head, classes)  # else the factory's, which were just derived
    memory = replace(memory, commit=last, head=head, tensors=tensors)
    if found_tables is not None:
        memory = _with_tables(program, memory, found_tables, blobs)
    return finish(program, memory), replay_s


def _way_to(journal: Journal, last: int, from_factory: bool) -> list[tuple[int, list[CommitRow]]]:
    """(where a stretch starts, the commits of the stretch), the last stretch first; a rollback starts one from where it went back to."""
    way: list[tuple[int, list[CommitRow]]] = []
    horizon = journal.horizon()
    while True:
        start = 0 if from_factory else journal.snapshot_before(last)
        if start < horizon:
            raise StateError(f"commit {last} cannot be reached any more: rows of before commit {horizon} have expired, or its history was compacted")
        commits = journal.commits(start, last)
        expired = journal.expired_after(start)
        if expired and any(expired & commit.moves.needs() for commit in commits):
            raise StateError(f"commit {last} cannot be reached any more: it needs labels whose rows have expired (Keep.features_days, Keep.rows)")
        back = max((index for index, commit in enumerate(commits) if commit.kind == "rollback"), default=None)
        if back is None:
            return [*way, (start, commits)]
        way.append((commits[back].detail["to"], commits[back:]))
        last = commits[back].detail["to"]


def _replay(journal: Journal, program: Program, commit: CommitRow, tensors: Tensors, tables: Mapping[str, Any]) -> Tensors:
    """One commit on top of the tensors before it, whose class table is in ``tables``."""
    moves = commit.moves
    if commit.kind == "remove_class":
        if not commit.digest:  # written by a version that did not say what it took
            raise StateError(f"commit {commit.number} (remove_class) cannot be replayed: an earlier version wrote it, and its snapshot was replaced by newer ones")
        taken = [(number, journal.evidence_of(rows)) for number, rows in moves.taken]
        slots = _slots(tables["classes"])
        return clear_class(program, take_rows(program, journal, tensors, taken, slots), slots[commit.detail["class"]])
    if moves.taken:
        taken = [(number, journal.evidence_of(rows)) for number, rows in moves.taken]
        tensors = take_rows(program, journal, tensors, taken, _slots(tables["classes"]))
    if moves.added:  # without what was forgotten since
        slots = _slots(json.loads(commit.tables)["classes"])
        tensors, _ = apply_rows(program, tensors, journal.evidence_of(moves.added), slots, corrections_in(program, commit))
    return tensors


def _restore(program: Program, factory: Tensors, values: Mapping[str, NDArray[Any]]) -> Tensors:
    kept = {name: value for name, value in values.items() if not name.startswith(_DOMAIN)}
    for name in program.checkpointed:
        if name in kept and not np.isfinite(kept[name]).all():
            raise StateError(f"the journal is damaged: the stored tensor {name!r} has values that are not finite")
        if name not in kept or kept[name].shape != factory[name].shape:
            raise StateError(f"the stored tensor {name!r} does not fit this bundle; it was made with other settings: edgeadapt migrate OLD_STATE NEW.edge")
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
    specs = {spec.name: spec for spec in program.specs("evidence", "parameter", "statistic", scope="domain")}
    for name, value in values.items():
        fits = name in specs and (str(value.dtype), value.shape) == (specs[name].dtype, specs[name].shape)
        if not fits or not np.isfinite(value).all():
            raise StateError(f"the journal is damaged: the tensor {name!r} of {domain!r} does not fit this bundle")


def _with_tables(program: Program, memory: Memory, tables: Mapping[str, Any], blobs: Mapping[str, NDArray[Any]]) -> Memory:
    if len(tables["classes"]) != program.manifest.class_slots:
        raise StateError(f"the state has {len(tables['classes'])} class slots and the bundle {program.manifest.class_slots}: edgeadapt migrate OLD_STATE NEW.edge")
    domains = {}
    for order, entry in enumerate(tables["domains"]):
        prefix = f"{_DOMAIN}{entry['name']}/"
        values = {key.removeprefix(prefix): value for key, value in blobs.items() if key.startswith(prefix)}
        if not values:
            continue  # never checkpointed: it was session state
        signature = _signature(values, program.manifest.class_slots)
        _check_domain(program, entry["name"], values)
        tensors = program.runtime.upload(values)
        is_corrected = entry["kind"] != "novelty" and not _is_factory(program, values)
        encode = program.refold(tensors) if is_corrected else None
        domains[entry["name"]] = Domain(
            entry["name"], entry["kind"], signature, tensors, tensors, encode, entry["answers_known"], entry["answers_new"], refreshes=int(is_corrected), used_at=order
        )  # fmt: skip
    return replace(memory, classes=tuple(tables["classes"]), domains=domains, labels=tables["labels"], domain_serial=tables["domain_serial"])


def _is_factory(program: Program, values: Mapping[str, NDArray[Any]]) -> bool:
    """True if a condition corrects nothing: it was saved before its first correction, or after that was taken back."""
    factory = program.factory_domain()
    bare = program.runtime.download(factory, [name for name in values if name in factory])
    return all(np.array_equal(bare[name], values[name]) for name in bare)


__all__ = [
    "SOURCE", "apply_rows", "by_commit", "clear_class", "correction_blob", "corrections_now", "domain_blob", "durable_tables", "factory_memory", "finish", "rebuild", "rebuild_timed",
    "snapshot_of", "state_digest", "tables_at", "take_rows", "with_domains", "without_adaptors",
]  # fmt: skip
