"""One immutable value: everything that a prediction depends on and a checkpoint keeps.

The learner owns one reference to a ``LearnerState``; publishing a change is one assignment, rolling
back is keeping an old one.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from edgeadapt.errors import CapacityError
from edgeadapt.runtime import Executable, Tensors

SOURCE = "source"
"""The factory condition: no correction."""

_NOISE = 0.25  # squared length per column by which windows of one condition differ
_TABLED = ("name", "kind", "answers_known", "answers_new")  # of a condition, in a commit's tables
DomainKind = Literal["provisional", "condition", "novelty"]


@dataclass(frozen=True, eq=False)
class DomainPrototypes:
    """Class prototypes of a condition under the factory encoder, by predicted class: sums (K, S) of
    projected samples (``RoutingProjection``) and counts (K,).
    """

    sums: NDArray[np.float64]
    counts: NDArray[np.float64]

    @classmethod
    def empty(cls, slots: int, width: int) -> DomainPrototypes:
        return cls(np.zeros((slots, width)), np.zeros(slots))

    def extended(self, projected: NDArray[Any], slots: NDArray[np.int64]) -> DomainPrototypes:
        """One window more: projected samples (W, S) and their predicted class slots."""
        sums, counts = self.sums.copy(), self.counts.copy()
        np.add.at(sums, slots, projected)
        np.add.at(counts, slots, 1.0)
        return DomainPrototypes(sums, counts)

    def faded(self, share: float) -> DomainPrototypes:
        """The same means with ``share`` of their weight: a condition that drifts is where it was
        last.
        """
        return DomainPrototypes(share * self.sums, share * self.counts)

    def apart(self, other: DomainPrototypes, fewest: float = 4.0) -> float:
        """Mean relative squared distance between the class means that both know from at least
        ``fewest`` samples; inf if they share none.
        """
        shared = (self.counts >= fewest) & (other.counts >= fewest)
        if not shared.any():
            return float("inf")
        a = self.sums[shared] / self.counts[shared, None]
        b = other.sums[shared] / other.counts[shared, None]
        scale = np.sqrt((a * a).sum(axis=1) * (b * b).sum(axis=1))
        return float(np.mean(((a - b) ** 2).sum(axis=1) / np.maximum(scale, 1e-12)))

    def share_met(self, slots: NDArray[np.int64], fewest: float = 4.0) -> float:
        """Share of samples of these class slots whose class was met here at least ``fewest``
        times.
        """
        return float((self.counts[slots] >= fewest).mean())

    def distance(self, projected: NDArray[Any], slots: NDArray[np.int64]) -> float:
        """Relative squared distance (|w - m|^2 - S / 4) / (|w| |m|) between the mean of a window
        ``projected`` (W, S) and this condition at the same class mix; not below 0.

        At the same mix a window of one class is comparable with a condition of many classes. A
        class that was not met yet has the condition's overall mean. S / 4 is about what two windows
        of one condition differ by (measured: S / 12 to S / 4): noise alone does not separate
        conditions near the threshold, whose |m| is small.
        """
        total = self.counts.sum()
        if total == 0:
            return float("inf")
        overall = self.sums.sum(axis=0) / total
        means = (self.sums + 2.0 * overall) / (self.counts + 2.0)[:, None]
        mix = np.bincount(slots, minlength=len(self.counts)) / len(slots)
        expected, met = mix @ means, projected.mean(axis=0)
        scale = float(np.sqrt((expected @ expected) * (met @ met)))
        gap = met - expected
        return max(0.0, float(gap @ gap) - _NOISE * len(gap)) / max(scale, 1e-12)


@dataclass(frozen=True, eq=False)
class Domain:
    """A condition the stream was in: its correction, and how to find it again.

    ``provisional`` until answers say whether it is a *condition* or new classes (*novelty*, which
    corrects nothing). ``saved`` are the tensors of the last checkpoint, None before the first;
    ``tensors`` may be newer for the length of the session.
    """

    name: str
    kind: DomainKind
    prototypes: DomainPrototypes
    tensors: Tensors = field(default_factory=Tensors)
    saved: Tensors | None = None
    encode: Executable | None = None
    answers_known: int = 0
    answers_new: int = 0
    refreshes: int = 0
    used_at: int = 0  # for least-recently-used retirement


@dataclass(frozen=True)
class HeadChoice:
    """How a head follows from its sums: what held-out labels chose (``head_search.py``).

    Attributes:
        factory_weight: how much the factory's share of the sums counts; 1 is ``factory_count``
            labels a class.
        shrinkage: times the bundle's own.
        temperature: that logits are divided by, so that the bundle's own temperature fits them
            again.
    """

    factory_weight: float = 1.0
    shrinkage: float = 1.0
    temperature: float = 1.0


AS_SHIPPED = HeadChoice()


@dataclass(frozen=True, eq=False)
class OwnHead:
    """Derived tensors of a condition's own head, never stored: ``judged`` evaluates labels there,
    ``answering`` predicts.

    The factory's condition stands for the shared head, which evaluates by the global tensors.
    """

    judged: Tensors
    answering: Tensors


@dataclass(frozen=True, eq=False)
class LearnerState:
    """Tensors, class table, domain table, counters. ``view`` holds small host copies that decisions
    read.

    ``heads`` lie over ``tensors``: the shared head once it has learned what is held out, under the
    name of the factory's condition, and heads of conditions that have a choice of their own.
    """

    commit: int
    tensors: Tensors
    classes: tuple[str | None, ...]  # by slot
    domains: Mapping[str, Domain]
    labels: int = 0  # field labels that count, held-out ones included
    domain_serial: int = 0
    head: HeadChoice = AS_SHIPPED
    heads: Mapping[str, OwnHead] = field(default_factory=dict)
    class_counts: NDArray[np.float32] = field(default_factory=lambda: np.zeros(0, np.float32))
    # (K, R) class means that residuals are measured from
    class_means: NDArray[np.float32] = field(default_factory=lambda: np.zeros((0, 0), np.float32))
    # unit class means of active classes
    prototypes: NDArray[np.float32] = field(default_factory=lambda: np.zeros((0, 0), np.float32))

    @cached_property
    def slots(self) -> dict[str, int]:
        """Class -> slot. Read it, do not change it."""
        return {name: slot for slot, name in enumerate(self.classes) if name is not None}

    def tensors_in(self, domain: str) -> Tensors:
        """What answers: :meth:`judged_in` under the domain's own head, or else the shared one."""
        own = self.heads.get(domain) or self.heads.get(SOURCE)
        return self.judged_in(domain) if own is None else own.answering.over(self.judged_in(domain))

    def judged_in(self, domain: str) -> Tensors:
        """The global tensors with a domain's laid over them, and its own head if it has one. No
        held-out label was learned into the global ones.
        """
        found = self.domains.get(domain)
        tensors = self.tensors if found is None else found.tensors.over(self.tensors)
        return self.heads[domain].judged.over(tensors) if domain in self.heads else tensors

    def encoder_in(self, domain: str) -> Executable | None:
        """The re-folded encoder of a domain; None for the factory's."""
        found = self.domains.get(domain)
        return None if found is None else found.encode

    def with_class(self, name: str) -> LearnerState:
        """The class in the first free slot.

        Raises:
            CapacityError: all slots are taken.
        """
        if name in self.slots:
            return self
        if None in self.classes:
            slot = self.classes.index(None)
            classes = (*self.classes[:slot], name, *self.classes[slot + 1 :])
            return replace(self, classes=classes, heads={})
        raise CapacityError(
            f"{len(self.classes)} of {len(self.classes)} class slots are used; "
            f"export with class_slots = {2 * len(self.classes)} or call learner.remove_class(...)"
        )

    def with_domain(self, domain: Domain) -> LearnerState:
        return replace(self, domains={**self.domains, domain.name: domain})

    def without_domain(self, name: str) -> LearnerState:
        left = {key: value for key, value in self.domains.items() if key != name}
        return replace(self, domains=left)

    def tables(self) -> str:
        """Class table, domain table and counters as canonical JSON: the part of a commit that
        people can read.
        """
        return json.dumps(
            {
                "classes": list(self.classes),
                "domains": [
                    {name: getattr(domain, name) for name in _TABLED}
                    for _, domain in sorted(self.domains.items())
                ],
                "labels": self.labels,
                "domain_serial": self.domain_serial,
                **({"head": asdict(self.head)} if self.head != AS_SHIPPED else {}),
            },
            sort_keys=True,
        )


def digest(
    tables: str,
    tensors: Mapping[str, NDArray[Any]],
    domains: Mapping[str, Mapping[str, NDArray[Any]]],
    evidence: bytes,
) -> str:
    """SHA-256 over tables, checkpointed tensors and evidence rows: equal digests mean equal
    learners.
    """
    sha = hashlib.sha256(tables.encode())
    sha.update(evidence)
    for scope, values in (("", tensors), *sorted(domains.items())):
        for name in sorted(values):
            array = np.ascontiguousarray(values[name])
            sha.update(f"\0{scope}/{name}{array.shape}{array.dtype}\0".encode())
            sha.update(array.tobytes())
    return sha.hexdigest()
