"""Second stage of an export: head, novelty score and thresholds, each judged by rows that it did
not learn; then all of them from every row.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgeadapt.bundle.schema import AccuracyPolicy, NoveltyPolicy, ShiftPolicy
from edgeadapt.host.assembly import calibration
from edgeadapt.host.assembly.novelty_choice import choose_novelty, unseen_images
from edgeadapt.host.contracts import Arrays, FactoryData, Head, Scores
from edgeadapt.host.exporting.accuracy_estimate import accuracy_policy
from edgeadapt.host.exporting.cross_fitting import FOLDS, calibration_error, folds_of, log_loss
from edgeadapt.host.exporting.encoded import Encoded
from edgeadapt.host.methods.residual_shift import ResidualShift
from edgeadapt.scenarios.corruptions import TUNING, corrupt

_UNSEEN = 600  # held-out images that are turned into inputs no training showed
_ROUTE_SAMPLES = 1500  # held-out samples per condition that the signature space is fitted on


@dataclass(frozen=True, eq=False)
class CrossFitted:
    """Logits (N, K) of every row by heads that did not learn it, their error rate 0..1, and the
    temperature and expected calibration error that follow from them.
    """

    logits: NDArray[np.float32]
    error: float
    temperature: float
    calibration_error: float

    @classmethod
    def of(cls, logits: NDArray[np.float32], y: NDArray[np.int64], classes: int) -> CrossFitted:
        _, temperature = log_loss(logits, y, classes)
        error = float((logits.argmax(axis=1) != y).mean())
        return cls(logits, error, temperature, calibration_error(logits, y, classes, temperature))


@dataclass(frozen=True, eq=False)
class Calibrated:
    """What is fitted on the features.

    Attributes:
        data: every row, as factory evidence.
        fitted: head, residuals and novelty score, from every row.
        part: one half of the rows that judges, and what was fitted on the other.
        cross_fitted: how good the head is.
        shift, novelty, accuracy: thresholds for the device.
        signature_space: the frozen tensors that conditions are told apart in.
        unseen_x: inputs that no training showed, made of the part's images; None for features.
    """

    encoded: Encoded
    data: FactoryData
    fitted: calibration.Fitted
    score: Scores
    part: calibration.Part
    cross_fitted: CrossFitted
    shift: ShiftPolicy
    novelty: NoveltyPolicy
    accuracy: AccuracyPolicy
    signature_space: Arrays
    unseen_x: NDArray[Any] | None

    @property
    def head(self) -> Head:
        return self.fitted.head


def calibrate(encoded: Encoded) -> Calibrated:
    """Choose and fit what the settings leave open.

    Raises:
        InputError: no head or novelty score fits its limit, or groups that cannot be split.
    """
    s, samples, spec = encoded.settings, encoded.samples, encoded.encoder.input
    x, y, groups, known = samples.x, samples.y, samples.groups, len(samples.classes)
    weight = calibration.factory_weights(y, s.factory_count)
    data = FactoryData(encoded.z, encoded.taps, y, weight, s.class_slots)
    half = folds_of(y, groups, 2, s.seed)
    halves = data.rows(half == 0), data.rows(half == 1)
    chosen = s.chosen_head(data, halves, folds_of(y, groups, FOLDS, s.seed), encoded.say)
    head, sense = chosen.head, ResidualShift()
    parts = [calibration.Part.of(head, sense, data, half == k, groups) for k in (1, 0)]
    is_image = spec.dtype == "uint8"
    unseen_x = unseen_images(x[parts[0].rows[:_UNSEEN]], s.seed) if is_image else None
    unseen = encoded.graph.features(unseen_x) if unseen_x is not None else None
    score, marks = choose_novelty(
        s.novelty_candidates(), parts[0], unseen, s.seed, novelty_kib=s.novelty_kib
    )
    parts = [part.with_score(score) for part in parts]
    shift = calibration.shift_policy(parts, encoded.encoder.signature, s.seed)
    novelty = calibration.novelty_policy(score, parts, marks)
    fitted = calibration.Fitted.of(head, sense, data).with_score(score, data)
    cross_fitted = CrossFitted.of(chosen.logits, y, known)
    accuracy = accuracy_policy(chosen.logits[:, :known], y, shift.window, s.seed)
    encoded.say(
        f"calibrate: cross-fitted accuracy {1 - cross_fitted.error:.1%}, calibration error"
        f" {cross_fitted.calibration_error:.3f}, novelty by {novelty.method} ({novelty.judgement})"
    )
    return Calibrated(
        encoded,
        data,
        fitted,
        score,
        parts[0],
        cross_fitted,
        shift,
        novelty,
        accuracy,
        _signature_space(encoded, fitted, parts[0].rows[:_ROUTE_SAMPLES], shift),
        unseen_x,
    )


def _signature_space(
    encoded: Encoded, fitted: calibration.Fitted, rows: NDArray[np.int64], shift: ShiftPolicy
) -> Arrays:
    """From clean data and the tuning corruptions, at three severities."""
    first, last = shift.signature
    x, seed = encoded.samples.x, encoded.settings.seed
    conditions = [fitted.shift_features(encoded.z[rows], encoded.taps[rows])[:, first:last]]
    if encoded.encoder.input.dtype == "uint8":
        for name in TUNING:
            for severity in (1, 3, 5):
                features = encoded.graph.features(corrupt(x[rows], name, severity, seed))
                conditions.append(fitted.shift_features(*features)[:, first:last])
    centre, projection = calibration.route_projection(
        conditions, encoded.samples.y[rows], shift.window, seed
    )
    return {"route.centre": centre, "route.projection": projection}
