"""What the worker does about a full window: sense it with the factory encoder, decide, and carry
the decision out.
"""

from __future__ import annotations

import threading
import time
from collections import Counter, OrderedDict, deque
from collections.abc import MutableMapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgeadapt.device.adaptation.corrections import Corrections
from edgeadapt.device.adaptation.health import brings_home, distance_from
from edgeadapt.device.adaptation.replay_buffer import ReplayBuffer
from edgeadapt.device.commits.commit_log import CommitLog
from edgeadapt.device.commits.domain_changes import confirm_domain, save_domains
from edgeadapt.device.commits.serialization import domain_blob
from edgeadapt.device.detection.accuracy_estimate import RecentAccuracy, tally
from edgeadapt.device.detection.domain_router import (
    RoutingProjection,
    nearest_domain,
    open_domain,
    predicted_in,
)
from edgeadapt.device.detection.field_accuracy import FieldAccuracy
from edgeadapt.device.detection.gradual_drift import GradualDriftTracker
from edgeadapt.device.detection.hypervector_bundles import merge_candidates, merged_signature
from edgeadapt.device.detection.hypervector_router import HypervectorRouter
from edgeadapt.device.detection.policy import (
    NOVEL,
    QUIET,
    UNCERTAIN,
    Routing,
    StreamState,
    WindowReading,
    decide,
    judge_answers,
)
from edgeadapt.device.detection.steadiness import WindowStats
from edgeadapt.device.detection.window import StreamWindow, WindowView, shift_ratio
from edgeadapt.device.inference.program import Program
from edgeadapt.device.inference.state import SOURCE, Domain, LearnerState
from edgeadapt.device.numerics.stable_hash import draw_of
from edgeadapt.device.querying.pending import Pending, PendingBatch
from edgeadapt.device.querying.questions import Questions
from edgeadapt.device.querying.quiet_questions import QuietQuestions
from edgeadapt.device.querying.strategy import Asking
from edgeadapt.device.resources.budget import Meter
from edgeadapt.device.storage.features import as_stored
from edgeadapt.device.storage.journal import DECISIONS_KEPT
from edgeadapt.device.storage.rows import FieldAnswer
from edgeadapt.results import AccuracyEstimate, Action, Question

_TOPICS = 10_000
# mean cosine from which two conditions are one; at equal lengths it is the distance at which a
# window is routed
_ONE = 0.95
# share of a window's samples whose class a condition has met, from which its signature says whether
# they belong to it
_MET = 0.5
_BACK = 8  # windows after which a stream that left a condition is no longer on its way back
_FEWEST_ANSWERS = 3  # to random questions, that keep a doubt open
# share of a window that is taken for one class, from which it may be a class of its own
_ALIKE = 0.8
_RANDOM_EVERY = 5  # questions about a topic
_FOLLOWED = 0.5  # what a window of a drift leaves of where its condition was
Decision = tuple[float, str, str, str, str]


@dataclass(eq=False)
class Stream:
    """One camera or sensor: its window, what it remembers, and recent inputs per condition (in
    memory only).
    """

    name: str
    window: StreamWindow
    state: StreamState = field(default_factory=StreamState)
    trail: GradualDriftTracker | None = None
    left: str = ""  # the condition it was in before the factory's came back
    left_ago: int = 0  # windows
    looked: WindowStats | None = None  # at its last window under a condition
    recent: RecentAccuracy = field(default_factory=RecentAccuracy)
    accuracy: AccuracyEstimate | None = None  # of the last full window, read by ``observe``
    memories: dict[str, ReplayBuffer] = field(default_factory=dict)
    asking: Asking = field(default_factory=Asking)
    lock: threading.Lock = field(default_factory=threading.Lock)


