"""Turns of several players: their order, what is counted, and what a failure costs."""

from __future__ import annotations

import pytest
from edgeadapt_bench.harness.step_race import interleaved

from edgeadapt.errors import RuntimeUnavailable


def test_the_order_rotates_and_the_first_round_is_not_counted() -> None:
    turns: list[str] = []

    def take_turn(name: str) -> int:
        turns.append(name)
        return len(turns)

    assert interleaved("abc", 2, take_turn) == {"a": [6, 8], "b": [4, 9], "c": [5, 7]}
    assert "".join(turns) == "abc" + "bca" + "cab"


def test_a_player_that_fails_is_dropped_with_its_rounds_and_the_others_go_on() -> None:
    dropped: dict[str, str] = {}
    taken: list[str] = []

    def take_turn(name: str) -> str:
        taken.append(name)
        if name == "b" and taken.count("b") == 2:
            raise RuntimeUnavailable("gone")
        return name

    said = interleaved(
        "ab", 3, take_turn, drop=lambda name, error: dropped.update({name: str(error)})
    )
    assert said == {"a": ["a"] * 3} and dropped == {"b": "gone"}
    taken.clear()
    with pytest.raises(RuntimeUnavailable, match="gone"):
        interleaved("ab", 3, take_turn)


def test_a_suite_whose_time_is_up_ends_after_a_round_that_counts() -> None:
    said = interleaved("ab", 9, lambda name: name, is_over=lambda: True)
    assert said == {"a": ["a"], "b": ["b"]}
