"""How good the predictions are in the field, and what more labels would bring.

    accuracy = sum_c w_c a_c,   a_c = right / n_c of answers to random questions in condition c
    n_eff    = 1 / sum_c (w_c^2 / n_c)

w_c is the share of windows met in c since the learner was opened, among conditions with such
answers: a new condition gets more questions, and the plain share would give it too much weight.
Post-stratified means: Cochran, "Sampling Techniques", 1977. The interval is Wilson's with n_eff
answers.
"""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace

import numpy as np

from edgeadapt.device.adaptation.domain_manager import DomainManager
from edgeadapt.device.adaptation.stream import Stream
from edgeadapt.device.commits.evidence_sums import factory_state
from edgeadapt.device.detection.accuracy_estimate import wilson
from edgeadapt.device.inference.live_state import LiveState
from edgeadapt.device.inference.program import Program
from edgeadapt.device.inference.state import LearnerState
from edgeadapt.device.quality.learning_curve import MOST_ROWS, Curve, expected_gain, measured_curve
from edgeadapt.device.storage.features import rows_to_arrays
from edgeadapt.device.storage.journal import Journal
from edgeadapt.device.storage.rows import FieldAnswer
from edgeadapt.results import Confusion, ExpectedGain, Quality, RightAnswers

ANSWERS = 1000
"""The newest, which everything is computed from."""
_LAST = 200  # answers of the confusions
_PRIOR = 10.0  # answers: the weight of the held-out accuracy in the estimate of the present error


def right_answers(answers: Sequence[FieldAnswer]) -> RightAnswers | None:
    """The share of right ones; None without any."""
    if not answers:
        return None
    value = sum(one.is_right for one in answers) / len(answers)
    return RightAnswers(value, *wilson(value, len(answers)), len(answers))


def weighted(
    by_condition: Mapping[str, RightAnswers], met: Mapping[str, int]
) -> RightAnswers | None:
    """Over conditions, by the windows met in each; by the answers where none was met yet."""
    if not by_condition:
        return None
    met = {name: met.get(name, 0) for name in by_condition}
    if not any(met.values()):
        met = {name: one.count for name, one in by_condition.items()}
    total = sum(met.values())
    value = sum(met[name] * one.value for name, one in by_condition.items()) / total
    spread = sum((met[name] / total) ** 2 / one.count for name, one in by_condition.items())
    count = sum(one.count for name, one in by_condition.items() if met[name])
    return RightAnswers(value, *wilson(value, 1.0 / spread), count)


def grouped(
    answers: Iterable[FieldAnswer], key: Callable[[FieldAnswer], str]
) -> dict[str, RightAnswers]:
    """Shares by a name of each answer, in the order of the names."""
    groups: dict[str, list[FieldAnswer]] = {}
    for one in answers:
        groups.setdefault(key(one), []).append(one)
    found = {name: right_answers(groups[name]) for name in sorted(groups)}
    return {name: share for name, share in found.items() if share is not None}


class FieldQuality:
    """Computes on demand, from any thread; keeps the last curve until labels come or go."""

    def __init__(
        self,
        program: Program,
        journal: Journal,
        conditions: DomainManager,
        streams: Mapping[str, Stream],
        live: LiveState,
    ) -> None:
        self._program, self._journal, self._conditions = program, journal, conditions
        self._streams, self._live = streams, live
        self._lock = threading.Lock()
        self._curve: tuple[int, Curve | None] = (-1, None)  # of a commit

    def now(self) -> Quality:
        """See ``Quality``."""
        answers = self._journal.field_answers(ANSWERS)
        drawn = [one for one in answers if one.is_random]
        by_condition = grouped(drawn, lambda one: one.domain)
        accuracy = weighted(by_condition, self._conditions.met)
        last = answers[-_LAST:]
        pairs = Counter((one.predicted, one.label) for one in last)
        streams = sorted(self._streams.items())
        return Quality(
            accuracy,
            by_condition,
            grouped(drawn, lambda one: one.label),
            right_answers([one for one in answers if not one.is_random]),
            tuple(Confusion(*pair, count) for pair, count in pairs.most_common()),
            len(last),
            {name: one.accuracy for name, one in streams if one.accuracy is not None},
            self._conditions.field_accuracy.held_out,
            self._gain(accuracy),
        )

    def _gain(self, accuracy: RightAnswers | None) -> ExpectedGain:
        with self._lock:
            memory = self._live.current
            if self._curve[0] != memory.commit:
                self._curve = (memory.commit, self._measured(memory))
            curve = self._curve[1]
        counts = self._journal.count_accepted()
        labels = sum(sum(of_class.values()) for of_class in counts.values())
        error = 1.0 - self._conditions.field_accuracy.held_out
        if curve is not None:
            error, curve = curve.errors[-1], replace(curve, count=labels)
        if accuracy is not None:
            wrong = accuracy.count * (1.0 - accuracy.value)
            error = (wrong + _PRIOR * error) / (accuracy.count + _PRIOR)
        return expected_gain(curve, error, labels)

    def _measured(self, memory: LearnerState) -> Curve | None:
        rows = self._journal.evidence(
            where="status IN ('learned', 'held_out') AND length(features) > 0",
            limit=MOST_ROWS,
            newest_first=True,
        )
        slots = memory.slots
        rows = [row for row in rows if row.label in slots]
        if not rows:
            return None
        z, taps, y, _, _ = rows_to_arrays(rows, slots, self._program.manifest.feature_dim)
        logits = self._program.forward_head(z, taps, factory_state(self._program).tensors).logits
        known = len(self._program.manifest.classes)
        scaled = (
            logits[:, :known].astype(np.float64) / self._program.manifest.policy.learn.temperature
        )
        believed = np.zeros(logits.shape)
        believed[:, :known] = np.exp(scaled - scaled.max(axis=1, keepdims=True))
        believed /= believed.sum(axis=1, keepdims=True)
        return measured_curve(z, y, believed)


__all__ = ["ANSWERS", "FieldQuality", "grouped", "right_answers", "weighted"]