class DomainManager:
    """Opens, finds, corrects and closes conditions. Runs on the worker only."""

    def __init__(
        self,
        program: Program,
        log: CommitLog,
        questions: Questions,
        pending: Pending,
        meter: Meter,
        quiet: QuietQuestions,
        routing: Routing = "signature",
        answers: Sequence[FieldAnswer] = (),
    ) -> None:
        self._router = HypervectorRouter(program) if routing == "hypervector" else None
        self._program = program
        self._log = log
        self._questions = questions
        self._pending = pending
        self._live = log.live
        self._policy = program.manifest.policy
        self._places = RoutingProjection(program)
        # a condition that is gone -> the one that it turned out to be
        self._merged: dict[str, str] = {}
        self.field_accuracy, self._quiet = FieldAccuracy(self._policy, answers), quiet
        self.met: Counter[str] = Counter()  # condition -> windows since the learner was opened
        self._clock = 0  # windows, for least-recently-used retirement
        # sample id -> the domain it was asked in, the newest last
        self._topics: OrderedDict[str, str] = OrderedDict()
        self.decisions: deque[Decision] = deque(maxlen=DECISIONS_KEPT)  # not recorded yet
        self.corrections = Corrections(program, log, meter, self._note)

    # -- one window --------------------------------------------------------------------------------
    def window(
        self,
        stream: Stream,
        view: WindowView,
        hot_residuals: NDArray[np.float32] | None,
        is_stuck: bool,
    ) -> None:
        """Handle one full window. ``hot_residuals`` are None if another than the factory encoder
        was in use.
        """
        self._clock += 1
        memory = self._live.current
        if stream.state.domain in self._merged:
            stream.state = replace(stream.state, domain=self._merged[stream.state.domain])
        is_source = stream.state.domain == SOURCE
        residuals, factory_slots, scores, embedding = self._factory_view(
            view, hot_residuals if is_source else None, memory
        )
        shift = shift_ratio(residuals, factory_slots, memory.class_counts, self._policy.shift)
        stream.window.source_shift = shift
        places = self._places.of(residuals, factory_slots, memory)
        domain = memory.domains.get(stream.state.domain)
        if stream.state.domain != SOURCE and domain is None:  # retired while the stream was in it
            stream.state = replace(stream.state, domain=SOURCE)
        is_step = stream.trail is not None and stream.trail.leads_to(
            places.mean(axis=0), self._policy.shift.route_distance
        )
        if not is_step:
            stream.left = ""  # it jumped: the way back is another way
        reading = self._compare(
            shift,
            scores,
            places,
            view,
            domain,
            memory,
            factory_slots,
            is_stuck,
            is_step,
            stream,
            embedding,
        )
        reading = self._with_accuracy(reading, view, stream, factory_slots)
        state, actions = decide(reading, stream.name, stream.state, domain, self._policy)
        # a condition is entered when it is open
        stream.state = state if state.domain else replace(state, domain=stream.state.domain)
        if not stream.state.away:
            stream.trail = (
                stream.trail.extended(places.mean(axis=0))
                if is_step and stream.trail is not None
                else GradualDriftTracker(places.mean(axis=0))
            )
        stream.left_ago += 1
        questions: list[Action] = []
        for action in actions:
            self._note(action)
            if action.kind == "close_domain":
                stream.left, stream.left_ago = action.domain, 0
            questions += self._carry_out(action, stream)
        self.met[stream.state.domain] += 1
        if not is_stuck:
            self._remember(stream, view, places, shift, factory_slots, embedding, reading.is_home)
        if UNCERTAIN not in stream.state.asked:
            stream.asking.restart(UNCERTAIN)
        # after the correction: what is asked about is learned from its corrected features
        for action in questions:
            self._ask(stream, action, view)

    def _with_accuracy(
        self,
        reading: WindowReading,
        view: WindowView,
        stream: Stream,
        factory_slots: NDArray[np.int64],
    ) -> WindowReading:
        """What is known about accuracy beside the statistics, and how many questions that is
        worth.
        """
        policy = self._policy.accuracy
        if reading.is_stuck:
            return reading
        if policy.samples and view.logits is not None:
            stream.recent = stream.recent.extended(tally(view.logits, view.slots, policy), policy)
            stream.accuracy = stream.recent.estimate(policy)
        answers = self.field_accuracy.of(stream.name, stream.state.domain)
        doubt = ""
        if stream.accuracy is not None and stream.accuracy.has_fallen:
            doubt = (
                f"accuracy seems to be {stream.accuracy.value:.0%}, {policy.accuracy:.0%} on"
                " held-out samples"
            )
        elif answers.needs_more(self.field_accuracy.held_out, policy.margin):
            asked = stream.state.asked.get(UNCERTAIN, 0)
            is_open = len(
                answers.right
            ) >= _FEWEST_ANSWERS and 0 < asked < self.field_accuracy.limit(
                stream.name, stream.state.domain
            )
            if answers.has_fallen or is_open:  # doubted once: clear readings are not enough
                doubt = (
                    f"{answers.right.count(False)} of {len(answers.right)} answers to random"
                    " questions were not the prediction"
                )
        elif answers.has_fallen:
            self.field_accuracy.restart(stream.name, stream.state.domain)
        nearest = self._live.current.domains.get(reading.nearest)
        is_strange = reading.novel_share >= self._policy.novelty.window_share or float(
            np.bincount(factory_slots).max()
        ) >= _ALIKE * len(factory_slots)
        is_strange = is_strange and (nearest is None or nearest.kind != "condition")
        limit = self.field_accuracy.limit(stream.name, stream.state.domain)
        return replace(
            reading,
            doubt=doubt,
            is_strange=is_strange,
            is_quiet_turn=self._quiet.is_due(),
            limit=limit,
        )

    def _factory_view(
        self, view: WindowView, hot: NDArray[np.float32] | None, memory: LearnerState
    ) -> tuple[
        NDArray[np.float32], NDArray[np.int64], NDArray[np.float32], NDArray[np.float32] | None
    ]:
        """Residuals, class slots, novelty scores and (where they were computed here) features of a
        window under the factory encoder.
        """
        if hot is not None:
            return hot, view.slots, view.scores, None
        z, taps = self._program.encode(view.inputs)
        read = self._program.read(z, taps, memory.tensors)
        return read.residual, read.logits.argmax(axis=1), read.score, read.embedding

    def _compare(
        self,
        shift: float,
        scores: NDArray[np.float32],
        places: NDArray[np.float64],
        view: WindowView,
        domain: Domain | None,
        memory: LearnerState,
        factory_slots: NDArray[np.int64],
        is_stuck: bool,
        is_step: bool,
        stream: Stream,
        embedding: NDArray[np.float32] | None,
    ) -> WindowReading:
        novel = float((scores > self._policy.novelty.threshold).mean())
        if shift <= 1.0 or is_stuck:
            return WindowReading(shift, novel, is_stuck)
        slots = (
            factory_slots if domain is None else self._slots_in(domain, view, factory_slots, memory)
        )
        distance = None if domain is None else domain.signature.distance(places, slots)
        if distance is not None and (distance <= self._policy.shift.route_distance or is_step):
            return WindowReading(shift, novel, is_step=is_step, active_distance=distance)
        if (
            domain is None
            and is_step
            and stream.left in memory.domains
            and stream.left_ago <= _BACK
        ):
            # it hovers about the threshold
            return WindowReading(
                shift, novel, is_step=True, nearest=stream.left, nearest_distance=0.0
            )
        but = domain.name if domain else ""
        nearest, gap = (
            nearest_domain(places, view, self._program, memory, but)
            if self._router is None
            else self._router.nearest(places, view, memory, but)
        )
        is_home = (
            domain is not None
            and gap > self._policy.shift.route_distance
            and self._suits(domain, slots, view, embedding, memory)
        )
        return WindowReading(
            shift,
            novel,
            is_home=is_home,
            active_distance=distance,
            nearest=nearest,
            nearest_distance=gap,
        )

    def _suits(
        self,
        domain: Domain,
        slots: NDArray[np.int64],
        view: WindowView,
        embedding: NDArray[np.float32] | None,
        memory: LearnerState,
    ) -> bool:
        """Whether classes that a condition has not met yet are under it all the same: its
        correction, made without them, brings them home.

        Of classes that it has met its signature knows where they stand, and needs no such guess.
        """
        if not self.corrections.is_of(domain, view) or domain.signature.share_met(slots) >= _MET:
            return False
        return brings_home(view.distances, self._bare_distances(view, embedding, memory))

    def _bare_distances(
        self, view: WindowView, embedding: NDArray[np.float32] | None, memory: LearnerState
    ) -> NDArray[np.float32]:
        """(W,) of a window from the classes, without a correction."""
        return distance_from(
            self._program.encode(view.inputs)[0] if embedding is None else embedding,
            memory.prototypes,
        )

    def _slots_in(
        self,
        domain: Domain,
        view: WindowView,
        factory_slots: NDArray[np.int64],
        memory: LearnerState,
    ) -> NDArray[np.int64]:
        """The classes by which a window is compared with a condition: its corrected encoder's, or
        the factory's; never an adaptor's, which comes and goes.
        """
        if not (domain.refreshes and self._program.adapts_encoder):
            return factory_slots
        return (
            predicted_in(domain, view, self._program, memory)
            if self._program.adaptors.held_in(domain.tensors)
            else view.slots
        )

    def _note(self, action: Action) -> None:
        self.decisions.append((time.time(), action.stream, action.kind, action.domain, action.why))

    # -- actions -----------------------------------------------------------------------------------
    def _carry_out(self, action: Action, stream: Stream) -> tuple[Action, ...]:
        """Do it; returns what is to be asked about this window."""
        if action.kind == "open_domain":
            return self._open(stream, action.why)
        if action.kind in ("route", "close_domain"):
            self._move(stream, action.domain if action.kind == "route" else SOURCE)
        return (action,) if action.kind == "ask" else ()

    def _open(self, stream: Stream, why: str) -> tuple[Action, ...]:
        before = self._live.current
        memory, domain = open_domain(before, self._program, self._places.width)
        self._live.publish(memory)
        stream.memories = {
            name: kept for name, kept in stream.memories.items() if name in memory.domains
        }
        asked = {
            topic: count
            for topic, count in stream.state.asked.items()
            if topic in memory.domains or topic in (NOVEL, UNCERTAIN)
        }
        stream.state = replace(stream.state, domain=domain.name, asked=asked)
        self._note(Action("adapt", stream.name, domain.name, why="a provisional domain"))
        state, actions = _ask_first(
            stream, domain.name, why, self._policy.ask.per_condition, self._policy.ask.per_batch
        )
        stream.state = state
        for action in actions:
            self._note(action)
        self._forget_window(stream)
        retired = [
            name
            for name, old in before.domains.items()
            if old.saved is not None and name not in memory.domains
        ]
        if retired:
            save_domains(self._log, "domain", {"retired": retired}, force=True)
        return actions

    def _move(self, stream: Stream, domain: str) -> None:
        stream.state = replace(stream.state, domain=domain)
        found = self._live.current.domains.get(domain)
        if found is not None:
            self._live.publish(self._live.current.with_domain(replace(found, used_at=self._clock)))
        self._forget_window(stream)

    def _forget_window(self, stream: Stream) -> None:
        if self._program.adapts_encoder:
            with stream.lock:
                stream.window.clear()

    def _ask(self, stream: Stream, action: Action, view: WindowView) -> None:
        memory = self._live.current
        z, taps = self._program.encode(view.inputs, memory.encoder_in(stream.state.domain))
        tensors = memory.tensors_in(stream.state.domain)
        read = self._program.read(z, taps, tensors)
        slots = read.logits.argmax(axis=1)
        head = self._program.runtime.download(tensors, ("head.mean", "head.active"))
        domain, topic = memory.domains.get(stream.state.domain), action.domain
        before = stream.asking.count(topic)
        limit = (
            before + 1
            if topic == QUIET
            else max(
                self.field_accuracy.limit(stream.name, stream.state.domain),
                self._policy.ask.per_condition,
            )
        )
        rows = (
            []
            if topic == QUIET and self._quiet.is_random_next
            else stream.asking.choose(
                topic,
                lambda moved: self._program.read(moved, taps, tensors),
                z,
                read,
                head["head.mean"],
                head["head.active"] > 0,
                self._policy,
                is_settled=domain is not None and domain.kind == "condition",
                topics=memory.domains,
                limit=limit,
            )
        )
        if topic == QUIET:
            drawn = [] if rows else _drawn(z, 1, ())
        else:
            drawn = _drawn(z, _random_share(before, len(rows)), rows)
            stream.state = replace(
                stream.state,
                asked={
                    **stream.state.asked,
                    topic: stream.asking.spent(topic, limit, self._policy.ask.per_condition),
                },
            )
        rows = [*rows[: len(rows) - len(drawn)], *drawn]
        now = time.time()
        asked = [
            Question(
                view.ids[i],
                stream.name,
                action.why,
                str(memory.classes[slots[i]]),
                _confidence(read.logits[i], self._policy.learn.temperature),
                float(read.score[i]),
                now,
                view.inputs[i].copy(),
            )
            for i in rows
        ]
        if stream.state.domain != SOURCE and rows:
            kept = (
                as_stored(z[rows], taps[rows])
                if self._program.preserves_space
                else as_stored(*self._program.encode(view.inputs[rows]))
            )
            self._pending.renew(
                PendingBatch(
                    tuple(view.ids[i] for i in rows),
                    stream.name,
                    stream.state.domain,
                    True,
                    kept,
                    time.monotonic(),
                )
            )
        added = self._questions.ask(asked)
        for place, question in enumerate(asked[:added]):
            self.field_accuracy.asked(
                question.id,
                stream.name,
                stream.state.domain,
                question.predicted,
                is_random=place >= len(rows) - len(drawn),
            )
        if topic == QUIET and added:
            self._quiet.asked()
        self._topics.update((q.id, stream.state.domain) for q in asked)
        while len(self._topics) > _TOPICS:  # most questions are never answered
            self._topics.popitem(last=False)

    # -- what a window leaves behind ---------------------------------------------------------------
    def _remember(
        self,
        stream: Stream,
        view: WindowView,
        places: NDArray[np.float64],
        shift: float,
        factory_slots: NDArray[np.int64],
        embedding: NDArray[np.float32] | None,
        is_home: bool,
    ) -> None:
        """Signature and recent inputs of the active condition, then a label-free refresh if it is
        due.
        """
        memory = self._live.current
        domain = memory.domains.get(stream.state.domain)
        if domain is None or shift <= 1.0 or stream.state.away:
            return
        if self._router is not None:
            self._router.met(domain.name, view, factory_slots, memory)
        slots = self._slots_in(domain, view, factory_slots, memory)
        kept = stream.memories.setdefault(
            domain.name, ReplayBuffer(self._policy.adapt.memory, seed=domain.used_at)
        )
        bare = self._bare_distances(view, embedding, memory)
        kept.add(view.inputs, slots, bare)
        corrected, domain = domain, self.corrections.unless_it_harms(domain, view, bare)
        if domain is not corrected:
            slots = factory_slots
        refreshed = (
            self.corrections.refresh(kept, domain, memory, view.inputs)
            if self.corrections.is_due(kept, domain)
            else domain
        )
        if refreshed.refreshes > domain.refreshes and domain.refreshes == 0:
            slots = self._predict(refreshed, view.inputs, memory.with_domain(refreshed))
        signature = refreshed.signature
        # it drifts, and takes its condition along
        if not is_home and signature.distance(places, slots) > self._policy.shift.route_distance:
            signature = signature.faded(_FOLLOWED)
            # a new value: the next checkpoint keeps where it is now
            refreshed = replace(refreshed, tensors=refreshed.tensors.only(refreshed.tensors))
        self._live.publish(
            self._live.current.with_domain(
                replace(refreshed, signature=signature.extended(places, slots), used_at=self._clock)
            )
        )

    def _predict(
        self, domain: Domain, inputs: NDArray[Any], memory: LearnerState
    ) -> NDArray[np.int64]:
        z, taps = self._program.encode(inputs, domain.encode)
        slots: NDArray[np.int64] = self._program.read(
            z, taps, memory.tensors_in(domain.name)
        ).logits.argmax(axis=1)
        return slots

    def merge(self) -> None:
        """Conditions that turned out to be one become one: the earlier keeps name, correction and
        adaptor, and stands where both were met.

        The labels of the later stay in the shared head, and are the later's own in the journal.
        """
        live = self._live.current
        found = merge_candidates(
            {d.name: d.signature for d in live.domains.values() if d.kind == "condition"},
            threshold=_ONE,
        )
        # a cosine does not see that one is the other at half the strength
        nearest = self._policy.shift.route_distance
        found = [
            p
            for p in found
            if live.domains[p.first].signature.apart(live.domains[p.second].signature) <= nearest
        ]
        if not found:
            return
        order, blob, merged = list(live.domains), dict[str, NDArray[Any]](), dict[str, str]()
        for pair in found:
            kept, gone = sorted(
                (live.domains[pair.first], live.domains[pair.second]),
                key=lambda d: (not self._program.adaptors.held_in(d.tensors), order.index(d.name)),
            )
            kept = replace(
                kept, signature=merged_signature(kept.signature, gone.signature), saved=kept.tensors
            )
            live = live.without_domain(gone.name).with_domain(kept)
            blob |= domain_blob(self._program, kept)
            merged[gone.name] = kept.name
            self._note(
                Action(
                    "merge",
                    "",
                    kept.name,
                    why=(
                        f"{gone.name} is the same condition: {pair.shared} shared classes point the"
                        f" same way ({pair.similarity:.2f})"
                    ),
                )
            )
        self._log.record(
            "domain",
            "merged",
            {"merged": [f"{p.first} and {p.second}" for p in found]},
            live,
            tensors=blob,
        )
        if self._router is not None:
            self._router.merge(merged)
        self._merged |= merged  # only now: what could not be recorded has not happened

    # -- answers -----------------------------------------------------------------------------------
    def answered(
        self, answers: Sequence[tuple[str, str, bool]], streams: MutableMapping[str, Stream]
    ) -> None:
        """Answers (sample id, domain it was met in, whether its class is new) speak for a condition
        or for new classes.

        All answers that come together are counted before anything is judged.
        """
        heard: dict[str, Domain] = {}
        for sample, met_in, is_new in answers:
            name = self._topics.pop(sample, met_in)
            domain = heard.get(name) or self._live.current.domains.get(name)
            if domain is not None and domain.kind == "provisional":
                heard[name] = replace(
                    domain,
                    answers_known=domain.answers_known + (not is_new),
                    answers_new=domain.answers_new + is_new,
                )
        for domain in heard.values():
            kind = judge_answers(domain.answers_known, domain.answers_new)
            if kind == "provisional":
                self._live.publish(self._live.current.with_domain(domain))
            # the correction was fitted to new classes: drop it, keep the signature
            elif kind == "novelty":
                self._settle_domain(
                    replace(
                        domain, kind="novelty", tensors=self._program.factory_domain(), encode=None
                    )
                )
                for stream in list(streams.values()):
                    stream.memories.pop(domain.name, None)
                    if stream.state.domain == domain.name:
                        self._forget_window(stream)
            else:
                self._settle_domain(replace(domain, kind="condition"))

    def _settle_domain(self, domain: Domain) -> None:
        confirm_domain(
            self._log,
            domain,
            {"answers_known": domain.answers_known, "answers_new": domain.answers_new},
        )


