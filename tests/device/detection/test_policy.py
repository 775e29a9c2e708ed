"""Every row of the decision table, without a model."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from edgeadapt.bundle.schema import AdaptPolicy, AskPolicy, NoveltyPolicy, PolicySpec, ShiftPolicy
from edgeadapt.device.detection.policy import NOVEL as NOVEL_TOPIC
from edgeadapt.device.detection.policy import (
    QUIET,
    UNCERTAIN,
    Policy,
    StreamState,
    WindowReading,
    decide,
    judge_answers,
)
from edgeadapt.device.inference.state import SOURCE, Domain, DomainPrototypes

POLICY = PolicySpec(
    shift=ShiftPolicy(confirm_windows=2, clear_windows=3, route_distance=0.1),
    novelty=NoveltyPolicy(window_share=0.5),
    ask=AskPolicy(per_condition=20, per_batch=8),
)
CLEAR = WindowReading(shift=0.4, novel_share=0.05)
NOVEL = WindowReading(shift=0.4, novel_share=0.6)
SHIFTED = WindowReading(shift=3.0, novel_share=1.0)
INSIDE = replace(SHIFTED, active_distance=0.05)
KNOWN_ONE = replace(SHIFTED, nearest="fog", nearest_distance=0.05)
STUCK = WindowReading(shift=9.0, novel_share=1.0, is_stuck=True)


def domain(kind: Any = "condition", name: str = "fog") -> Domain:
    return Domain(name, kind, DomainPrototypes(np.zeros((1, 1)), np.zeros(1)))


def play(
    windows: list[WindowReading], state: StreamState | None = None, active: Domain | None = None
) -> tuple[StreamState, list[tuple[str, ...]]]:
    """The kinds of actions that each window brings."""
    state, kinds = state or StreamState(), []
    for window in windows:
        state, actions = decide(window, "cam", state, active, POLICY)
        kinds.append(tuple(a.kind for a in actions))
        assert all(a.stream == "cam" and a.why for a in actions)
    return state, kinds


def test_clear_windows_bring_nothing() -> None:
    state, kinds = play([CLEAR] * 5)
    assert kinds == [()] * 5 and state.domain == SOURCE


def test_one_shifted_window_is_not_enough_and_two_in_a_row_open_a_domain() -> None:
    assert play([SHIFTED, CLEAR, SHIFTED, CLEAR])[1] == [()] * 4
    state, kinds = play([SHIFTED, SHIFTED])
    assert kinds == [(), ("open_domain",)] and state.domain == ""


def test_a_window_far_beyond_the_threshold_needs_no_second_one() -> None:
    assert play([replace(SHIFTED, shift=3.99)])[1] == [()]
    state, kinds = play([replace(SHIFTED, shift=4.0)])
    assert kinds == [("open_domain",)] and state.domain == ""
    assert play([replace(KNOWN_ONE, shift=50.0)])[1] == [("route",)]
    inside, kinds = play(
        [replace(SHIFTED, shift=50.0, active_distance=0.5)], StreamState(domain="fog"), domain()
    )
    assert kinds == [()] and inside.away == 1  # leaving a condition for another still takes two


def test_a_shift_that_looks_like_a_known_domain_routes_there() -> None:
    state, kinds = play([SHIFTED, KNOWN_ONE])
    assert kinds == [(), ("route",)] and state.domain == "fog"
    far = replace(KNOWN_ONE, nearest_distance=0.11)
    assert play([SHIFTED, far])[1][-1] == ("open_domain",)


def test_the_threshold_itself_is_not_a_shift() -> None:
    assert play([replace(CLEAR, shift=1.0)] * 3)[1] == [()] * 3


def test_other_classes_that_the_correction_brings_home_are_in_the_same_condition() -> None:
    away = replace(SHIFTED, active_distance=0.9)
    asked = StreamState(domain="fog", asked={"fog": 20})
    assert play([away, away], asked, domain())[1][-1] == ("open_domain",)
    state, kinds = play([replace(away, correction_fits=True)] * 5, asked, domain())
    assert state.domain == "fog" and state.away == 0 and kinds == [("adapt",)] * 5


def test_inside_a_condition_it_asks_what_is_left_and_adapts() -> None:
    state, kinds = play([INSIDE] * 4, StreamState(domain="fog"), domain())
    assert kinds == [("ask", "adapt"), ("ask", "adapt"), ("ask", "adapt"), ("adapt",)]
    assert state.asked == {"fog": 20}


@pytest.mark.parametrize("kind", ["condition", "provisional"])
def test_questions_about_one_condition_never_exceed_the_cap(kind: str) -> None:
    state, kinds = play([INSIDE] * 30, StreamState(domain="fog"), domain(kind))
    assert state.asked["fog"] == 20 and sum("ask" in k for k in kinds) == 3


def test_a_domain_of_new_classes_is_left_alone() -> None:
    assert play([INSIDE] * 3, StreamState(domain="fog"), domain("novelty"))[1] == [()] * 3


def test_away_from_the_active_domain_for_two_windows_it_moves_on() -> None:
    away = replace(SHIFTED, active_distance=0.3)
    state, kinds = play([away, away], StreamState(domain="fog"), domain())
    assert (
        kinds == [(), ("open_domain",)]
        and "0.30 away from fog"
        in decide(away, "cam", StreamState(domain="fog", away=1), domain(), POLICY)[1][0].why
    )
    state, kinds = play(
        [away, replace(away, nearest="rain", nearest_distance=0.02)],
        StreamState(domain="fog"),
        domain(),
    )
    assert kinds == [(), ("route",)] and state.domain == "rain"


def test_one_window_away_is_forgiven() -> None:
    away = replace(SHIFTED, active_distance=0.3)
    state, kinds = play(
        [away, INSIDE, away, INSIDE], StreamState(domain="fog", asked={"fog": 20}), domain()
    )
    assert kinds == [(), ("adapt",), (), ("adapt",)] and state.domain == "fog"


def test_three_clear_windows_end_a_condition_and_fewer_do_not() -> None:
    start = StreamState(domain="fog", asked={"fog": 20})
    assert play([CLEAR, CLEAR, INSIDE, CLEAR, CLEAR], start, domain())[0].domain == "fog"
    state, kinds = play([CLEAR, CLEAR, CLEAR], start, domain())
    assert kinds == [(), (), ("close_domain",)] and state.domain == SOURCE


def test_novel_but_not_shifted_windows_ask_about_the_novel_samples_up_to_the_cap() -> None:
    state, kinds = play([NOVEL] * 10)
    assert kinds[:3] == [("ask",)] * 3 and kinds[3:] == [()] * 7
    assert state.asked == {"novel": 20} and state.domain == SOURCE
    assert decide(NOVEL, "cam", StreamState(), None, POLICY)[1][0].domain == "novel"


def test_novelty_means_nothing_while_shifted_or_in_a_correction() -> None:
    assert play([replace(NOVEL, shift=2.0)])[1] == [()]
    assert play([NOVEL, NOVEL], StreamState(domain="fog"), domain())[1] == [(), ()]


def test_frames_that_do_not_change_hold_everything_and_start_counting_anew() -> None:
    state, kinds = play([STUCK] * 3)
    assert kinds == [("hold",)] * 3 and state.domain == SOURCE
    state, kinds = play([SHIFTED, STUCK, SHIFTED])
    assert kinds == [(), ("hold",), ()] and state.shifted == 1
    state, kinds = play([CLEAR, CLEAR, STUCK, CLEAR], StreamState(domain="fog"), domain())
    assert kinds[-1] == () and state.domain == "fog"


def test_without_questions_it_still_adapts() -> None:
    policy = PolicySpec(ask=AskPolicy(per_condition=0))
    assert [
        a.kind for a in decide(INSIDE, "cam", StreamState(domain="fog"), domain(), policy)[1]
    ] == ["adapt"]


def test_decide_changes_none_of_its_arguments() -> None:
    state = StreamState(domain="fog", asked={"fog": 3})
    decide(INSIDE, "cam", state, domain(), POLICY)
    assert state == StreamState(domain="fog", asked={"fog": 3})


@pytest.mark.parametrize(
    ("known", "new", "kind"),
    [
        (0, 0, "provisional"),
        (4, 0, "provisional"),
        (0, 2, "provisional"),
        (5, 0, "condition"),
        (4, 1, "condition"),
        (8, 2, "condition"),
        (0, 3, "novelty"),
        (2, 1, "novelty"),
        (3, 1, "novelty"),
        (7, 2, "novelty"),
        (1, 1, "provisional"),
    ],
)
def test_what_answers_make_of_a_domain(known: int, new: int, kind: str) -> None:
    assert judge_answers(known, new) == kind


@pytest.mark.parametrize("earned", ["off", "advise", "act"])
@pytest.mark.parametrize("wanted", [None, "off", "advise", "act"])
def test_the_users_say_only_lowers_what_the_bundle_earned(earned: Any, wanted: Any) -> None:
    rank = ["off", "advise", "act"]
    mode = Policy(adapt=wanted).adapt_mode(PolicySpec(adapt=AdaptPolicy(mode=earned)))
    assert mode == rank[min(rank.index(earned), rank.index(wanted or earned))]


@pytest.mark.parametrize(("value", "mode"), [("1", "off"), ("0", "act"), ("", "act")])
def test_edgeadapt_freeze_is_off(monkeypatch: pytest.MonkeyPatch, value: str, mode: str) -> None:
    monkeypatch.setenv("EDGEADAPT_FREEZE", value)
    assert Policy(adapt="act").adapt_mode(PolicySpec(adapt=AdaptPolicy(mode="act"))) == mode


# -- accuracy, and quiet times ---------------------------------------------------------------------
def test_accuracy_that_seems_to_have_fallen_is_asked_about_and_opens_no_domain() -> None:
    doubtful = replace(CLEAR, doubt="accuracy seems to be 60%")
    state, actions = decide(doubtful, "cam", StreamState(), None, POLICY)
    assert [(a.kind, a.domain, a.why) for a in actions] == [
        ("ask", UNCERTAIN, "accuracy seems to be 60%")
    ]
    assert state.domain == SOURCE and state.asked == {UNCERTAIN: 8}
    asked = [kinds for kinds in play([doubtful] * 6)[1] if kinds]
    assert asked == [("ask",)] * 3  # 8, 8 and 4: twenty in all


def test_more_is_asked_where_answers_say_that_it_has_not_recovered() -> None:
    doubtful = replace(CLEAR, doubt="accuracy seems to be 60%", limit=100)
    state, kinds = play([doubtful] * 20)
    assert state.asked == {UNCERTAIN: 100} and sum(map(bool, kinds)) == 13
    inside, kinds = play(
        [replace(INSIDE, limit=100)], StreamState(domain="fog", asked={"fog": 20}), domain()
    )
    assert kinds == [("ask", "adapt")] and inside.asked == {"fog": 28}


def test_after_a_calm_time_a_new_doubt_is_asked_about_anew() -> None:
    doubtful = replace(CLEAR, doubt="accuracy seems to be 60%")
    state, _ = play([doubtful] * 6)
    assert play([CLEAR] * 15, state)[0].asked == {UNCERTAIN: 20}
    state, _ = play([CLEAR] * 16, state)
    assert state.asked == {} and play([doubtful], state)[1] == [("ask",)]


def test_a_quiet_turn_asks_only_where_nothing_else_does() -> None:
    quiet = replace(CLEAR, is_quiet_turn=True)
    state, actions = decide(quiet, "cam", StreamState(), None, POLICY)
    assert [(a.kind, a.domain) for a in actions] == [("ask", QUIET)] and state.asked == {}
    _, actions = decide(replace(NOVEL, is_quiet_turn=True), "cam", StreamState(), None, POLICY)
    assert [a.domain for a in actions] == [NOVEL_TOPIC]
    assert play([replace(STUCK, is_quiet_turn=True)])[1] == [("hold",)]
    closed = StreamState(domain="fog", asked={"fog": 20})
    # a condition that is done is still measured
    assert play([replace(INSIDE, is_quiet_turn=True)], closed, domain())[1] == [("adapt", "ask")]


def test_a_shifted_window_that_may_be_of_a_new_class_is_asked_about_at_once() -> None:
    alike = replace(SHIFTED, is_strange=True)
    state, actions = decide(alike, "cam", StreamState(), None, POLICY)
    assert [(a.kind, a.domain) for a in actions] == [
        ("ask", NOVEL_TOPIC)
    ] and state.domain == SOURCE
    _, kinds = play([replace(KNOWN_ONE, shift=9.0, is_strange=True)])
    assert kinds == [("route", "ask")]
