"""Which labels are learned and which held out: a fifth of every class is never trained on.

Of the n accepted labels of a class, the floor(n / 5) with the smallest draws are held out; the
others are learned. That is a function of the *set* of labels and not of their order: a label that
comes late, is corrected, withdrawn or forgotten leaves exactly what would be there if it had been
right on time, or had never been. When a label comes or goes, at most a few of its class change
sides: held-out ones are learned, and learned ones are subtracted and held out.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from edgeadapt.device.commits.guard import ValidationSet
from edgeadapt.device.storage.features import rows_to_arrays
from edgeadapt.device.storage.journal import Journal
from edgeadapt.device.storage.rows import EvidenceRow

SETTLED = 10  # labels from which on a class counts as known
_JUDGES = 256  # of one condition, the newest


@dataclass(frozen=True)
class Split:
    """What a change of the accepted labels does: rows to subtract, rows to add, rows that judge
    from now on, and rows that left.

    Attributes:
        taken: learned before and not any more: gone, or held out from now on.
        added: to be learned, new or held out before.
        held_out: judges from now on. gone: accepted before, now neither.
    """

    taken: tuple[EvidenceRow, ...] = ()
    added: tuple[EvidenceRow, ...] = ()
    held_out: tuple[EvidenceRow, ...] = ()
    gone: tuple[EvidenceRow, ...] = ()

    @property
    def touched(self) -> frozenset[int]:
        """Rows that the live or the new state has trained on: they cannot compare the two."""
        return frozenset(row.seq for row in (*self.taken, *self.added))


class HeldOut:
    """Counts of accepted labels per class; the rows themselves stay in the journal."""

    def __init__(
        self, journal: Journal, every: int, dim: int, factory_classes: Iterable[str]
    ) -> None:
        self._journal, self._every, self._dim = journal, every, dim
        self._factory = frozenset(factory_classes)
        self._counts: dict[str, dict[str, int]] = {}
        self.restore()

    def restore(self, rows: Iterable[tuple[str, str]] | None = None) -> None:
        """Take over what the journal says, or (label, status) of all accepted rows, where the
        journal must not be asked any more.
        """
        if rows is None:
            self._counts = {
                label: {"learned": 0, "held_out": 0} | counts
                for label, counts in self._journal.count_accepted().items()
            }
            return
        self._counts = {}
        for label, status in rows:
            self._counts.setdefault(label, {"learned": 0, "held_out": 0})[status] += 1

    def rebalance(self, rows: Sequence[EvidenceRow]) -> tuple[list[EvidenceRow], list[EvidenceRow]]:
        """Of all accepted rows: learned ones to be held out, and held-out ones to be learned, so
        that a fifth of every class is held out.
        """
        judging: list[EvidenceRow] = []
        teaching: list[EvidenceRow] = []
        for label in dict.fromkeys(row.label for row in rows):
            ranked = sorted(
                (row for row in rows if row.label == label), key=lambda row: (row.draw, row.seq)
            )
            due = len(ranked) // self._every
            judging += [row for row in ranked[:due] if row.status == "learned"]
            teaching += [row for row in ranked[due:] if row.status == "held_out"]
        return judging, sorted(teaching, key=lambda row: row.seq)

    def count(self, label: str) -> int:
        """Accepted labels of a class, held-out ones included."""
        return sum(self._counts.get(label, {}).values())

    @property
    def total(self) -> int:
        return sum(self.count(label) for label in self._counts)

    def is_settled(self, label: str) -> bool:
        """True for the factory's classes, and for others from ten labels on: the head's opinion
        about them counts.
        """
        return label in self._factory or self.count(label) >= SETTLED

    def split(self, new: Sequence[EvidenceRow], gone: Sequence[EvidenceRow] = ()) -> Split:
        """What changes when ``new`` labels are accepted and ``gone`` ones (accepted until now)
        leave. Changes nothing itself.
        """
        taken: list[EvidenceRow] = [row for row in gone if row.status == "learned"]
        added: list[EvidenceRow] = []
        held: list[EvidenceRow] = []
        for label in dict.fromkeys(row.label for row in (*new, *gone)):
            coming = [row for row in new if row.label == label]
            leaving = {row.seq: row for row in gone if row.label == label}
            self._split_class(label, coming, leaving, taken, added, held)
        order = {row.seq: place for place, row in enumerate(new)}
        # in the order in which they came
        added.sort(key=lambda row: (row.seq not in order, order.get(row.seq, row.seq)))
        whole = {
            row.seq: row
            for row in self._journal.evidence_of(
                [r.seq for r in (*taken, *added) if r.seq not in order and not r.has_features]
            )
        }
        taken, added = ([whole.get(row.seq, row) for row in rows] for rows in (taken, added))
        return Split(tuple(taken), tuple(added), tuple(held), tuple(gone))

    def _split_class(
        self,
        label: str,
        coming: list[EvidenceRow],
        leaving: dict[int, EvidenceRow],
        taken: list[EvidenceRow],
        added: list[EvidenceRow],
        held: list[EvidenceRow],
    ) -> None:
        counts = self._counts.get(label, {})
        leaving_judges = sum(row.status == "held_out" for row in leaving.values())
        judges = counts.get("held_out", 0) - leaving_judges
        due = (self.count(label) - len(leaving) + len(coming)) // self._every
        reach = 2 * (len(coming) + len(leaving)) + 2  # more rows than can change sides
        near = {
            status: [
                r
                for r in self._journal.rows_near_holdout_boundary(label, status, reach)
                if r.seq not in leaving
            ]
            for status in ("held_out", "learned")
        }
        # judges with smaller draws than those near the line: they stay
        certain = judges - len(near["held_out"])
        pool = sorted(
            [*near["held_out"], *near["learned"], *coming], key=lambda row: (row.draw, row.seq)
        )
        chosen = {row.seq for row in pool[: max(0, due - certain)]}
        added += [row for row in coming if row.seq not in chosen] + [
            row for row in near["held_out"] if row.seq not in chosen
        ]
        taken += [row for row in near["learned"] if row.seq in chosen]
        held += [row for row in coming if row.seq in chosen] + [
            row for row in near["learned"] if row.seq in chosen
        ]

    def accept(self, split: Split) -> None:
        """Count what a commit has made durable."""
        # each left the status it had, if it had one
        moved = {row.seq: row for row in (*split.gone, *split.taken, *split.added)}
        for rows, status, change in (
            (moved.values(), None, -1),
            (split.added, "learned", 1),
            (split.held_out, "held_out", 1),
        ):
            for row in rows:
                counts = self._counts.setdefault(row.label, {"learned": 0, "held_out": 0})
                where = status or row.status
                if where in counts:
                    counts[where] += change

    def sets(
        self, slots: dict[str, int], domains: Iterable[str], split: Split, fewest: int = 10
    ) -> list[ValidationSet]:
        """One guard set per condition with enough samples, judged among settled classes; nothing
        that either state was trained on.

        A class that is being learned takes answers from the others, as it should: that is no loss
        to hold against it.
        """
        settled = np.array(
            sorted(slot for name, slot in slots.items() if self.is_settled(name)), np.int64
        )
        touched, result = split.touched, []
        for domain in domains:
            found = self._journal.evidence(
                where="status = 'held_out' AND domain = ?",
                values=(domain,),
                limit=_JUDGES,
                newest_first=True,
            )
            rows = [
                r
                for r in reversed(found)
                if r.label in slots
                and self.is_settled(r.label)
                and r.has_features
                and r.seq not in touched
            ]
            if len(rows) >= fewest:
                z, taps, y, _, _ = rows_to_arrays(rows, slots, self._dim)
                result.append(
                    ValidationSet(f"field labels in {domain}", z, taps, y, domain, settled)
                )
        return result
