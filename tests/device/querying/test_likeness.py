"""Like stands beside like: clusters come out whole, whatever order they went in."""

from __future__ import annotations

import numpy as np

from edgeadapt.device.querying.likeness import MOST, chained


def test_clusters_come_out_whole_and_each_as_a_group() -> None:
    rng = np.random.default_rng(0)
    kind = rng.integers(0, 4, 60)
    x = 3.0 * np.eye(8)[kind] + 0.3 * rng.normal(size=(60, 8))
    order, group = chained(x)
    assert sorted(order) == list(range(60))
    assert int((np.diff(kind[order]) != 0).sum()) == 3  # four runs
    assert group == sorted(group) and group[0] == 0
    assert [len(set(kind[order][np.array(group) == g])) for g in set(group)] == [1] * len(
        set(group)
    )
    assert len(set(group)) <= 8


def test_pictures_that_are_all_alike_are_one_group() -> None:
    rng = np.random.default_rng(0)
    frame = rng.normal(size=(1, 32))
    for count in (2, 6):
        assert chained(np.repeat(frame, count, axis=0))[1] == [0] * count
        near = frame + 1e-3 * rng.normal(size=(count, 32))
        assert chained(near)[1] == [0] * count
    other = np.concatenate([np.repeat(frame, 3, axis=0), rng.normal(size=(3, 32))])
    order, group = chained(other)
    assert len({g for row, g in zip(order, group, strict=True) if row < 3}) == 1 < len(set(group))


def test_none_one_and_too_many_come_back_all() -> None:
    assert chained(np.zeros((0, 3))) == ([], [])
    assert chained(np.ones((1, 3))) == ([0], [0])
    order, group = chained(np.random.default_rng(1).normal(size=(MOST + 5, 3)))
    assert sorted(order) == list(range(MOST + 5)) and order[-5:] == list(range(MOST, MOST + 5))
    assert len(set(group[-5:])) == 1 and group[-1] == max(group)