def _ask_first(
    stream: Stream, topic: str, why: str, per_condition: int, per_batch: int
) -> tuple[StreamState, tuple[Action, ...]]:
    count = min(per_condition, per_batch)
    if count <= 0:
        return stream.state, ()
    return replace(stream.state, asked={**stream.state.asked, topic: count}), (
        Action("ask", stream.name, topic, why=why),
    )


def _random_share(before: int, count: int) -> int:
    """Of ``count`` questions after so many, how many are drawn at random: every fifth, and none of
    the first five.
    """
    return max(0, (before + count) // _RANDOM_EVERY - max(1, before // _RANDOM_EVERY))


def _drawn(z: NDArray[np.float32], count: int, but: Sequence[int]) -> list[int]:
    """``count`` rows of a window (W, D) at random, the same ones whenever the window comes; not
    rows that are asked about anyway and stay.

    The whole window is one lot, so that copies of a frame are drawn as often as they come.
    """
    if not count:
        return []
    stay = set(but[: len(but) - count])
    rng = np.random.default_rng(
        draw_of(as_stored(z, np.zeros((len(z), 0), np.float32)), b"question")
    )
    return [row for row in rng.permutation(len(z)).tolist() if row not in stay][:count]


def _confidence(logits: NDArray[np.float32], temperature: float) -> float:
    shifted = np.exp((logits - logits.max()) / temperature)
    return float(1.0 / shifted.sum())
