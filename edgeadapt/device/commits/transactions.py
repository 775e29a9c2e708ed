"""Durable changes. Each is the same sentence: compute a candidate, make sure it is good, record it,
publish it.

The order is fixed: the candidate is a new ``LearnerState`` and the live one is untouched; the guard
may veto; one SQLite transaction makes it durable; one assignment publishes it. A kill at any point
leaves the state before or the state after.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgeadapt.device.commits.cross_fitting import cross_fitted, folds_of
from edgeadapt.device.commits.evidence_sums import (
    apply_rows,
    by_commit,
    clear_class,
    corrections_now,
    finish,
    take_rows,
)
from edgeadapt.device.commits.factory_samples import FACTORY_SET, FactorySamples
from edgeadapt.device.commits.guard import GuardDecision, ValidationSet, decline, judge
from edgeadapt.device.commits.holdout import HeldOut, Split
from edgeadapt.device.commits.label_noise import LabelNoiseDetector
from edgeadapt.device.commits.serialization import (
    correction_blob,
    domain_blob,
    snapshot_of,
    state_digest,
)
from edgeadapt.device.inference.live_state import LiveState
from edgeadapt.device.inference.program import Program
from edgeadapt.device.inference.state import SOURCE, Domain, HeadChoice, LearnerState
from edgeadapt.device.numerics.statistics import sign_test
from edgeadapt.device.resources.budget import WriteRoom
from edgeadapt.device.storage.journal import Journal
from edgeadapt.device.storage.name_erasure import Names
from edgeadapt.device.storage.rows import CommitRow, EvidenceRow, RowTransitions
from edgeadapt.errors import StateError, UnknownClassError
from edgeadapt.inputs import unknown_class_message
from edgeadapt.runtime import Tensors

_REPLAY_S, _REPLAY_BYTES = 0.15, 16 << 20  # a snapshot is due when a replay would cost more
# one-sided sign test: labels that may cost the factory samples gain surely where they were met
GAIN_CHANCE = 0.1
_GAIN_FEWEST, _GAIN_ROWS = 5, 128
_LONGEST_REPLAY_S = 2.0  # beyond it a snapshot is taken even where little may be written
# held labels looked at again, batches of a source, and how many more labels it takes
_RECONSIDERED, _BATCHES, _GROWN = 256, 4, 1.25
_OVERRIDE = {"override": "label(ids, labels, trusted=True)"}


class Transactions:
    """Changes by labels, classes and conditions, and the one way to record any change. Called by
    the worker only, one at a time.
    """

    def __init__(
        self,
        program: Program,
        journal: Journal,
        held_out: HeldOut,
        live: LiveState,
        room: WriteRoom,
        replay_s: float = 0.0,
    ) -> None:
        """``replay_s``: seconds that replaying the commits since the last snapshot has just
        taken.
        """
        self.program = program
        self.journal = journal
        self.held_out = held_out
        self.live = live
        self._room = room
        self._factory_samples = FactorySamples(program)
        self._suspicion = LabelNoiseDetector(program, journal, held_out, self._factory_samples)
        self._replay_s, self._replay_bytes = replay_s, 0
        self._write_s = 0.0
        # labels that were there when held ones of a source and condition were last looked at
        self._reconsidered: dict[tuple[str, str], int] = {}
        self.taken_back: Callable[[frozenset[str]], None] = lambda domains: None
        """Told the conditions of labels that stop counting, so that what was trained from them is
        trained again.
        """

    @property
    def _origin(self) -> LearnerState:
        """The state that the bundle ships with, as far as predictions read it."""
        if not self.program.factory_reads:
            self.program.factory()
        return LearnerState(
            commit=0,
            tensors=self.program.factory_reads,
            classes=self.program.manifest.classes,
            domains={},
        )

    def factory_sets(self, live: LearnerState) -> list[ValidationSet]:
        """The bundle's own samples, as they judge in this state."""
        return self._factory_samples.sets(live)

    @property
    def write_s(self) -> float:
        """Seconds spent in the journal so far."""
        return self._write_s

    # -- the last two steps ------------------------------------------------------------------------
    def record(
        self,
        kind: str,
        outcome: str,
        detail: Mapping[str, Any],
        candidate: LearnerState,
        *,
        moves: RowTransitions | None = None,
        snapshot: bool = False,
        tensors: Mapping[str, NDArray[Any]] | None = None,
        **changes: Any,
    ) -> LearnerState:
        """One transaction, then one assignment. ``changes`` are further arguments of
        :meth:`Journal.commit`.
        """
        candidate = replace(candidate, commit=self.journal.last_number() + 1)
        started = time.perf_counter()
        tables = candidate.tables()
        marks = state_digest(self.program, candidate, json.loads(tables))
        row = CommitRow(
            candidate.commit,
            kind,
            outcome,
            detail,
            moves or RowTransitions(),
            tables,
            tensors or {},
            marks,
        )
        due = snapshot or self._snapshot_is_due(candidate)
        self.journal.commit(
            row, snapshot=snapshot_of(self.program, candidate) if due else None, **changes
        )
        self._write_s += time.perf_counter() - started
        if due:
            self._replay_s, self._replay_bytes = 0.0, 0
        self.live.publish(candidate)
        return candidate

    def _snapshot_is_due(self, candidate: LearnerState) -> bool:
        if self._replay_s <= _REPLAY_S and self._replay_bytes <= _REPLAY_BYTES:
            return False
        return self._replay_s > _LONGEST_REPLAY_S or self._room.has_room(candidate.tensors.nbytes)

    def costs_replay(self, seconds: float, nbytes: int) -> None:
        """What a replay of the next commit would take: seconds of computing, and bytes of rows to
        read.
        """
        self._replay_s += seconds
        self._replay_bytes += nbytes

    # -- labels ------------------------------------------------------------------------------------
    def learn(self, received: Sequence[EvidenceRow]) -> GuardDecision:
        """Learn received rows of one source and one domain, or record why not. A row of a sample
        that had a label before corrects it.
        """
        live = self.live.current
        newest = {row.id: row for row in received}
        rows = list(newest.values())
        outdated = tuple(row.seq for row in received if newest[row.id] is not row)
        detail: dict[str, Any] = {
            "source": rows[0].source,
            "domain": rows[0].domain,
            "labels": len(rows),
        }
        slots = live.slots
        # a class may have gone while the label waited
        orphans = [row for row in rows if row.label not in slots]
        if orphans:
            why = f"the class {min(row.label for row in orphans)!r} is gone"
            self._refuse(
                "vetoed", {**detail, "labels": len(orphans), "why": why}, live, orphans, outdated
            )
            return GuardDecision(why)
        doubt = "" if rows[0].trusted else self._suspicion.of(live, rows)
        surplus = {row.seq for row in self._suspicion.surplus(live, rows)} if doubt else set()
        if surplus:
            copied = [row for row in rows if row.seq in surplus]
            rows = [row for row in rows if row.seq not in surplus]
            self._refuse(
                "held",
                {
                    **detail,
                    "labels": len(copied),
                    "why": "frames that are labelled often enough already",
                    **_OVERRIDE,
                },
                live,
                copied,
                (),
            )
            detail["labels"], live = len(rows), self.live.current
            doubt = self._suspicion.of(live, rows)
        if doubt:
            self._hold(live, rows, outdated, {**detail, "why": doubt, **_OVERRIDE})
            return GuardDecision(doubt)
        before = self.journal.accepted_of([row.id for row in rows])
        split, candidate, receipts, blob = self._proposed(live, rows, before)
        verdict = self._judged(live, candidate, split)
        candidate, verdict, harm = self._bearable(live, candidate, split, verdict, detail)
        weights: dict[int, float] = {}
        apart = self._kept_apart(live, rows) if harm else {}
        if apart:
            rows = [replace(row, weight=apart.get(row.seq, row.weight)) for row in rows]
            weights = apart
            detail["kept to the condition"] = harm
            split, candidate, receipts, blob = self._proposed(live, rows, before)
            verdict = self._judged(live, candidate, split)
            harm = self._harm(live, candidate, verdict)
        # a new class may cost something; the paired test says how much
        if harm and verdict.passed and all(self.held_out.is_settled(row.label) for row in rows):
            verdict = GuardDecision(harm, verdict.accuracy)
        if not verdict.passed:
            self._refuse("vetoed", {**detail, "why": verdict.why}, live, rows, outdated)
            return verdict
        new = {row.seq for row in rows}
        detail |= {
            "learned": sum(row.seq in new for row in split.added),
            "held_out": sum(row.seq in new for row in split.held_out),
        }
        detail |= {"corrected": len(before)} if before else {}
        detail |= {f"accuracy on {name}": round(after, 3) for name, _, after in verdict.accuracy}
        moves = moves_of(split, withdrawn=(*(row.seq for row in before), *outdated))
        self.record(
            "learn",
            "learned",
            detail,
            candidate,
            moves=moves,
            tensors=blob,
            receipts=receipts,
            weights=weights,
        )
        self.held_out.accept(split)
        return verdict

    def _bearable(
        self,
        live: LearnerState,
        candidate: LearnerState,
        split: Split,
        verdict: GuardDecision,
        detail: dict[str, Any],
    ) -> tuple[LearnerState, GuardDecision, str]:
        """(candidate, verdict, harm) of labels that cost the factory samples something.

        They may cost it where the condition that they come from gains more. Else the factory's
        share is made to count more, the least that does no harm: the labels wait in the sums until
        enough of them agree (``head_choice.py``).
        """
        harm = self._harm(live, candidate, verdict)
        if verdict.passed and not harm:
            return candidate, verdict, ""
        found = self._gain(live, candidate, split)
        lost = max(
            (before - after for name, before, after in verdict.accuracy if name == FACTORY_SET),
            default=0.0,
        )
        if (
            verdict.set in ("", FACTORY_SET)
            and found is not None
            and found[0] > lost
            and found[1] < GAIN_CHANCE
        ):
            detail["gain where it was met"] = round(found[0], 3)
            return candidate, GuardDecision("", verdict.accuracy), ""
        learn = self.program.manifest.policy.learn
        for weight in learn.factory_weights if learn.weighted else ():
            if weight > candidate.head.factory_weight:
                head = replace(candidate.head, factory_weight=weight)
                tried = finish(
                    self.program,
                    replace(
                        candidate,
                        head=head,
                        tensors=self.program.derive(candidate.tensors, head, candidate.classes),
                    ),
                )
                again = self._judged(live, tried, split)
                if again.passed and not self._harm(live, tried, again):
                    return tried, again, ""
        return candidate, verdict, harm

    def _gain(
        self, live: LearnerState, candidate: LearnerState, split: Split
    ) -> tuple[float, float] | None:
        """Accuracy that the labels of a condition, cross-fitted, gained over the factory's head,
        and the chance of it; None for too few.
        """
        domain = split.added[0].domain if split.added else SOURCE
        before = self.journal.evidence(
            where="status = 'learned' AND domain = ?",
            values=(domain,),
            limit=_GAIN_ROWS,
            newest_first=True,
        )
        rows = [
            row
            for row in {row.seq: row for row in (*before, *split.added)}.values()
            if row.has_features and row.label in live.slots and row.domain == domain
        ]
        # a new class is no mistake of the factory's
        rows = [row for row in rows if row.label in self.program.manifest.classes]
        if len(rows) < _GAIN_FEWEST:
            return None
        below = live.domains[domain].tensors if domain in live.domains else Tensors()
        folds = folds_of(
            self.program,
            live,
            candidate.tensors,
            rows,
            {row.seq for row in rows} - {row.seq for row in split.taken},
        )
        logits, y = cross_fitted(
            self.program,
            folds,
            lambda sums: self.program.derive(sums, candidate.head, candidate.classes),
            below,
        )
        first = np.concatenate(
            [
                self.program.read(fold.z, fold.taps, below.over(self._origin.tensors)).logits
                for fold in folds
            ]
        )
        after, ahead = logits.argmax(axis=1) == y, first.argmax(axis=1) == y
        return float(after.mean() - ahead.mean()), sign_test(
            int((ahead & ~after).sum()), int((after & ~ahead).sum())
        )

    def reconsider(self, domain: str) -> None:
        """Learn labels of a condition that were held or vetoed, where what was taught since
        explains them.

        All that a source has there together first, then its batches. Looked at again only when a
        quarter more labels are there than the last time.
        """
        held = self.journal.refused_in(domain, _RECONSIDERED)
        told = self.journal.details(
            {row.commit_number for row in held if row.commit_number is not None}
        )
        # what spoke against them was taken back with them
        found_out = {number for number, detail in told.items() if "withdrawn" in detail}
        held = [row for row in held if row.commit_number not in found_out]
        for source in dict.fromkeys(row.source for row in held):
            waiting = [
                row
                for row in held
                if row.source == source
                and row.has_features
                and row.label in self.live.current.slots
            ]
            known = self.journal.count_learned_by_domain().get(domain, 0) + len(waiting)
            if not waiting or known < _GROWN * self._reconsidered.get((source, domain), 0):
                continue
            self._reconsidered[source, domain] = known
            batches = [
                [row for row in waiting if row.commit_number == number]
                for number in dict.fromkeys(row.commit_number for row in waiting)
            ]
            for batch in [waiting, *batches[-_BATCHES:]] if len(batches) > 1 else batches:
                if not self._suspicion.of(self.live.current, batch):
                    self.learn(batch)
                    break

    def _proposed(
        self, live: LearnerState, rows: Sequence[EvidenceRow], before: Sequence[EvidenceRow]
    ) -> tuple[Split, LearnerState, dict[int, bytes], dict[str, NDArray[Any]]]:
        split = self.held_out.split(rows, before)
        tensors, receipts, blob = self.applied(live, split)
        return split, self.counted(live, split, tensors), receipts, blob

    def _judged(self, live: LearnerState, candidate: LearnerState, split: Split) -> GuardDecision:
        judges = [
            *self.factory_sets(live),
            *self.held_out.sets(live.slots, (SOURCE, *live.domains), split),
        ]
        return judge(self.program, live, candidate, judges, self.program.manifest.policy.guard)

    def _harm(self, live: LearnerState, candidate: LearnerState, verdict: GuardDecision) -> str:
        """What all labels together would cost the factory samples, if it is too much; asked only
        where this step costs anything.
        """
        names = {guard.name for guard in self.factory_sets(live)}
        if not any(name in names and after < before for name, before, after in verdict.accuracy):
            return ""
        return decline(
            self.program,
            self._origin,
            live,
            candidate,
            self.factory_sets(live),
            self.program.manifest.policy.guard,
        )

    def _kept_apart(self, live: LearnerState, rows: Sequence[EvidenceRow]) -> dict[int, float]:
        """Weight 0 for labels of known classes that were met in a condition that may grow an
        adaptor: they need not teach the shared head.
        """
        domain = live.domains.get(rows[0].domain)
        if not self.program.adaptors or domain is None or domain.kind == "novelty":
            return {}
        return {row.seq: 0.0 for row in rows if self.held_out.is_settled(row.label)}

    def supersede(self, seqs: Sequence[int]) -> None:
        """Labels that waited while a later label of the same sample came: only the last one counts,
        whoever gave it.
        """
        self.record(
            "learn",
            "superseded",
            {"labels": len(seqs)},
            self.live.current,
            moves=RowTransitions(withdrawn=tuple(seqs)),
        )

    def give_up(self, rows: Sequence[EvidenceRow], why: str) -> None:
        """Labels that cannot be learned must not keep others waiting."""
        detail = {
            "source": rows[0].source,
            "domain": rows[0].domain,
            "labels": len(rows),
            "why": why,
        }
        self._refuse("vetoed", detail, self.live.current, rows, ())

    def _refuse(
        self,
        outcome: str,
        detail: Mapping[str, Any],
        live: LearnerState,
        rows: Sequence[EvidenceRow],
        outdated: tuple[int, ...],
    ) -> None:
        seqs = tuple(row.seq for row in rows)
        moves = (
            RowTransitions(vetoed=seqs, withdrawn=outdated)
            if outcome == "vetoed"
            else RowTransitions(held=seqs, withdrawn=outdated)
        )
        self.record("learn", outcome, detail, live, moves=moves)

    def _hold(
        self,
        live: LearnerState,
        rows: Sequence[EvidenceRow],
        outdated: tuple[int, ...],
        detail: dict[str, Any],
    ) -> None:
        """Held rows teach nothing; what the same source taught before goes with them where the
        doubt reaches that far.
        """
        earlier = self._suspicion.withdraws(live, rows)
        if not earlier:
            self._refuse("held", detail, live, rows, outdated)
            return
        split = self.held_out.split((), earlier)
        tensors, receipts, blob = self.applied(live, split)
        moves = moves_of(
            split,
            withdrawn=(*(row.seq for row in earlier), *outdated),
            held=tuple(row.seq for row in rows),
        )
        self.record(
            "learn",
            "held",
            {**detail, "withdrawn": len(earlier)},
            self.counted(live, split, tensors),
            moves=moves,
            tensors=blob,
            receipts=receipts,
        )
        self.held_out.accept(split)

    # -- what a split does to the evidence ---------------------------------------------------------
    def applied(
        self, live: LearnerState, split: Split
    ) -> tuple[Tensors, dict[int, bytes], dict[str, NDArray[Any]]]:
        """Tensors without what the split takes and with what it adds, derived; receipts of its
        rows; the corrections to record.
        """
        if split.gone:
            self.taken_back(frozenset(row.domain for row in split.gone))
        corrections = corrections_now(
            self.program, list(dict.fromkeys(row.domain for row in split.added)), live
        )
        started = time.thread_time()
        tensors = take_rows(
            self.program, self.journal, live.tensors, by_commit(split.taken), live.slots
        )
        tensors, receipts = apply_rows(self.program, tensors, split.added, live.slots, corrections)
        self.costs_replay(
            time.thread_time() - started,
            sum(row.features.nbytes for row in (*split.taken, *split.added)),
        )
        receipts |= self._receipts_of_judges(
            live, [row for row in split.held_out if not row.receipt and row.has_features]
        )
        if split.taken or split.added:
            tensors = self.program.derive(tensors, live.head, live.classes)
        return tensors, receipts, correction_blob(self.program, corrections)

    def _receipts_of_judges(
        self, live: LearnerState, rows: Sequence[EvidenceRow]
    ) -> dict[int, bytes]:
        """A judge may teach later, when its features have expired: where it would be counted is
        known from now on.
        """
        if not rows or not self.program.gives_receipts:
            return {}
        return apply_rows(
            self.program, live.tensors, [replace(row, weight=0.0) for row in rows], live.slots, {}
        )[1]

    def counted(self, live: LearnerState, split: Split, tensors: Tensors) -> LearnerState:
        """The live memory with these tensors and the number of labels that count after the
        split.
        """
        accepted_before = {
            row.seq
            for row in (*split.added, *split.held_out)
            if row.status in ("learned", "held_out")
        }
        came = len({row.seq for row in (*split.added, *split.held_out)} - accepted_before)
        # a head that has learned what goes must not answer on, and the shared one must have learned
        # what came
        heads = (
            {}
            if split.gone
            else {name: head for name, head in live.heads.items() if name != SOURCE}
        )
        return finish(
            self.program,
            replace(
                live, tensors=tensors, heads=heads, labels=live.labels + came - len(split.gone)
            ),
        )

    # -- classes -----------------------------------------------------------------------------------
    def add_classes(self, names: Sequence[str]) -> None:
        live = candidate = self.live.current
        for name in names:
            candidate = candidate.with_class(name)
        if candidate is not live:
            self.record(
                "add_class",
                "added",
                {"class": ", ".join(n for n in dict.fromkeys(names) if n not in live.slots)},
                candidate,
            )

    def remove_class(self, name: str) -> None:
        """Take back the class's field labels, clear its slot, free its name."""
        live = self.live.current
        if name not in live.slots:
            raise UnknownClassError(unknown_class_message(name, live.slots))
        if len(live.slots) == 1:
            raise StateError(
                f"{name!r} is the only class; a learner without classes cannot predict"
            )
        rows = self.journal.evidence(
            where="label = ? AND status IN ('learned', 'held_out', 'held', 'received')",
            values=(name,),
        )
        split = Split(
            taken=tuple(r for r in rows if r.status == "learned"),
            gone=tuple(r for r in rows if r.status in ("learned", "held_out")),
        )
        self.taken_back(frozenset(row.domain for row in rows))
        taken = take_rows(
            self.program, self.journal, live.tensors, by_commit(split.taken), live.slots
        )
        classes = tuple(None if holder == name else holder for holder in live.classes)
        tensors = self.program.derive(
            clear_class(self.program, taken, live.slots[name]), live.head, classes
        )
        candidate = replace(self.counted(live, split, tensors), classes=classes, heads={})
        moves = moves_of(split, withdrawn=tuple(r.seq for r in rows))
        is_ours = name not in self.program.manifest.classes and self.journal.forgot_since_added(
            name
        )
        # else a rollback gives it back
        names = Names(classes=frozenset({name})) if is_ours else Names()
        self.record(
            "remove_class",
            "removed",
            {"class": name, "labels": len(rows)},
            finish(self.program, candidate),
            moves=moves,
            snapshot=True,
            unnamed=names,
        )
        self.held_out.accept(split)

    def choose_head(self, choice: HeadChoice, tensors: Tensors, detail: Mapping[str, Any]) -> None:
        """Another way from the sums to the shared head; the sums are as they were."""
        self.record(
            "choose_head",
            "chosen",
            detail,
            finish(
                self.program, replace(self.live.current, head=choice, tensors=tensors, heads={})
            ),
        )

    # -- domains -----------------------------------------------------------------------------------
    def save_domains(
        self,
        kind: str = "checkpoint",
        detail: Mapping[str, Any] | None = None,
        *,
        force: bool = False,
    ) -> None:
        """Make the tensors of conditions durable, if any moved since the last time."""
        live = self.live.current
        moved = [d for d in live.domains.values() if d.tensors is not d.saved]
        if not moved and not force:
            return
        blob: dict[str, NDArray[Any]] = {}
        candidate = live
        for domain in moved:
            blob |= domain_blob(self.program, domain)
            candidate = candidate.with_domain(replace(domain, saved=domain.tensors))
        if not force and not self._room.has_room(sum(value.nbytes for value in blob.values())):
            return  # session state: it may be lost, and is saved when there is room again
        self.record(
            kind,
            "saved",
            {"domains": sorted(d.name for d in moved), **(detail or {})},
            candidate,
            tensors=blob,
        )

    def confirm_domain(self, domain: Domain, detail: Mapping[str, Any]) -> None:
        """What the answers made of a provisional domain."""
        saved = replace(domain, saved=domain.tensors)
        outcome = "opened" if domain.kind == "condition" else "is new classes"
        self.record(
            "domain",
            outcome,
            {"domain": domain.name, **detail},
            self.live.current.with_domain(saved),
            tensors=domain_blob(self.program, saved),
        )


def moves_of(
    split: Split, *, withdrawn: Sequence[int] = (), held: Sequence[int] = ()
) -> RowTransitions:
    """What a commit says about the rows of a split."""
    taken = tuple(
        (number, tuple(row.seq for row in rows)) for number, rows in by_commit(split.taken)
    )
    return RowTransitions(
        taken=taken,
        added=tuple(row.seq for row in split.added),
        held_out=tuple(row.seq for row in split.held_out),
        withdrawn=tuple(withdrawn),
        held=tuple(held),
    )


__all__ = ["Transactions", "moves_of"]
