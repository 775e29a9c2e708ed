"""Is a correction healthy? What can be said without labels, as paired tests of the same inputs
corrected against bare.

It may suspend a correction, never block a label. Five things speak, each a number per input:

    home       mean d(corrected) <= home mean d(bare), with d = 1 - cosine to the nearest class
               mean; home nears 1 where most classes are there
    strays     mean d(corrected) > mean d(bare) over the newest inputs alone, in every window that
               belongs to the condition
    collapse   the commonest class takes at least ``CROWDED`` of the inputs, and significantly more
               than without the correction
    twin       where the frozen twin is sure, and sees nothing new, the correction answers otherwise
               more often than ``DISPUTED`` allows
    certainty  the mean entropy rises by ``UNCERTAIN`` nats, and significantly more inputs grow less
               certain: half as many disputes are allowed

A correction has to come home; collapse and dispute suspend it. "Significantly" is a one-sided sign
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
HEALTHY = 0.85
"""A correction must bring the inputs' mean distance from the classes below this share of what it is
without; a bundle may say another (``home``).
"""
CROWDED = 0.8
UNCERTAIN = 0.5
DISPUTED = 0.2
SURE = 0.9
"""Confidence from which the twin's answer counts."""
FEWEST_SURE = 12  # of the twin's answers
SIGNIFICANCE = 0.01
_ROUNDING = 1e-4  # of distances that were read in batches of other sizes
BREADTHS = (0.4, 0.7)
"""Shares of the classes from which inputs need come home by less of a margin, and by none."""


@dataclass(frozen=True, eq=False)
class CorrectionDiagnostics:
    """What a batch of inputs looks like without labels.

    Attributes:
        slots: (N,) predicted classes.
        entropy: (N,) nats.
        distance: (N,) from the nearest class mean.
        is_sure: (N,) confident, and not novel: where a frozen twin is worth listening to.
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


def harm(
    bare: CorrectionDiagnostics, corrected: CorrectionDiagnostics, home: float = HEALTHY
) -> str:
    """Why a correction of these inputs is to be suspended; empty if it is healthy. Both describe
    the same inputs, in order.
    """
    return not_home(bare, corrected, home) or collapse(bare, corrected) or dispute(bare, corrected)


def healthiest(
    choices: Sequence[tuple[CorrectionDiagnostics, Choice]],
    bare_distance: float,
    bare: Callable[[], CorrectionDiagnostics],
    home: float = HEALTHY,
) -> tuple[Choice | None, str]:
    """The correction that brings its inputs closest to the classes among those that do no harm; or
    None, and what speaks against the closest.

    Args:
        bare_distance: mean distance of the inputs without a correction.
        bare: works out all of their health; asked only where it matters.
        home: see ``HEALTHY``.
    """
    without: CorrectionDiagnostics | None = None
    first = ""
    for health, choice in sorted(choices, key=lambda pair: float(pair[0].distance.mean())):
        if health.distance.mean() <= eased(home, health.breadth) * bare_distance:
            without = without or bare()
            doubt = harm(without, health, home)
        else:
            doubt = _too_far(
                float(health.distance.mean()), bare_distance, eased(home, health.breadth)
            )
        if not doubt:
            return choice, ""
        first = first or doubt
    return None, first


def not_home(
    bare: CorrectionDiagnostics, corrected: CorrectionDiagnostics, home: float = HEALTHY
) -> str:
    return _too_far(
        float(corrected.distance.mean()),
        float(bare.distance.mean()),
        eased(home, min(bare.breadth, corrected.breadth)),
    )


def eased(home: float, breadth: float) -> float:
    """The share of their distance that inputs may keep: ``home`` where they are of few classes, all
    of it where they are of most.

    A correction that was fitted to a few classes may suit only those, so it has to gain by a
    margin.
    """
    narrow, wide = BREADTHS
    return home + max(1.0 - home, 0.0) * min(max((breadth - narrow) / (wide - narrow), 0.0), 1.0)


def strays(corrected: NDArray[np.float32], bare: NDArray[np.float32], home: float = HEALTHY) -> str:
    """Why the newest inputs speak against a correction: distances (N,) from the classes with it and
    without; empty if they do not.

    A memory is of what was seen before. Where classes come one after the other, what suits it need
    not suit those that come now; they need not come home by a margin, only not go farther.
    """
    after, before = float(corrected.mean()), float(bare.mean())
    is_near = after <= max(home, 1.0) * before * (1.0 + _ROUNDING)
    return (
        ""
        if is_near
        else f"the newest inputs lie {after:.3g} from the classes corrected, {before:.3g} without"
    )


def brings_home(corrected: NDArray[np.float32], bare: NDArray[np.float32]) -> bool:
    """True if the newest inputs come nearer to the classes by the margin ``HEALTHY``: what was
    fitted to others suits them, so their condition is the same.
    """
    return float(corrected.mean()) <= HEALTHY * float(bare.mean())


def collapse(bare: CorrectionDiagnostics, corrected: CorrectionDiagnostics) -> str:
    common = int(corrected.histogram.argmax())
    after, before = corrected.slots == common, bare.slots == common
    if (
        after.mean() < CROWDED
        or sign_test(int((before & ~after).sum()), int((after & ~before).sum())) >= SIGNIFICANCE
    ):
        return ""
    return (
        f"{after.mean():.0%} of the inputs look like one class corrected, {before.mean():.0%}"
        " without"
    )


def is_less_certain(bare: CorrectionDiagnostics, corrected: CorrectionDiagnostics) -> bool:
    """The entropy rises, by the margin and significantly."""
    rise = corrected.entropy - bare.entropy
    return (
        bool(rise.mean() > UNCERTAIN)
        and sign_test(int((rise < 0).sum()), int((rise > 0).sum())) < SIGNIFICANCE
    )


def dispute(bare: CorrectionDiagnostics, corrected: CorrectionDiagnostics) -> str:
    sure = int(bare.is_sure.sum())
    otherwise = int((corrected.slots != bare.slots)[bare.is_sure].sum())
    is_unsure = is_less_certain(bare, corrected)
    if (
        sure < FEWEST_SURE
        or upper_tail(otherwise, sure, DISPUTED / 2 if is_unsure else DISPUTED) >= SIGNIFICANCE
    ):
        return ""
    rises = (
        f", while its entropy rises from {bare.entropy.mean():.2f} to"
        f" {corrected.entropy.mean():.2f}"
        if is_unsure
        else ""
    )
    return (
        f"the frozen model is sure of {sure} inputs and the correction disputes {otherwise} of"
        f" them{rises}"
    )


def _too_far(corrected: float, bare: float, home: float) -> str:
    return (
        ""
        if corrected <= home * bare
        else f"distance from the classes {corrected:.3g} corrected, {home * bare:.3g} needed"
    )
