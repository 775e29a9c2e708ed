"""How much the factory counts against field labels, and how strongly a head is shrunk: chosen by
labels that it did not learn.

For a choice (a, s) the head is derived from  a x factory's sums + field's sums  at s times the
bundle's shrinkage::

    loss(a, s) = L_field + (|log a| + |log s|) / (4 n)
    L          = min_T  -mean log softmax(logits / T)[y]

L_field is over the newest n <= 256 accepted labels of a condition: those that teach are judged by
heads from which their fifth was taken back, those that were held out by all. The weight is chosen
first, at the shrinkage that is in use, then the shrinkage, and then the temperature, so that the
head is as sure of the field's labels as it is right. For the shared head the choice must also be
better on the field's labels and m = 25 labels of the factory together, as if its samples had not
been learned: few labels, or labels of one class, do not throw the factory's away.

A condition with labels of its own is judged apart. Where its own choice is better than the shared
one, from all field labels or from its own alone, it gets a head of its own: derived tensors that
lie over the shared ones while the stream is there. They follow from rows that are stored anyway,
are made again after an opening, and hold nothing that a row does not.

A fifth of the labels is held out, to judge. They judge heads that have not learned them; the heads
that answer learn them as well, a moment later (``LearnerState.heads``).

Source: discounting old data by a power of its likelihood is the power prior (Ibrahim and Chen,
Stat. Sci. 2000); its power is chosen here by cross-validation. That the factory's loss must bear
the choice is ours.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from math import log
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgeadapt.device.commits.commit_log import CommitLog
from edgeadapt.device.commits.cross_fitting import Fold, cross_fitted, folds_of
from edgeadapt.device.commits.evidence_sums import apply_rows, corrections_now, finish
from edgeadapt.device.commits.factory_samples import FactorySamples
from edgeadapt.device.commits.logistic_head import ROWS, LogisticHead
from edgeadapt.device.inference.state import AS_SHIPPED, SOURCE, HeadChoice, LearnerState, OwnHead
from edgeadapt.device.resources.budget import Meter
from edgeadapt.device.storage.rows import EvidenceRow
from edgeadapt.runtime import Tensors

F32 = NDArray[np.float32]
I64 = NDArray[np.int64]
FEWEST = 4
"""Labels of a condition from which on they choose."""
_FACTORY_LABELS = 25.0  # m
_GROWN = 1 / 32  # share by which the labels of a condition change before it is looked at again
_MODESTY = 0.25
"""Nats that a choice e times the bundle's must win over all labels: few choose nothing far off."""
_CLEARLY = 0.98  # of the loss: what another choice must reach to take over
_SAME = 0.7  # temperatures of this ratio are one
_TEMPERATURES = np.geomspace(0.01, 100.0, 25)
_HELD_OUT = 512  # of the newest labels that are held out are learned by heads that answer
_ACCEPTED = "status IN ('learned', 'held_out')"
_FEWEST_PER_CLASS = (
    2  # of a condition's own labels, in every class that it answers, for a head of them alone
)


def log_losses(logits: F32, y: I64) -> NDArray[np.float64]:
    """(T,) mean log loss (N, K), (N,) at every temperature of the ladder; in nats."""
    shifted = (logits - logits.max(axis=1, keepdims=True)).astype(np.float64)
    right = shifted[np.arange(len(y)), y]
    return np.array(
        [np.mean(np.log(np.exp(shifted / t).sum(axis=1)) - right / t) for t in _TEMPERATURES]
    )


def log_loss(logits: F32, y: I64) -> float:
    """The least of them."""
    return float(log_losses(logits, y).min())


@dataclass(frozen=True)
class _Chosen:
    """What a condition's head follows from: its choice, and whether its own labels alone."""

    choice: HeadChoice
    is_alone: bool


