"""Is a correction healthy? What can be said without labels, as paired tests of the same inputs
corrected against uncorrected.

It may suspend a correction, never block a label. Five things speak, each a number per input:

    distance   mean d(corrected) <= r mean d(uncorrected), with d = 1 - cosine to the nearest class
               mean and r = ``max_ratio``, which nears 1 where most classes are there
    newest     mean d(corrected) > mean d(uncorrected) over the newest inputs alone, in every
               window that belongs to the condition
    collapse   the commonest class takes at least ``CROWDED`` of the inputs, and significantly more
               than without the correction
    dispute    where the frozen model is sure, and sees nothing new, the correction answers
               otherwise more often than ``DISPUTED`` allows
    certainty  the mean entropy rises by ``UNCERTAIN`` nats, and significantly more inputs grow less
               certain: half as many disputes are allowed

A correction has to bring inputs nearer to the classes; collapse and dispute suspend it.
"Significantly" is a one-sided sign
test on the inputs that changed. Distance alone would take a correction that gathers everything at
one class mean for the best of all. Entropy alone suspends nothing: on streams sorted by class it
rises under corrections that help.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from edgeadapt.device.numerics.softmax import tempered_softmax
from edgeadapt.device.numerics.statistics import sign_test, upper_tail

Choice = TypeVar("Choice")
DEFAULT_MAX_RATIO = 0.85
"""A correction must bring the inputs' mean distance from the classes below this share of what it is
without; a bundle may say another (``AdaptPolicy.home``).
"""
CROWDED = 0.8
UNCERTAIN = 0.5
DISPUTED = 0.2
SURE = 0.9
"""Confidence from which the frozen model's answer counts."""
FEWEST_SURE = 12  # of the frozen model's answers
SIGNIFICANCE = 0.01
_ROUNDING = 1e-4  # of distances that were read in batches of other sizes
BREADTHS = (0.4, 0.7)
"""Shares of the classes from which inputs need come nearer by less of a margin, and by none."""


@dataclass(frozen=True, eq=False)
class CorrectionDiagnostics:
    """What a batch of inputs looks like without labels.

    Attributes:
        slots: (N,) predicted classes.
        entropy: (N,) nats.
        distance: (N,) from the nearest class mean.
        is_sure: (N,) confident, and not novel: where the frozen model's answer counts.
        live: classes that there are; 0 if that is not known.
    """

    slots: NDArray[np.int64]
    entropy: NDArray[np.float64]
    distance: NDArray[np.float32]
    is_sure: NDArray[np.bool_]
    live: int = 0

    @property
    def histogram(self) -> NDArray[np.int64]:
        """Predictions per class slot."""
        return np.bincount(self.slots)

    @property
    def classes(self) -> float:
        """Effective number of predicted classes: 1 / sum of squared shares."""
        shares = self.histogram / len(self.slots)
        return float(1.0 / (shares * shares).sum())

    @property
    def breadth(self) -> float:
        """Effective number of predicted classes, as a share of all there are; 0 where it is less
        than two, or those are not known.
        """
        return self.classes / self.live if self.live and self.classes >= 2 else 0.0


def health_of(
    logits: NDArray[np.float32],
    embedding: NDArray[np.float32],
    score: NDArray[np.float32],
    prototypes: NDArray[np.float32],
    temperature: float,
    novel_above: float,
) -> CorrectionDiagnostics:
    """From what the head reads: logits (N, K), embedding (N, D), novelty score (N,), and unit class
    means (K, D).
    """
    chance = tempered_softmax(logits, temperature)
    entropy = -(chance * np.log(np.maximum(chance, 1e-300))).sum(axis=1)
    is_sure = (chance.max(axis=1) >= SURE) & (score <= novel_above)
    live = int((prototypes * prototypes).sum(axis=1).astype(bool).sum())
    return CorrectionDiagnostics(
        logits.argmax(axis=1).astype(np.int64),
        entropy,
        distance_from(embedding, prototypes),
        is_sure,
        live,
    )


def distance_from(
    embedding: NDArray[np.float32], prototypes: NDArray[np.float32]
) -> NDArray[np.float32]:
    """(N,) 1 - cosine to the nearest class mean: the same measure whatever novelty score the bundle
    has.
    """
    lengths = np.sqrt((embedding * embedding).sum(axis=1) + 1e-12)
    nearest: NDArray[np.float32] = (embedding @ prototypes.T).max(axis=1) / lengths
    return (1.0 - nearest).astype(np.float32)


def rejection_reason(
    uncorrected: CorrectionDiagnostics,
    corrected: CorrectionDiagnostics,
    max_ratio: float = DEFAULT_MAX_RATIO,
) -> str:
    """Why a correction of these inputs is to be suspended; empty if it is healthy. Both describe
    the same inputs, in order.
    """
    return (
        exceeds_max_distance(uncorrected, corrected, max_ratio)
        or collapse(uncorrected, corrected)
        or dispute(uncorrected, corrected)
    )


