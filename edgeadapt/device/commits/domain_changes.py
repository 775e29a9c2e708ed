"""Conditions made durable: their tensors, and what the answers made of a provisional one."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from numpy.typing import NDArray

from edgeadapt.device.commits.commit_log import CommitLog
from edgeadapt.device.commits.serialization import domain_blob
from edgeadapt.device.inference.state import Domain


def save_domains(
    log: CommitLog,
    kind: str = "checkpoint",
    detail: Mapping[str, Any] | None = None,
    *,
    force: bool = False,
) -> None:
    """Make the tensors of conditions durable, if any moved since the last time."""
    live = log.live.current
    moved = [d for d in live.domains.values() if d.tensors is not d.saved]
    if not moved and not force:
        return
    blob: dict[str, NDArray[Any]] = {}
    candidate = live
    for domain in moved:
        blob |= domain_blob(log.program, domain)
        candidate = candidate.with_domain(replace(domain, saved=domain.tensors))
    if not force and not log.room.has_room(sum(value.nbytes for value in blob.values())):
        return  # session state: it may be lost, and is saved when there is room again
    log.record(
        kind,
        "saved",
        {"domains": sorted(d.name for d in moved), **(detail or {})},
        candidate,
        tensors=blob,
    )


def confirm_domain(log: CommitLog, domain: Domain, detail: Mapping[str, Any]) -> None:
    """What the answers made of a provisional domain."""
    saved = replace(domain, saved=domain.tensors)
    log.record(
        "domain",
        "opened" if domain.kind == "condition" else "is new classes",
        {"domain": domain.name, **detail},
        log.live.current.with_domain(saved),
        tensors=domain_blob(log.program, saved),
    )


__all__ = ["confirm_domain", "save_domains"]
