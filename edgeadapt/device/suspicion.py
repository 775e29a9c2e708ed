"""Should labels be learned at all? A source that contradicts a head which is known to be right is held, not learned."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from edgeadapt.bundle import GUARD
from edgeadapt.device.contradiction import Belief, Odds, agrees_with_its_class, copies, learned_from, odds
from edgeadapt.device.evidence import rows_to_arrays
from edgeadapt.device.guard import sign_test
from edgeadapt.device.held_out import HeldOut
from edgeadapt.device.journal import Journal
from edgeadapt.device.journal_rows import EvidenceRow
from edgeadapt.device.memory import SOURCE, Memory
from edgeadapt.device.program import Program, Read
from edgeadapt.device.sense import shift_ratio

HELD_AT = 2.0
"""log10 of the odds at which a batch is held. Honest ones reach it with a chance below a hundredth where the head's chances are right."""
TAKEN_BACK_AT = 1.0
"""log10 of the odds against a source's earlier labels alone from which they go with the batch: an honest past is not taken back."""
COPIES = 4  # equal frames of one source that may be labelled: a stuck camera has one thing to say
FEWEST = 5  # labels that say anything
FEWEST_SHIFTED = 24  # labels that do where nobody else gave any: fewer cannot show that they mean something
FEWEST_KNOWN = 10  # labels of others that say how good the head is under a condition, or on a class the factory does not know
_LOST, _COHERENT, _CLEARLY = 0.5, 0.4, 0.05
# Labels mean something though the head contradicts them: it gets fewer than _LOST of them, at least _COHERENT lie nearest to their own class,
# and that they do so more often than the head is right has a chance below _CLEARLY. Chosen on inverted and turned images and on noise: honest
# batches of 64 reach .43 to .75 where the head gets .05 to .45, those with 60% wrong labels stay below .40.
_APART_FEWEST, _APART = 3, 0.01  # rows on either side, and the chance of telling them apart by luck
_SLACK = 0.1  # of the bundle's ``source_error``: labels that nothing predicts
_RECENT, _RECORD = 2000, 256  # rows of the journal that are looked through, rows that are weighed
_ACCEPTED = "+status IN ('learned', 'held_out')"  # the plus keeps SQLite from its index: the newest rows are few, those of a status are not


@dataclass(frozen=True, eq=False)
class _Seen:
    """Labelled rows as the live head sees them."""

    y: NDArray[np.int64]  # (N,) slots
    logits: NDArray[np.float32]  # (N, K)
    embedding: NDArray[np.float32]
    is_known: NDArray[np.bool_]  # (N,) not novel
    shift: float

    def only(self, rows: NDArray[np.bool_]) -> _Seen:
        return _Seen(self.y[rows], self.logits[rows], self.embedding[rows], self.is_known[rows], self.shift)

    def among(self, slots: NDArray[np.int64]) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        """Logits (M, S) and labels (M,) as columns of these slots, of the rows that are labelled so."""
        rows = np.isin(self.y, slots)
        return self.logits[rows][:, slots], np.searchsorted(slots, self.y[rows])


