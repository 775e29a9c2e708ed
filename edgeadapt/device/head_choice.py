"""How much the factory counts against field labels, and how strongly a head is shrunk: chosen by labels that it did not learn.

For a choice (a, s) the head is derived from  a x factory's sums + field's sums  at s times the bundle's shrinkage::

    loss(a, s) = (n L_field + m L_factory + (|log a| + |log s|) / 2) / (n + m)
    L          = min_T  -mean log softmax(logits / T)[y]

L_field is over the newest n <= 256 accepted labels of a condition: those that teach are judged by heads
from which their fifth was taken back, those that were held out by all. L_factory is over the bundle's own
samples, as if they had not been learned; m = 25 labels, so that few labels from the field do not throw
the factory's away. The weight is chosen first, at the shrinkage that is in use, and then the shrinkage.

A condition with labels of its own is judged apart. Where its own choice is better than the shared one,
from all field labels or from its own alone, it gets a head of its own: derived tensors that lie over the
shared ones while the stream is there. They follow from rows that are stored anyway, are made again after
an opening, and hold nothing that a row does not.

Source: discounting old data by a power of its likelihood is the power prior (Ibrahim and Chen, Stat. Sci.
2000); its power is chosen here by cross-validation. The fold-in of the factory's loss is ours.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from math import log

import numpy as np
from numpy.typing import NDArray

from edgeadapt.device.budget import Meter
from edgeadapt.device.cross_fit import Fold, cross_fitted, folds_of
from edgeadapt.device.guard import GuardSet
from edgeadapt.device.journal_rows import EvidenceRow
from edgeadapt.device.memory import SOURCE, HeadChoice, Memory
from edgeadapt.device.resume import apply_rows, corrections_now
from edgeadapt.device.transaction import Transactions
from edgeadapt.runtime import Tensors

F32 = NDArray[np.float32]
I64 = NDArray[np.int64]
FEWEST = 8
"""Labels of a condition from which on they choose."""
_FACTORY_LABELS = 25.0  # m
_GROWN = 1 / 32  # share by which the labels of a condition change before it is looked at again
_MODESTY = 0.5  # nats that a choice e times the bundle's must win over all labels: few of them choose nothing far off
_CLEARLY = 0.98  # of the loss: what another choice must reach to take over
_TEMPERATURES = np.geomspace(0.01, 100.0, 25)
_FEWEST_PER_CLASS = 2  # of a condition's own labels, in every class that it answers, for a head of them alone


def log_loss(logits: F32, y: I64) -> float:
    """Least mean log loss (N, K), (N,) over temperatures; in nats."""
    shifted = (logits - logits.max(axis=1, keepdims=True)).astype(np.float64)
    right = shifted[np.arange(len(y)), y]
    return float(min(np.mean(np.log(np.exp(shifted / t).sum(axis=1)) - right / t) for t in _TEMPERATURES))


class HeadChoices:
    """Runs on the worker."""

    def __init__(self, transactions: Transactions, meter: Meter, live: Callable[[], Memory], publish: Callable[[Memory], None]) -> None:
        self._transactions, self._program, self._journal = transactions, transactions.program, transactions.journal
        self._meter, self._live, self._publish = meter, live, publish
        self._policy = self._program.manifest.policy.learn
        self._looked: dict[str, int] = {}  # condition -> labels when it was last looked at
        self._labels: dict[str, int] | None = None  # condition -> accepted labels; None: to be counted

    def taught(self, domain: str, count: int) -> None:
        """So many labels more were accepted."""
        if self._labels is not None:
            self._labels[domain] = self._labels.get(domain, 0) + count

    def reconsider(self) -> None:
        """Labels were taken back: every condition is counted and looked at again."""
        self._labels, self._looked = None, {}

    def is_due(self) -> bool:
        """Cheap: by the numbers of labels alone."""
        return bool(self._policy.weighted) and bool(self._due())

    def _due(self) -> list[str]:
        if self._labels is None:
            self._labels = self._journal.count_accepted_by_domain()
        return [domain for domain, count in self._labels.items() if count >= FEWEST and count - self._looked.get(domain, 0) > _GROWN * count]

    def run(self) -> None:
        """Choose for every condition that is due; the factory's condition stands for the shared head."""
        for domain in self._due():
            if not self._meter.may_start("learn"):
                return  # the next labels, checkpoint or opening ask again
            with self._meter.spending("learn"):
                self._choose(domain)
            self._looked[domain] = (self._labels or {}).get(domain, 0)

    # -- one condition --------------------------------------------------------------------------------
    def _choose(self, domain: str) -> None:
        live = self._live()
        if domain != SOURCE and domain not in live.domains:
            return
        rows = self._rows(domain, live)
        if len(rows) < FEWEST:
            return
        taught = {row.seq for row in rows if row.status == "learned"}
        shared = folds_of(self._program, live, live.tensors, rows, taught)
        factory = self._transactions.factory_sets(live)
        loss, choice = self._best(live, domain, shared, factory, field_only=False)
        if domain == SOURCE:
            if choice != live.head:
                tensors = self._program.derive(live.tensors, choice, live.classes)
                detail = {"factory weight": choice.factory_weight, "shrinkage": choice.shrinkage, "labels": len(rows)}
                self._transactions.choose_head(choice, tensors, detail)
            return
        own = self._own_sums(live, rows)
        if own is not None:
            alone = self._best(live, domain, folds_of(self._program, live, own, rows, taught), factory, field_only=True)
            if alone[0] < _CLEARLY * loss:
                self._lay_over(live, domain, self._program.derive(own, alone[1], live.classes, field_only=True))
                return
        heads = {name: head for name, head in live.heads.items() if name != domain}
        if choice == live.head:
            self._publish(replace(live, heads=heads))
            return
        self._lay_over(live, domain, self._program.derive(live.tensors, choice, live.classes))

    def _lay_over(self, live: Memory, domain: str, derived: Tensors) -> None:
        weighted = self._policy.weighted
        names = [name for numeric in self._program.manifest.numerics if set(numeric.reads) & set(weighted) for name in numeric.writes]
        self._publish(replace(live, heads={**live.heads, domain: derived.only([n for n in names if n != "head.mean"])}))

    def _rows(self, domain: str, live: Memory) -> list[EvidenceRow]:
        found = self._journal.evidence(where="status IN ('learned', 'held_out') AND domain = ?", values=(domain,), limit=self._policy.judged, newest_first=True)
        return [row for row in reversed(found) if row.has_features and row.label in live.slots and (row.weight > 0.0 or row.status == "held_out")]

    def _own_sums(self, live: Memory, rows: Sequence[EvidenceRow]) -> Tensors | None:
        """The head's sums of a condition's own labels alone; None if a class that they name has too few of them."""
        taught = [row for row in rows if row.status == "learned"]
        counts = np.unique([live.slots[row.label] for row in taught], return_counts=True)[1] if taught else np.zeros(1)
        if len(counts) < 2 or counts.min() < _FEWEST_PER_CLASS:
            return None
        zeros = {name: np.zeros_like(value) for name, value in self._program.runtime.download(live.tensors, self._policy.weighted).items()}
        empty = self._program.runtime.upload(zeros).over(live.tensors)
        domains = list(dict.fromkeys(row.domain for row in taught))
        sums = apply_rows(self._program, empty, taught, live.slots, corrections_now(self._program, domains, live))[0]
        return sums.only(self._policy.weighted).over(live.tensors)

    def _best(self, live: Memory, domain: str, folds: Sequence[Fold], factory: Sequence[GuardSet], *, field_only: bool) -> tuple[float, HeadChoice]:
        """(loss, choice): the weight first, then the shrinkage; what is in use stays unless another is clearly better."""

        def loss_of(choice: HeadChoice) -> float:
            return self._loss(live, domain, folds, factory, choice, field_only)

        best = (loss_of(live.head), live.head)
        best = climbed(best, "factory_weight", self._policy.factory_weights, loss_of)
        return climbed(best, "shrinkage", self._policy.shrinkages, loss_of)

    def _loss(self, live: Memory, domain: str, folds: Sequence[Fold], factory: Sequence[GuardSet], choice: HeadChoice, field_only: bool) -> float:
        below = live.domains[domain].tensors if domain in live.domains else Tensors()
        logits, y = cross_fitted(self._program, folds, lambda sums: self._program.derive(sums, choice, live.classes, field_only=field_only), below)
        modesty = _MODESTY * (abs(log(choice.factory_weight)) + abs(log(choice.shrinkage))) / len(y)
        field = log_loss(logits, y) + modesty
        if not factory or domain != SOURCE:
            return field
        tensors = self._program.derive(live.tensors, choice, live.classes, field_only=field_only)
        shared = replace(live, tensors=tensors, head=choice)
        home = float(np.mean([log_loss(known.logits(self._program, shared)[:, known.slots], np.searchsorted(known.slots, known.y)) for known in factory if known.slots is not None]))
        return (len(y) * field + _FACTORY_LABELS * home) / (len(y) + _FACTORY_LABELS)


def climbed(best: tuple[float, HeadChoice], name: str, ladder: Sequence[float], loss_of: Callable[[HeadChoice], float]) -> tuple[float, HeadChoice]:
    """Down the ladder, or else up, for as long as every rung is clearly better than the one before."""
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
