"""Numbers from calibration data: which samples make evidence and which judge, thresholds, signatures.

Half of the calibration samples of each class become factory evidence; the other half sets thresholds, and part of it travels in the
bundle as the guard set. Nothing is chosen on data that is reported.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from edgeadapt.bundle.schema import NoveltyPolicy, NumericSpec, ShiftPolicy
from edgeadapt.device.linalg import NUMERICS
from edgeadapt.device.sense import shift_ratio_of_mean
from edgeadapt.errors import InputError
from edgeadapt.host.methods.base import Arrays, Derives, FactoryData, Head, Scores
from edgeadapt.host.methods.residual_shift import ResidualShift

FEWEST_PER_CLASS = 10
_WINDOWS = 3000  # simulated per kind of class mix
_QUANTILE = 0.995
_MARGIN = 1.15  # thresholds are this much above the largest quantile of clean windows


@dataclass(frozen=True, eq=False)
class Split:
    """Rows for factory evidence, and rows that only judge."""

    evidence: NDArray[np.int64]
    held_out: NDArray[np.int64]


def split_rows(y: NDArray[np.int64], classes: Sequence[str], seed: int) -> Split:
    """Half of each class for evidence, half for judging.

    Raises:
        InputError: a class has fewer than ten samples; the message names it.
    """
    rng = np.random.default_rng(seed)
    evidence, held_out = [], []
    for k, name in enumerate(classes):
        rows = rng.permutation(np.flatnonzero(y == k))
        if len(rows) < FEWEST_PER_CLASS:
            raise InputError(f"class {name!r} has {len(rows)} calibration samples, {FEWEST_PER_CLASS} are needed")
        evidence.append(rows[: len(rows) // 2])
        held_out.append(rows[len(rows) // 2 :])
    return Split(np.concatenate(evidence), np.concatenate(held_out))


def factory_weights(y: NDArray[np.int64], count: float) -> NDArray[np.float32]:
    """(N,) weights by which every class weighs ``count`` in total."""
    counts = np.bincount(y)
    return (count / counts[y]).astype(np.float32)


@dataclass(frozen=True, eq=False)
class Fitted:
    """Head and residuals with their factory values: what a learner computes, in torch, before it is compiled."""

    head: Head
    sense: ResidualShift
    values: dict[str, Tensor]

    @classmethod
    def of(cls, head: Head, sense: ResidualShift, data: FactoryData, extra: Arrays | None = None) -> Fitted:
        values: Arrays = {**head.factory(data), **sense.factory(data), **(extra or {})}
        return cls(head, sense, _derived({}, values, (*head.numerics(), *sense.numerics())))

    def with_score(self, score: Scores, data: FactoryData) -> Fitted:
        """The same head and residuals beside a novelty score's factory values, derived ones included."""
        return Fitted(self.head, self.sense, _derived(self.values, score.factory(data), score.numerics() if isinstance(score, Derives) else ()))

    def logits(self, z: NDArray[np.float32]) -> NDArray[np.float32]:
        return self.head.predict(self.values, torch.from_numpy(z)).numpy()

    def residuals(self, z: NDArray[np.float32], taps: NDArray[np.float32]) -> NDArray[np.float32]:
        logits = torch.from_numpy(self.logits(z))
        return self.sense.shift(self.values, torch.from_numpy(z), torch.from_numpy(taps), logits).numpy()

    def places(self, z: NDArray[np.float32], taps: NDArray[np.float32]) -> NDArray[np.float32]:
        return self.sense.place(self.values, torch.from_numpy(z), torch.from_numpy(taps)).numpy()

    def novelty(self, score: Scores, z: NDArray[np.float32], taps: NDArray[np.float32]) -> NDArray[np.float32]:
        return score.novelty(self.values, torch.from_numpy(z), torch.from_numpy(taps), torch.from_numpy(self.logits(z))).numpy()


def _derived(known: Mapping[str, Tensor], values: Arrays, numerics: Sequence[NumericSpec]) -> dict[str, Tensor]:
    """Known tensors, new values, and what the numerics derive from the new values, in order."""
    for numeric in numerics:
        results = NUMERICS[numeric.numeric](*(values[name] for name in numeric.reads), **numeric.arguments)
        values = values | dict(zip(numeric.writes, results, strict=True))
    return {**known, **{name: torch.from_numpy(np.ascontiguousarray(value)) for name, value in values.items()}}


def class_mix_windows(y: NDArray[np.int64], size: int, count: int, rng: np.random.Generator) -> dict[str, list[NDArray[np.int64]]]:
    """Row indices of simulated clean windows: random, two classes, one class."""
    by_class = {int(k): np.flatnonzero(y == k) for k in np.unique(y)}
    names = np.array(list(by_class))
    result: dict[str, list[NDArray[np.int64]]] = {"random": [], "two": [], "one": []}
    for _ in range(count):
        result["random"].append(rng.integers(0, len(y), size))
        for kind, width in (("two", min(2, len(names))), ("one", 1)):
            pool = np.concatenate([by_class[int(k)] for k in rng.choice(names, width, replace=False)])
            result[kind].append(rng.choice(pool, size, replace=len(pool) < size))
    return result


