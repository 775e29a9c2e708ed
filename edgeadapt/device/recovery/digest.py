"""One number for all that a learner has learned."""

from __future__ import annotations

import hashlib
import json

from edgeadapt.device.commits.evidence_sums import factory_memory
from edgeadapt.device.commits.serialization import state_digest
from edgeadapt.device.inference.program import Program
from edgeadapt.device.inference.state import LearnerState
from edgeadapt.device.recovery.rebuild import tables_at
from edgeadapt.device.storage.journal import Journal


def content_digest(journal: Journal, program: Program, state: LearnerState) -> str:
    """SHA-256 of evidence, tables and checkpointed tensors."""
    sha = hashlib.sha256()
    for row in journal.evidence(where="status != 'received'"):
        sha.update(
            f"{row.id}{row.label}{row.weight}{row.status}".encode()
            + row.features.tobytes()
            + row.receipt
        )
    tables = tables_at(journal, state.commit) or json.loads(factory_memory(program).tables())
    return state_digest(program, state, tables, sha.digest())


__all__ = ["content_digest"]
