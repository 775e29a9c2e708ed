"""When does a condition deserve an adaptor of its own? A pure decision over what is known of it.

    answered     its answers made it a condition, and ``fewest_labels`` of it were learned
    coherent     the earlier and the later half of its labelled samples have the same mean, at the
                 same class mix
    persistent   so it outlasted both halves: a drift that passes through leaves halves that differ
    due          it has none yet, or its labels have grown by the factor ``again`` since it was last
                 considered, or some were taken back

Growing from answers and not from scores is ours: no score tells a shift from new classes
(``docs/methods/novelty.md``). The growth of adaptor sets that are frozen for each other is from
Daniels et al., EAR, 2023 (arXiv 2308.02084, section 3); its conditions are not published.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from edgeadapt.bundle.schema import GrowthPolicy
from edgeadapt.device.inference.state import DomainKind, DomainPrototypes
from edgeadapt.device.numerics.statistics import sign_test

SIGNIFICANCE = 0.1


@dataclass(frozen=True)
class AdaptorEligibility:
    """What is known of a condition.

    Attributes:
        labels: learned labels with features.
        classes: how many classes they name.
        considered: labels when it was last considered, 0 for never or for labels that were taken
            back since.
        gap: relative squared distance between its halves.
    """

    kind: DomainKind
    labels: int
    classes: int
    considered: int
    gap: float


def ineligibility_reason(eligibility: AdaptorEligibility, policy: GrowthPolicy) -> str:
    """Why a condition does not grow now; empty if it should."""
    if not policy.candidates:
        return "the bundle has no adaptors"
    if eligibility.kind != "condition":
        return f"it is {eligibility.kind}: answers have not made it a condition"
    if eligibility.labels < policy.fewest_labels:
        return f"{eligibility.labels} labels, {policy.fewest_labels} are needed"
    if eligibility.classes < 2:
        return "all its labels name one class"
    if eligibility.labels < policy.again * eligibility.considered:
        return f"{eligibility.labels} labels, it was looked at with {eligibility.considered}"
    if eligibility.gap > policy.coherent:
        return (
            f"its earlier and later samples are {eligibility.gap:.2f} apart, {policy.coherent:g} is"
            " one condition"
        )
    return ""


def rejection_reason(
    before: NDArray[np.bool_], after: NDArray[np.bool_], margin: float, *, has_one: bool
) -> str:
    """What speaks against an adaptor, from right answers without and with it on the same samples;
    empty if nothing does.

    It must win ``margin`` in accuracy, and more samples than chance would (one-sided sign test).
    One that takes the place of an older one must not lose: else conditions would grow and shed by
    turns.
    """
    wins, losses = int((after & ~before).sum()), int((before & ~after).sum())
    marks = f"cross-validated accuracy {before.mean():.3f} -> {after.mean():.3f}"
    if has_one:
        return marks if losses > wins else ""
    if wins - losses < margin * len(before):
        return marks
    chance = sign_test(losses, wins)
    return f"{marks} may be chance (p = {chance:.2g})" if chance > SIGNIFICANCE else ""


def halves_apart(x: NDArray[np.float64], slots: NDArray[np.int64], slot_count: int) -> float:
    """Relative squared distance (``DomainPrototypes.distance``) of the later half of samples from
    the earlier.

    Args:
        x: (N, S) projected samples, the earliest first. slots: (N,) their classes.
    """
    middle = len(x) // 2
    if middle == 0:
        return float("inf")
    earlier = DomainPrototypes.empty(slot_count, x.shape[1]).extended(x[:middle], slots[:middle])
    return earlier.distance(x[middle:], slots[middle:])


__all__ = [
    "SIGNIFICANCE",
    "AdaptorEligibility",
    "halves_apart",
    "ineligibility_reason",
    "rejection_reason",
]
