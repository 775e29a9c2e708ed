"""What a device needs to estimate its accuracy without labels: see
``edgeadapt.device.detection.accuracy_estimate``."""

from __future__ import annotations

import msgspec
import numpy as np
from numpy.typing import NDArray

from edgeadapt.bundle.schema import AccuracyPolicy
from edgeadapt.device.detection.accuracy_estimate import chance_limit, margins_of

_STREAMS = 200  # simulated, of held-out samples sorted by class
_LONGEST = 2048  # samples of each
_TAIL = 0.02  # share of these streams that may go beyond
_SHRINKAGE = 5.0  # samples at the overall rate that a class's own rate is mixed with


def accuracy_policy(
    logits: NDArray[np.float32], y: NDArray[np.int64], window: int = 32, seed: int = 0
) -> AccuracyPolicy:
    """Threshold, rates per class and allowances from held-out samples.

    Args:
        logits: (N, K) of samples that the head did not learn, K the known classes. y: (N,) labels.
        window: samples of a window.

    Returns:
        The policy; one that is off (``samples = 0``) for fewer than two classes, or where nothing
        is right or nothing wrong and
        no share below a threshold means anything.
    """
    known, count = logits.shape[1], len(y)
    slots = logits.argmax(axis=1)
    accuracy = float((slots == y).mean()) if count else 0.0
    if known < 2 or not 0.0 < accuracy < 1.0:
        return AccuracyPolicy()
    margins = margins_of(logits)
    threshold = float(np.quantile(margins, 1.0 - accuracy))
    below = margins < threshold
    rates = (np.bincount(slots, below, known) + _SHRINKAGE * (1.0 - accuracy)) / (
        np.bincount(slots, minlength=known) + _SHRINKAGE
    )
    policy = AccuracyPolicy(
        threshold=threshold,
        accuracy=accuracy,
        samples=count,
        class_rates=tuple(float(rate) for rate in rates),
    )
    return _with_allowances(policy, below - rates[slots], slots, y, window, seed)


def _with_allowances(
    policy: AccuracyPolicy,
    excess: NDArray[np.float64],
    slots: NDArray[np.int64],
    y: NDArray[np.int64],
    window: int,
    seed: int,
) -> AccuracyPolicy:
    """How concentrated stretches of a sorted stream are that go beyond chance, and by how much they
    do, per horizon."""
    rng, known = np.random.default_rng(seed), len(policy.class_rates)
    beyond: dict[int, list[tuple[float, float]]] = {
        size: [] for size in policy.horizons
    }  # (furthest, least concentrated) of a stream
    for _ in range(_STREAMS):
        rows = rng.integers(0, len(y), min(len(y), _LONGEST))
        rows = rows[np.argsort(rng.permutation(known)[y[rows]], kind="stable")]
        sums = np.concatenate([[0.0], np.cumsum(excess[rows])])
        shares = np.concatenate(
            [np.zeros((1, known)), np.cumsum(np.eye(known)[slots[rows]], axis=0)]
        )
        for size in policy.horizons:
            samples = size * window
            starts = np.arange(0, len(rows) - samples + 1, window)
            over = (sums[starts + samples] - sums[starts]) / samples - chance_limit(samples, policy)
            taken = (shares[starts + samples] - shares[starts]) / samples
            is_over = over > 0.0
            beyond[size].append(
                (float(over[is_over].max()), float((taken[is_over] ** 2).sum(axis=1).min()))
                if is_over.any()
                else (0.0, 1.0)
            )
    return msgspec.structs.replace(
        policy,
        allowances=tuple(
            float(np.quantile([far for far, _ in found], 1.0 - _TAIL)) for found in beyond.values()
        ),
        concentrations=tuple(
            float(np.quantile([least for _, least in found], _TAIL)) for found in beyond.values()
        ),
    )


__all__ = ["accuracy_policy"]
