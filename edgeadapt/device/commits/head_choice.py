"""Heads that answer: the shared one, and those of conditions with a choice of their own
(``head_search.py``).

A condition with labels of its own is evaluated apart. Where its own choice is better than the
shared one, from all field labels or from its own alone, it gets a head of its own: derived tensors
that lie over the shared ones while the stream is there. They follow from rows that are stored
anyway, are made again after an opening, and hold nothing that a row does not.

A fifth of the labels is held out and evaluates heads that have not learned it; the heads that
answer learn it as well, a moment later (``LearnerState.heads``).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from edgeadapt.device.commits.commit_log import CommitLog
from edgeadapt.device.commits.cross_fitting import folds_of
from edgeadapt.device.commits.evidence_sums import add_evidence, corrections_now, with_host_views
from edgeadapt.device.commits.factory_samples import FactorySamples
from edgeadapt.device.commits.head_search import CLEARLY, HeadSearch
from edgeadapt.device.commits.logistic_head import ROWS, LogisticHead
from edgeadapt.device.inference.state import AS_SHIPPED, SOURCE, HeadChoice, LearnerState, OwnHead
from edgeadapt.device.resources.budget import Meter
from edgeadapt.device.storage.rows import EvidenceRow
from edgeadapt.runtime import Tensors

FEWEST = 4
"""Labels of a condition from which on they choose."""
_MORE = 1 / 32  # share by which the labels of a condition change before it is due again
_HELD_OUT = 512  # of the newest labels that are held out are learned by heads that answer
_ACCEPTED = "status IN ('learned', 'held_out')"
# of a condition's own labels, in every class that it answers, for a head of them alone
_FEWEST_PER_CLASS = 2


@dataclass(frozen=True)
class _Chosen:
    """What a condition's head follows from: its choice, and whether its own labels alone."""

    choice: HeadChoice
    is_alone: bool


