"""Numbers from calibration data: thresholds, signatures, the novelty threshold.

Every calibration row teaches the bundle that ships, and every row judges, but never what it taught:
thresholds come from two halves, each seen by a head and residuals that the other half made. Rows of
a group lie in one half, and within a group the order of rows is time.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from edgeadapt.bundle.schema import NoveltyPolicy, ShiftPolicy
from edgeadapt.device.detection.window import shift_ratio_of_mean
from edgeadapt.errors import InputError
from edgeadapt.host.contracts import (
    Arrays,
    Derives,
    FactoryData,
    Head,
    Scores,
    as_tensors,
    with_derived,
)
from edgeadapt.host.methods.residual_shift import ResidualShift

FEWEST_PER_CLASS = 5
_WINDOWS = 3000  # simulated per kind of class mix
_QUANTILE = 0.995
_MARGIN = 1.15  # thresholds are this much above the largest quantile of clean windows


def check_counts(y: NDArray[np.int64], classes: Sequence[str]) -> None:
    """Raises InputError for a class of fewer than ``FEWEST_PER_CLASS`` samples; the message names
    it.
    """
    for k, name in enumerate(classes):
        if (count := int((y == k).sum())) < FEWEST_PER_CLASS:
            raise InputError(
                f"class {name!r} has {count} calibration samples, {FEWEST_PER_CLASS} are needed"
            )


def factory_weights(y: NDArray[np.int64], count: float) -> NDArray[np.float32]:
    """(N,) weights by which every class weighs ``count`` in total."""
    counts = np.bincount(y)
    return (count / counts[y]).astype(np.float32)


@dataclass(frozen=True, eq=False)
class Fitted:
    """Head and residuals with their factory values: what a learner computes, in torch, before it is
    compiled.
    """

    head: Head
    sense: ResidualShift
    values: dict[str, Tensor]

    @classmethod
    def of(
        cls, head: Head, sense: ResidualShift, data: FactoryData, extra: Arrays | None = None
    ) -> Fitted:
        values: Arrays = {**head.factory(data), **sense.factory(data), **(extra or {})}
        numerics = (*head.numerics(), *sense.numerics())
        return cls(head, sense, with_derived(as_tensors(values), numerics))

    def with_score(self, score: Scores, data: FactoryData) -> Fitted:
        """The same head and residuals beside a novelty score's factory values, derived ones
        included.
        """
        values = {**self.values, **as_tensors(score.factory(data))}
        numerics = score.numerics() if isinstance(score, Derives) else ()
        return Fitted(self.head, self.sense, with_derived(values, numerics))

    def logits(self, z: NDArray[np.float32]) -> NDArray[np.float32]:
        return self.head.predict(self.values, torch.from_numpy(z)).numpy()

    def residuals(self, z: NDArray[np.float32], taps: NDArray[np.float32]) -> NDArray[np.float32]:
        logits = torch.from_numpy(self.logits(z))
        return self.sense.shift(
            self.values, torch.from_numpy(z), torch.from_numpy(taps), logits
        ).numpy()

    def shift_features(
        self, z: NDArray[np.float32], taps: NDArray[np.float32]
    ) -> NDArray[np.float32]:
        return self.sense.features(self.values, torch.from_numpy(z), torch.from_numpy(taps)).numpy()

    def novelty(
        self, score: Scores, z: NDArray[np.float32], taps: NDArray[np.float32]
    ) -> NDArray[np.float32]:
        return score.novelty(
            self.values,
            torch.from_numpy(z),
            torch.from_numpy(taps),
            torch.from_numpy(self.logits(z)),
        ).numpy()


@dataclass(frozen=True, eq=False)
class Part:
    """Rows that judge, and what was fitted without them.

    Attributes:
        evidence: what ``fitted`` learned.
        judge: what it did not.
        rows: (N,) of the judge, in the calibration data.
        runs: rows of the judge that follow each other in time, one array for each group; empty
            without groups.
    """

    fitted: Fitted
    evidence: FactoryData
    judge: FactoryData
    rows: NDArray[np.int64]
    runs: tuple[NDArray[np.int64], ...] = ()

    @classmethod
    def of(
        cls,
        head: Head,
        sense: ResidualShift,
        data: FactoryData,
        judges: NDArray[np.bool_],
        groups: NDArray[np.int64] | None,
    ) -> Part:
        evidence, rows = data.rows(~judges), np.flatnonzero(judges)
        runs = (
            ()
            if groups is None
            else tuple(np.flatnonzero(groups[rows] == group) for group in np.unique(groups[rows]))
        )
        return cls(Fitted.of(head, sense, evidence), evidence, data.rows(judges), rows, runs)

    def with_score(self, score: Scores) -> Part:
        return replace(self, fitted=self.fitted.with_score(score, self.evidence))

    def ratios(
        self, policy: ShiftPolicy, windows: Sequence[NDArray[np.int64]]
    ) -> NDArray[np.float64]:
        """Shift statistic over its threshold for windows of judging rows."""
        judge, counts = self.judge, self.fitted.values["shift.moment"][-1].numpy()
        residuals, slots = (
            self.fitted.residuals(judge.z, judge.taps),
            self.fitted.logits(judge.z).argmax(axis=1),
        )
        return np.array(
            [
                shift_ratio_of_mean(residuals[rows].mean(axis=0), slots[rows], counts, policy)
                for rows in windows
            ]
        )


def class_mix_windows(
    y: NDArray[np.int64], size: int, count: int, rng: np.random.Generator
) -> dict[str, list[NDArray[np.int64]]]:
    """Row indices of simulated clean windows: random, two classes, one class."""
    by_class = {int(k): np.flatnonzero(y == k) for k in np.unique(y)}
    names = np.array(list(by_class))
    result: dict[str, list[NDArray[np.int64]]] = {"random": [], "two": [], "one": []}
    for _ in range(count):
        result["random"].append(rng.integers(0, len(y), size))
        for kind, width in (("two", min(2, len(names))), ("one", 1)):
            pool = np.concatenate(
                [by_class[int(k)] for k in rng.choice(names, width, replace=False)]
            )
            result[kind].append(rng.choice(pool, size, replace=len(pool) < size))
    return result


def ordered_windows(part: Part, size: int) -> list[NDArray[np.int64]]:
    """Windows of judging rows as a stream would bring them: group by group in time, and each group
    sorted by class; every half window one.
    """
    windows = []
    for run in part.runs:
        for rows in (run, run[np.argsort(part.judge.y[run], kind="stable")]):
            windows += [
                rows[start : start + size]
                for start in range(0, len(rows) - size + 1, max(1, size // 2))
            ]
    return windows


def shift_policy(parts: Sequence[Part], signature: tuple[int, int], seed: int) -> ShiftPolicy:
    """Thresholds: the largest of upper quantiles over clean windows plus a margin; each kind of
    class mix apart, and windows in their order.
    """
    d, t = parts[0].fitted.sense.columns(parts[0].judge.dims)
    groups = (d, t) if t else (d,)
    window = ShiftPolicy().window
    rng = np.random.default_rng(seed)
    kinds: dict[str, list[NDArray[np.float64]]] = {}
    for part in parts:
        counts = part.fitted.values["shift.moment"][-1].numpy()
        residuals = part.fitted.residuals(part.judge.z, part.judge.taps)
        slots = part.fitted.logits(part.judge.z).argmax(axis=1)
        windows = class_mix_windows(part.judge.y, window, _WINDOWS // len(parts), rng) | {
            "ordered": ordered_windows(part, window)
        }
        for kind, drawn in windows.items():
            kinds.setdefault(kind, []).append(
                np.array(
                    [_by_group(residuals[rows], slots[rows], counts, groups) for rows in drawn]
                ).reshape(-1, len(groups))
            )
    found = {kind: np.concatenate(ratios) for kind, ratios in kinds.items()}
    largest = np.max(
        [np.quantile(ratios, _QUANTILE, axis=0) for ratios in found.values() if len(ratios)], axis=0
    )
    thresholds = tuple(float(_MARGIN * value) for value in largest)
    first = d + signature[0] if t else signature[0]
    return ShiftPolicy(
        window=window,
        groups=groups,
        thresholds=thresholds,
        signature=(int(first), int(first + signature[1] - signature[0])),
    )


def _by_group(
    residuals: NDArray[np.float32],
    slots: NDArray[np.int64],
    counts: NDArray[np.float32],
    groups: tuple[int, ...],
) -> list[float]:
    """The shift statistic of one window for each group of columns."""
    mean, ends = residuals.mean(axis=0), np.cumsum(groups)
    ones = [ShiftPolicy(groups=(width,), thresholds=(1.0,)) for width in groups]
    return [
        shift_ratio_of_mean(mean[end - width : end], slots, counts, one)
        for end, width, one in zip(ends, groups, ones, strict=True)
    ]


def false_alarms(parts: Sequence[Part], policy: ShiftPolicy, seed: int, count: int = 1000) -> float:
    """Share of clean windows above the thresholds, over ``count`` of each kind of class mix, drawn
    apart from those that set thresholds.
    """
    rng, alarms = np.random.default_rng([seed, 1]), []
    for part in parts:
        kinds = class_mix_windows(part.judge.y, policy.window, count // len(parts), rng)
        alarms.append(part.ratios(policy, [rows for kind in kinds.values() for rows in kind]) > 1.0)
    return float(np.concatenate(alarms).mean())


def route_projection(
    features_by_condition: Sequence[NDArray[Any]], y: NDArray[np.int64], window: int, seed: int
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Centre (S,) and projection (S, S) under which windows of one condition differ little,
    whatever their class mix.

    The scatter of window means around their condition's mean, over clean and tuning conditions, is
    whitened with shrinkage.
    """
    rng = np.random.default_rng(seed)
    deviations = []
    for features in features_by_condition:
        windows = class_mix_windows(y, window, 120, rng)
        overall = features.mean(axis=0)
        deviations += [
            features[rows].mean(axis=0) - overall for kind in windows.values() for rows in kind
        ]
    scatter = np.asarray(deviations, np.float64)
    scatter = scatter.T @ scatter / len(scatter)
    scatter += 0.1 * np.trace(scatter) / len(scatter) * np.eye(len(scatter))
    projection = np.linalg.cholesky(np.linalg.inv(scatter))
    return features_by_condition[0].mean(axis=0).astype(np.float32), projection.astype(np.float32)


def novelty_policy(
    score: Scores, parts: Sequence[Part], marks: dict[str, float], rate: float = 0.05
) -> NoveltyPolicy:
    """Threshold at ``rate`` of clean known samples; a window reads novel above what a one-class
    clean window shows.
    """
    scores = np.concatenate(
        [part.fitted.novelty(score, part.judge.z, part.judge.taps) for part in parts]
    )
    y = np.concatenate([part.judge.y for part in parts])
    threshold = float(np.quantile(scores, 1.0 - rate))
    worst = max(float((scores[y == k] > threshold).mean()) for k in np.unique(y))
    return NoveltyPolicy(
        method=score.name,
        threshold=threshold,
        rate=rate,
        window_share=float(np.clip(2.0 * worst + 0.1, 0.25, 0.6)),
        auroc=marks.get(score.name),
        alternatives=marks,
    )
