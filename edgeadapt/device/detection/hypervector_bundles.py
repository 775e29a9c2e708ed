"""Conditions as bundles of hypervectors: which one a window belongs to, and which two are one.

    s_c(x) = max_k cos(h(x), d_{c,k})
            d_{c,k} the sum of the hypervectors of condition c that were predicted as class k
    route:  argmax_c (mean_x s_c(x) - m_c) / sigma_c
            m_c, sigma_c: mean and deviation of s_c over the condition's own samples
    merge:  mean over shared classes of cos(d_{a,k}, d_{b,k}) above a threshold

A reconstruction of the dynamic routing of EAR (Daniels et al., arXiv 2308.02084, section 4.5),
whose equations were not reachable. Bundles and prototypes are sums and counts per class, so those
of two conditions add up to those of one. The learner routes by ``DomainPrototypes.distance``
instead; ``docs/methods/ear.md`` compares the two.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import combinations
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from edgeadapt.device.inference.state import DomainPrototypes
from edgeadapt.errors import InputError

F32 = NDArray[np.float32]
F64 = NDArray[np.float64]
# of a cosine: a condition that was met on equal samples would claim or refuse everything
_SMALLEST_DEVIATION = 1e-3


class ClassSums(Protocol):
    """Sums (K, S) and counts (K,) per class: a ``DomainPrototypes`` or a ``ConditionBundle``."""

    @property
    def sums(self) -> F64: ...
    @property
    def counts(self) -> F64: ...


@dataclass(frozen=True, eq=False)
class ConditionBundle:
    """One condition: sums (K, D) and counts (K,) of unit hypervectors by predicted class.

    ``moments`` (3,): how many of its own samples were compared with it, the sum of their
    similarities, and the sum of squares.
    """

    sums: F64
    counts: F64
    moments: F64

    @classmethod
    def empty(cls, slots: int, width: int) -> ConditionBundle:
        return cls(np.zeros((slots, width)), np.zeros(slots), np.zeros(3))

    def extended(self, h: F32, slots: NDArray[np.int64]) -> ConditionBundle:
        """Samples h (N, D) more, and their predicted class slots (N,). Each is compared with the
        bundle without itself.

        Raises:
            InputError: shapes that do not fit, or values that are not finite.
        """
        _check(h, self.sums.shape[1])
        if slots.shape != (len(h),) or (
            len(slots) and not 0 <= int(slots.min()) <= int(slots.max()) < len(self.counts)
        ):
            raise InputError(
                f"{len(h)} hypervectors need as many class slots of 0 to {len(self.counts) - 1},"
                f" got {slots.tolist()[:8]}"
            )
        taken = np.eye(len(self.counts))[slots]
        sums, counts = self.sums + taken.T @ _unit(h), self.counts + taken.sum(axis=0)
        cosines = _without_self(_unit(h), sums, counts, slots)
        moments = self.moments + np.array([len(cosines), cosines.sum(), np.square(cosines).sum()])
        return ConditionBundle(sums, counts, moments)

    def merged(self, other: ConditionBundle) -> ConditionBundle:
        """What one condition would have learned from the samples of both."""
        return ConditionBundle(
            self.sums + other.sums, self.counts + other.counts, self.moments + other.moments
        )

    def similarity(self, h: F32) -> F64:
        """(N,) largest cosine of each sample to a class bundle; -1 without any."""
        _check(h, self.sums.shape[1])
        met = self.counts > 0
        if not met.any():
            return np.full(len(h), -1.0)
        largest: F64 = (_unit(h) @ _unit(self.sums[met]).T).max(axis=1)
        return largest

    def standardised(self, h: F32) -> float:
        """Mean similarity of a window, standardised by the condition's own samples; -inf while
        there are none.
        """
        return self.standardised_of(float(self.similarity(h).mean())) if len(h) else float("-inf")

    def standardised_of(self, mean_similarity: float) -> float:
        """A window's mean similarity, standardised by the condition's own samples."""
        count, total, squares = (float(value) for value in self.moments)
        if count == 0:
            return float("-inf")
        mean = total / count
        deviation = float(np.sqrt(max(squares / count - mean * mean, 0.0)))
        return (mean_similarity - mean) / max(deviation, _SMALLEST_DEVIATION)


def route(bundles: Mapping[str, ConditionBundle], h: F32) -> tuple[str, float]:
    """The condition whose standardised similarity to a window h (N, D) is largest, and that
    similarity; ``("", -inf)`` if there is none.
    """
    best, highest = "", float("-inf")
    for name, bundle in bundles.items():
        found = bundle.standardised(h)
        if found > highest:
            best, highest = name, found
    return best, highest


def similarity_of(
    first: ClassSums, second: ClassSums, least_count: float = 4.0
) -> tuple[float, int]:
    """Mean cosine of the class vectors that two conditions share, and how many classes those are;
    (0, 0) if none.

    Args:
        least_count: samples that a class must have in both to be compared.

    Raises:
        InputError: different numbers of slots or widths.
    """
    if first.sums.shape != second.sums.shape:
        raise InputError(
            f"two conditions are compared over the same slots and width, got {first.sums.shape} and"
            f" {second.sums.shape}"
        )
    shared = (first.counts >= least_count) & (second.counts >= least_count)
    if not shared.any():
        return 0.0, 0
    cosines = (_unit(first.sums[shared]) * _unit(second.sums[shared])).sum(axis=1)
    return float(cosines.mean()), int(shared.sum())


@dataclass(frozen=True)
class MergeCandidate:
    """Two conditions that may be one: their names in order, the mean cosine of shared class
    vectors, and how many classes these are.
    """

    first: str
    second: str
    similarity: float
    shared: int


def merge_candidates(
    conditions: Mapping[str, ClassSums],
    threshold: float = 0.9,
    least_shared: int = 2,
    least_count: float = 4.0,
) -> list[MergeCandidate]:
    """Pairs of conditions whose shared class vectors point the same way, the most alike first; each
    condition is in at most one pair.

    Args:
        threshold: mean cosine from which two are one.
        least_shared: classes that must be comparable.
        least_count: samples that make a class comparable.

    Raises:
        InputError: a threshold outside [-1, 1], or conditions of different shapes.
    """
    if not -1.0 <= threshold <= 1.0:
        raise InputError(f"the merge threshold is a cosine between -1 and 1, got {threshold}")
    found = []
    for first, second in combinations(sorted(conditions), 2):
        similarity, shared = similarity_of(conditions[first], conditions[second], least_count)
        if shared >= least_shared and similarity >= threshold:
            found.append(MergeCandidate(first, second, similarity, shared))
    chosen: list[MergeCandidate] = []
    for pair in sorted(found, key=lambda p: (-p.similarity, p.first, p.second)):
        if not {pair.first, pair.second} & {
            name for kept in chosen for name in (kept.first, kept.second)
        }:
            chosen.append(pair)
    return chosen


def merged_prototypes(first: DomainPrototypes, second: DomainPrototypes) -> DomainPrototypes:
    """The prototypes of both conditions' windows."""
    return DomainPrototypes(first.sums + second.sums, first.counts + second.counts)


