"""What to ask about a window: whether accuracy may have fallen, which samples say most, and how
many questions that is worth.
"""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from edgeadapt.device.adaptation.stream import Stream
from edgeadapt.device.adaptation.window_analysis import WindowAnalysis
from edgeadapt.device.commits.commit_log import CommitLog
from edgeadapt.device.detection.accuracy_estimate import tally
from edgeadapt.device.detection.field_accuracy import FieldAccuracy
from edgeadapt.device.detection.policy import QUIET, UNCERTAIN, WindowReading
from edgeadapt.device.detection.window import WindowView
from edgeadapt.device.inference.state import SOURCE
from edgeadapt.device.numerics.stable_hash import stable_hash
from edgeadapt.device.querying.pending import Pending, PendingBatch
from edgeadapt.device.querying.questions import Questions
from edgeadapt.device.querying.quiet_questions import QuietQuestions
from edgeadapt.device.querying.strategy import HeadView
from edgeadapt.device.storage.features import as_stored
from edgeadapt.results import Action, Question

_TOPICS = 10_000
_FEWEST_ANSWERS = 3  # to random questions, that keep a doubt open
# share of a window that is taken for one class, from which it may be a class of its own
_ALIKE = 0.8
_RANDOM_EVERY = 5  # questions about a topic


