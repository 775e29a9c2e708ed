"""A batch on the caller's thread: features, prediction, reading, and what the worker is to do."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from edgeadapt.device.adaptation.health import distance_from
from edgeadapt.device.adaptation.stream import Stream
from edgeadapt.device.adaptation.temporal_correlation import Smoothing
from edgeadapt.device.inference.live_state import LiveState
from edgeadapt.device.inference.predictor import Predictor
from edgeadapt.device.inference.program import HeadOutput, Program
from edgeadapt.device.inference.state import SOURCE, LearnerState
from edgeadapt.device.pipeline.window_queue import WindowQueue
from edgeadapt.device.querying.pending import Ids, Pending, PendingBatch
from edgeadapt.device.storage.features import as_stored
from edgeadapt.results import Action, Observation, Prediction, Reading


class Observer:
    """Predicts and observes; thread-safe. ``keeps_raw``: inputs are kept for labels to come.

    Attributes:
        samples: that were observed.
        encode_s, sense_s: seconds spent in the encoder, and in all that follows it.
    """

    def __init__(
        self,
        program: Program,
        live: LiveState,
        streams: WindowQueue,
        pending: Pending,
        *,
        keeps_raw: bool,
    ) -> None:
        self._program, self._live, self._streams = program, live, streams
        self._pending, self._keeps_raw = pending, keeps_raw
        self._ids = Ids()
        self._policy = program.manifest.policy
        self._smoothing = Smoothing(program) if self._policy.smooth.method else None
        self.predictor = Predictor(program, live.current.classes)
        self.samples = 0
        self.encode_s = self.sense_s = 0.0

    def predict(self, x: Any, features: Mapping[str, Any] | None, stream: str) -> Prediction:
        """See ``Learner.predict``."""
        state = self._live.current
        domain = self._streams.domain_of(stream)
        _, z, taps = self.predictor.features(x, features, state, domain)
        return self.predictor.prediction(
            self._program.forward_head(z, taps, state.tensors_in(domain)), state
        )

    def observe(self, x: Any, features: Mapping[str, Any] | None, stream: str) -> Observation:
        """See ``Learner.observe``."""
        state = self._live.current
        found = self._streams.observed(stream)
        domain = found.state.domain
        started = time.perf_counter()
        inputs, z, taps = self.predictor.features(x, features, state, domain)
        encoded = time.perf_counter()
        if features is None:
            self.predictor.check_first(inputs)
        read = self._program.forward_head(z, taps, state.tensors_in(domain))
        ids = self._ids.take(len(z))
        slots = read.logits.argmax(axis=1)
        is_factory_path = state.encoder_in(domain) is None
        active = state.domains.get(domain) if self._program.can_adapt else None
        far = None if active is None else distance_from(read.embedding, state.prototypes)
        queued: tuple[Action, ...] = ()
        with found.lock:
            # else the worker moved on: these residuals belong to the past
            if found.state.domain == domain:
                correction = None if active is None else active.tensors
                found.window.push(
                    read.residual, slots, read.score, inputs, ids, far, correction, read.logits
                )
            reading = self._reading(found, domain, state, is_factory_path)
            is_foreign = not (is_factory_path or self._program.preserves_space) and features is None
            # the caller may use its features again
            is_ours = self.predictor.is_encoded(features)
            self._pending.add(  # before a question names them
                PendingBatch(
                    ids,
                    stream,
                    domain,
                    reading.is_shifted,
                    z if is_ours else as_stored(z, taps),
                    time.monotonic(),
                    is_foreign=is_foreign,
                    taps=taps if is_ours else None,
                )
            )
            if (self._keeps_raw or is_foreign) and features is None:
                self._pending.keep_inputs(ids, inputs)
            if found.window.is_full and found.window.fresh >= self._policy.shift.window:
                queued = (self._streams.queue_window(found, is_factory_path),)
        abstained = self.predictor.abstained(read, reading)
        answer = self._smoothed(found, read, slots, reading, state)
        prediction = self.predictor.prediction(answer, state)
        self.samples += len(z)
        self.encode_s += encoded - started
        self.sense_s += time.perf_counter() - encoded
        return Observation(prediction, ids, abstained, reading, queued)

    def _reading(
        self, stream: Stream, domain: str, state: LearnerState, is_factory_path: bool
    ) -> Reading:
        source_shift = None if is_factory_path else stream.source_shift
        reading = stream.window.reading(domain, state.class_counts, source_shift, stream.accuracy)
        if (
            domain != SOURCE
            and is_factory_path
            and not reading.is_shifted
            and self._live.adapt_mode != "act"
        ):
            # nothing is corrected, and nothing shows the condition any more
            reading = msgspec.structs.replace(reading, domain=SOURCE)
        return reading

    def _smoothed(
        self,
        stream: Stream,
        read: HeadOutput,
        slots: NDArray[np.intp],
        reading: Reading,
        state: LearnerState,
    ) -> HeadOutput:
        if self._smoothing is None or self._live.adapt_mode != "act":
            return read
        return self._smoothing.of(stream, read, slots, reading, state)


__all__ = ["Observer"]
