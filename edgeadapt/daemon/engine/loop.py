"""The one thread that answers: a batch of one stream in, an answer per sample out, and a sign
of life for the watchdog.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import OrderedDict, deque
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any

import msgspec

from edgeadapt.daemon.config.schema import LoopSection
from edgeadapt.daemon.engine.batches import Said, answer_of, stacked
from edgeadapt.daemon.engine.label_queue import Labels
from edgeadapt.daemon.engine.latency_governor import LatencyGovernor
from edgeadapt.daemon.messages import Answer, Arrival, SampleQueue, refused
from edgeadapt.device.learner import Learner
from edgeadapt.errors import EdgeadaptError, InputError
from edgeadapt.results import Observation, Question, Reading

log = logging.getLogger("edgeadapt.daemon")
_TURN_S = 0.25  # without samples: the watchdog and a pause are looked after this often
_ASKED_EVERY_S = 1.0
_STREAMS = 256  # of which the last reading is kept
_RECENT = 16  # inputs kept to compare a new bundle with


class Loop:
    """Takes from the inbox, answers, and replies to whoever waits; only ``stop`` and the numbers
    are for other threads.

    Args:
        borrow: the learner for one batch; calls its argument while it waits for a swap to end.
        emit: takes every event for the sinks; must not raise or block.
        beat: called on every turn: the watchdog.
        settings: ``batch``, the most samples answered together, and ``rate_hz``: a sample older
            than 1 / rate_hz when its turn comes is answered by ``predict`` and counted as
            ``unadapted``, unless it has a label; None observes all. May be replaced while it runs.
        observed: takes (stream, samples, seconds) of every batch.
    """

    def __init__(
        self,
        borrow: Callable[[Callable[[], None]], AbstractContextManager[Learner]],
        inbox: SampleQueue,
        labels: Labels,
        governor: LatencyGovernor,
        settings: LoopSection,
        *,
        emit: Callable[[Mapping[str, Any]], None],
        beat: Callable[[], None],
        observed: Callable[[str, int, float], None] | None = None,
    ) -> None:
        self.settings = settings
        self.counts = dict.fromkeys(("answered", "unadapted", "refused", "failures", "batches"), 0)
        self.error = ""
        self.last_turn = time.monotonic()
        self.recent: deque[Arrival] = deque(maxlen=_RECENT)
        self._borrow, self._inbox, self._labels, self._governor = borrow, inbox, labels, governor
        self._emit, self._beat, self._observed = emit, beat, observed
        # the last reading, samples, seconds since the epoch
        self._streams: OrderedDict[str, tuple[Reading, int, float]] = OrderedDict()
        self._asked: set[str] = set()
        self._asked_at = 0.0
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="loop", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self, timeout_s: float) -> bool:
        """Finish the batch; close the inbox first, so that it does not wait for another. True if it
        has ended.
        """
        self._stop.set()
        if self._thread.ident is not None:
            self._thread.join(timeout_s)
        return not self._thread.is_alive()

    @property
    def is_alive(self) -> bool:
        return self._thread.is_alive()

    def streams(self) -> dict[str, dict[str, Any]]:
        """The last reading of each stream: axis, shift, novel_share, domain, samples, at (seconds
        since the epoch).
        """
        return {
            name: {
                "axis": reading.axis,
                "shift": reading.shift,
                "novel_share": reading.novel_share,
                "domain": reading.domain,
                "window": reading.window,
                "accuracy": (
                    None if reading.accuracy is None else msgspec.to_builtins(reading.accuracy)
                ),
                "samples": samples,
                "at": at,
            }
            for name, (reading, samples, at) in list(self._streams.items())
        }

    def counters(self) -> dict[str, Any]:
        """For a status line."""
        return {**self.counts, "error": self.error}

    def _run(self) -> None:
        while not self._stop.is_set():
            self.last_turn = time.monotonic()
            self._beat()
            self._governor.tick()
            try:
                if arrivals := self._inbox.take(self.settings.batch, _TURN_S):
                    self._answer(arrivals)
                self._ask()
            except Exception as error:  # what nobody foresaw: the loop outlives it
                self._failed(error)

    def _answer(self, arrivals: Sequence[Arrival]) -> None:
        for group, is_observed in self._parted(arrivals):
            started = time.monotonic()
            with self._borrow(self._beat) as learner:
                taken = time.perf_counter()
                was_learning = _is_learning(learner)
                said = self._try(learner, group, is_observed)
                seconds = time.perf_counter() - taken
                is_learning = was_learning or _is_learning(learner)
            self._governor.record(seconds, is_learning=is_learning)  # it may ask for the learner
            if self._observed is not None:
                self._observed(group[0].stream, len(group), seconds)
            for arrival, (what, row) in zip(group, said, strict=True):
                self._report(
                    arrival,
                    answer_of(
                        arrival,
                        what,
                        row,
                        waited_ms=1e3 * max(0.0, started - arrival.came),
                        took_ms=1e3 * seconds,
                    ),
                )
            self.counts["batches"] += 1

    def _parted(self, arrivals: Sequence[Arrival]) -> list[tuple[Sequence[Arrival], bool]]:
        """Samples that are too late to be observed, and those that are not."""
        if self.settings.rate_hz is None:
            return [(arrivals, True)]
        oldest = time.monotonic() - 1.0 / self.settings.rate_hz
        late = [one for one in arrivals if one.came < oldest and one.label is None]
        due = [one for one in arrivals if one.came >= oldest or one.label is not None]
        return [(group, is_due) for group, is_due in ((late, False), (due, True)) if group]

    def _try(
        self, learner: Learner, arrivals: Sequence[Arrival], is_observed: bool
    ) -> list[tuple[Said, int]]:
        """What is said about each, and its row; if a batch is refused, one by one, so that a bad
        sample does not take the others with it.
        """
        try:
            x, features = stacked(arrivals)
            said: Said
            if is_observed:
                said = learner.observe(x, features=features, stream=arrivals[0].stream)
                self._see(arrivals, said)
            else:
                said = learner.predict(x, features=features, stream=arrivals[0].stream)
                self.counts["unadapted"] += len(arrivals)
            return [(said, row) for row in range(len(arrivals))]
        except InputError as error:
            if len(arrivals) > 1:
                return [said for one in arrivals for said in self._try(learner, [one], is_observed)]
            return [(str(error), 0)]
        except Exception as error:  # an engine may raise anything; the next batch may be fine
            self._failed(error)
            return [(f"{type(error).__name__}: {error}", row) for row in range(len(arrivals))]

    def _failed(self, error: Exception) -> None:
        self.counts["failures"] += 1
        before, self.error = self.error, f"{type(error).__name__}: {error}"
        if self.error != before:  # the same once more is only counted
            log.error(
                "a batch could not be answered: %s",
                self.error,
                exc_info=not isinstance(error, EdgeadaptError),
            )

    def _see(self, arrivals: Sequence[Arrival], observation: Observation) -> None:
        stream, last = arrivals[0].stream, arrivals[-1]
        before = self._streams.get(stream)
        self._streams[stream] = (
            observation.reading,
            len(arrivals) + (before[1] if before else 0),
            last.at,
        )
        self._streams.move_to_end(stream)
        if len(self._streams) > _STREAMS:
            self._streams.popitem(last=False)
        self.recent.append(last)

    def _report(self, arrival: Arrival, answer: Answer) -> None:
        """The reply, the sinks, and the labels that this sample has; one that fails does not keep
        the others from theirs.

        Whoever brought it with a label that is dropped gets that instead of the answer: it may
        bring both again.
        """
        is_kept = True
        if answer.error:
            self.counts["refused"] += 1
        else:
            self.counts["answered"] += 1
            is_kept = self._labels.came(arrival.source, arrival.name, answer.id, arrival.label)
        try:
            if arrival.reply is not None:
                arrival.reply(
                    answer if is_kept else refused(arrival, "its label was dropped: too many wait")
                )
        except Exception as error:
            self._failed(error)
        self._emit({"event": "answer", **msgspec.structs.asdict(answer)})

    def _ask(self) -> None:
        """New questions go to the sinks, too."""
        now = time.monotonic()
        if now - self._asked_at < _ASKED_EVERY_S:
            return
        self._asked_at = now
        with self._borrow(self._beat) as learner:
            questions = learner.questions(limit=100)
        for question in questions:
            if question.id not in self._asked:
                self._emit(question_event(question))
        self._asked = {question.id for question in questions}


def question_event(question: Question) -> dict[str, Any]:
    """A question as a sink takes it: flat, without its frame."""
    return {
        "event": "question",
        "id": question.id,
        "stream": question.stream,
        "why": question.why,
        "predicted": question.predicted,
        "confidence": question.confidence,
        "novelty": question.novelty,
        "at": question.asked_at,
    }


def _is_learning(learner: Learner) -> bool:
    # what is queued does not slow an answer, and while paused it stays queued
    return learner.is_working


__all__ = ["Loop", "question_event"]
