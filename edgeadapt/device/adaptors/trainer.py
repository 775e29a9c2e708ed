"""A condition gets an adaptor: candidates are ranked without training, the best is trained from its
labels by step graphs, judged, recorded, published.

An adaptor is a function of the condition's labelled samples and of the head as it is: it always
starts from its factory values, and a sample that is forgotten leaves with the adaptor it was
trained into. The head is read and never written, so no other condition's answers can move.

The head has learned these very samples and is right on almost all of them, which says nothing of
the next ones. So the samples are cut into folds, and each is judged and trained through a head from
which its own fold was taken back (evidence is additive: one subtraction).
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from edgeadapt.device.adaptors.criteria import (
    AdaptorEligibility,
    halves_apart,
    ineligibility_reason,
    rejection_reason,
)
from edgeadapt.device.adaptors.scores import Candidate
from edgeadapt.device.adaptors.search import Ranked, choose
from edgeadapt.device.commits.commit_log import CommitLog
from edgeadapt.device.commits.evidence_sums import add_evidence, corrections_now
from edgeadapt.device.commits.guard import judge
from edgeadapt.device.commits.holdout import Split
from edgeadapt.device.commits.serialization import domain_arrays
from edgeadapt.device.coreset import DEFAULT, Samples
from edgeadapt.device.coreset import choose as select
from edgeadapt.device.detection.domain_router import RoutingProjection
from edgeadapt.device.detection.policy import Kept
from edgeadapt.device.inference.adaptor_family import Adaptors
from edgeadapt.device.inference.state import Domain, LearnerState
from edgeadapt.device.numerics.softmax import tempered_softmax
from edgeadapt.device.resources.budget import Meter
from edgeadapt.device.resources.worker import Worker
from edgeadapt.device.storage.features import rows_to_arrays
from edgeadapt.device.storage.rows import EvidenceRow
from edgeadapt.runtime import Tensors

F32 = NDArray[np.float32]
_FOLDS = 4


@dataclass(frozen=True, eq=False)
class AdaptorTrainingSet:
    """What an adaptor is trained on.

    Attributes:
        z, taps: as they are stored.
        embedding: z as the condition's own correction leaves it.
        logits: what a head says of them that has not learned their fold.
        heads: the condition's tensors with that head, by fold.
    """

    z: F32
    taps: F32
    y: NDArray[np.int64]
    weight: F32
    embedding: F32
    logits: F32
    fold: NDArray[np.int64]
    heads: tuple[Tensors, ...]

    def __len__(self) -> int:
        return len(self.y)


class AdaptorTrainer:
    """Runs on the worker."""

    def __init__(
        self, log: CommitLog, meter: Meter, worker: Worker, selection: Kept = "oldest"
    ) -> None:
        self._selector = "adaptive" if selection == "adaptive" else DEFAULT
        self._log, self._meter, self._worker = log, meter, worker
        self._program, self._journal, self._live = log.program, log.journal, log.live
        self._adaptors: Adaptors = self._program.adaptors
        self._policy = self._program.manifest.policy.growth
        self._projection = RoutingProjection(self._program) if self._adaptors else None
        self._considered: dict[str, int] = {}  # condition -> labels when it was last considered
        self._labels: dict[str, int] | None = None  # condition -> learned labels

    def on_labels_learned(self, domain: str, count: int) -> None:
        """So many labels more were learned."""
        if self._labels is not None:
            self._labels[domain] = self._labels.get(domain, 0) + count

    def on_labels_removed(self, domains: Iterable[str]) -> None:
        """Labels of these conditions were taken back or changed: consider them whatever their
        number.
        """
        self._labels = None
        for domain in domains:
            self._considered[domain] = 0

    def on_rollback(self) -> None:
        """What is there now was considered, so that it is not trained again just after it was taken
        away.
        """
        if self._adaptors:
            self._labels = self._journal.count_learned_by_domain()
            self._considered = dict(self._labels)

    def is_due(self) -> bool:
        """Cheap: by the numbers of labels alone."""
        return bool(self._adaptors) and bool(self._due())

    def _due(self) -> list[Domain]:
        if self._labels is None:
            self._labels = self._journal.count_learned_by_domain()
            self._considered = self._journal.labels_at_growth() | self._considered
        conditions = [d for d in self._live.current.domains.values() if d.kind == "condition"]
        return [
            d for d in conditions if self._has_enough_labels(d.name, self._labels.get(d.name, 0))
        ]

    @property
    def _rests(self) -> bool:
        """A pause is met between two commits, not at the end of a thousand."""
        return self._live.is_frozen or self._worker.is_paused

    def run(self) -> None:
        """Train, or train anew, an adaptor of every condition that is due."""
        for domain in self._due() if self._adaptors else ():
            if self._rests or not self._meter.may_start("grow"):
                return  # the next labels, checkpoint or opening ask again
            with self._meter.spending("grow"):
                self._consider(domain)

    def _has_enough_labels(self, name: str, labels: int) -> bool:
        return (
            labels >= self._policy.fewest_labels
            and labels >= self._policy.again * self._considered.get(name, 0)
        )

    def _consider(self, domain: Domain) -> None:
        live = self._live.current
        rows = [
            row
            for row in self._journal.evidence(
                where="status = 'learned' AND domain = ?", values=(domain.name,)
            )
            if row.has_features and row.label in live.slots
        ]
        eligibility = self._eligibility(domain, rows, live)
        # as they were counted now
        self.on_labels_learned(
            domain.name, eligibility.labels - (self._labels or {}).get(domain.name, 0)
        )
        if not self._has_enough_labels(domain.name, eligibility.labels):
            return
        if not ineligibility_reason(eligibility, self._policy):
            self.train(domain, rows)
        self._considered[domain.name] = eligibility.labels

    def _eligibility(
        self, domain: Domain, rows: Sequence[EvidenceRow], live: LearnerState
    ) -> AdaptorEligibility:
        met = sorted(rows, key=lambda row: (row.time, row.seq))
        gap = float("inf")
        if met and self._projection is not None:
            z, taps, y, _, _ = rows_to_arrays(met, live.slots, self._program.manifest.feature_dim)
            read = self._program.forward_head(z, taps, live.tensors)
            gap = halves_apart(
                self._projection.of(read.residual, read.logits.argmax(axis=1), live),
                y,
                len(live.classes),
            )
        considered = self._considered.get(domain.name, 0)
        return AdaptorEligibility(
            domain.kind, len(rows), len({row.label for row in rows}), considered, gap
        )

    # -- training ----------------------------------------------------------------------------------
    def train(self, domain: Domain, rows: Sequence[EvidenceRow]) -> None:
        """Find a candidate, train it, keep it if it is good."""
        live = self._live.current
        without = replace(domain, tensors=self._adaptors.without(domain.tensors))
        data = self._training_set(without, rows, live)
        best = next((ranked for ranked in self._search(data) if ranked.name and ranked.fits), None)
        if best is None:
            return
        detail = {
            "domain": domain.name,
            "labels": len(rows),
            "adaptor": best.name,
            "why": best.reason,
        }
        before, after = self._cross_validated(best.name, data)
        marks: dict[str, object] = {
            "cross-validated accuracy": [
                round(float(before.mean()), 3),
                round(float(after.mean()), 3),
            ]
        }
        problem = rejection_reason(
            before, after, self._policy.margin, has_one=bool(self._adaptors.held_in(domain.tensors))
        )
        if not problem:
            trained = replace(domain, tensors=self._train(best.name, data).over(without.tensors))
            sets = self._log.held_out.sets(live.slots, (domain.name,), Split())
            verdict = judge(
                self._program,
                live.with_domain(without),
                live.with_domain(trained),
                sets,
                self._program.manifest.policy.guard,
            )
            marks |= {
                f"accuracy on {name}": [round(old, 3), round(new, 3)]
                for name, old, new in verdict.accuracy
            }
            problem = verdict.why
        if not problem:
            self._record("grown", detail | marks, trained, live)
        # what is there was trained on fewer labels, or on some that are gone
        elif self._adaptors.held_in(domain.tensors):
            self._record("shed", {**detail, **marks, "why": problem}, without, live)
        else:
            self._log.record("grow", "vetoed", {**detail, **marks, "why": problem}, live)

    def _cross_validated(
        self, name: str, data: AdaptorTrainingSet
    ) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
        """Right answers on samples that neither head nor adaptor has seen: without the adaptor, and
        with it trained on the other folds.
        """
        right = np.zeros(len(data), bool)
        for number in range(_FOLDS):
            own = np.flatnonzero(data.fold == number)
            if len(own):
                trained = self._train(name, data, but=number)
                read = self._program.forward_head(
                    data.z[own], data.taps[own], trained.over(data.heads[number])
                )
                right[own] = read.logits.argmax(axis=1) == data.y[own]
        return data.logits.argmax(axis=1) == data.y, right

    def _record(
        self, outcome: str, detail: dict[str, object], domain: Domain, live: LearnerState
    ) -> None:
        saved = replace(domain, saved=domain.tensors)
        self._log.record(
            "grow",
            outcome,
            detail,
            live.with_domain(saved),
            tensors=domain_arrays(self._program, saved),
        )

    def _training_set(
        self, without: Domain, rows: Sequence[EvidenceRow], live: LearnerState
    ) -> AdaptorTrainingSet:
        """The samples worth training on, at most as many as the policy says, in folds of equal
        class mix.
        """
        z, taps, y, weight, _ = rows_to_arrays(rows, live.slots, self._program.manifest.feature_dim)
        # 0: only the adaptor learns them
        weight = np.where(
            weight > 0.0, weight, np.float32(self._program.manifest.policy.learn.field_weight)
        )
        if len(rows) > self._policy.samples:
            read = self._program.forward_head(z, taps, without.tensors.over(live.tensors))
            kept = select(
                self._selector,
                Samples(read.embedding, y, tempered_softmax(read.logits, self._temperature)),
                self._policy.samples,
                seed=0,
            ).tolist()
            rows = [rows[i] for i in kept]
            z = z[kept]
            taps = taps[kept]
            y = y[kept]
            weight = weight[kept]
        fold = np.empty(len(y), np.int64)
        fold[np.argsort(y, kind="stable")] = np.arange(len(y)) % _FOLDS
        corrections = corrections_now(self._program, [without.name], live)
        logits = np.zeros((len(y), len(live.classes)), np.float32)
        embedding = np.zeros_like(z)
        heads = []
        for number in range(_FOLDS):
            own = np.flatnonzero(fold == number)
            taken, _ = add_evidence(
                self._program,
                live.tensors,
                [rows[i] for i in own.tolist()],
                live.slots,
                corrections,
                sign=-1.0,
            )
            heads.append(without.tensors.over(self._program.derive(taken, live.head, live.classes)))
            read = self._program.forward_head(z[own], taps[own], heads[-1])
            logits[own], embedding[own] = read.logits, read.embedding
        return AdaptorTrainingSet(z, taps, y, weight, embedding, logits, fold, tuple(heads))

    @property
    def _temperature(self) -> float:
        return self._program.manifest.policy.learn.temperature

    def _search(self, data: AdaptorTrainingSet) -> list[Ranked]:
        candidates = []
        head = (
            self._program.runtime.download(self._live.current.tensors, ["head.weight"])
            if "head.weight" in self._live.current.tensors
            else {}
        )
        for name, spec in self._adaptors.candidates.items():
            hidden = self._adaptors.probe(name, data.embedding)  # loads the graph
            started = time.perf_counter()
            self._adaptors.probe(name, data.embedding)
            latency_ms = 1000 * (time.perf_counter() - started) / len(data)
            weight = head.get("head.weight")
            is_seen_through = (
                spec.per_column and weight is not None and len(weight) == hidden.shape[1] + 1
            )
            candidates.append(
                Candidate(
                    name,
                    hidden,
                    self._adaptors.nbytes(name),
                    latency_ms,
                    weight[:-1] if weight is not None and is_seen_through else None,
                )
            )
        return choose(
            candidates,
            data.logits,
            data.y,
            budget_bytes=int(1024 * self._policy.adaptor_kib),
            latency_ms=self._policy.adaptor_ms,
            score=self._policy.score,
            scale=1.0 / self._temperature,
        )

    def _train(self, name: str, data: AdaptorTrainingSet, but: int | None = None) -> Tensors:
        """Steps over the folds in turn, rows drawn in the same order every time; what predictions
        read of the result.
        """
        spec = self._adaptors.candidates[name]
        own, rng = self._adaptors.fresh(name), np.random.default_rng(0)
        members = {
            number: np.flatnonzero(data.fold == number) for number in range(_FOLDS) if number != but
        }
        turns = [number for number, rows in members.items() if len(rows)]
        for step in range(spec.steps):
            number = turns[step % len(turns)]
            rows = rng.choice(members[number], min(spec.batch, len(members[number])), replace=False)
            _, written = self._adaptors.fit(
                name,
                own.over(data.heads[number]),
                data.embedding[rows],
                data.y[rows],
                data.weight[rows],
                spec.learning_rate,
            )
            own = written.over(own)
        return own.only(self._adaptors.names(name))


__all__ = ["AdaptorTrainer", "AdaptorTrainingSet"]
