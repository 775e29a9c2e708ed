"""How accurate a stream's recent predictions are, estimated without labels, and whether that is
less than it was.

    estimate = share of m_i >= t        m_i: the margin between the two largest logits of sample i
    excess   = mean_i (1[m_i < t] - r(predicted class of i))

t is set on held-out samples so that the share below it equals their error (average thresholded
confidence: Garg et al., ICLR 2022, arXiv 2201.04234, with the margin as the score), and r is the
share below it among held-out samples that are taken for a class. The estimate is
shown; the excess decides, because a stretch of one difficult class is no loss of accuracy:

    fallen   if over one of the last ``horizons`` windows
             excess - allowance > margin + z sqrt(e (1 - e) (1 / n + 1 / held-out samples))

with e = 1 - held-out accuracy,

and the shortest horizon still exceeds the margin. ``allowance`` is what clean samples sorted by
class exceed that by in a stretch of difficult classes; it counts only where the
predictions are as concentrated as there. That part, and r, are ours.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import sqrt

import numpy as np
from numpy.typing import NDArray

from edgeadapt.bundle.schema import AccuracyPolicy
from edgeadapt.results import AccuracyEstimate

F32 = NDArray[np.float32]
_SURE = 1.96  # standard deviations of the interval that is shown


@dataclass(frozen=True, eq=False)
class Tally:
    """What one window adds: samples, how many lie below the threshold and how many would by their
    predicted classes."""

    samples: int
    below: int
    expected: float
    taken_for: NDArray[np.int64]  # (slots,) predictions


def margins_of(logits: F32) -> F32:
    """(N,) largest logit less the second largest, of (N, K) with K >= 2."""
    first_two = np.partition(logits, -2, axis=1)
    margins: F32 = first_two[:, -1] - first_two[:, -2]
    return margins


def tally(logits: F32, slots: NDArray[np.int64], policy: AccuracyPolicy) -> Tally:
    """Of a window: logits (W, K) and predicted class slots (W,). A class without a rate of its own
    has the error's."""
    rates = np.full(logits.shape[1], 1.0 - policy.accuracy)
    rates[: len(policy.class_rates)] = policy.class_rates
    below = int((margins_of(logits) < policy.threshold).sum())
    return Tally(
        len(slots), below, float(rates[slots].sum()), np.bincount(slots, minlength=logits.shape[1])
    )


@dataclass(frozen=True, eq=False)
class RecentAccuracy:
    """The last windows of one stream, the newest last."""

    windows: tuple[Tally, ...] = ()

    def extended(self, window: Tally, policy: AccuracyPolicy) -> RecentAccuracy:
        """One window more; only the longest horizon is kept."""
        return RecentAccuracy((*self.windows, window)[-max(policy.horizons) :])

    def estimate(self, policy: AccuracyPolicy) -> AccuracyEstimate | None:
        """Over all windows that are kept; None before the first."""
        if not self.windows:
            return None
        samples = sum(window.samples for window in self.windows)
        value = 1.0 - sum(window.below for window in self.windows) / samples
        low, high = wilson(value, 1.0 / (1.0 / samples + 1.0 / policy.samples))
        return AccuracyEstimate(value, low, high, samples, policy.accuracy, self.has_fallen(policy))

    def has_fallen(self, policy: AccuracyPolicy) -> bool:
        """Whether too many of the recent samples lie below the threshold for it to be chance, or a
        difficult class."""
        horizons = [
            index for index, count in enumerate(policy.horizons) if count <= len(self.windows)
        ]
        if not horizons or self._excess(min(policy.horizons))[0] <= policy.margin:
            return False
        return any(self._is_beyond(index, policy) for index in horizons)

    def _is_beyond(self, index: int, policy: AccuracyPolicy) -> bool:
        excess, samples, concentration = self._excess(policy.horizons[index])
        limit = chance_limit(samples, policy)
        if index < len(policy.allowances) and concentration >= policy.concentrations[index]:
            limit += policy.allowances[index]
        return excess > limit

    def _excess(self, count: int) -> tuple[float, int, float]:
        """(mean excess, samples, sum of squared shares of the predicted classes) of the last
        ``count`` windows."""
        last = self.windows[-count:]
        samples = sum(window.samples for window in last)
        shares = np.sum([window.taken_for for window in last], axis=0) / samples
        return (
            sum(window.below - window.expected for window in last) / samples,
            samples,
            float(shares @ shares),
        )


def chance_limit(samples: int, policy: AccuracyPolicy) -> float:
    """The excess that so many samples may show by chance, the margin included."""
    error = max(1.0 - policy.accuracy, 1.0 / policy.samples)
    return policy.margin + policy.deviations * sqrt(
        error * (1.0 - error) * (1.0 / samples + 1.0 / policy.samples)
    )


def wilson(share: float, count: float) -> tuple[float, float]:
    """95% interval of a share of ``count`` samples (Wilson, JASA 1927). Counts need not be
    whole."""
    square = _SURE * _SURE
    middle = (share + square / (2.0 * count)) / (1.0 + square / count)
    half = (
        _SURE
        / (1.0 + square / count)
        * sqrt(share * (1.0 - share) / count + square / (4.0 * count * count))
    )
    return max(0.0, middle - half), min(1.0, middle + half)


__all__ = ["RecentAccuracy", "Tally", "chance_limit", "margins_of", "tally", "wilson"]
