"""Should labels be learned at all? A source that contradicts a head which is known to be right is
held, not learned.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import log

import numpy as np
from numpy.typing import NDArray

from edgeadapt.device.commits.factory_samples import FactorySamples
from edgeadapt.device.commits.holdout import HeldOut
from edgeadapt.device.commits.label_noise_odds import (
    Belief,
    Odds,
    agrees_with_its_class,
    copies,
    learned_from,
    lie,
    odds,
)
from edgeadapt.device.detection.window import shift_ratio
from edgeadapt.device.inference.program import HeadOutput, Program
from edgeadapt.device.inference.state import SOURCE, LearnerState
from edgeadapt.device.numerics.ridge_refit import follow, lies_elsewhere, taught_by
from edgeadapt.device.numerics.statistics import sign_test
from edgeadapt.device.storage.features import rows_to_arrays
from edgeadapt.device.storage.journal import Journal
from edgeadapt.device.storage.rows import EvidenceRow

HELD_AT = 2.0
"""log10 of the odds at which a batch is held. Honest ones reach it with a chance below a hundredth
where the head's chances are right.
"""
TAKEN_BACK_AT = 1.0
"""log10 of the odds against a source's earlier labels alone from which they go with the batch: an
honest past is not taken back.
"""
COPIES = 4  # equal frames of one source that may be labelled: a stuck camera has one thing to say
FEWEST = 5  # labels that say anything
# labels that do where nobody else gave any: fewer cannot show that they mean something
FEWEST_SHIFTED = 24
# labels of others that say how good the head is under a condition, or on a class the factory does
# not know
FEWEST_KNOWN = 10
# log10 of how much likelier labels must be where they follow from the samples than where they are
# lies
_FOLLOW = 2.5
# labels; of more, in proportion: a head is never quite what it is believed to be, and that adds up
# over many labels, too
_AT_LEAST_FOR = 64
# a head that is right on this share of what a single renaming does not explain is not the one that
# is wrong
_LOST = 0.6
FEWEST_PLACED = 12  # samples that can say where they lie
# share of pairs of such a sample and a factory's that are told apart, and the chance of that
_TOLD_APART, _ELSEWHERE = 0.7, 1e-4
_APART_FEWEST, _APART = 3, 0.01  # rows on either side, and the chance of telling them apart by luck
_SLACK = 0.1  # of the bundle's ``source_error``: labels that nothing predicts
_RECENT, _RECORD = 2000, 256  # rows of the journal that are looked through, rows that are weighed
# the plus keeps SQLite from its index: the newest rows are few, those of a status are not
_ACCEPTED = "+status IN ('learned', 'held_out')"


@dataclass(frozen=True, eq=False)
class _Seen:
    """Labelled rows as the live head sees them."""

    y: NDArray[np.int64]  # (N,) slots
    logits: NDArray[np.float32]  # (N, K)
    embedding: NDArray[np.float32]
    is_known: NDArray[np.bool_]  # (N,) not novel
    is_held_out: NDArray[np.bool_]  # (N,) labels that judge and never taught the head
    shift: float

    def only(self, rows: NDArray[np.bool_]) -> _Seen:
        return _Seen(
            self.y[rows],
            self.logits[rows],
            self.embedding[rows],
            self.is_known[rows],
            self.is_held_out[rows],
            self.shift,
        )

    def among(self, slots: NDArray[np.int64]) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        """Logits (M, S) and labels (M,) as columns of these slots, of the rows that are labelled
        so.
        """
        rows = np.isin(self.y, slots)
        return self.logits[rows][:, slots], np.searchsorted(slots, self.y[rows])


class LabelNoiseDetector:
    """Reads the journal and the live state, changes nothing."""

    def __init__(
        self, program: Program, journal: Journal, held_out: HeldOut, factory: FactorySamples
    ) -> None:
        self._program = program
        self._journal = journal
        self._held_out = held_out
        self._factory = factory
        self._policy = program.manifest.policy

    def of(self, live: LearnerState, rows: Sequence[EvidenceRow]) -> str:
        """Why these rows of one source and one condition are not to be learned; empty if they are.

        Copies of one frame, labels that contradict a head which is right about such samples, and
        labels that do so together with what the same source taught before. Under another condition
        than the factory's the head is not known to be right until other sources taught there: until
        then labels that mean something are learned though they contradict it.
        """
        past = self._record(live, rows)
        return (
            self._copies(rows, past)
            or self._against(live, rows, HELD_AT, past)
            or (self._against(live, [*past, *rows], self._record_at) if past else "")
        )

    def surplus(self, live: LearnerState, rows: Sequence[EvidenceRow]) -> list[EvidenceRow]:
        """Copies of frames that are labelled often enough already, where most of a batch is
        something else: they are left out, not the batch.
        """
        past = self._record(live, rows)
        _, group = copies(np.stack([row.features for row in (*past, *rows)]))
        labels: dict[int, set[str]] = {}
        for row, frame in zip((*past, *rows), group.tolist(), strict=True):
            labels.setdefault(frame, set()).add(row.label)
        seen = np.bincount(group[: len(past)], minlength=int(group.max()) + 1)
        over: list[EvidenceRow] = []
        for row, frame in zip(rows, group[len(past) :].tolist(), strict=True):
            seen[frame] += 1
            if seen[frame] > COPIES and len(labels[frame]) == 1:
                over.append(row)
        return over if 2 * len(over) < len(rows) else []

    def withdraws(self, live: LearnerState, rows: Sequence[EvidenceRow]) -> list[EvidenceRow]:
        """Accepted rows of the same source and condition that must be taken back together with a
        held batch.

        The batch and the source's record speak against it together, and the record does so alone,
        though more faintly; or the record has a frame of which the batch alone holds too many
        copies, or has it under another label.
        """
        past = self._record(live, rows)
        if not past:
            return []
        if self._copies(rows, past):
            frames: dict[bytes, list[str]] = {}
            for row in rows:
                frames.setdefault(row.features.tobytes(), []).append(row.label)
            return [
                row
                for row in past
                if len(mine := frames.get(row.features.tobytes(), [])) > COPIES
                or {*mine} - {row.label}
            ]
        if self._against(live, [*past, *rows], self._record_at) and self._against(
            live, past, TAKEN_BACK_AT
        ):
            return past
        return []

    @property
    def _record_at(self) -> float:
        """A record is looked at after every batch, so it takes more to condemn it."""
        return -float(np.log10(self._policy.guard.source_significance))

    # -- rows --------------------------------------------------------------------------------------
    def _record(self, live: LearnerState, rows: Sequence[EvidenceRow]) -> list[EvidenceRow]:
        """The last rows that a source taught under a condition, without labels that are being
        corrected.
        """
        corrected = {row.id for row in rows}
        found = self._rows(
            live,
            f"{_ACCEPTED} AND source = ? AND domain = ? AND NOT trusted",
            rows[0].source,
            rows[0].domain,
        )
        return [row for row in found if row.id not in corrected]

    def _rows(self, live: LearnerState, which: str, *values: str) -> list[EvidenceRow]:
        """Up to 256 of the newest rows that still have features, oldest first; a bounded piece of
        the journal is looked through.
        """
        where = f"{which} AND seq > (SELECT coalesce(max(seq), 0) - ? FROM evidence)"
        found = self._journal.evidence(
            where=where, values=(*values, _RECENT), limit=_RECORD, newest_first=True
        )
        return [row for row in reversed(found) if row.label in live.slots and row.has_features]

    def _copies(self, rows: Sequence[EvidenceRow], past: Sequence[EvidenceRow]) -> str:
        """A frame is one piece of evidence however often it is sent; two labels for it are none."""
        _, group = copies(np.stack([row.features for row in (*rows, *past)]))
        for same in np.unique(group[: len(rows)]):
            labels = {row.label for row, is_in in zip(rows, group == same, strict=False) if is_in}
            if len(labels) > 1:
                return f"one frame has {len(labels)} labels: {', '.join(sorted(labels))}"
            if (group == same).sum() > COPIES:
                return f"{(group == same).sum()} labels are of one frame, {COPIES} may be"
        return ""

    def _seen(self, live: LearnerState, rows: Sequence[EvidenceRow]) -> _Seen | None:
        if not rows:
            return None
        z, taps, y, _, _ = rows_to_arrays(rows, live.slots, self._program.manifest.feature_dim)
        held_out = np.array([row.status == "held_out" for row in rows])
        return self._as_seen(
            self._program.forward_head(z, taps, live.judged_in(rows[0].domain)), y, live, held_out
        )

    def _as_seen(
        self,
        read: HeadOutput,
        y: NDArray[np.int64],
        live: LearnerState,
        is_held_out: NDArray[np.bool_],
    ) -> _Seen:
        shift = shift_ratio(
            read.residual, read.logits.argmax(axis=1), live.class_counts, self._policy.shift
        )
        return _Seen(
            y,
            read.logits,
            read.embedding,
            read.score <= self._policy.novelty.threshold,
            is_held_out,
            shift,
        )

    # -- what speaks against them ------------------------------------------------------------------
    def _against(
        self,
        live: LearnerState,
        rows: Sequence[EvidenceRow],
        limit: float,
        past: Sequence[EvidenceRow] = (),
    ) -> str:
        """Why not, if the odds are at or above 10^limit. ``past``: what the source taught before,
        for what a refitted head can explain.
        """
        first = copies(np.stack([row.features for row in rows]))[0]
        seen = self._seen(live, [rows[i] for i in first])
        if seen is None:
            return ""
        if rows[0].domain == SOURCE and seen.shift <= 1.0:
            factory = self._at_the_factory(live)
            # what looks new may be anything
            doubt = self._contradicts(live, seen.only(seen.is_known), factory, limit)
            if not doubt or factory is None:
                return doubt
            before = self._seen(live, past)
            if not self._lies_elsewhere(
                factory, seen if before is None else _joined([seen, before])
            ):
                return doubt
        told = self._told_by_others(live, rows[0])
        if told is not None:
            refitted = _refitted(told, seen, self._untaught)
            return self._contradicts(live, *refitted, limit, Belief(1.0, self._untaught.slack))
        if len(seen.y) < FEWEST_SHIFTED:
            return ""
        doubt = self._contradicts(live, seen, None, limit)
        return "" if doubt and self._follow(live, seen, self._seen(live, past)) else doubt

    def _contradicts(
        self,
        live: LearnerState,
        seen: _Seen,
        told: _Seen | None,
        limit: float,
        prior: Belief | None = None,
    ) -> str:
        """Why rows cannot be what a head says of them whose errors ``told`` shows; empty below
        10^limit.
        """
        slots = self._judged(live, told)
        logits, y = seen.among(slots)
        if len(y) < FEWEST:
            return ""
        belief = prior or self._untaught
        if told is not None:
            belief = learned_from(*told.among(slots), belief)
        found = odds(belief.honest(logits), y)
        if found.log10 < limit:
            return ""
        apart = _are_apart(
            seen.embedding[np.isin(seen.y, slots)], y, logits.argmax(axis=1), found.flip
        )
        if apart is not None and (
            apart.all() or odds(belief.honest(logits[~apart]), y[~apart]).log10 < limit
        ):
            return ""
        return _why(found, logits.argmax(axis=1) != y, [str(live.classes[slot]) for slot in slots])

    @property
    def _untaught(self) -> Belief:
        """What the bundle says of its own head's errors."""
        return Belief(self._policy.learn.temperature, _SLACK * self._policy.guard.source_error)

    def _told_by_others(self, live: LearnerState, row: EvidenceRow) -> _Seen | None:
        """What other sources taught under the condition of a row, if it is enough to say how good a
        head is there.
        """
        if row.domain == SOURCE:
            return None
        told = self._seen(
            live,
            self._rows(live, f"{_ACCEPTED} AND domain = ? AND source != ?", row.domain, row.source),
        )
        return told if told is not None and len(told.y) >= FEWEST_KNOWN else None

    @staticmethod
    def _lies_elsewhere(factory: _Seen, seen: _Seen) -> bool:
        """Are samples clearly not where the factory's are, though no statistic of the stream moved?
        Then nobody knows that the head is right there.
        """
        taken_for, here = factory.logits.argmax(axis=1), seen.logits.argmax(axis=1)
        slots, place = np.unique(taken_for, return_inverse=True)
        means = np.stack([factory.embedding[taken_for == slot].mean(axis=0) for slot in slots])
        rows = np.isin(here, slots)
        if rows.sum() < FEWEST_PLACED:
            return False
        placed = seen.embedding[rows] - means[np.searchsorted(slots, here[rows])]
        told_apart, chance = lies_elsewhere(factory.embedding - means[place], placed)
        return told_apart >= _TOLD_APART and chance < _ELSEWHERE

    def _follow(self, live: LearnerState, seen: _Seen, past: _Seen | None) -> bool:
        """Do labels follow from the samples so clearly that it is the head that is wrong here?

        A refitted head, cross-fitted on them and on what the source taught here before, must make
        them likelier than lies about what the head sees, and than labels that mean nothing; and the
        head must be poor on what no single renaming explains.
        """
        everything = seen if past is None else _joined([seen, past])
        slots = np.unique(np.concatenate([self._judged(live, None), everything.y]))
        (logits, y), belief = seen.among(slots), self._untaught
        taken_for = logits.argmax(axis=1)
        flip = odds(belief.honest(logits), y).flip
        # of two classes, one that is called the other leaves labels that mean nothing
        if flip is not None and len(slots) > 2:
            others = ~((taken_for == flip[0]) & (y == flip[1]))
            if not others.any() or float((taken_for == y)[others].mean()) >= _LOST:
                return False
        all_logits, all_y = everything.among(slots)
        chances = belief.honest(all_logits)
        asked = np.arange(len(all_y)) < len(y)
        return follow(everything.embedding, all_y, chances, asked) - lie(
            chances[asked], y
        ) >= _FOLLOW * max(1.0, len(y) / _AT_LEAST_FOR) * log(10.0)

    def _at_the_factory(self, live: LearnerState) -> _Seen | None:
        """The bundle's guard samples and labels held out under the factory condition: what the head
        is known to be right about.
        """
        parts = [self._seen(live, self._rows(live, "+status = 'held_out' AND domain = ?", SOURCE))]
        for guard in self._factory.sets(live):
            read = self._program.forward_head(guard.z, guard.taps, live.tensors)
            as_new = replace(read, logits=guard.logits(self._program, live))
            parts.append(self._as_seen(as_new, guard.y, live, np.ones(len(guard.y), bool)))
        found = [part.only(part.is_known) for part in parts if part is not None]
        return _joined(found) if found else None

    def _judged(self, live: LearnerState, told: _Seen | None) -> NDArray[np.int64]:
        """Slots whose labels are judged: the factory's classes, and others once enough labels say
        how often the head errs on them.
        """
        factory = [
            live.slots[name] for name in self._program.manifest.classes if name in live.slots
        ]
        taught = [
            slot
            for slot in live.slots.values()
            if told is not None and int((told.y == slot).sum()) >= FEWEST
        ]
        return np.unique(np.array([*factory, *taught], np.int64))


