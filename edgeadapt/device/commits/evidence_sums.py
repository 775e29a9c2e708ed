"""What rows of evidence do to a state: added to its sums, or taken back."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np

from edgeadapt.device.commits.serialization import Blobs, Corrections, corrections_in
from edgeadapt.device.inference.program import Program
from edgeadapt.device.inference.state import LearnerState
from edgeadapt.device.storage.features import rows_to_arrays
from edgeadapt.device.storage.journal import Journal
from edgeadapt.device.storage.rows import EvidenceRow
from edgeadapt.runtime import Tensors


def factory_state(program: Program) -> LearnerState:
    """The state a bundle ships with."""
    manifest = program.manifest
    classes = (*manifest.classes, *[None] * (manifest.class_slots - len(manifest.classes)))
    return with_host_views(
        program, LearnerState(commit=0, tensors=program.factory(), classes=classes, domains={})
    )


def with_host_views(program: Program, memory: LearnerState) -> LearnerState:
    """Refresh the small host copies that decisions read."""
    values = program.runtime.download(
        memory.tensors, ("shift.moment", "shift.mean", "head.mean", "head.active")
    )
    means = values["head.mean"][values["head.active"] > 0]
    lengths = np.sqrt((means * means).sum(axis=1, keepdims=True))
    prototypes = means[lengths[:, 0] > 0] / lengths[lengths[:, 0] > 0]
    return replace(
        memory,
        class_counts=values["shift.moment"][-1].copy(),
        class_means=values["shift.mean"],
        prototypes=prototypes,
    )


def add_evidence(
    program: Program,
    tensors: Tensors,
    rows: Sequence[EvidenceRow],
    slots: Mapping[str, int],
    corrections: Corrections,
    sign: float = 1.0,
) -> tuple[Tensors, dict[int, bytes]]:
    """Add (or with ``sign`` -1 subtract) stored rows: condition by condition, in order and in the
    same chunks every time. Derives nothing.

    A row whose features have expired is counted by its receipt; what only a feature can tell stays
    as it is.

    Returns:
        The tensors, and the receipt of each row by ``seq`` where the bundle gives any.
    """
    receipts: dict[int, bytes] = {}
    for domain in dict.fromkeys(row.domain for row in rows):
        whole = [row for row in rows if row.domain == domain and row.has_features]
        if whole:
            z, taps, y, weight, is_factory = rows_to_arrays(
                whole, slots, program.manifest.feature_dim
            )
            learned, given = program.learn(
                corrections.get(domain, Tensors()).over(tensors),
                z,
                taps,
                y,
                weight * np.float32(sign),
                is_factory,
            )
            tensors = learned.only(tensors)
            if given is not None:
                receipts |= {
                    row.seq: receipt.astype(receipt.dtype.newbyteorder("<")).tobytes()
                    for row, receipt in zip(whole, given, strict=True)
                }
    bare = [row for row in rows if not row.has_features and row.receipt]
    if bare and program.gives_receipts:
        y = np.array([slots[row.label] for row in bare], np.int64)
        weight = np.array([row.weight for row in bare], np.float32) * np.float32(sign)
        tensors = program.learn_from_index(
            tensors, program.receipts_of([row.receipt for row in bare]), y, weight
        )
    return tensors, receipts


def correction_names(program: Program) -> list[str]:
    """Domain tensors that learning reads, if any: a replay needs them as they were."""
    return [
        s.name
        for s in program.manifest.tensors
        if s.scope == "domain" and s.name in program.manifest.graphs_for("learn")[0].reads
    ]


def corrections_now(program: Program, domains: Sequence[str], memory: LearnerState) -> Corrections:
    """What learning under these conditions reads today."""
    names = correction_names(program)
    if not names:
        return {}
    return {
        name: (
            (
                memory.domains[name].tensors if name in memory.domains else program.factory_domain()
            ).only(names)
        )
        for name in domains
    }


def subtract_evidence(
    program: Program,
    journal: Journal,
    tensors: Tensors,
    taken: Sequence[tuple[int, Sequence[EvidenceRow]]],
    slots: Mapping[str, int],
) -> Tensors:
    """Subtract rows, each under the correction that it was learned through; under none if the
    commit that knows it was compacted.

    It must not depend on today's corrections: a replay knows nothing of them.
    """
    for number, rows in taken:
        known = journal.commits(number - 1, number) if correction_names(program) else []
        corrections = corrections_in(program, known[0]) if known else {}
        known_rows = [row for row in rows if row.label in slots]
        tensors, _ = add_evidence(program, tensors, known_rows, slots, corrections, sign=-1.0)
    return tensors


def by_commit(rows: Sequence[EvidenceRow]) -> list[tuple[int, list[EvidenceRow]]]:
    """Learned rows by the commit that learned them."""
    groups: dict[int, list[EvidenceRow]] = {}
    for row in rows:
        groups.setdefault(row.commit_number or 0, []).append(row)
    return sorted(groups.items())


def clear_class(program: Program, tensors: Tensors, slot: int) -> Tensors:
    """Zero a slot along every tensor's class axis. Shared sums (a Gram matrix) keep what they hold:
    see ``remove_class``.
    """
    cleared: Blobs = {}
    for spec in program.manifest.tensors:
        if spec.class_axis is not None and spec.kind == "evidence" and spec.scope == "global":
            value = program.runtime.download(tensors, [spec.name])[spec.name]
            value[(slice(None),) * spec.class_axis + (slot,)] = 0
            cleared[spec.name] = value
    return program.runtime.upload(cleared).over(tensors)


__all__ = [
    "add_evidence",
    "by_commit",
    "clear_class",
    "corrections_now",
    "factory_state",
    "subtract_evidence",
    "with_host_views",
]
