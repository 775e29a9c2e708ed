"""What to do about a window: pure functions of what was sensed, testable without a model.

clear                   predict; after a few clear windows a correction ends; now and then a
                        question all the same
clear, less accurate    ask: the estimate without labels, or answers, say that accuracy has fallen
shifted, known domain   go back to its correction
shifted, unknown        open a provisional domain, start correcting (if the bundle earned it), ask a
                        few questions;
                        both after two windows, or one that leaves no doubt
shifted, strange        ask at once: samples unlike every known class, or all alike, may be a class
                        and no condition
not shifted, novel      ask about the most novel samples
stuck                   nothing: frames that do not change carry no information
"""

from __future__ import annotations

import os
from dataclasses import dataclass, field, replace
from typing import Annotated, Literal

from msgspec import Meta

from edgeadapt._fields import check_fields
from edgeadapt.bundle.schema import AdaptMode, PolicySpec
from edgeadapt.device.inference.state import SOURCE, Domain, DomainKind
from edgeadapt.results import Action

Routing = Literal["signature", "hypervector"]
Kept = Literal["oldest", "adaptive"]
NOVEL, UNCERTAIN, QUIET = "novel", "uncertain", "quiet"
"""What questions of no condition are about: windows unlike every known class, accuracy that seems
to have fallen, and nothing in particular.
"""
_NEW_SHARE = 0.2
_CALM = 16  # windows without doubt after which questions about it may be asked anew
_CAUTION: dict[AdaptMode, int] = {"off": 0, "advise": 1, "act": 2}


@dataclass(frozen=True)
class Policy:
    """The user's say. Adaptation can be lowered below what the bundle earned, never raised.

    Args:
        adapt: ``"act"``; ``"advise"`` or ``"off"``: conditions are recognised and asked about, and
            no prediction is corrected without labels; None takes the bundle's.
        new_classes: what a label with an unknown name does: refused, or the class is added.
        questions_per_day: over all streams.
        routing: how a window finds back to a known condition: by its signature, or by bundles of
            hypervectors (EAR), see ``docs/methods/ear.md``.
        quiet_questions_per_day: of these, how many are asked although nothing seems wrong: half of
            them about samples drawn at random, which measure the accuracy in the field. 0 for none.
        trusted_sources: people whose labels are not held for contradicting the head; the paired
            tests still judge them.

    Raises:
        InputError: a value that its field does not allow; every field is held to its type and
            range.
    """

    adapt: AdaptMode | None = None
    new_classes: Literal["refuse", "add"] = "refuse"
    questions_per_day: Annotated[int, Meta(ge=0)] | None = None
    routing: Routing = "signature"
    quiet_questions_per_day: Annotated[int, Meta(ge=0)] = 6
    trusted_sources: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        check_fields(self)

    def adapt_mode(self, bundle: PolicySpec) -> AdaptMode:
        if os.environ.get("EDGEADAPT_FREEZE") == "1":
            return "off"
        wanted = self.adapt or bundle.adapt.mode
        return min(wanted, bundle.adapt.mode, key=lambda mode: _CAUTION[mode])


@dataclass(frozen=True)
class Keep:
    """How long things stay, and how many of them. Limits are applied at a checkpoint, and every ten
    minutes of work.

    Args:
        pending_s: seconds an unlabelled sample can still be labelled by id (in memory only).
        features_days: days, from when it was met, that the features of a labelled sample are kept;
            after that it can no longer be forgotten alone, unless the bundle gives receipts, and no
            rollback reaches a state that would have to be replayed from it.
        rows: labelled samples kept; a tenth beyond it the oldest go as if their days were over.
        commits: changes kept one by one; beyond it the oldest are compacted into a snapshot, and no
            rollback reaches behind it.
        raw_per_class: raw inputs of labelled samples kept per class, so that another encoder can
            take them again (``edgeadapt migrate``). None: as many as this state folder was last
            told, none for a new one.
        selection: which go beyond ``rows``: the oldest, or those that adaptive data selection
            leaves out of the oldest eight times as many; with ``"adaptive"`` it also chooses what a
            condition's adaptor is trained on. See ``docs/methods/selection.md``.

    Raises:
        InputError: a value of another type, a negative number, or fewer than 100 rows or commits.
    """

    pending_s: Annotated[float, Meta(ge=0)] = 3600.0
    features_days: Annotated[float, Meta(ge=0)] = 30.0
    rows: Annotated[int, Meta(ge=100)] = 100_000
    commits: Annotated[int, Meta(ge=100)] = 10_000
    raw_per_class: Annotated[int, Meta(ge=0)] | None = None
    selection: Kept = "oldest"

    def __post_init__(self) -> None:
        check_fields(self)


