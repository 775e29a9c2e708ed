"""The small checks at the door of a learner: what they take comes back as a plain Python value, the
rest is named.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from edgeadapt.errors import InputError
from edgeadapt.inputs import (
    check_count,
    check_labels,
    check_number,
    check_text,
    check_texts,
    unknown_class_message,
)
from fuzz.limits import modestly


class _Text(str):
    """A subclass, as a configuration library would give."""


def test_texts_are_taken_one_or_many_and_become_plain_ones() -> None:
    assert (
        check_text(_Text("é"), "a source") == "é"
        and type(check_text(_Text("é"), "a source")) is str
    )
    assert (
        check_texts("a", "an id") == ["a"]
        and check_texts(np.array(["a", "b"]), "an id") == ["a", "b"]
        and check_texts((), "an id") == []
    )
    assert check_texts((name for name in "ab"), "an id") == ["a", "b"]


@pytest.mark.parametrize(
    "value",
    [None, 3, 0.5, b"a", {"a": 1}, {"a"}, ["a", None], [["a"]], ["\udc80"], object()],
    ids=lambda value: type(value).__name__,
)
def test_what_is_no_text_is_refused(value: Any) -> None:
    with pytest.raises(InputError, match="an id is a text"):
        check_texts(value, "an id")


def test_counts_and_numbers_become_plain_ones() -> None:
    assert (
        check_count(np.uint8(7), "a limit") == 7
        and type(check_count(np.int64(7), "a limit")) is int
    )
    assert (
        check_number(np.float32(0.5), "before") == 0.5
        and check_number(10**300, "before") == 1e300
        and check_number(-np.inf, "before") == -np.inf
    )


@pytest.mark.parametrize(
    "value",
    [-1, 2**53 + 1, 0.5, True, np.True_, "3", None, [3], float("nan")],
    ids=lambda value: type(value).__name__,
)
def test_what_is_no_count_is_refused(value: Any) -> None:
    with pytest.raises(InputError, match="a limit is a whole number from 0 on"):
        check_count(value, "a limit")


@pytest.mark.parametrize(
    "value",
    ["3", None, True, [3], float("nan"), np.nan, 10**400, 1j],
    ids=lambda value: repr(value)[:9],
)
def test_what_is_no_number_is_refused(value: Any) -> None:
    with pytest.raises(InputError, match="before is a number"):
        check_number(value, "before")


@pytest.mark.parametrize(
    "labels",
    [b"\0\2", bytearray(2), {"Coat": 1, "Bag": 2}, {"Coat", "Bag"}, 0.5, None, object()],
    ids=lambda value: type(value).__name__,
)
def test_labels_without_an_order_or_that_would_pass_for_numbers_are_refused(labels: Any) -> None:
    with pytest.raises(InputError, match="labels are a list of class names or class ids, got"):
        check_labels(labels, 2, {"Coat": 0, "Bag": 2})


def test_labels_without_end_are_counted_to_one_too_many() -> None:
    def endless() -> Any:
        while True:
            yield "Coat"

    with modestly(), pytest.raises(InputError, match="2 inputs need 2 labels, got 3 or more"):
        check_labels(endless(), 2, {"Coat": 0})


def test_a_name_of_a_megabyte_is_compared_and_shown_in_short() -> None:
    with modestly(seconds=1.0):
        told = unknown_class_message("ab" * 500_000, ["ab" * 400_000, "Coat"])
    assert len(told) < 600 and told.startswith("unknown class 'abab")
