"""From inputs to a prediction: checks, encoder, head. Nothing here changes the learner."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgeadapt.device.inference.program import F32, HeadOutput, Program
from edgeadapt.device.inference.state import SOURCE, LearnerState
from edgeadapt.errors import InputError
from edgeadapt.inputs import FirstFrames, check_batch, check_features
from edgeadapt.results import Prediction, Reading


@dataclass(frozen=True, eq=False)
class _AnswerSet:
    """The classes of a state that can be answered: their columns in the logits, a view where they
    are the first ones.
    """

    classes: tuple[str | None, ...]
    columns: slice | list[int]
    names: tuple[str, ...]

    @classmethod
    def of(cls, classes: tuple[str | None, ...]) -> _AnswerSet:
        active = [slot for slot, name in enumerate(classes) if name is not None]
        is_prefix = active == list(range(len(active)))
        columns = slice(0, len(active)) if is_prefix else active
        return cls(classes, columns, tuple(str(classes[slot]) for slot in active))


class Predictor:
    """Inputs to features to predictions, for one program. Thread-safe."""

    def __init__(self, program: Program, classes: tuple[str | None, ...]) -> None:
        self._program, self._manifest = program, program.manifest
        self._first_frames = FirstFrames(self._manifest.input)
        self._answer_set = _AnswerSet.of(classes)
        self._sharpness = np.float32(1.0 / self._manifest.policy.learn.temperature)

    def features(
        self, x: Any, features: Mapping[str, Any] | None, memory: LearnerState, domain: str
    ) -> tuple[NDArray[Any], F32, F32]:
        """(inputs, z, taps) of a batch that was checked.

        Raises:
            InputError: the batch does not fit, or both or neither of ``x`` and ``features`` were
                given.
        """
        manifest = self._manifest
        if (x is None) == (features is None):
            raise InputError("pass either a batch x or features={'z': ...}")
        if features is not None or manifest.input.layout == "features":
            given = features if features is not None else {"z": x}
            z, taps = check_features(given, manifest.feature_dim, manifest.tap_dim)
            return np.concatenate([z, taps], axis=1) if taps.shape[1] else z, z, taps
        if not self._program.has_encoder:
            raise InputError("this bundle has no encoder: pass features={'z': ...}")
        batch = check_batch(x, manifest.input)
        z, taps = self._program.encode(batch, memory.encoder_in(domain))
        return batch, z, taps

    def is_encoded(self, features: Mapping[str, Any] | None) -> bool:
        """Whether the features of such a batch come from the encoder here, in arrays that nobody
        else has.
        """
        return features is None and self._manifest.input.layout != "features"

    def check_first(self, inputs: NDArray[Any]) -> None:
        """Compare the first inputs with calibration; a swapped channel order or a missing factor is
        named in a warning.
        """
        if self._first_frames.is_active:
            self._first_frames.add(inputs)

    def prediction(self, read: HeadOutput, memory: LearnerState) -> Prediction:
        answers = self._answer_set
        if answers.classes is not memory.classes:
            answers = self._answer_set = _AnswerSet.of(memory.classes)
        logits = read.logits[:, answers.columns]
        # ufuncs called directly: their wrappers are cold code here
        probs = logits - np.maximum.reduce(logits, axis=1, keepdims=True)
        probs *= self._sharpness
        np.exp(probs, out=probs)
        probs /= np.add.reduce(probs, axis=1, keepdims=True)
        labels = tuple([answers.names[i] for i in logits.argmax(axis=1).tolist()])
        return Prediction(labels, probs, read.score, read.embedding, answers.names)

    def abstained(self, read: HeadOutput, reading: Reading) -> NDArray[np.bool_]:
        """Novel samples while novelty means something; all of a stuck window."""
        if reading.axis == "stuck":
            return np.ones(len(read.score), np.bool_)
        if reading.is_shifted or reading.domain != SOURCE:
            return np.zeros(len(read.score), np.bool_)
        novel: NDArray[np.bool_] = read.score > self._manifest.policy.novelty.threshold
        return novel
