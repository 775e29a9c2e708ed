"""Pools: splits that leak nothing, quick ones that need nothing, and full ones that say what is
missing.
"""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from edgeadapt_bench.datasets.pool import Pool
from edgeadapt_bench.datasets.pools import POOLS, load_pool, quick_pool
from edgeadapt_bench.datasets.small_pools import drawn_pool
from edgeadapt_bench.downloads.folder import keep
from hypothesis import given, settings
from hypothesis import strategies as st

from edgeadapt.errors import InputError


@given(share=st.floats(0.05, 0.6), seed=st.integers(0, 50), copies=st.integers(1, 4))
@settings(max_examples=25, deadline=None)
def test_validation_splits_every_class_and_keeps_the_copies_of_a_unit_together(
    share: float, seed: int, copies: int
) -> None:
    pool = drawn_pool("letters", 4, 2, 5, 1, per_cell=20)
    pool = replace(pool, unit=np.arange(len(pool.y)) // copies)
    held = pool.held_out(share, seed)
    assert not set(pool.unit[held][pool.y[held] == 0]) & set(pool.unit[~held][pool.y[~held] == 0])
    assert set(pool.y[held]) == set(pool.y[~held]) == {0, 1, 2, 3}
    part = pool.validation(share, seed)
    assert len(part.y) + len(part.test_y) == len(pool.y)
    assert np.array_equal(
        np.sort(np.concatenate([part.z, part.test_z]), axis=0), np.sort(pool.z, axis=0)
    )


def test_validation_never_sees_the_test_part() -> None:
    pool = quick_pool("letters")
    part = pool.validation()
    rows = {row.tobytes() for row in np.concatenate([part.z, part.test_z])}
    assert not rows & {row.tobytes() for row in pool.test_z}


@pytest.mark.parametrize("share", [0.0, 1.0, -0.1])
def test_a_share_that_is_no_share_is_refused(share: float) -> None:
    with pytest.raises(InputError, match="share"):
        quick_pool("letters").validation(share)


def test_a_class_with_one_unit_cannot_be_split() -> None:
    pool = quick_pool("letters")
    few = pool.rows(np.concatenate([np.flatnonzero(pool.y == 0)[:1], np.flatnonzero(pool.y == 1)]))
    with pytest.raises(InputError, match="class 0"):
        few.validation()


def test_only_relabels_in_the_order_given() -> None:
    pool = quick_pool("mnist")
    part = pool.only([7, 2])
    assert part.classes == ("class 7", "class 2")
    assert np.array_equal(part.z[part.y == 0], pool.z[pool.y == 7]) and np.array_equal(
        part.test_z[part.test_y == 1], pool.test_z[pool.test_y == 2]
    )


@pytest.mark.parametrize("wrong", ["nan", "labels", "empty", "dtype"])
def test_a_pool_refuses_features_and_labels_that_do_not_fit(wrong: str) -> None:
    z, y = np.ones((4, 2), np.float32), np.array([0, 1, 0, 1])
    bad = {
        "nan": (z * np.float32(np.nan), y),
        "labels": (z, y + 1),
        "empty": (z[:0], y[:0]),
        "dtype": (z.astype(np.float64), y),
    }[wrong]
    with pytest.raises(InputError, match="pool 'p'"):
        Pool("p", *bad, z, y, ("a", "b"), np.zeros_like(bad[1]), np.zeros_like(y), "made up")  # type: ignore[arg-type]


def test_quick_pools_are_the_same_every_time_and_need_no_torch() -> None:
    code = (
        "import sys; from edgeadapt_bench.datasets.pools import *; print(*(quick_pool(n).z.shape[1]"
        " for n in POOLS), 'torch' in sys.modules)"
    )
    said = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60
    ).stdout.split()
    assert said[-1] == "False" and len(said) == 1 + len(POOLS)
    assert np.array_equal(quick_pool("emoji").z, quick_pool("emoji").z)


def test_groups_of_a_drawn_pool_lie_apart_and_the_first_is_not_moved() -> None:
    pool = quick_pool("emoji")
    centre = [pool.z[pool.group == g].mean(axis=0) for g in range(4)]
    assert min(np.linalg.norm(centre[g] - centre[0]) for g in (1, 2, 3)) > 2 * np.linalg.norm(
        centre[0]
    )


def test_no_pool_of_that_name() -> None:
    for load in (lambda: load_pool("cifar", None, print), lambda: quick_pool("cifar")):
        with pytest.raises(InputError, match="fashion, mnist"):
            load()


@pytest.mark.parametrize("name", ["mnist", "emoji", "letters", "smartwatch"])
def test_what_is_not_here_names_the_command_that_fetches_it(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EDGEADAPT_DATA", str(tmp_path))
    with pytest.raises(InputError, match=f"edgeadapt data fetch {name}"):
        load_pool(name, None, print)


def test_a_damaged_file_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EDGEADAPT_DATA", str(tmp_path))
    (tmp_path / "letters.npz").write_bytes(b"PK\x03\x04 not an archive")
    with pytest.raises(InputError, match=r"letters\.npz: damaged"):
        load_pool("letters", None, print)


def test_letters_are_standardised_by_their_training_rows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EDGEADAPT_DATA", str(tmp_path))
    rng = np.random.default_rng(0)
    keep(
        tmp_path,
        "letters",
        {
            "x": rng.integers(0, 16, (20000, 16)).astype(np.uint8),
            "y": np.arange(20000).astype(np.uint8) % 26,
        },
    )
    pool = load_pool("letters", None, print)
    assert pool.z.shape == (16000, 16) and pool.test_z.shape == (4000, 16)
    assert np.allclose(pool.z.mean(axis=0), 0, atol=1e-4) and np.allclose(
        pool.z.std(axis=0), 1, atol=1e-4
    )


def test_the_end_of_each_recording_is_the_test_and_no_window_crosses_two(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EDGEADAPT_DATA", str(tmp_path))
    # each recording has its own constant
    level = np.repeat(np.arange(6), [1050, 1000, 1000, 1000, 1000, 1099])
    keep(
        tmp_path,
        "smartwatch",
        {
            "x": np.repeat(level[:, None], 6, axis=1).astype(np.float32),
            "start": np.cumsum([0, 1050, 1000, 1000, 1000, 1000, 1099]),
            "y": np.array([0, 1, 0, 1, 0, 1]),
            "subject": np.array([3, 3, 5, 5, 9, 9]),
            "side": np.zeros(6, np.int64),
            "classes": np.array(["A", "B"]),
        },
    )
    pool = load_pool("smartwatch", None, print)
    assert len(pool.y) == 42 and len(pool.test_y) == 18
    assert pool.groups == ("subject 3", "subject 5", "subject 9") and set(pool.test_unit) == set(
        range(6)
    )
    assert np.allclose(pool.z[:, 6:12], 0)  # no deviation inside a window: none crosses a border