class HeadChoices:
    """Runs on the worker."""

    def __init__(
        self,
        log: CommitLog,
        factory: FactorySamples,
        meter: Meter,
    ) -> None:
        self._log, self._factory, self._meter = log, factory, meter
        self._program, self._journal, self._live = log.program, log.journal, log.live
        self._policy = self._program.manifest.policy.learn
        self._logistic = LogisticHead(self._program)
        self._looked: dict[str, int] = {}  # condition -> labels when it was last looked at
        self._labels: dict[str, int] | None = (
            None  # condition -> accepted labels; None: to be counted
        )
        self._chosen: dict[str, _Chosen] = {}  # condition -> what its own head follows from
        self._made_from: dict[
            str, Tensors
        ] = {}  # condition -> the live tensors that its head was made from

    def on_labels_learned(self, domain: str, count: int) -> None:
        """So many labels more were accepted."""
        if self._labels is not None:
            self._labels[domain] = self._labels.get(domain, 0) + count

    def on_labels_removed(self, domains: Collection[str] = ()) -> None:
        """Labels were taken back: every condition is counted and looked at again."""
        self._labels, self._looked = None, {}
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
            if count >= FEWEST and count - self._looked.get(domain, 0) > _GROWN * count
        ]

    def _is_baseless(self) -> bool:
        """Has a choice outlived the labels that made it?"""
        return self._live.current.head != AS_SHIPPED and not self._live.current.labels

    def _outdated(self) -> list[str]:
        """Conditions whose head does not follow from the live sums any more; the factory's stands
        for the shared head."""
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
            self._looked[domain] = (self._labels or {}).get(domain, 0)
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
        choosing, taught = (
            self._choosing(rows),
            {row.seq for row in rows if row.status == "learned"},
        )
        if len(choosing) < FEWEST:
            return
        shared = folds_of(self._program, live, live.tensors, choosing, taught)
        loss, choice = self._best(live, domain, shared, field_only=False)
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
        own = self._own_sums(live, [row for row in rows if row.status == "learned"])
        alone = None
        if own is not None:
            alone = self._best(
                live, domain, folds_of(self._program, live, own, choosing, taught), field_only=True
            )
        self._made_from.pop(domain, None)
        if alone is not None and alone[0] < _CLEARLY * loss:
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
        self._log.record("choose_head", "chosen", detail, finish(self._program, chosen))

    # -- heads that answer ------------------------------------------------------------------
    def _make(self, domain: str) -> None:
        """From the sums of what teaches, from the rows that are held out, and from a logistic
        regression of both."""
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
        return apply_rows(
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
        """Those that choose: a head without one of the few labels of a new class cannot answer
        it."""
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

    def _best(
        self, live: LearnerState, domain: str, folds: Sequence[Fold], *, field_only: bool
    ) -> tuple[float, HeadChoice]:
        """(loss, choice): the weight first, then the shrinkage; what is in use stays unless another
        is clearly better."""

        judged: dict[HeadChoice, tuple[F32, I64]] = {}

        def loss_of(choice: HeadChoice) -> float:
            logits, y = judged[choice] = self._judged(live, domain, folds, choice, field_only)
            modesty = _MODESTY * (abs(log(choice.factory_weight)) + abs(log(choice.shrinkage)))
            return log_loss(logits, y) + modesty / len(y)

        used = (loss_of(live.head), live.head)
        weighed = climbed(used, "factory_weight", self._policy.factory_weights, loss_of)
        found = climbed(weighed, "shrinkage", self._policy.shrinkages, loss_of)
        if domain == SOURCE:
            found = self._better_for_both(live, used, [found, weighed])
        return found[0], self._calibrated(found[1], *judged[found[1]])

    def _better_for_both(
        self,
        live: LearnerState,
        used: tuple[float, HeadChoice],
        better: Sequence[tuple[float, HeadChoice]],
    ) -> tuple[float, HeadChoice]:
        """The first choice that is better for the field's labels and the factory's samples
        together; else the one in use."""
        factory, labels = self._factory.sets(live), sum((self._labels or {}).values())

        def together(field: float, choice: HeadChoice) -> float:
            head = replace(
                live, tensors=self._program.derive(live.tensors, choice, live.classes), head=choice
            )
            home = [
                log_loss(
                    known.logits(self._program, head)[:, known.slots],
                    np.searchsorted(known.slots, known.y),
                )
                for known in factory
                if known.slots is not None
            ]
            return (labels * field + _FACTORY_LABELS * float(np.mean(home))) / (
                labels + _FACTORY_LABELS
            )

        if not factory or better[0][1] == used[1]:
            return better[0]
        limit = _CLEARLY * together(*used)
        return next(
            (
                found
                for found in dict.fromkeys(better)
                if found[1] != used[1] and together(*found) < limit
            ),
            used,
        )

    def _calibrated(self, choice: HeadChoice, logits: F32, y: I64) -> HeadChoice:
        """The choice with the temperature that makes these logits (N, K) as sure as they are right
        (N,), if it is another than the one in use."""
        ratio = _TEMPERATURES / self._policy.temperature
        fitted = float(
            ratio[
                np.argmin(
                    len(y) * log_losses(logits, y)
                    + _MODESTY * np.abs(np.log(ratio * choice.temperature))
                )
            ]
        )
        return (
            choice
            if _SAME < fitted < 1 / _SAME
            else replace(choice, temperature=choice.temperature * fitted)
        )

    def _judged(
        self,
        live: LearnerState,
        domain: str,
        folds: Sequence[Fold],
        choice: HeadChoice,
        field_only: bool,
    ) -> tuple[F32, I64]:
        below = live.domains[domain].tensors if domain in live.domains else Tensors()
        return cross_fitted(
            self._program,
            folds,
            lambda sums: self._program.derive(sums, choice, live.classes, field_only=field_only),
            below,
        )


def climbed(
    best: tuple[float, HeadChoice],
    name: str,
    ladder: Sequence[float],
    loss_of: Callable[[HeadChoice], float],
) -> tuple[float, HeadChoice]:
    """Down the ladder, or else up, as long as every rung is clearly better than the one before."""
    used: float = getattr(best[1], name)
    rungs = sorted({*ladder, used})
    for step in (-1, 1):
        at, found = rungs.index(used) + step, best
        while 0 <= at < len(rungs):
            choice = replace(best[1], **{name: rungs[at]})
            loss = loss_of(choice)
            if loss >= _CLEARLY * found[0]:
                break
            at, found = at + step, (loss, choice)
        if found is not best:
            return found
    return best


__all__ = ["FEWEST", "HeadChoices", "climbed", "log_loss"]