class HeadChoices:
    """Runs on the worker."""

    def __init__(self, log: CommitLog, factory: FactorySamples, meter: Meter) -> None:
        self._log, self._factory, self._meter = log, factory, meter
        self._program, self._journal, self._live = log.program, log.journal, log.live
        self._policy = self._program.manifest.policy.learn
        self._search = HeadSearch(self._program, factory)
        self._logistic = LogisticHead(self._program)
        # by condition: accepted labels now (None: to be counted) and when it last chose, what its
        # own head follows from, and the live tensors that the head was made from
        self._labels: dict[str, int] | None = None
        self._labels_at_choice: dict[str, int] = {}
        self._chosen: dict[str, _Chosen] = {}
        self._made_from: dict[str, Tensors] = {}

    def on_labels_learned(self, domain: str, count: int) -> None:
        """So many labels more were accepted."""
        if self._labels is not None:
            self._labels[domain] = self._labels.get(domain, 0) + count

    def on_labels_removed(self, domains: Collection[str] = ()) -> None:
        """Labels were taken back: every condition is counted again, and due."""
        self._labels, self._labels_at_choice = None, {}
        self._logistic.reconsider()

    def is_due(self) -> bool:
        """Cheap: by the numbers of labels and by which tensors the heads in use were made from."""
        return bool(self._policy.weighted) and bool(
            self._due() or self._outdated() or self._is_baseless()
        )

    def _due(self) -> list[str]:
        if self._labels is None:
            self._labels = self._journal.count_accepted_by_domain()
        return [
            domain
            for domain, count in self._labels.items()
            if count >= FEWEST and count - self._labels_at_choice.get(domain, 0) > _MORE * count
        ]

    def _is_baseless(self) -> bool:
        """Has a choice outlived the labels that made it?"""
        return self._live.current.head != AS_SHIPPED and not self._live.current.labels

    def _outdated(self) -> list[str]:
        """Conditions whose head does not follow from the live sums any more; the factory's stands
        for the shared head.
        """
        live = self._live.current
        if not self._labels or not live.labels:
            return []
        return [
            domain
            for domain in (SOURCE, *self._chosen)
            if (domain == SOURCE or domain in live.domains)
            and not (domain in live.heads and self._made_from.get(domain) is live.tensors)
        ]

    def run(self) -> None:
        """Make the heads that answer, choose for every condition that is due, and make them of
        that.
        """
        self._make_outdated()
        for domain in self._due():
            if not self._meter.may_start("learn"):
                return  # the next labels, checkpoint or opening ask again
            with self._meter.spending("learn"):
                self._choose(domain)
            self._labels_at_choice[domain] = (self._labels or {}).get(domain, 0)
        if self._is_baseless():
            self._use(AS_SHIPPED, {"labels": 0})
        self._make_outdated()

    def _make_outdated(self) -> None:
        for domain in self._outdated():
            if not self._meter.may_start("head"):  # a kind of its own: no dear choice puts it off
                return
            with self._meter.spending("head"):
                self._make(domain)

    # -- one condition ----------------------------------------------------------------------
    def _choose(self, domain: str) -> None:
        live = self._live.current
        if domain != SOURCE and domain not in live.domains:
            return
        rows = self._rows(domain, live)
        learned = [row for row in rows if row.status == "learned"]
        choosing, seqs = self._choosing(rows), {row.seq for row in learned}
        if len(choosing) < FEWEST:
            return
        count = sum((self._labels or {}).values())
        shared = folds_of(self._program, live, live.tensors, choosing, seqs)
        loss, choice = self._search.best(live, domain, shared, count, field_only=False)
        if domain == SOURCE:
            if choice != live.head:
                detail = {
                    "factory weight": choice.factory_weight,
                    "shrinkage": choice.shrinkage,
                    "temperature": round(choice.temperature, 3),
                    "labels": len(rows),
                }
                self._use(choice, detail)
            return
        own = self._own_sums(live, learned)
        alone = None
        if own is not None:
            folds = folds_of(self._program, live, own, choosing, seqs)
            alone = self._search.best(live, domain, folds, count, field_only=True)
        self._made_from.pop(domain, None)
        if alone is not None and alone[0] < CLEARLY * loss:
            self._chosen[domain] = _Chosen(alone[1], is_alone=True)
        elif choice != live.head:
            self._chosen[domain] = _Chosen(choice, is_alone=False)
        elif self._chosen.pop(domain, None) is not None:
            self._live.publish(
                replace(
                    live, heads={name: head for name, head in live.heads.items() if name != domain}
                )
            )

    def _use(self, choice: HeadChoice, detail: Mapping[str, Any]) -> None:
        """Another way from the sums to the shared head; the sums are as they were."""
        live = self._live.current
        tensors = self._program.derive(live.tensors, choice, live.classes)
        chosen = replace(live, head=choice, tensors=tensors, heads={})
        self._log.record("choose_head", "chosen", detail, with_host_views(self._program, chosen))

    # -- heads that answer ------------------------------------------------------------------
    def _make(self, domain: str) -> None:
        """From the sums of learned labels, from held-out rows, and from a logistic regression of
        both.
        """
        live = self._live.current
        chosen = self._chosen.get(domain, _Chosen(live.head, is_alone=False))
        heads = {name: head for name, head in live.heads.items() if name != domain}
        sums: Tensors | None
        if chosen.is_alone:
            rows = self._rows(domain, live)
            sums = self._own_sums(live, rows)
        else:
            rows = self._newest(live, _ACCEPTED, ROWS)
            for name in live.slots.keys() - {row.label for row in rows}:  # rare ones
                rows = self._newest(live, f"{_ACCEPTED} AND label = ?", FEWEST, name) + rows
            held_out = self._newest(live, "status = 'held_out'", _HELD_OUT)
            sums = self._with(live, live.tensors, held_out) if held_out else live.tensors
        if sums is None:
            del self._chosen[domain]  # its own labels do not suffice any more
        else:
            head = self._program.derive(
                sums, chosen.choice, live.classes, field_only=chosen.is_alone
            )
            factory = [] if chosen.is_alone else self._factory.sets(live)
            answering = self._logistic.beside(head, live, factory, rows, domain)
            heads[domain] = OwnHead(
                Tensors() if domain == SOURCE else head.only(self._written),
                answering.only(self._written),
            )
        self._made_from[domain] = live.tensors
        self._live.publish(replace(live, heads=heads))

    def _newest(
        self, live: LearnerState, where: str, limit: int, *values: str
    ) -> list[EvidenceRow]:
        found = self._journal.evidence(where=where, values=values, limit=limit, newest_first=True)
        return self._counting(found, live)

    @property
    def _written(self) -> list[str]:
        """What follows from the sums that are weighted."""
        return [
            name
            for numeric in self._program.manifest.numerics
            if set(numeric.reads) & set(self._policy.weighted)
            for name in numeric.writes
            if name != "head.mean"
        ]

    def _with(self, live: LearnerState, sums: Tensors, rows: Sequence[EvidenceRow]) -> Tensors:
        domains = list(dict.fromkeys(row.domain for row in rows))
        return add_evidence(
            self._program, sums, rows, live.slots, corrections_now(self._program, domains, live)
        )[0]

    def _rows(self, domain: str, live: LearnerState) -> list[EvidenceRow]:
        found = self._journal.evidence(
            where=f"{_ACCEPTED} AND domain = ?",
            values=(domain,),
            limit=self._policy.judged,
            newest_first=True,
        )
        return self._counting(found, live)

    def _choosing(self, rows: Sequence[EvidenceRow]) -> list[EvidenceRow]:
        """Those that choose: a head needs all of the few labels of a new class to predict it."""
        counts = Counter(row.label for row in rows)
        return [
            row
            for row in rows
            if row.label in self._program.manifest.classes or counts[row.label] >= FEWEST
        ]

    def _counting(
        self, newest_first: Sequence[EvidenceRow], live: LearnerState
    ) -> list[EvidenceRow]:
        return [
            row
            for row in self._usable(newest_first, live)
            if row.weight > 0.0 or row.status == "held_out"
        ]

    @staticmethod
    def _usable(newest_first: Sequence[EvidenceRow], live: LearnerState) -> list[EvidenceRow]:
        """Oldest first, with features and a class."""
        return [
            row for row in reversed(newest_first) if row.has_features and row.label in live.slots
        ]

    def _own_sums(self, live: LearnerState, rows: Sequence[EvidenceRow]) -> Tensors | None:
        """The head's sums of a condition's own labels alone; None if a class has too few."""
        counts = (
            np.unique([live.slots[row.label] for row in rows], return_counts=True)[1]
            if rows
            else np.zeros(1)
        )
        if len(counts) < 2 or counts.min() < _FEWEST_PER_CLASS:
            return None
        zeros = {
            name: np.zeros_like(value)
            for name, value in self._program.runtime.download(
                live.tensors, self._policy.weighted
            ).items()
        }
        empty = self._program.runtime.upload(zeros).over(live.tensors)
        return self._with(live, empty, rows).only(self._policy.weighted).over(live.tensors)


__all__ = ["FEWEST", "HeadChoices"]