@dataclass(frozen=True)
class WindowReading:
    """One window, as seen by the factory encoder and compared with the known domains.

    Attributes:
        shift: statistic / threshold; novel_share: share above the novelty threshold (means nothing
            while shifted).
        is_gradual_drift: where the stream was lately leads here: it drifts, if it moves at all.
        correction_fits: the active domain's correction still brings the window nearer to the
            classes: other ones perhaps, and the same condition.
        active_distance: to the active domain, None in the source condition.
        nearest, nearest_distance: the closest known domain; computed only when the active one does
            not fit.
        is_strange: the window looks unlike every known class, or is nearly all taken for one; and
            like no condition of known classes.
        doubt: why accuracy seems to have fallen although no statistic moved; empty if it does not.
        is_quiet_turn: a question may be asked although nothing seems wrong.
        limit: questions there may be about what the window shows, all told; None for the bundle's
            number.
    """

    shift: float
    novel_share: float
    is_stuck: bool = False
    is_gradual_drift: bool = False
    correction_fits: bool = False
    active_distance: float | None = None
    nearest: str = ""
    nearest_distance: float = float("inf")
    is_strange: bool = False
    doubt: str = ""
    is_quiet_turn: bool = False
    limit: int | None = None


@dataclass(frozen=True)
class StreamState:
    """What a stream remembers between windows."""

    domain: str = SOURCE
    shifted: int = 0  # consecutive windows
    clear: int = 0
    away: int = 0
    novel: int = 0
    calm: int = 0  # consecutive clear windows without doubt
    # per domain, ``NOVEL`` for unshifted novelty and ``UNCERTAIN`` for accuracy that fell
    asked: dict[str, int] = field(default_factory=dict)

    def is_settled_in(self, domain: str) -> bool:
        """It is in this condition, and its last window gave no reason to leave."""
        return self.domain == domain and not (self.clear or self.away)


def decide(
    window: WindowReading,
    stream: str,
    state: StreamState,
    domain: Domain | None,
    policy: PolicySpec,
) -> tuple[StreamState, tuple[Action, ...]]:
    """The decision about one window.

    Args:
        window: what was sensed.
        stream: its name.
        state: what the stream remembers.
        domain: the active domain; None in the source condition.
        policy: the bundle's numbers.

    Returns:
        The stream's new memory, and actions in the order they are to be taken.
    """
    state, actions = _decide(window, stream, state, domain, policy)
    is_busy = any(action.kind in ("ask", "hold", "open_domain", "route") for action in actions)
    if window.is_quiet_turn and not is_busy:
        actions = (
            *actions,
            Action("ask", stream, QUIET, why="nothing seems wrong: a look whether that is so"),
        )
    return state, actions


def _decide(
    window: WindowReading,
    stream: str,
    state: StreamState,
    domain: Domain | None,
    policy: PolicySpec,
) -> tuple[StreamState, tuple[Action, ...]]:
    if window.is_stuck:
        return replace(state, shifted=0, clear=0, away=0, novel=0), (
            Action("hold", stream, state.domain, why="the frames do not change"),
        )
    if window.shift <= 1.0:
        return _clear(window, stream, replace(state, shifted=0, away=0), policy)
    state = replace(state, shifted=state.shifted + 1, clear=0, novel=0, calm=0)
    why = f"shift {window.shift:.1f} x threshold"
    if state.domain == SOURCE:
        if state.shifted < policy.shift.confirm_windows and window.shift < policy.shift.strong:
            if window.is_strange:
                return _ask(
                    stream, state, NOVEL, policy, f"{why}, and the window may be of a new class"
                )
            return state, ()
        return _enter(window, stream, state, policy, why)
    if (
        window.active_distance is not None
        and window.active_distance > policy.shift.route_distance
        and not (window.is_gradual_drift or window.correction_fits)
    ):
        state = replace(state, away=state.away + 1)
        if state.away < policy.shift.confirm_windows:
            return state, ()
        return _enter(
            window,
            stream,
            state,
            policy,
            f"{why}, {window.active_distance:.2f} away from {state.domain}",
        )
    state = replace(state, away=0)
    return _stay(stream, state, domain, policy, why, window.limit)