class Suspicion:
    """Reads the journal and the live state, changes nothing."""

    def __init__(self, program: Program, journal: Journal, held_out: HeldOut) -> None:
        self._program, self._journal, self._held_out = program, journal, held_out
        self._policy = program.manifest.policy

    def of(self, live: Memory, rows: Sequence[EvidenceRow]) -> str:
        """Why these rows of one source and one condition are not to be learned; empty if they are.

        Copies of one frame, labels that contradict a head which is right about such samples, and labels that do so together with what
        the same source taught before. Under another condition than the factory's the head is not known to be right until other
        sources taught there: until then labels that mean something are learned though they contradict it.
        """
        past = self._record(live, rows)
        return self._copies(rows, past) or self._against(live, rows, HELD_AT) or (self._against(live, [*past, *rows], self._record_at) if past else "")

    def withdraws(self, live: Memory, rows: Sequence[EvidenceRow]) -> list[EvidenceRow]:
        """Accepted rows of the same source and condition that must be taken back together with a held batch.

        The batch and the source's record speak against it together, and the record does so alone, though more faintly; or the record
        holds copies of the batch's frame.
        """
        past = self._record(live, rows)
        if not past:
            return []
        if self._copies(rows, past):
            held = {row.features.tobytes() for row in rows}
            return [row for row in past if row.features.tobytes() in held]
        if self._against(live, [*past, *rows], self._record_at) and self._against(live, past, TAKEN_BACK_AT):
            return past
        return []

    @property
    def _record_at(self) -> float:
        """A record is looked at after every batch, so it takes more to condemn it."""
        return -float(np.log10(self._policy.guard.source_significance))

    # -- rows -----------------------------------------------------------------------------------------
    def _record(self, live: Memory, rows: Sequence[EvidenceRow]) -> list[EvidenceRow]:
        """The last rows that a source taught under a condition, without labels that are being corrected."""
        corrected = {row.id for row in rows}
        found = self._rows(live, f"{_ACCEPTED} AND source = ? AND domain = ?", rows[0].source, rows[0].domain)
        return [row for row in found if row.id not in corrected]

    def _rows(self, live: Memory, which: str, *values: str) -> list[EvidenceRow]:
        """Up to 256 of the newest rows that still have features, oldest first; a bounded piece of the journal is looked through."""
        where = f"{which} AND seq > (SELECT coalesce(max(seq), 0) - ? FROM evidence)"
        found = self._journal.evidence(where=where, values=(*values, _RECENT), limit=_RECORD, newest_first=True)
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

    def _seen(self, live: Memory, rows: Sequence[EvidenceRow]) -> _Seen | None:
        if not rows:
            return None
        z, taps, y, _, _ = rows_to_arrays(rows, live.slots, self._program.manifest.feature_dim)
        return self._as_seen(self._program.read(z, taps, live.tensors_in(rows[0].domain)), y, live)

    def _as_seen(self, read: Read, y: NDArray[np.int64], live: Memory) -> _Seen:
        shift = shift_ratio(read.residual, read.logits.argmax(axis=1), live.class_counts, self._policy.shift)
        return _Seen(y, read.logits, read.embedding, read.score <= self._policy.novelty.threshold, shift)

    # -- what speaks against them ---------------------------------------------------------------------
    def _against(self, live: Memory, rows: Sequence[EvidenceRow], limit: float) -> str:
        """Why not, if the odds are at or above 10^limit."""
        first = copies(np.stack([row.features for row in rows]))[0]
        seen = self._seen(live, [rows[i] for i in first])
        if seen is None:
            return ""
        is_factory = rows[0].domain == SOURCE and seen.shift <= 1.0
        if is_factory:
            seen = seen.only(seen.is_known)  # what looks new may be anything
            told: _Seen | None = self._at_the_factory(live)
        else:
            told = self._seen(live, self._rows(live, f"{_ACCEPTED} AND domain = ? AND source != ?", rows[0].domain, rows[0].source))
            told = told if rows[0].domain != SOURCE and told is not None and len(told.y) >= FEWEST_KNOWN else None
        slots = self._judged(live, told)
        logits, y = seen.among(slots)
        if len(y) < (FEWEST if is_factory or told is not None else FEWEST_SHIFTED):
            return ""
        belief = Belief(self._policy.learn.temperature, _SLACK * self._policy.guard.source_error)
        if told is not None:
            belief = learned_from(*told.among(slots), belief)
        found = odds(belief.honest(logits), y)
        if found.log10 < limit or (told is None and _mean_something(seen.embedding[np.isin(seen.y, slots)], y, logits.argmax(axis=1) == y)):
            return ""
        apart = _are_apart(seen.embedding[np.isin(seen.y, slots)], y, logits.argmax(axis=1), found.flip)
        if apart is not None and (apart.all() or odds(belief.honest(logits[~apart]), y[~apart]).log10 < limit):
            return ""
        return _why(found, logits.argmax(axis=1) != y, [str(live.classes[slot]) for slot in slots])

    def _at_the_factory(self, live: Memory) -> _Seen | None:
        """The bundle's guard samples and labels held out under the factory condition: what the head is known to be right about."""
        parts = [self._seen(live, self._rows(live, "+status = 'held_out' AND domain = ?", SOURCE))]
        if any(member == GUARD for member in self._program.manifest.members):
            values, factory = self._program.bundle.weights(GUARD), self._program.manifest.classes
            y = values["y"].astype(np.int64)
            kept = np.isin(y, [slot for slot, name in enumerate(factory) if live.classes[slot] == name])
            if kept.any():
                z = np.ascontiguousarray(values["z"][kept], np.float32)
                taps = np.ascontiguousarray(values["taps"][kept], np.float32) if "taps" in values else np.zeros((len(z), 0), np.float32)
                parts.append(self._as_seen(self._program.read(z, taps, live.tensors), y[kept], live))
        found = [part.only(part.is_known) for part in parts if part is not None]
        return _joined(found) if found else None

    def _judged(self, live: Memory, told: _Seen | None) -> NDArray[np.int64]:
        """Slots whose labels are judged: the factory's classes, and others once enough labels say how often the head errs on them."""
        factory = [live.slots[name] for name in self._program.manifest.classes if name in live.slots]
        taught = [slot for slot in live.slots.values() if told is not None and int((told.y == slot).sum()) >= FEWEST]
        return np.unique(np.array([*factory, *taught], np.int64))


def _joined(parts: Sequence[_Seen]) -> _Seen:
    y, logits = np.concatenate([p.y for p in parts]), np.concatenate([p.logits for p in parts])
    return _Seen(y, logits, np.concatenate([p.embedding for p in parts]), np.concatenate([p.is_known for p in parts]), 0.0)


def _mean_something(embedding: NDArray[np.float32], y: NDArray[np.int64], is_right: NDArray[np.bool_]) -> bool:
    """Do labels follow from the samples where the head, which they mostly contradict, does not? Then the condition is strange, not the source."""
    coherent = agrees_with_its_class(embedding, y)
    wins, losses = int((coherent & ~is_right).sum()), int((is_right & ~coherent).sum())
    return bool(coherent.mean() >= _COHERENT and is_right.mean() < _LOST) and sign_test(losses, wins) < _CLEARLY


def _are_apart(embedding: NDArray[np.float32], y: NDArray[np.int64], predicted: NDArray[np.int64], flip: tuple[int, int] | None) -> NDArray[np.bool_] | None:
    """(N,) rows whose class only looks like another to the head; None if there are none.

    A new wearer's exercise may look like another exercise of the others: it is then called by its own name, and rightly so. It lies apart
    from those that are what the head sees. What a liar calls by another name is the same as what the same source calls by its right one.
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
    flip = f", as if {names[found.flip[0]]!r} were called {names[found.flip[1]]!r}" if found.flip else ""
    return f"{int(is_wrong.sum())} of {len(is_wrong)} labels contradict the head{flip} (odds 10^{found.log10:.1f} that they are false)"