def healthiest(
    choices: Sequence[tuple[CorrectionDiagnostics, Choice]],
    uncorrected_distance: float,
    uncorrected: Callable[[], CorrectionDiagnostics],
    max_ratio: float = DEFAULT_MAX_RATIO,
) -> tuple[Choice | None, str]:
    """The correction that brings its inputs closest to the classes among those that do no harm; or
    None, and what speaks against the closest.

    Args:
        uncorrected_distance: mean distance of the inputs without a correction.
        uncorrected: works out all of their health; asked only where it matters.
        max_ratio: see ``DEFAULT_MAX_RATIO``.
    """
    without: CorrectionDiagnostics | None = None
    first = ""
    for health, choice in sorted(choices, key=lambda pair: float(pair[0].distance.mean())):
        distance, ratio = float(health.distance.mean()), relaxed_ratio(max_ratio, health.breadth)
        if distance <= ratio * uncorrected_distance:
            without = without or uncorrected()
            reason = rejection_reason(without, health, max_ratio)
        else:
            reason = _too_far(distance, uncorrected_distance, ratio)
        if not reason:
            return choice, ""
        first = first or reason
    return None, first


def exceeds_max_distance(
    uncorrected: CorrectionDiagnostics,
    corrected: CorrectionDiagnostics,
    max_ratio: float = DEFAULT_MAX_RATIO,
) -> str:
    return _too_far(
        float(corrected.distance.mean()),
        float(uncorrected.distance.mean()),
        relaxed_ratio(max_ratio, min(uncorrected.breadth, corrected.breadth)),
    )


def relaxed_ratio(max_ratio: float, breadth: float) -> float:
    """The share of their distance that inputs may keep: ``max_ratio`` where they are of few
    classes, all of it where they are of most.

    A correction that was fitted to a few classes may suit only those, so it has to gain by a
    margin.
    """
    narrow, wide = BREADTHS
    share = min(max((breadth - narrow) / (wide - narrow), 0.0), 1.0)
    return max_ratio + max(1.0 - max_ratio, 0.0) * share


def increases_distance(
    corrected: NDArray[np.float32],
    uncorrected: NDArray[np.float32],
    max_ratio: float = DEFAULT_MAX_RATIO,
) -> str:
    """Why the newest inputs speak against a correction: distances (N,) from the classes with it and
    without; empty if they do not.

    A memory is of what was seen before. Where classes come one after the other, what suits it need
    not suit those that come now; they need not come nearer by a margin, only not go farther.
    """
    after, before = float(corrected.mean()), float(uncorrected.mean())
    is_near = after <= max(max_ratio, 1.0) * before * (1.0 + _ROUNDING)
    return (
        ""
        if is_near
        else f"the newest inputs lie {after:.3g} from the classes corrected, {before:.3g} without"
    )


def reduces_distance(corrected: NDArray[np.float32], uncorrected: NDArray[np.float32]) -> bool:
    """True if the newest inputs come nearer to the classes by the margin ``DEFAULT_MAX_RATIO``:
    what was fitted to others suits them, so their condition is the same.
    """
    return float(corrected.mean()) <= DEFAULT_MAX_RATIO * float(uncorrected.mean())


def collapse(uncorrected: CorrectionDiagnostics, corrected: CorrectionDiagnostics) -> str:
    common = int(corrected.histogram.argmax())
    after, before = corrected.slots == common, uncorrected.slots == common
    if (
        after.mean() < CROWDED
        or sign_test(int((before & ~after).sum()), int((after & ~before).sum())) >= SIGNIFICANCE
    ):
        return ""
    return (
        f"{after.mean():.0%} of the inputs look like one class corrected, {before.mean():.0%}"
        " without"
    )


def is_less_certain(uncorrected: CorrectionDiagnostics, corrected: CorrectionDiagnostics) -> bool:
    """The entropy rises, by the margin and significantly."""
    rise = corrected.entropy - uncorrected.entropy
    return (
        bool(rise.mean() > UNCERTAIN)
        and sign_test(int((rise < 0).sum()), int((rise > 0).sum())) < SIGNIFICANCE
    )


def dispute(uncorrected: CorrectionDiagnostics, corrected: CorrectionDiagnostics) -> str:
    sure = int(uncorrected.is_sure.sum())
    otherwise = int((corrected.slots != uncorrected.slots)[uncorrected.is_sure].sum())
    is_unsure = is_less_certain(uncorrected, corrected)
    if (
        sure < FEWEST_SURE
        or upper_tail(otherwise, sure, DISPUTED / 2 if is_unsure else DISPUTED) >= SIGNIFICANCE
    ):
        return ""
    rises = (
        f", while its entropy rises from {uncorrected.entropy.mean():.2f} to"
        f" {corrected.entropy.mean():.2f}"
        if is_unsure
        else ""
    )
    return (
        f"the frozen model is sure of {sure} inputs and the correction disputes {otherwise} of"
        f" them{rises}"
    )


def _too_far(corrected: float, uncorrected: float, max_ratio: float) -> str:
    return (
        ""
        if corrected <= max_ratio * uncorrected
        else f"distance from the classes {corrected:.3g} corrected,"
        f" {max_ratio * uncorrected:.3g} needed"
    )