def _clear(
    window: WindowReading, stream: str, state: StreamState, policy: PolicySpec
) -> tuple[StreamState, tuple[Action, ...]]:
    state = replace(state, clear=state.clear + 1)
    if state.domain != SOURCE:
        if state.clear < policy.shift.clear_windows:
            return state, ()
        return replace(state, domain=SOURCE), (
            Action(
                "close_domain",
                stream,
                state.domain,
                why="conditions are those of the factory again",
            ),
        )
    if window.novel_share < policy.novelty.window_share:
        return _without_novelty(window, stream, replace(state, novel=0), policy)
    state = replace(state, novel=state.novel + 1)
    return _ask(
        stream,
        state,
        NOVEL,
        policy,
        f"{window.novel_share:.0%} of the window looks unlike every known class",
    )


def _without_novelty(
    window: WindowReading, stream: str, state: StreamState, policy: PolicySpec
) -> tuple[StreamState, tuple[Action, ...]]:
    """Nothing moved: questions if accuracy seems to have fallen, and a clean slate for them once it
    has not for long.
    """
    if window.doubt:
        return _ask(stream, replace(state, calm=0), UNCERTAIN, policy, window.doubt, window.limit)
    state = replace(state, calm=state.calm + 1)
    if state.calm == _CALM:
        state = replace(
            state,
            asked={topic: count for topic, count in state.asked.items() if topic != UNCERTAIN},
        )
    return state, ()


def _enter(
    window: WindowReading, stream: str, state: StreamState, policy: PolicySpec, why: str
) -> tuple[StreamState, tuple[Action, ...]]:
    """Go to the condition the window shows: a known one, or a new provisional one."""
    if window.nearest and window.nearest_distance <= policy.shift.route_distance:
        state = replace(state, domain=window.nearest, away=0)
        route = Action(
            "route",
            stream,
            window.nearest,
            why=f"{why}; {window.nearest_distance:.2f} from {window.nearest}",
        )
        if not window.is_strange:
            return state, (route,)
        state, questions = _ask(
            stream,
            state,
            NOVEL,
            policy,
            f"{why}, like {window.nearest}, and the window may be of a new class",
        )
        return state, (route, *questions)
    return replace(state, domain="", away=0), (
        Action("open_domain", stream, "", why=f"{why}; no known condition fits"),
    )


def _stay(
    stream: str,
    state: StreamState,
    domain: Domain | None,
    policy: PolicySpec,
    why: str,
    limit: int | None,
) -> tuple[StreamState, tuple[Action, ...]]:
    if domain is None or domain.kind == "novelty":
        return state, ()
    actions: tuple[Action, ...] = (Action("adapt", stream, domain.name, why=why),)
    most = policy.ask.per_condition if limit is None else limit
    if domain.kind == "provisional" or state.asked.get(domain.name, 0) < most:
        state, questions = _ask(stream, state, domain.name, policy, why, limit)
        actions = (*questions, *actions)
    return state, actions


def _ask(
    stream: str,
    state: StreamState,
    topic: str,
    policy: PolicySpec,
    why: str,
    limit: int | None = None,
) -> tuple[StreamState, tuple[Action, ...]]:
    """Up to ``per_batch`` questions on one topic, at most ``limit`` (``per_condition``) in all."""
    left = (policy.ask.per_condition if limit is None else limit) - state.asked.get(topic, 0)
    count = min(policy.ask.per_batch, left)
    if count <= 0:
        return state, ()
    return replace(state, asked={**state.asked, topic: state.asked.get(topic, 0) + count}), (
        Action("ask", stream, topic, why=why),
    )


def judge_answers(known: int, new: int) -> DomainKind:
    """What the answers make of a provisional domain.

    Under a condition every answer names a known class, so a fifth of new ones already speaks
    against it: *novelty* from the third answer on. A *condition* takes five answers, four fifths of
    them known.
    """
    if known + new >= 3 and new > _NEW_SHARE * (known + new):
        return "novelty"
    return "condition" if known + new >= 5 else "provisional"