class QuestionPlanner:
    """Runs on the worker.

    Attributes:
        accuracy: in the field, from answers to questions that were drawn at random.
    """

    def __init__(
        self,
        log: CommitLog,
        questions: Questions,
        pending: Pending,
        quiet: QuietQuestions,
        accuracy: FieldAccuracy,
    ) -> None:
        self._program, self._live = log.program, log.live
        self._policy = log.program.manifest.policy
        self._questions, self._pending, self._quiet = questions, pending, quiet
        self.accuracy = accuracy
        # sample id -> the condition it was asked in, the newest last
        self._topics: OrderedDict[str, str] = OrderedDict()

    def topic_of(self, sample: str, otherwise: str) -> str:
        """The condition that a sample was asked in, once."""
        return self._topics.pop(sample, otherwise)

    # -- is anything to be asked -------------------------------------------------------------------
    def assess(self, reading: WindowReading, seen: WindowAnalysis, stream: Stream) -> WindowReading:
        """What is known about accuracy beside the statistics, and how many questions that is
        worth.
        """
        if reading.is_stuck:
            return reading
        self._estimate(seen.view, stream)
        doubt = self._doubt(stream)
        nearest = seen.state.domains.get(reading.nearest)
        is_alike = float(np.bincount(seen.slots).max()) >= _ALIKE * len(seen.slots)
        is_strange = reading.novel_share >= self._policy.novelty.window_share or is_alike
        return replace(
            reading,
            doubt=doubt,
            is_strange=is_strange and (nearest is None or nearest.kind != "condition"),
            is_quiet_turn=self._quiet.is_due(),
            limit=self.accuracy.limit(stream.name, stream.domain),
        )

    def _estimate(self, view: WindowView, stream: Stream) -> None:
        policy = self._policy.accuracy
        if policy.samples and view.logits is not None:
            stream.recent = stream.recent.extended(tally(view.logits, view.slots, policy), policy)
            stream.accuracy = stream.recent.estimate(policy)

    def _doubt(self, stream: Stream) -> str:
        """Why accuracy seems to have fallen; empty if it does not."""
        policy, key = self._policy.accuracy, (stream.name, stream.domain)
        answers = self.accuracy.of(*key)
        if stream.accuracy is not None and stream.accuracy.has_fallen:
            return (
                f"accuracy seems to be {stream.accuracy.value:.0%}, {policy.accuracy:.0%} on"
                " held-out samples"
            )
        if answers.needs_more(self.accuracy.held_out, policy.margin):
            asked = stream.state.asked.get(UNCERTAIN, 0)
            is_open = len(answers.right) >= _FEWEST_ANSWERS and 0 < asked < self.accuracy.limit(
                *key
            )
            if answers.has_fallen or is_open:  # doubted once: clear readings are not enough
                return (
                    f"{answers.right.count(False)} of {len(answers.right)} answers to random"
                    " questions were not the prediction"
                )
        elif answers.has_fallen:
            self.accuracy.restart(*key)
        return ""

    # -- asking ------------------------------------------------------------------------------------
    def ask(self, stream: Stream, action: Action, view: WindowView) -> None:
        """Choose samples of a window, and put the questions on the list."""
        head, topic = self._head_view(stream, view), action.domain
        rows, random = (
            self._quiet_rows(stream, head) if topic == QUIET else self._rows(stream, topic, head)
        )
        rows = [*rows, *random]
        now, state = time.time(), self._live.current
        asked = [
            Question(
                view.ids[i],
                stream.name,
                action.why,
                str(state.classes[head.slots[i]]),
                _confidence(head.seen.logits[i], self._policy.learn.temperature),
                float(head.seen.score[i]),
                now,
                view.inputs[i].copy(),
            )
            for i in rows
        ]
        if stream.domain != SOURCE and rows:
            self._renew_pending(stream, head, view, rows)
        added = self._questions.ask(asked)
        for index, question in enumerate(asked[:added]):
            self.accuracy.asked(
                question.id,
                stream.name,
                stream.domain,
                question.predicted,
                is_random=index >= len(rows) - len(random),
            )
        if topic == QUIET and added:
            self._quiet.asked()
        self._topics.update((q.id, stream.domain) for q in asked)
        while len(self._topics) > _TOPICS:  # most questions are never answered
            self._topics.popitem(last=False)

    def _head_view(self, stream: Stream, view: WindowView) -> HeadView:
        state = self._live.current
        z, taps = view.features(self._program, state.encoder_in(stream.domain))
        tensors = state.tensors_in(stream.domain)
        head = self._program.runtime.download(tensors, ("head.mean", "head.active"))
        return HeadView(
            z,
            taps,
            self._program.forward_head(z, taps, tensors),
            lambda moved: self._program.forward_head(moved, taps, tensors),
            head["head.mean"],
            head["head.active"] > 0,
        )

    def _rows(self, stream: Stream, topic: str, head: HeadView) -> tuple[list[int], list[int]]:
        """Rows that say most, and rows drawn at random; counts them."""
        before, usual = stream.asking.count(topic), self._policy.ask.per_condition
        limit = self.accuracy.limit(stream.name, stream.domain)
        rows = self._chosen(stream, topic, head, limit)
        random = _drawn(head.z, _random_share(before, len(rows)), rows)
        stream.asked(topic, stream.asking.spent(topic, limit, usual))
        return rows[: len(rows) - len(random)], random

    def _quiet_rows(self, stream: Stream, head: HeadView) -> tuple[list[int], list[int]]:
        """One row: the one that says most, or, every other time, one drawn at random."""
        limit = stream.asking.count(QUIET) + 1
        rows = [] if self._quiet.is_random_next else self._chosen(stream, QUIET, head, limit)
        return rows, [] if rows else _drawn(head.z, 1, ())

    def _chosen(self, stream: Stream, topic: str, head: HeadView, limit: int) -> list[int]:
        domains = self._live.current.domains
        domain = domains.get(stream.domain)
        return stream.asking.choose(
            topic,
            head,
            self._policy,
            is_settled=domain is not None and domain.kind == "condition",
            topics=domains,
            limit=limit,
        )

    def _renew_pending(
        self, stream: Stream, head: HeadView, view: WindowView, rows: list[int]
    ) -> None:
        """What is asked about is learned from its features as they are now, in factory space."""
        kept = (
            as_stored(head.z[rows], head.taps[rows])
            if self._program.preserves_space
            else as_stored(*self._program.encode(view.inputs[rows]))
        )
        self._pending.renew(
            PendingBatch(
                tuple(view.ids[i] for i in rows),
                stream.name,
                stream.domain,
                True,
                kept,
                time.monotonic(),
            )
        )


def _random_share(before: int, count: int) -> int:
    """Of ``count`` questions after so many, how many are drawn at random: every fifth, and none of
    the first five.
    """
    return max(0, (before + count) // _RANDOM_EVERY - max(1, before // _RANDOM_EVERY))


def _drawn(z: NDArray[np.float32], count: int, but: Sequence[int]) -> list[int]:
    """``count`` rows of a window (W, D) at random, the same ones whenever the window comes; not
    rows that are asked about anyway and stay.

    The whole window is hashed as one, so that copies of a frame are drawn as often as they come.
    """
    if not count:
        return []
    stay = set(but[: len(but) - count])
    rng = np.random.default_rng(
        stable_hash(as_stored(z, np.zeros((len(z), 0), np.float32)), b"question")
    )
    return [row for row in rng.permutation(len(z)).tolist() if row not in stay][:count]


def _confidence(logits: NDArray[np.float32], temperature: float) -> float:
    shifted = np.exp((logits - logits.max()) / temperature)
    return float(1.0 / shifted.sum())


__all__ = ["QuestionPlanner"]
