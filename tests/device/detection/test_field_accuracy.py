"""Answers measure accuracy: wrong ones raise doubt, right ones end the questions, chosen ones count
for neither."""

from __future__ import annotations

import numpy as np
import pytest

from edgeadapt.bundle.schema import AccuracyPolicy, PolicySpec
from edgeadapt.device.detection.field_accuracy import Answers, FieldAccuracy
from edgeadapt.device.querying.quiet_questions import QuietQuestions

POLICY = PolicySpec(accuracy=AccuracyPolicy(accuracy=0.9, samples=500))


def told(rights: list[bool], *, is_random: bool = True) -> FieldAccuracy:
    field = FieldAccuracy(POLICY)
    for number, right in enumerate(rights):
        field.asked(str(number), "cam", "fog", "a", is_random=is_random)
        field.answered(str(number), "a" if right else "b")
    return field


def test_answers_that_are_wrong_too_often_raise_doubt_and_right_ones_do_not() -> None:
    assert told([False] * 5).of("cam", "fog").has_fallen
    assert not told([True] * 60).of("cam", "fog").has_fallen
    assert told([True, False] * 10).of("cam", "fog").has_fallen


def test_at_the_expected_error_doubt_is_rare_however_often_one_looks() -> None:
    rng, alarms = np.random.default_rng(0), 0
    for _ in range(500):
        answers = Answers()
        for right in rng.random(200) >= 0.15:
            answers = answers.extended(bool(right), 0.15)
            if answers.has_fallen:
                alarms += 1
                break
    assert alarms <= 10  # of 500, at a level of 1%


def test_answers_to_chosen_questions_bet_on_nothing() -> None:
    field = told([False] * 20, is_random=False)
    assert (
        field.of("cam", "fog") == Answers()
        and field.measured() == {}
        and field.limit("cam", "fog") == 20
    )


def test_questions_go_on_while_answers_are_wrong_and_end_when_they_are_right_or_no_better() -> None:
    assert told([True] * 3).limit("cam", "fog") == 20
    assert told([False, True, False]).limit("cam", "fog") == 100
    assert told([False] * 5 + [True] * 10).limit("cam", "fog") == 20
    assert (
        told([False, True] * 10).limit("cam", "fog") == 20
    )  # twenty answers, and no better than before
    assert (
        told([False] * 10 + [False, True] * 5).limit("cam", "fog") == 100
    )  # no good yet, and getting better


def test_accuracy_in_the_field_is_measured_per_condition_with_an_interval() -> None:
    field = told([True] * 15 + [False] * 5)
    field.asked("x", "other cam", "source", "a", is_random=True)
    field.answered("x", "a")
    field.answered("never asked", "a")
    measured = field.measured()
    assert (
        measured["fog"].value == pytest.approx(0.75)
        and measured["fog"].samples == 20
        and measured["fog"].held_out == 0.9
    )
    assert 0.5 < measured["fog"].low < 0.75 < measured["fog"].high < 0.9
    assert measured["source"].samples == 1


def test_quiet_questions_come_early_and_then_spread_over_the_day() -> None:
    now = [0.0]
    quiet, asked = QuietQuestions(6, clock=lambda: now[0]), []
    for window in range(1, 2 * 86_400 // 10 + 1):  # a window every ten seconds, for two days
        now[0] = 10.0 * window
        if quiet.is_due():
            asked.append((window, quiet.is_random_next))
            quiet.asked()
    first, second = asked[:6], asked[6:]
    assert [window for window, _ in first[:3]] == [2, 4, 8] and [
        is_random for _, is_random in first
    ] == [True, False] * 3
    assert [round((window - 1) / 8640, 2) for window, _ in first[3:]] == [0.5, 0.67, 0.83]
    assert len(second) == 6 and second[0][0] > 8640


def test_no_quiet_question_where_none_is_wanted() -> None:
    quiet = QuietQuestions(0)
    assert not any(quiet.is_due() for _ in range(100))
