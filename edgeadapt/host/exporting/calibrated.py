"""Second stage of an export: head, novelty score and thresholds, each judged by rows that it did
not learn; then all of them from every row.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgeadapt.bundle.schema import AccuracyPolicy, NoveltyPolicy, ShiftPolicy
from edgeadapt.host.assembly import calibration as assembly
from edgeadapt.host.assembly.novelty_choice import choose_novelty, unseen_images
from edgeadapt.host.contracts import Arrays, FactoryData, Head, Scores
from edgeadapt.host.exporting import cross_fitting
from edgeadapt.host.exporting.accuracy_estimate import accuracy_policy
from edgeadapt.host.exporting.encoded import Encoded, Progress
from edgeadapt.host.methods.projected_means import MOMENT
from edgeadapt.host.methods.residual_shift import ResidualShift
from edgeadapt.host.methods.ridge import Ridge
from edgeadapt.host.methods.slda import StreamingLDA
from edgeadapt.scenarios.corruptions import TUNING, corrupt

_UNSEEN = 600  # held-out images that are turned into inputs no training showed
_ROUTE_SAMPLES = 1500  # held-out samples per condition that the routing space is fitted on


@dataclass(frozen=True, eq=False)
class Calibrated:
    """What is fitted, and how good it is.

    Attributes:
        evidence: every row, as a learner takes it. part: rows that judge, and what was fitted
            without them.
        cross_fitted: (N, slots) logits of every row by a head that did not learn it.
        temperature: by which they are as sure as they are right. error: of them, a share.
        fitted: head and residuals from every row.
        unseen_x: inputs that no training showed; None for anything but images.
        route: tensors of the space that tells conditions apart.
    """

    encoded: Encoded
    evidence: FactoryData
    part: assembly.Part
    head: Head
    sense: ResidualShift
    score: Scores
    cross_fitted: NDArray[np.float32]
    temperature: float
    error: float
    calibration_error: float
    shift: ShiftPolicy
    novelty: NoveltyPolicy
    accuracy: AccuracyPolicy
    fitted: assembly.Fitted
    unseen_x: NDArray[Any] | None
    route: Arrays

    def guard(self) -> Arrays:
        """Samples that judge changes, and what each of them, being learned too, adds to its own
        logits: it is taken off again when they judge.
        """
        encoded, data = self.encoded, self.encoded.data
        most, count = encoded.settings.guard_per_class, len(data.classes)
        rows = np.concatenate([np.flatnonzero(data.y == k)[:most] for k in range(count)])
        own = (self.fitted.logits(encoded.z[rows]) - self.cross_fitted[rows])[:, :count]
        guard: Arrays = {
            "z": encoded.z[rows].astype(np.float16),
            "y": data.y[rows],
            "own": own.astype(np.float32),
            "weight": self.evidence.sample_weight[rows],
        }
        taps = encoded.taps[rows].astype(np.float16)
        return guard | ({"taps": taps} if taps.shape[1] else {})

    def weighted(self) -> tuple[str, ...]:
        """Sums of the head of which the factory's share may count more or less: those of heads that
        are solved for, not counted.
        """
        if not isinstance(self.head, (StreamingLDA, Ridge)):
            return ()
        return tuple(
            spec.name
            for spec in self.head.tensors(self.evidence.dims)
            if spec.kind == "evidence" and spec.name != MOMENT
        )


def calibrate(encoded: Encoded, say: Progress) -> Calibrated:
    """Choose the head by cross-fitting and the score by held-out classes, and set thresholds."""
    s, samples = encoded.settings, encoded.data
    y, groups, classes = samples.y, samples.groups, len(samples.classes)
    weight = assembly.factory_weights(y, s.factory_count)
    data = FactoryData(encoded.z, encoded.taps, y, weight, s.class_slots)
    half = cross_fitting.folds_of(y, groups, 2, s.seed)
    folds = cross_fitting.folds_of(y, groups, cross_fitting.FOLDS, s.seed)
    chosen = s.chosen_head(data, (data.rows(half == 0), data.rows(half == 1)), folds, say)
    head, sense, logits = chosen.head, ResidualShift(), chosen.logits
    parts = [assembly.Part.of(head, sense, data, half == k, groups) for k in (1, 0)]
    unseen_x = None
    if encoded.encoder.input.dtype == "uint8":
        unseen_x = unseen_images(samples.x[parts[0].rows[:_UNSEEN]], s.seed)
    score, marks = choose_novelty(
        s.novelty_candidates(),
        parts[0],
        None if unseen_x is None else encoded.features(unseen_x),
        s.seed,
        novelty_kib=s.novelty_kib,
    )
    parts = [part.with_score(score) for part in parts]
    shift = assembly.shift_policy(parts, encoded.encoder.signature, s.seed)
    novelty = assembly.novelty_policy(score, parts, marks)
    fitted = assembly.Fitted.of(head, sense, data).with_score(score, data)
    _, temperature = cross_fitting.log_loss(logits, y, classes)
    error = float((logits.argmax(axis=1) != y).mean())
    calibration_error = cross_fitting.calibration_error(logits, y, classes, temperature)
    accuracy = accuracy_policy(logits[:, :classes], y, shift.window, s.seed)
    say(
        f"calibrate: cross-fitted accuracy {1 - error:.1%}, calibration error"
        f" {calibration_error:.3f}, novelty by {novelty.method} ({novelty.judgement})"
    )
    return Calibrated(
        encoded,
        data,
        parts[0],
        head,
        sense,
        score,
        logits,
        temperature,
        error,
        calibration_error,
        shift,
        novelty,
        accuracy,
        fitted,
        unseen_x,
        _route_space(encoded, parts[0], fitted, shift),
    )


def _route_space(
    encoded: Encoded, part: assembly.Part, fitted: assembly.Fitted, shift: ShiftPolicy
) -> Arrays:
    """From clean data and the tuning corruptions, at three severities."""
    first, last = shift.signature
    seed, x = encoded.settings.seed, encoded.data.x
    rows = part.rows[:_ROUTE_SAMPLES]
    conditions = [fitted.places(encoded.z[rows], encoded.taps[rows])[:, first:last]]
    if encoded.encoder.input.dtype == "uint8":
        for name in TUNING:
            for severity in (1, 3, 5):
                z, taps = encoded.features(corrupt(x[rows], name, severity, seed))
                conditions.append(fitted.places(z, taps)[:, first:last])
    centre, projection = assembly.route_projection(
        conditions, encoded.data.y[rows], shift.window, seed
    )
    return {"route.centre": centre, "route.projection": projection}


__all__ = ["Calibrated", "calibrate"]
