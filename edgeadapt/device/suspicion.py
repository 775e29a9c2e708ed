"""Should labels be learned at all? A source that contradicts a head which is known to be right is held, not learned."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from edgeadapt.device.evidence import rows_to_arrays
from edgeadapt.device.guard import contradicting_labels
from edgeadapt.device.held_out import HeldOut
from edgeadapt.device.journal import Journal
from edgeadapt.device.journal_rows import EvidenceRow
from edgeadapt.device.memory import SOURCE, Memory
from edgeadapt.device.program import Program
from edgeadapt.device.sense import shift_ratio

_FEWEST_KNOWN, _RECENT = 10, 1000  # labels that say how good the head is under a condition


class Suspicion:
    """Reads the journal and the live state, changes nothing."""

    def __init__(self, program: Program, journal: Journal, held_out: HeldOut) -> None:
        self._program, self._journal, self._held_out = program, journal, held_out

    def of(self, live: Memory, rows: Sequence[EvidenceRow]) -> str:
        """Why these rows of one source and one condition are not to be learned; empty if they are.

        Labels that contradict a head which is known to be right about such samples are held. Under the factory condition its error is
        the bundle's. Under another condition it is measured on what other sources taught there; without enough of that nothing is
        held, because there labels that contradict the head are the point.
        """
        policy = self._program.manifest.policy
        z, taps, y, _, _ = rows_to_arrays(rows, live.slots, self._program.manifest.feature_dim)
        read = self._program.read(z, taps, live.tensors_in(rows[0].domain))
        predicted = read.logits.argmax(axis=1)
        settled = np.array([self._held_out.is_settled(row.label) for row in rows])
        if rows[0].domain != SOURCE:
            error = self._error_in(live, rows[0].domain, rows[0].source)
            return "" if error is None else contradicting_labels(predicted, y, settled, error, policy.guard.source_significance)
        if self._batch_shift(read.residual, predicted, live) > 1.0:
            return ""
        known = settled & (read.score <= policy.novelty.threshold)
        return contradicting_labels(predicted, y, known, policy.guard.source_error, policy.guard.source_significance)

    def withdraws(self, live: Memory, rows: Sequence[EvidenceRow]) -> list[EvidenceRow]:
        """Accepted rows of the same source that are to be taken back together with these, which are held."""
        return []

    def _error_in(self, live: Memory, domain: str, but_source: str) -> float | None:
        """How often the live head errs on labels of other sources under a condition (add-one estimate); None below ten of them."""
        where = "domain = ? AND source != ? AND status IN ('learned', 'held_out') AND seq > (SELECT coalesce(max(seq), 0) - ? FROM evidence)"
        known = [r for r in self._journal.evidence(where=where, values=(domain, but_source, _RECENT)) if r.label in live.slots]
        if len(known) < _FEWEST_KNOWN:
            return None
        z, taps, y, _, _ = rows_to_arrays(known, live.slots, self._program.manifest.feature_dim)
        wrong = int((self._program.read(z, taps, live.tensors_in(domain)).logits.argmax(axis=1) != y).sum())
        return max(self._program.manifest.policy.guard.source_error, (wrong + 1) / (len(known) + 2))

    def _batch_shift(self, residual: NDArray[np.float32], slots: NDArray[np.int64], live: Memory) -> float:
        return shift_ratio(residual, slots, live.class_counts, self._program.manifest.policy.shift)
