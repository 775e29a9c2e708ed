"""What the worker does about a full window: compare it with the conditions it knows, decide, and
carry the decision out.
"""

from __future__ import annotations

import time
from collections import Counter, deque
from collections.abc import MutableMapping, Sequence

import numpy as np
from numpy.typing import NDArray

from edgeadapt.device.adaptation.corrections import Corrections
from edgeadapt.device.adaptation.lifecycle import DomainLifecycle
from edgeadapt.device.adaptation.question_planner import QuestionPlanner
from edgeadapt.device.adaptation.router import DomainRouter
from edgeadapt.device.adaptation.stream import Stream
from edgeadapt.device.adaptation.window_analysis import WindowAnalysis
from edgeadapt.device.commits.commit_log import CommitLog
from edgeadapt.device.detection.domain_router import RoutingProjection
from edgeadapt.device.detection.field_accuracy import FieldAccuracy
from edgeadapt.device.detection.policy import UNCERTAIN, Routing, decide
from edgeadapt.device.detection.window import WindowView
from edgeadapt.device.inference.state import SOURCE
from edgeadapt.device.querying.pending import Pending
from edgeadapt.device.querying.questions import Questions
from edgeadapt.device.querying.quiet_questions import QuietQuestions
from edgeadapt.device.resources.budget import Meter
from edgeadapt.device.storage.journal import DECISIONS_KEPT
from edgeadapt.device.storage.rows import FieldAnswer
from edgeadapt.results import Action

Decision = tuple[float, str, str, str, str]


class DomainManager:
    """Router, lifecycle and question planner, in this order, for every full window. Runs on the
    worker only.

    Attributes:
        decisions: not recorded yet.
        met: windows of each condition since the learner was opened.
    """

    def __init__(
        self,
        log: CommitLog,
        questions: Questions,
        pending: Pending,
        meter: Meter,
        quiet: QuietQuestions,
        routing: Routing = "signature",
        answers: Sequence[FieldAnswer] = (),
    ) -> None:
        self._program, self._live = log.program, log.live
        self._policy = self._program.manifest.policy
        self.decisions: deque[Decision] = deque(maxlen=DECISIONS_KEPT)
        self.met: Counter[str] = Counter()
        self.field_accuracy = FieldAccuracy(self._policy, answers)
        self.corrections = Corrections(self._program, log, meter, self._note)
        self._projection = RoutingProjection(self._program)
        self._router = DomainRouter(self._program, self.corrections, routing)
        self._lifecycle = DomainLifecycle(log, self._projection, self.corrections, self._note)
        self._planner = QuestionPlanner(log, questions, pending, quiet, self.field_accuracy)
        # a condition that is gone -> the one that it turned out to be
        self._merged: dict[str, str] = {}

    def window(
        self,
        stream: Stream,
        view: WindowView,
        factory_residuals: NDArray[np.float32] | None,
        is_stuck: bool,
    ) -> None:
        """Handle one full window. ``factory_residuals``: None if another encoder was in use."""
        self._lifecycle.clock += 1
        state = self._live.current
        stream.enter(self._merged.get(stream.domain, stream.domain))
        known = factory_residuals if stream.domain == SOURCE else None
        seen = WindowAnalysis(self._program, self._projection, state, view, known, is_stuck)
        stream.source_shift = seen.shift
        domain = state.domains.get(stream.domain)
        if domain is None:  # retired while the stream was in it
            stream.enter(SOURCE)
        is_gradual = stream.drifts_to(seen.centre, self._policy.shift.route_distance)
        reading = self._router.compare(seen, stream, domain, is_gradual=is_gradual)
        reading = self._planner.assess(reading, seen, stream)
        decided, actions = decide(reading, stream.name, stream.state, domain, self._policy)
        stream.decided(decided)
        stream.moved_to(seen.centre, is_gradual=is_gradual)
        questions = [ask for action in actions for ask in self._carry_out(action, stream)]
        self.met[stream.domain] += 1
        is_followed = stream.domain in self._live.current.domains and not stream.state.away
        if is_followed and seen.shift > 1.0 and not is_stuck:
            self._router.met(stream.domain, seen)
            self._lifecycle.follow(stream, seen, correction_fits=reading.correction_fits)
        if UNCERTAIN not in stream.state.asked:
            stream.asking.restart(UNCERTAIN)
        # after the correction: what is asked about is learned from its corrected features
        for question in questions:
            self._planner.ask(stream, question, view)

    def _note(self, action: Action) -> None:
        self.decisions.append((time.time(), action.stream, action.kind, action.domain, action.why))

    def _carry_out(self, action: Action, stream: Stream) -> tuple[Action, ...]:
        """Do it; returns what is to be asked about this window."""
        self._note(action)
        if action.kind == "open_domain":
            return self._open(stream, action.why)
        if action.kind == "close_domain":
            stream.leave(action.domain)
            self._lifecycle.move(stream, SOURCE)
        if action.kind == "route":
            self._lifecycle.move(stream, action.domain)
        return (action,) if action.kind == "ask" else ()

    def _open(self, stream: Stream, why: str) -> tuple[Action, ...]:
        before = self._live.current.domains
        name = self._lifecycle.open(stream)
        asks: tuple[Action, ...] = ()
        count = min(self._policy.ask.per_condition, self._policy.ask.per_batch)
        if count > 0:
            stream.asked(name, count)
            asks = (Action("ask", stream.name, name, why=why),)
            self._note(asks[0])
        self._lifecycle.forget_window(stream)
        self._lifecycle.record_retired(before)
        return asks

    def merge(self) -> None:
        """Conditions that turned out to be one become one."""
        merged = self._lifecycle.merge()
        self._router.merge(merged)
        self._merged |= merged

    def answered(
        self, answers: Sequence[tuple[str, str, bool]], streams: MutableMapping[str, Stream]
    ) -> None:
        """Answers (sample id, condition it was met in, whether its class is new) speak for a
        condition or for new classes.
        """
        told = [(self._planner.topic_of(sample, met), new) for sample, met, new in answers]
        self._lifecycle.answered(told, lambda: list(streams.values()))


__all__ = ["DomainManager"]
