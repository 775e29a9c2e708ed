"""What counts as the same answer."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from edgeadapt.placement.agreement import compare

X = np.linspace(-2, 2, 400, dtype=np.float32)


def said(right: Any, other: Any, before: Any = None) -> Any:
    return compare(
        {"y": np.asarray(right)},
        {"y": np.asarray(other)},
        {} if before is None else {"y": np.asarray(before)},
        1e-3,
    )


@pytest.mark.parametrize(
    ("factor", "agrees"), [(1.0, True), (1.0005, True), (1.002, False), (-1.0, False)]
)
def test_outputs_are_judged_by_their_largest_value(factor: float, agrees: bool) -> None:
    found = said(X, (X * factor).astype(np.float32))
    assert (found.why == "") is agrees and found.error == pytest.approx(abs(factor - 1), abs=1e-6)


def test_one_number_out_of_many_is_enough_to_disagree() -> None:
    other = X.copy()
    other[3] += 0.01
    assert "differs by 5.0e-03" in said(X, other).why


def test_tensors_are_judged_by_the_change_with_room_for_rounding() -> None:
    old = np.full(10, 1e6, np.float32)
    new = old + np.float32(0.5)
    # the next number above
    assert not said(new, np.nextafter(new, np.float32(2e6), dtype=np.float32), old).why
    assert "of its change" in said(np.float32(100.5), np.float32(100.51), np.float32(100)).why
    assert "of its change" in said(old, old + np.float32(2), old).why  # nothing was to change


def test_what_is_not_finite_is_so_in_the_same_places() -> None:
    inf, nan = np.float32("inf"), np.float32("nan")
    assert not said([1, inf, nan, -inf], [1, inf, nan, -inf]).why
    for other in (
        [1, nan, nan, -inf],
        [1, -inf, nan, -inf],
        [1, 2, nan, -inf],
        [nan, inf, nan, -inf],
    ):
        assert said(np.array([1, inf, nan, -inf]), np.array(other)).why


def test_few_whole_numbers_that_differ_say_nothing_and_many_disagree() -> None:
    labels = np.arange(300) % 7
    few, many = labels.copy(), labels.copy()
    few[:3] += 1
    many[:4] += 1
    assert said(labels, few).is_tie and not said(labels, few).why
    assert "differs in 4 of 300" in said(labels, many).why
    assert said([1], [2]).is_tie and "differs in 2 of 2" in said([1, 1], [2, 2]).why
    flags = np.ones(200, np.float32)
    assert said(flags, np.where(np.arange(200) == 7, 0, flags).astype(np.float32)).is_tie


@pytest.mark.parametrize("order", [("label", "scores"), ("scores", "label")])
def test_a_tie_excuses_whole_numbers_and_no_others(order: tuple[str, str]) -> None:
    scores = np.array([[0.6, 0.1]], np.float32)
    right = {"scores": scores, "label": np.array([0])}
    nearly = {"scores": scores * np.float32(1.0001), "label": np.array([1])}
    wrong = {"scores": np.array([[-60.0, 99.0]], np.float32), "label": np.array([1])}
    right = {name: right[name] for name in order}
    assert compare(right, nearly, {}, 1e-3).is_tie and not compare(right, nearly, {}, 1e-3).why
    assert (
        "scores differs by" in compare(right, wrong, {}, 1e-3).why
        and not compare(right, wrong, {}, 1e-3).is_tie
    )


def test_a_tensor_that_differs_is_not_excused_by_a_tie() -> None:
    right = {"label": np.array([1, 2]), "mean": X}
    other = {"label": np.array([1, 3]), "mean": X * 2}
    assert "mean differs by" in compare(right, other, {"mean": X * 0}, 1e-3).why


def test_shapes_kinds_and_names_have_to_be_the_same() -> None:
    assert "float64[400] instead of float32[400]" in said(X, X.astype(np.float64)).why
    assert "float32[1, 400] instead of" in said(X, X[None]).why
    assert "it gives nothing instead of y" in compare({"y": X}, {}, {}, 1e-3).why


def test_nothing_agrees_with_nothing() -> None:
    assert said(np.zeros((0, 3), np.float32), np.zeros((0, 3), np.float32)).error == 0
    assert not said(np.zeros(3, np.float32), np.zeros(3, np.float32)).why
    assert said(np.zeros(3, np.float32), np.full(3, 0.1, np.float32)).why
