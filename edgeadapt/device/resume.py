"""From journal to memory: the state after any commit, by the nearest snapshot and a replay of what followed."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgeadapt.device.evidence import rows_to_arrays
from edgeadapt.device.journal import CommitRow, EvidenceRow, Journal
from edgeadapt.device.memory import SOURCE, Domain, Memory, Signature
from edgeadapt.device.program import Program
from edgeadapt.errors import StateError
from edgeadapt.runtime import Tensors

_DOMAIN = "domain/"


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


def apply_rows(
    program: Program, tensors: Tensors, rows: Sequence[EvidenceRow], slots: dict[str, int], correction: Tensors, sign: float = 1.0
) -> Tensors:
    """Add (or with ``sign`` -1 subtract) stored rows, in order and in the same chunks every time. Derives nothing."""
    if not rows:
        return tensors
    z, taps, y, weight, is_factory = rows_to_arrays(rows, slots, program.manifest.feature_dim)
    learned = program.learn(correction.over(tensors), z, taps, y, weight * np.float32(sign), is_factory)
    return learned.only(tensors)


def correction_read(program: Program, domain: str, memory: Memory) -> Tensors:
    """The domain tensors that learning reads, if any: a replay needs them as they were."""
    names = [s.name for s in program.manifest.tensors if s.scope == "domain" and s.name in program.manifest.graphs_for("learn")[0].reads]
    if not names:
        return Tensors()
    found = memory.domains.get(domain)
    return (found.tensors if found is not None else program.factory_domain()).only(names)


def clear_class(program: Program, tensors: Tensors, slot: int) -> Tensors:
    """Zero a slot along every tensor's class axis. Shared sums (a Gram matrix) keep what they hold: see ``remove_class``."""
    cleared: dict[str, NDArray[Any]] = {}
    for spec in program.manifest.tensors:
        if spec.class_axis is not None and spec.kind == "evidence" and spec.scope == "global":
            value = program.runtime.download(tensors, [spec.name])[spec.name]
            value[(slice(None),) * spec.class_axis + (slot,)] = 0
            cleared[spec.name] = value
    return program.runtime.upload(cleared).over(tensors)


def domain_blob(program: Program, domain: Domain) -> dict[str, NDArray[Any]]:
    """What a commit stores of a domain: its tensors and its signature."""
    values: dict[str, NDArray[Any]] = {f"{_DOMAIN}{domain.name}/{name}": value for name, value in program.runtime.download(domain.tensors).items()}
    values[f"{_DOMAIN}{domain.name}/signature.sums"] = domain.signature.sums
    values[f"{_DOMAIN}{domain.name}/signature.counts"] = domain.signature.counts
    return values


def snapshot_of(program: Program, memory: Memory) -> dict[str, NDArray[Any]]:
    """Everything a replay needs to start from here."""
    values = program.checkpoint(memory.tensors)
    for domain in memory.domains.values():
        if domain.saved:
            values |= domain_blob(program, replace(domain, tensors=domain.saved))
    return values


def durable_tables(journal: Journal, program: Program, memory: Memory) -> str:
    """The tables a reopened learner would have: as of the last commit, without conditions that were never checkpointed."""
    tables = tables_at(journal, memory.commit) or json.loads(factory_memory(program).tables())
    saved = {domain.name for domain in memory.domains.values() if domain.saved}
    return json.dumps(tables | {"domains": [entry for entry in tables["domains"] if entry["name"] in saved]}, sort_keys=True)


def statuses_at(commits: Sequence[CommitRow]) -> dict[str, str]:
    """Sample id -> ``learned`` or ``held_out``, as it was after these commits; ids of labels that were withdrawn are absent."""
    found: dict[str, str] = {}
    for commit in commits:
        if commit.outcome == "learned":
            count = commit.detail["learned"]
            found |= dict.fromkeys(commit.rows[:count], "learned") | dict.fromkeys(commit.rows[count:], "held_out")
        elif commit.kind == "remove_class":
            for sample in commit.rows:
                found.pop(sample, None)
        elif commit.kind == "rollback":
            found = statuses_at([earlier for earlier in commits if earlier.number <= commit.detail["to"]])
    return found