def shift_policy(fitted: Fitted, z: NDArray[np.float32], taps: NDArray[np.float32], y: NDArray[np.int64], signature: tuple[int, int], seed: int) -> ShiftPolicy:
    """Thresholds: the largest of three upper quantiles over clean windows, each kind of class mix apart, plus a margin."""
    d, t = fitted.sense.columns(FactoryData(z, taps, y, np.ones(len(y), np.float32), 1).dims)
    groups = (d, t) if t else (d,)
    residuals = fitted.residuals(z, taps)
    slots = fitted.logits(z).argmax(axis=1)
    counts = fitted.values["shift.moment"][-1].numpy()
    window = ShiftPolicy().window
    windows = class_mix_windows(y, window, _WINDOWS, np.random.default_rng(seed))
    thresholds = []
    for start, width in zip(np.cumsum([0, *groups[:-1]]), groups, strict=True):
        one = ShiftPolicy(groups=(width,), thresholds=(1.0,))
        columns = residuals[:, start : start + width]
        quantiles = [
            float(np.quantile([shift_ratio_of_mean(columns[rows].mean(axis=0), slots[rows], counts, one) for rows in kind], _QUANTILE))
            for kind in windows.values()
        ]
        thresholds.append(_MARGIN * max(quantiles))
    first = d + signature[0] if t else signature[0]
    return ShiftPolicy(window=window, groups=groups, thresholds=tuple(thresholds), signature=(int(first), int(first + signature[1] - signature[0])))


def false_alarms(
    fitted: Fitted, z: NDArray[np.float32], taps: NDArray[np.float32], y: NDArray[np.int64], policy: ShiftPolicy, seed: int, count: int = 1000
) -> float:
    """Share of clean windows above the thresholds, over ``count`` of each kind of class mix, drawn apart from those that set thresholds."""
    residuals, slots = fitted.residuals(z, taps), fitted.logits(z).argmax(axis=1)
    counts = fitted.values["shift.moment"][-1].numpy()
    windows = class_mix_windows(y, policy.window, count, np.random.default_rng([seed, 1]))
    ratios = [shift_ratio_of_mean(residuals[rows].mean(axis=0), slots[rows], counts, policy) for kind in windows.values() for rows in kind]
    return float((np.array(ratios) > 1.0).mean())


def route_projection(places_by_condition: Sequence[NDArray[Any]], y: NDArray[np.int64], window: int, seed: int) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Centre (S,) and projection (S, S) under which windows of one condition differ little, whatever their class mix.

    The scatter of window means around their condition's mean, over clean and tuning conditions, is whitened with shrinkage.
    """
    rng = np.random.default_rng(seed)
    deviations = []
    for places in places_by_condition:
        windows = class_mix_windows(y, window, 120, rng)
        overall = places.mean(axis=0)
        deviations += [places[rows].mean(axis=0) - overall for kind in windows.values() for rows in kind]
    scatter = np.asarray(deviations, np.float64)
    scatter = scatter.T @ scatter / len(scatter)
    scatter += 0.1 * np.trace(scatter) / len(scatter) * np.eye(len(scatter))
    projection = np.linalg.cholesky(np.linalg.inv(scatter))
    return places_by_condition[0].mean(axis=0).astype(np.float32), projection.astype(np.float32)


def novelty_policy(score: Scores, fitted: Fitted, judge: FactoryData, marks: dict[str, float], rate: float = 0.05) -> NoveltyPolicy:
    """Threshold at ``rate`` of clean known samples; a window reads novel above what a one-class clean window shows."""
    scores, y = fitted.novelty(score, judge.z, judge.taps), judge.y
    threshold = float(np.quantile(scores, 1.0 - rate))
    worst = max(float((scores[y == k] > threshold).mean()) for k in np.unique(y))
    return NoveltyPolicy(
        method=score.name, threshold=threshold, rate=rate, window_share=float(np.clip(2.0 * worst + 0.1, 0.25, 0.6)),
        auroc=marks.get(score.name), alternatives=marks,
    )  # fmt: skip


def temperature(logits: NDArray[np.float32], y: NDArray[np.int64], count: int) -> float:
    """Softmax temperature with the least log loss on held-out samples (Guo et al., ICML 2017, arXiv 1706.04599)."""
    active = logits[:, :count].astype(np.float64)

    def loss(t: float) -> float:
        scaled = active / t
        scaled -= scaled.max(axis=1, keepdims=True)
        return float(np.mean(np.log(np.exp(scaled).sum(axis=1)) - scaled[np.arange(len(y)), y]))

    return float(min(np.geomspace(0.01, 10.0, 61), key=loss))
