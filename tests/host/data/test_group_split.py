"""Whole groups are held out, of every class about the wanted share."""

from __future__ import annotations

import numpy as np
import pytest

from edgeadapt.errors import InputError
from edgeadapt.host.data.group_split import held_out_rows
from edgeadapt.host.data.images import ImageData
from edgeadapt.host.data.sensors import SensorData


def test_a_tenth_of_every_class_is_held_out_in_whole_groups() -> None:
    y = np.arange(2000) % 4
    groups = np.array([f"day {i // 40}" for i in range(2000)])
    out = held_out_rows(y, groups, 0.1, 0, "abcd")
    assert not set(groups[out]) & set(groups[~out])
    assert np.bincount(y[out]).tolist() == [50] * 4
    assert np.array_equal(out, held_out_rows(y, groups, 0.1, 0, "abcd"))
    assert not np.array_equal(out, held_out_rows(y, groups, 0.1, 1, "abcd"))


def test_recordings_of_one_class_each_are_held_out_of_every_class() -> None:
    groups = np.repeat(np.arange(30), 20)
    y = groups % 3
    for seed in range(10):
        out = held_out_rows(y, groups, 0.1, seed, "abc", held=2, kept=1)
        assert [len(np.unique(groups[out & (y == k)])) for k in range(3)] == [2, 2, 2]


def test_few_groups_give_more_than_the_share_and_leave_what_must_stay() -> None:
    groups = np.repeat(np.arange(4), 30)
    y = np.arange(120) % 2
    assert len(np.unique(groups[held_out_rows(y, groups, 0.1, 0, "ab", held=1, kept=3)])) == 1
    assert len(np.unique(groups[held_out_rows(y, groups, 0.1, 0, "ab", held=2, kept=1)])) == 2


def test_groups_of_unlike_sizes_and_classes_never_take_a_class_away() -> None:
    for seed in range(20):
        rng = np.random.default_rng(seed)
        groups, y = rng.geometric(0.15, 600), rng.integers(0, 5, 600)
        out = held_out_rows(y, groups, 0.2, seed, "abcde")
        share = np.bincount(y[out], minlength=5) / np.bincount(y)
        assert not set(groups[out]) & set(groups[~out])
        assert share.min() > 0.1 and share.max() < 0.35


def test_too_few_groups_are_refused_with_the_class() -> None:
    y = np.arange(60) % 2
    with pytest.raises(InputError, match="'a' is in 1 group of 1; it must be in 2 or more"):
        held_out_rows(y, np.zeros(60, np.int64), 0.1, 0, "ab")
    groups = np.where(y == 0, np.arange(60) // 12, 7)
    with pytest.raises(InputError, match=r"'b' is in 1 group of 6; .* 3 or more: 2 to hold"):
        held_out_rows(y, groups, 0.1, 0, "ab", held=2)
    chained = np.array([0, 1, 1, 2, 2, 0])  # every group is one of the two of two classes
    with pytest.raises(InputError, match=r"no groups of class '[abc]' can be held out"):
        held_out_rows(np.array([0, 0, 1, 1, 2, 2]), chained, 0.3, 0, "abc")


def test_data_keep_their_groups_when_they_are_chosen_and_split() -> None:
    y = np.arange(80, dtype=np.int64) % 4
    x = np.arange(80, dtype=np.float32)[:, None]
    data = SensorData(x, y, ("a", "b", "c", "d"), np.array([f"p{i // 8}" for i in range(80)]))
    chosen = data.only(("d", "b"))
    rest, held = chosen.split(0.2, seed=1)
    for part in (chosen, rest, held):
        assert part.groups is not None
        assert [f"p{int(row) // 8}" for row in part.x[:, 0]] == part.groups.tolist()
    assert len(held) == 8 and (np.diff(held.x[:, 0]) > 0).all()


def test_groups_must_be_one_name_for_each_input() -> None:
    x, y = np.zeros((6, 2, 2), np.uint8), np.arange(6) % 2
    with pytest.raises(InputError, match=r"groups must be .*, one per image; got int64 \(5,\)"):
        ImageData(x, y, ("a", "b"), np.arange(5))
    with pytest.raises(InputError, match=r"one per image; got float64 \(6,\)"):
        ImageData(x, y, ("a", "b"), np.zeros(6))
