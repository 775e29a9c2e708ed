"""States and conditions as the tensors that a commit stores, and the digest of a state."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgeadapt.device.inference.program import Program
from edgeadapt.device.inference.state import Domain, LearnerState, Signature, digest
from edgeadapt.device.storage.rows import CommitRow
from edgeadapt.runtime import Tensors

_DOMAIN = "domain/"
_CORRECTION = "correction/"
Blobs = dict[str, NDArray[Any]]
Corrections = Mapping[str, Tensors]
"""Condition -> the tensors of its correction that learning reads."""


def correction_blob(program: Program, corrections: Corrections) -> Blobs:
    """What a commit stores of the corrections that it learned through."""
    return {
        f"{_CORRECTION}{domain}/{name}": value
        for domain, tensors in corrections.items()
        for name, value in program.runtime.download(tensors).items()
    }


def corrections_in(program: Program, commit: CommitRow) -> Corrections:
    """What a commit learned through."""
    found: dict[str, Blobs] = {}
    for key, value in commit.tensors.items():
        if key.startswith(_CORRECTION):
            domain, _, name = key.removeprefix(_CORRECTION).rpartition("/")
            found.setdefault(domain, {})[name] = value
    return {domain: program.runtime.upload(values) for domain, values in found.items()}


def domain_blob(program: Program, domain: Domain) -> Blobs:
    """What a commit stores of a domain: its tensors and its signature."""
    values: Blobs = {
        f"{_DOMAIN}{domain.name}/{name}": value
        for name, value in program.runtime.download(domain.tensors).items()
    }
    met = np.flatnonzero(domain.signature.counts)  # of a thousand slots a condition meets few
    signature: Blobs = {
        "slots": met.astype(np.int32),
        "sums": domain.signature.sums[met],
        "counts": domain.signature.counts[met],
    }
    return values | {
        f"{_DOMAIN}{domain.name}/signature.{name}": value for name, value in signature.items()
    }


def with_domains(blobs: Mapping[str, NDArray[Any]], stored: Mapping[str, NDArray[Any]]) -> Blobs:
    """Stored conditions in place of what was known of them: each was stored whole."""
    new = {key: value for key, value in stored.items() if key.startswith(_DOMAIN)}
    if not new:
        return dict(blobs)
    whole = tuple({key.rpartition("/")[0] + "/" for key in new})
    return {key: value for key, value in blobs.items() if not key.startswith(whole)} | new


def without_adaptors(
    program: Program, stored: Mapping[str, NDArray[Any]], domains: Collection[str]
) -> Blobs:
    """What is stored of a commit or a snapshot, without the adaptors of some conditions."""
    gone = {
        f"{_DOMAIN}{domain}/{name}" for domain in domains for name in program.adaptors.all_names
    }
    return {key: value for key, value in stored.items() if key not in gone}


def domain_values(blobs: Mapping[str, NDArray[Any]], domain: str) -> Blobs:
    """What is stored of a condition, by name; empty if nothing is."""
    prefix = f"{_DOMAIN}{domain}/"
    return {
        key.removeprefix(prefix): value for key, value in blobs.items() if key.startswith(prefix)
    }


def take_prototypes(values: Blobs, slots: int) -> Signature:
    """Take a domain's prototypes out of its values; earlier versions stored every slot."""
    sums, counts = values.pop("signature.sums"), values.pop("signature.counts")
    met = values.pop("signature.slots", None)
    if met is None:
        return Signature(sums, counts)
    whole = Signature.empty(slots, sums.shape[1])
    whole.sums[met], whole.counts[met] = sums, counts
    return whole


def snapshot_of(program: Program, memory: LearnerState) -> Blobs:
    """Everything a replay needs to start from here."""
    values = program.checkpoint(memory.tensors)
    for domain in memory.domains.values():
        if domain.saved is not None:
            values |= domain_blob(program, replace(domain, tensors=domain.saved))
    return values


def durable_tables(tables: Mapping[str, Any], memory: LearnerState) -> str:
    """A commit's tables as a reopened learner would have them: without conditions that were never
    checkpointed.
    """
    saved = {domain.name for domain in memory.domains.values() if domain.saved is not None}
    kept = {
        key: value for key, value in tables.items() if key != "head"
    }  # a choice follows from the labels, when there was time to make it
    return json.dumps(
        {**kept, "domains": [entry for entry in tables["domains"] if entry["name"] in saved]},
        sort_keys=True,
    )


def state_digest(
    program: Program, memory: LearnerState, tables: Mapping[str, Any], evidence: bytes = b""
) -> str:
    """SHA-256 of what a reopened learner would have: tables, checkpointed tensors, conditions that
    were saved.
    """
    domains = {
        d.name: program.runtime.download(d.saved)
        for d in memory.domains.values()
        if d.saved is not None
    }
    return digest(
        durable_tables(tables, memory), program.checkpoint(memory.tensors), domains, evidence
    )


__all__ = [
    "correction_blob",
    "domain_blob",
    "domain_values",
    "durable_tables",
    "snapshot_of",
    "state_digest",
    "take_prototypes",
    "with_domains",
    "without_adaptors",
]