def _unit(values: NDArray[np.float32] | F64) -> F64:
    exact = np.asarray(values, np.float64)
    result: F64 = exact / np.sqrt(np.maximum(np.square(exact).sum(axis=1, keepdims=True), 1e-24))
    return result


def _without_self(unit: F64, sums: F64, counts: F64, slots: NDArray[np.int64]) -> F64:
    """(N,) largest cosine to a class bundle from which the sample itself was taken; classes that
    hold nothing else do not count.
    """
    cosines = np.full((len(unit), len(counts)), -1.0)
    met = counts > 0
    cosines[:, met] = unit @ _unit(sums[met]).T
    own = sums[slots] - unit
    alone = counts[slots] < 2
    cosines[np.arange(len(unit)), slots] = np.where(alone, -1.0, (unit * _unit(own)).sum(axis=1))
    kept: F64 = cosines[~(alone & (met.sum() < 2))].max(axis=1) if len(unit) else np.zeros(0)
    return kept


def _check(h: F32, width: int) -> None:
    if h.ndim != 2 or h.shape[1] != width or not np.isfinite(h).all():
        raise InputError(
            f"hypervectors are finite (N, {width}), got {h.shape}"
            + ("" if np.isfinite(h).all() else " with values that are not finite")
        )


__all__ = [
    "ClassSums",
    "ConditionBundle",
    "MergeCandidate",
    "merge_candidates",
    "merged_prototypes",
    "route",
    "similarity_of",
]