def _joined(parts: Sequence[_Seen]) -> _Seen:
    y, logits = np.concatenate([p.y for p in parts]), np.concatenate([p.logits for p in parts])
    embedding, known, judges = (
        np.concatenate([getattr(p, name) for p in parts])
        for name in ("embedding", "is_known", "is_held_out")
    )
    return _Seen(y, logits, embedding, known, judges, 0.0)


def _refitted(told: _Seen, seen: _Seen, belief: Belief) -> tuple[_Seen, _Seen]:
    """Rows in doubt and rows of others, as a head sees them that others' labels refitted: theirs
    each without its own label.
    """
    both = np.concatenate([told.embedding, seen.embedding])
    chances = np.concatenate([belief.honest(told.logits), belief.honest(seen.logits)])
    judges = (
        told.is_held_out if told.is_held_out.sum() >= FEWEST_KNOWN else np.ones(len(told.y), bool)
    )
    theirs, here = taught_by(both, told.y, chances, len(seen.y), judges)
    return replace(seen, logits=here.astype(np.float32)), replace(
        told, logits=theirs.astype(np.float32)
    )


def _are_apart(
    embedding: NDArray[np.float32],
    y: NDArray[np.int64],
    predicted: NDArray[np.int64],
    flip: tuple[int, int] | None,
) -> NDArray[np.bool_] | None:
    """(N,) rows whose class only looks like another to the head; None if there are none.

    A new wearer's exercise may look like another exercise of the others: it is then called by its
    own name, and rightly so. It lies apart from those that are what the head sees. What a liar
    calls by another name is the same as what the same source calls by its right one.
    """
    if flip is None:
        return None
    disputed = (predicted == flip[0]) & (y == flip[1])
    both = disputed | (predicted == flip[0]) & (y == flip[0])
    counts = int(disputed.sum()), int(both.sum() - disputed.sum())
    if min(counts) < _APART_FEWEST:
        return None
    right = int(agrees_with_its_class(embedding[both], disputed[both].astype(np.int64)).sum())
    return disputed if sign_test(sum(counts) - right, right) < _APART else None


def _why(found: Odds, is_wrong: NDArray[np.bool_], names: Sequence[str]) -> str:
    flip = (
        f", as if {names[found.flip[0]]!r} were called {names[found.flip[1]]!r}"
        if found.flip
        else ""
    )
    return (
        f"{int(is_wrong.sum())} of {len(is_wrong)} labels contradict the head{flip} (odds"
        f" 10^{found.log10:.1f} that they are false)"
    )
