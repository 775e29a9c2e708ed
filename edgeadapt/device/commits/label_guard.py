"""What a batch of labels would make of the state, and whether it may.

Paired tests on the factory's samples and on held-out field labels decide (``guard.py``). Labels
that cost the factory's samples something may do so where the condition that they come from gains
more. Else the factory's share is made to count more, or the labels are kept to their condition.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from edgeadapt.device.commits.commit_log import CommitLog
from edgeadapt.device.commits.cross_fitting import cross_fitted, folds_of
from edgeadapt.device.commits.evidence_change import EvidenceChange, change_evidence
from edgeadapt.device.commits.evidence_sums import with_host_views
from edgeadapt.device.commits.factory_samples import FACTORY_SET, FactorySamples
from edgeadapt.device.commits.guard import GuardDecision, cumulative_loss, judge
from edgeadapt.device.inference.state import SOURCE, LearnerState
from edgeadapt.device.numerics.statistics import sign_test
from edgeadapt.device.storage.rows import EvidenceRow
from edgeadapt.runtime import Tensors

# one-sided sign test: labels that may cost the factory samples gain surely where they were met
GAIN_CHANCE = 0.1
_GAIN_FEWEST, _GAIN_ROWS = 5, 128


@dataclass(frozen=True, eq=False)
class Proposal:
    """A batch as it would be learned, and what the guard says of that.

    Attributes:
        weights: by ``seq``, of rows that are kept to their condition.
        notes: what the commit says beside.
    """

    rows: Sequence[EvidenceRow]
    change: EvidenceChange
    decision: GuardDecision
    weights: dict[int, float] = field(default_factory=dict)
    notes: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, eq=False)
class _Judged:
    """``harm``: what all labels together would cost the factory samples, if it is too much."""

    candidate: LearnerState
    decision: GuardDecision
    harm: str = ""
    notes: dict[str, Any] = field(default_factory=dict)


class LabelGuard:
    """Computes and judges; records nothing."""

    def __init__(self, log: CommitLog, factory: FactorySamples) -> None:
        self._log, self._program, self._factory = log, log.program, factory

    def propose(
        self, live: LearnerState, rows: Sequence[EvidenceRow], before: Sequence[EvidenceRow]
    ) -> Proposal:
        """Rows of one source and one condition; ``before``: accepted labels that they correct."""
        change = self._changed(live, rows, before)
        judged = self._bearable(live, change)
        weights = self._kept_to_condition(live, rows) if judged.harm else {}
        if weights:
            rows = [replace(row, weight=weights.get(row.seq, row.weight)) for row in rows]
            notes = {"kept to the condition": judged.harm}
            change = self._changed(live, rows, before)
            judged = replace(self._judged(live, change.candidate, change), notes=notes)
        decision = judged.decision
        # a new class may cost something; the paired test says how much
        if judged.harm and decision.passed and all(self._is_settled(row) for row in rows):
            decision = GuardDecision(judged.harm, decision.accuracy)
        change = replace(change, candidate=judged.candidate)
        return Proposal(rows, change, decision, weights, judged.notes)

    def _is_settled(self, row: EvidenceRow) -> bool:
        return self._log.held_out.is_settled(row.label)

    def _changed(
        self, live: LearnerState, rows: Sequence[EvidenceRow], before: Sequence[EvidenceRow]
    ) -> EvidenceChange:
        return change_evidence(self._log, live, self._log.held_out.split(rows, before))

    def _judged(
        self, live: LearnerState, candidate: LearnerState, change: EvidenceChange
    ) -> _Judged:
        """The paired tests; harm is asked for only where this step costs the factory anything."""
        factory, policy = self._factory.sets(live), self._program.manifest.policy.guard
        held_out = self._log.held_out.sets(live.slots, (SOURCE, *live.domains), change.split)
        decision = judge(self._program, live, candidate, [*factory, *held_out], policy)
        names = {known.name for known in factory}
        harm = ""
        if any(name in names and after < before for name, before, after in decision.accuracy):
            harm = cumulative_loss(self._program, self._origin, live, candidate, factory, policy)
        return _Judged(candidate, decision, harm)

    @property
    def _origin(self) -> LearnerState:
        """The state that the bundle ships with, as far as predictions read it."""
        if not self._program.factory_reads:
            self._program.factory()
        return LearnerState(
            commit=0,
            tensors=self._program.factory_reads,
            classes=self._program.manifest.classes,
            domains={},
        )

    def _bearable(self, live: LearnerState, change: EvidenceChange) -> _Judged:
        """Labels that cost the factory samples something may do so where their condition gains
        more. Else the factory's share is made to count more, the least that does no harm: the
        labels wait in the sums until enough of them agree (``head_choice.py``).
        """
        judged = self._judged(live, change.candidate, change)
        decision = judged.decision
        if decision.passed and not judged.harm:
            return judged
        gain = self._gain(live, change)
        lost = max(
            (before - after for name, before, after in decision.accuracy if name == FACTORY_SET),
            default=0.0,
        )
        is_of_factory = decision.set in ("", FACTORY_SET)
        if is_of_factory and gain is not None and gain[0] > lost and gain[1] < GAIN_CHANCE:
            return _Judged(
                change.candidate,
                GuardDecision("", decision.accuracy),
                notes={"gain where it was met": round(gain[0], 3)},
            )
        learn = self._program.manifest.policy.learn
        for weight in learn.factory_weights if learn.weighted else ():
            if weight > change.candidate.head.factory_weight:
                again = self._judged(live, self._weighed(change.candidate, weight), change)
                if again.decision.passed and not again.harm:
                    return again
        return judged

    def _weighed(self, candidate: LearnerState, weight: float) -> LearnerState:
        """The candidate with the factory's share counting so much."""
        head = replace(candidate.head, factory_weight=weight)
        tensors = self._program.derive(candidate.tensors, head, candidate.classes)
        return with_host_views(self._program, replace(candidate, head=head, tensors=tensors))

    def _gain(self, live: LearnerState, change: EvidenceChange) -> tuple[float, float] | None:
        """Accuracy that the labels of a condition, cross-fitted, gained over the factory's head,
        and the chance of it; None for too few.
        """
        split, candidate = change.split, change.candidate
        domain = split.added[0].domain if split.added else SOURCE
        before = self._log.journal.evidence(
            where="status = 'learned' AND domain = ?",
            values=(domain,),
            limit=_GAIN_ROWS,
            newest_first=True,
        )
        rows = [
            row
            for row in {row.seq: row for row in (*before, *split.added)}.values()
            if row.has_features
            and row.label in live.slots
            and row.domain == domain
            # a new class is no mistake of the factory's
            and row.label in self._program.manifest.classes
        ]
        if len(rows) < _GAIN_FEWEST:
            return None
        below = live.domains[domain].tensors if domain in live.domains else Tensors()
        learned = {row.seq for row in rows} - {row.seq for row in split.taken}
        folds = folds_of(self._program, live, candidate.tensors, rows, learned)
        logits, y = cross_fitted(
            self._program,
            folds,
            lambda sums: self._program.derive(sums, candidate.head, candidate.classes),
            below,
        )
        factory = below.over(self._origin.tensors)
        first = np.concatenate(
            [self._program.forward_head(fold.z, fold.taps, factory).logits for fold in folds]
        )
        after, ahead = logits.argmax(axis=1) == y, first.argmax(axis=1) == y
        return float(after.mean() - ahead.mean()), sign_test(
            int((ahead & ~after).sum()), int((after & ~ahead).sum())
        )

    def _kept_to_condition(
        self, live: LearnerState, rows: Sequence[EvidenceRow]
    ) -> dict[int, float]:
        """Weight 0 for labels of known classes that were met in a condition that may get an
        adaptor: the shared head need not learn them.
        """
        domain = live.domains.get(rows[0].domain)
        if not self._program.adaptors or domain is None or domain.kind == "novelty":
            return {}
        return {row.seq: 0.0 for row in rows if self._is_settled(row)}


__all__ = ["GAIN_CHANCE", "LabelGuard", "Proposal"]
