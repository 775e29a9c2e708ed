"""What became of labels, as the journal knows it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

from edgeadapt.device.storage.journal import Journal
from edgeadapt.device.storage.rows import EvidenceRow
from edgeadapt.results import LabelState, LabelStatus

_HELD = (
    "status = 'held' AND NOT EXISTS (SELECT 1 FROM evidence AS later WHERE later.id = evidence.id"
    " AND later.seq > evidence.seq)"
)


def newest_states(journal: Journal, samples: Sequence[str]) -> list[LabelState]:
    """Of the last label of each of these samples that has one, in their order."""
    newest = journal.newest_of(samples)
    return _states(journal, [newest[sample] for sample in samples if sample in newest])


def held_states(journal: Journal, limit: int) -> list[LabelState]:
    """Of labels that are put aside, newest first."""
    return _states(
        journal, journal.evidence(where=_HELD, limit=limit, newest_first=True, narrow=True)
    )


def _states(journal: Journal, rows: Sequence[EvidenceRow]) -> list[LabelState]:
    details = journal.details({row.commit_number for row in rows if row.commit_number is not None})
    return [
        LabelState(
            row.id,
            row.label,
            row.source,
            cast(LabelStatus, row.status),
            str(details.get(row.commit_number or 0, {}).get("why", "")),
            row.commit_number,
        )
        for row in rows
    ]


__all__ = ["held_states", "newest_states"]
