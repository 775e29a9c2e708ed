"""Should labels be learned at all? Those that contradict a head which is known to be right are
held.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from math import log

import numpy as np
from numpy.typing import NDArray

from edgeadapt.device.commits.factory_samples import FactorySamples
from edgeadapt.device.commits.holdout import HeldOut
from edgeadapt.device.commits.label_noise_odds import (
    Belief,
    Odds,
    copies,
    false_label_likelihood,
    learned_from,
    odds,
)
from edgeadapt.device.commits.label_view import (
    FEWEST_KNOWN,
    LabelView,
    is_unlike,
    joined,
    refitted,
    separated_from_class,
)
from edgeadapt.device.detection.window import shift_ratio
from edgeadapt.device.inference.program import HeadOutput, Program
from edgeadapt.device.inference.state import SOURCE, LearnerState
from edgeadapt.device.numerics.ridge_refit import leave_one_out_likelihood
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
COPIES = 4  # equal frames of one source that may be labelled: a stuck camera shows one sample
FEWEST = 5  # labels that are compared at all
# where no other source labelled: fewer cannot show that they follow from the samples
FEWEST_SHIFTED = 24
# log10 of how much likelier labels must be where they follow from the samples than where they are
# false
_LIKELIER = 2.5
# labels; of more, in proportion: small errors of the belief add up over many labels
_AT_LEAST_FOR = 64
# a head that is right on this share of what a single renaming does not explain is not the one that
# is wrong
_LOST = 0.6
_SLACK = 0.1  # of the bundle's ``source_error``: labels that nothing predicts
_RECENT, _RECORD = 2000, 256  # rows of the journal that are searched, rows that are used
# the plus keeps SQLite from its index: the newest rows are few, those of a status are not
_ACCEPTED = "+status IN ('learned', 'held_out')"


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

        Held are copies of one frame, labels that contradict a head which is right about such
        samples, and labels that do so together with earlier ones of the same source. Under another
        condition than the factory's the head is not known to be right until labels of other sources
        were learned there: until then consistent labels are learned though they contradict it.
        """
        past = self._record(live, rows)
        return (
            self._copies(rows, past)
            or self._against(live, rows, HELD_AT, past)
            or (self._against(live, [*past, *rows], self._record_at) if past else "")
        )

    def surplus(self, live: LearnerState, rows: Sequence[EvidenceRow]) -> list[EvidenceRow]:
        """Copies of frames that are labelled often enough already. Where they are the smaller part
        of a batch, they are left out and the batch is learned.
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
        """A record is tested after every batch, so its limit is higher."""
        return -float(np.log10(self._policy.guard.source_significance))

    # -- rows --------------------------------------------------------------------------------------
    def _record(self, live: LearnerState, rows: Sequence[EvidenceRow]) -> list[EvidenceRow]:
        """The last accepted rows of a source and condition, without labels that are being
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
        """Up to 256 of the newest rows that still have features, oldest first, from the last 2000
        of the journal.
        """
        where = f"{which} AND seq > (SELECT coalesce(max(seq), 0) - ? FROM evidence)"
        found = self._journal.evidence(
            where=where, values=(*values, _RECENT), limit=_RECORD, newest_first=True
        )
        return [row for row in reversed(found) if row.label in live.slots and row.has_features]

    def _copies(self, rows: Sequence[EvidenceRow], past: Sequence[EvidenceRow]) -> str:
        """Why copies are held: a frame counts once however often it is sent, and with two labels
        not at all.
        """
        _, group = copies(np.stack([row.features for row in (*rows, *past)]))
        for same in np.unique(group[: len(rows)]):
            labels = {row.label for row, is_in in zip(rows, group == same, strict=False) if is_in}
            if len(labels) > 1:
                return f"one frame has {len(labels)} labels: {', '.join(sorted(labels))}"
            if (group == same).sum() > COPIES:
                return f"{(group == same).sum()} labels are of one frame, {COPIES} may be"
        return ""

    def _seen(self, live: LearnerState, rows: Sequence[EvidenceRow]) -> LabelView | None:
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
    ) -> LabelView:
        shift = shift_ratio(
            read.residual, read.logits.argmax(axis=1), live.class_counts, self._policy.shift
        )
        return LabelView(
            y,
            read.logits,
            read.embedding,
            read.score <= self._policy.novelty.threshold,
            is_held_out,
            shift,
        )

    # -- odds --------------------------------------------------------------------------------------
    def _against(
        self,
        live: LearnerState,
        rows: Sequence[EvidenceRow],
        limit: float,
        past: Sequence[EvidenceRow] = (),
    ) -> str:
        """Why not, if the odds are at or above 10^limit. ``past``: earlier rows of the source, for
        the fit of another head.
        """
        first = copies(np.stack([row.features for row in rows]))[0]
        seen = self._seen(live, [rows[i] for i in first])
        if seen is None:
            return ""
        if rows[0].domain == SOURCE and seen.shift <= 1.0:
            factory = self._at_the_factory(live)
            # novel samples may be of any class
            doubt = self._contradicts(live, seen.only(seen.is_known), factory, limit)
            if not doubt or factory is None:
                return doubt
            before = self._seen(live, past)
            if not is_unlike(factory, seen if before is None else joined([seen, before])):
                return doubt
        reference = self._labels_of_others(live, rows[0])
        if reference is not None:
            both = refitted(reference, seen, self._prior)
            return self._contradicts(live, *both, limit, Belief(1.0, self._prior.slack))
        if len(seen.y) < FEWEST_SHIFTED:
            return ""
        doubt = self._contradicts(live, seen, None, limit)
        return "" if doubt and self._is_head_wrong(live, seen, self._seen(live, past)) else doubt

    def _contradicts(
        self,
        live: LearnerState,
        seen: LabelView,
        reference: LabelView | None,
        limit: float,
        prior: Belief | None = None,
    ) -> str:
        """Why the labels contradict the head, whose errors are known from ``reference``; empty
        below 10^limit.
        """
        slots = self._judged(live, reference)
        logits, y = seen.among(slots)
        if len(y) < FEWEST:
            return ""
        belief = prior or self._prior
        if reference is not None:
            belief = learned_from(*reference.among(slots), belief)
        found = odds(belief.honest(logits), y)
        if found.log10 < limit:
            return ""
        apart = separated_from_class(
            seen.embedding[np.isin(seen.y, slots)], y, logits.argmax(axis=1), found.flip
        )
        if apart is not None and (
            apart.all() or odds(belief.honest(logits[~apart]), y[~apart]).log10 < limit
        ):
            return ""
        return _why(found, logits.argmax(axis=1) != y, [str(live.classes[slot]) for slot in slots])

    @property
    def _prior(self) -> Belief:
        """What the bundle says of its own head's errors."""
        return Belief(self._policy.learn.temperature, _SLACK * self._policy.guard.source_error)

    def _labels_of_others(self, live: LearnerState, row: EvidenceRow) -> LabelView | None:
        """Labels of other sources under the condition of a row, if they suffice to say how good a
        head is there.
        """
        if row.domain == SOURCE:
            return None
        reference = self._seen(
            live,
            self._rows(live, f"{_ACCEPTED} AND domain = ? AND source != ?", row.domain, row.source),
        )
        return reference if reference is not None and len(reference.y) >= FEWEST_KNOWN else None

    def _is_head_wrong(self, live: LearnerState, seen: LabelView, past: LabelView | None) -> bool:
        """Do the labels follow from the samples so clearly that it is the head that is wrong here?

        A head that is cross-fitted on them and on earlier rows of the source must make them
        likelier than false or random labels are; and the live head must be poor on what no single
        renaming explains.
        """
        everything = seen if past is None else joined([seen, past])
        slots = np.unique(np.concatenate([self._judged(live, None), everything.y]))
        (logits, y), belief = seen.among(slots), self._prior
        predicted = logits.argmax(axis=1)
        flip = odds(belief.honest(logits), y).flip
        # of two classes one that is called the other leaves nothing to compare
        if flip is not None and len(slots) > 2:
            others = ~((predicted == flip[0]) & (y == flip[1]))
            if not others.any() or float((predicted == y)[others].mean()) >= _LOST:
                return False
        all_logits, all_y = everything.among(slots)
        chances = belief.honest(all_logits)
        asked = np.arange(len(all_y)) < len(y)
        fit = leave_one_out_likelihood(everything.embedding, all_y, chances, asked)
        margin = _LIKELIER * max(1.0, len(y) / _AT_LEAST_FOR) * log(10.0)
        return fit - false_label_likelihood(chances[asked], y) >= margin

    def _at_the_factory(self, live: LearnerState) -> LabelView | None:
        """The bundle's guard samples and labels held out under the factory condition: what the head
        is known to be right about.
        """
        parts = [self._seen(live, self._rows(live, "+status = 'held_out' AND domain = ?", SOURCE))]
        for guard in self._factory.sets(live):
            read = self._program.forward_head(guard.z, guard.taps, live.tensors)
            as_new = replace(read, logits=guard.logits(self._program, live))
            parts.append(self._as_seen(as_new, guard.y, live, np.ones(len(guard.y), bool)))
        found = [part.only(part.is_known) for part in parts if part is not None]
        return joined(found) if found else None

    def _judged(self, live: LearnerState, reference: LabelView | None) -> NDArray[np.int64]:
        """Slots whose labels are judged: the factory's classes, and others once enough labels say
        how often the head errs on them.
        """
        factory = [
            live.slots[name] for name in self._program.manifest.classes if name in live.slots
        ]
        others = [
            slot
            for slot in live.slots.values()
            if reference is not None and int((reference.y == slot).sum()) >= FEWEST
        ]
        return np.unique(np.array([*factory, *others], np.int64))


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