def rebuild(journal: Journal, program: Program, upto: int | None = None) -> Memory:
    """The memory after commit ``upto`` (the last one by default).

    Raises:
        StateError: the snapshot does not fit the bundle, or the commit is too old to be reached by a replay.
    """
    last = journal.last_number() if upto is None else upto
    memory = factory_memory(program)
    found = journal.snapshot(last)
    start, blobs = (0, {}) if found is None else found
    if found is not None:
        memory = replace(memory, tensors=_restore(program, memory.tensors, blobs))
    tables = tables_at(journal, start)
    tensors, blobs = memory.tensors, dict(blobs)
    for commit in journal.commits(start, last):
        tables = json.loads(commit.tables)
        if commit.outcome == "learned":
            present = journal.evidence_of(commit.rows[: commit.detail["learned"]])  # without what was forgotten since
            correction = program.runtime.upload({k: v for k, v in commit.tensors.items() if not k.startswith(_DOMAIN)})
            tensors = apply_rows(program, tensors, present, _slots(tables["classes"]), correction)
        elif commit.kind in ("remove_class", "rollback"):  # each took a snapshot; only the newest few are kept
            raise StateError(f"commit {last} cannot be reached any more: the snapshot of commit {commit.number} ({commit.kind}) was replaced by newer ones")
        blobs |= {k: v for k, v in commit.tensors.items() if k.startswith(_DOMAIN)}
    memory = replace(memory, commit=last, tensors=program.derive(tensors))
    if tables is not None:
        memory = _with_tables(program, memory, tables, blobs)
    return finish(program, memory)


def _restore(program: Program, factory: Tensors, values: Mapping[str, NDArray[Any]]) -> Tensors:
    kept = {name: value for name, value in values.items() if not name.startswith(_DOMAIN)}
    for name in program.checkpointed:
        if name not in kept or kept[name].shape != factory[name].shape:
            raise StateError(f"the stored tensor {name!r} does not fit this bundle; it was made with other settings: edgeadapt migrate OLD_STATE NEW.edge")
    return program.runtime.upload(kept).over(factory)


def tables_at(journal: Journal, number: int) -> dict[str, Any] | None:
    """Class table, domain table and counters after a commit; None for the factory's."""
    if number == 0:
        return None
    found = journal.commits(number - 1, number)
    tables: dict[str, Any] = json.loads(found[0].tables)
    return tables


def _slots(classes: Sequence[str | None]) -> dict[str, int]:
    return {name: slot for slot, name in enumerate(classes) if name is not None}


def _with_tables(program: Program, memory: Memory, tables: Mapping[str, Any], blobs: Mapping[str, NDArray[Any]]) -> Memory:
    if len(tables["classes"]) != program.manifest.class_slots:
        raise StateError(f"the state has {len(tables['classes'])} class slots and the bundle {program.manifest.class_slots}: edgeadapt migrate OLD_STATE NEW.edge")
    domains = {}
    for order, entry in enumerate(tables["domains"]):
        prefix = f"{_DOMAIN}{entry['name']}/"
        values = {key.removeprefix(prefix): value for key, value in blobs.items() if key.startswith(prefix)}
        if not values:
            continue  # never checkpointed: it was session state
        signature = Signature(values.pop("signature.sums"), values.pop("signature.counts"))
        tensors = program.runtime.upload(values)
        encode = program.refold(tensors) if entry["kind"] != "novelty" else None
        domains[entry["name"]] = Domain(
            entry["name"], entry["kind"], signature, tensors, tensors, encode, entry["answers_known"], entry["answers_new"], refreshes=1, used_at=order
        )  # fmt: skip
    return replace(memory, classes=tuple(tables["classes"]), domains=domains, labels=tables["labels"], domain_serial=tables["domain_serial"])


__all__ = ["SOURCE", "apply_rows", "clear_class", "correction_read", "domain_blob", "durable_tables", "factory_memory", "finish", "rebuild", "snapshot_of", "statuses_at", "tables_at"]
