"""The soak's parts in small: a crowd of vectors through the shipped bundle, a state that is opened
and killed.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from edgeadapt_bench.datasets.vectors import Crowd
from edgeadapt_bench.harness.process import in_child
from edgeadapt_bench.operations import large_state, soak, soak_streams
from edgeadapt_bench.suites import SUITES, run

from edgeadapt.bundle import read_bundle
from edgeadapt.demo.sample import KNOWN, bundle_path
from edgeadapt.errors import InputError, RuntimeUnavailable


def test_a_crowd_looks_like_the_classes_of_the_bundle_and_draws_the_same_again() -> None:
    crowd = Crowd.of(read_bundle(bundle_path()), 9)
    assert (
        crowd.names[:6] == list(KNOWN)
        and len(set(crowd.names)) == 9
        and crowd.z.shape == crowd.taps.shape == (9, 96)
    )
    slots = np.arange(6).repeat(20)
    first, again = (crowd.draw(slots, np.random.default_rng(4)) for _ in range(2))
    assert (first["z"] == again["z"]).all() and first["z"].shape == (120, 96)
    nearest = ((first["z"][:, None] - crowd.z[None, :6]) ** 2).sum(axis=2).argmin(axis=1)
    assert (nearest == slots).mean() > 0.9
    moved = crowd.draw(slots, np.random.default_rng(4), crowd.offset(1))["z"] - first["z"]
    np.testing.assert_allclose(moved, np.broadcast_to(crowd.offset(1), moved.shape), atol=1e-4)


def test_a_stream_is_lived_through_with_labels_and_new_classes() -> None:
    found = soak_streams.soak_vectors(str(bundle_path()), observations=1_600, classes=8)
    rows = {row.name: row for row in soak.stream_rows("vectors", found, with_targets=False)}
    assert found["observed"][-1] == 1_600 and len(found["observe_ms"]) == 25
    assert rows["labels/vectors/1600"].value >= 3 * 16 and rows["classes/vectors/1600"].value == 8
    assert (
        50 < rows["rss_max_mib/vectors/1600"].value < 4000
        and rows["observations_per_s/vectors/1600"].value > 10
    )
    assert 0 < rows["observe_ms/vectors/1600"].baseline < 1e3
    assert all(row.target is None for row in rows.values())


def test_growth_is_counted_after_the_first_tenth_and_once_the_pending_store_is_full() -> None:
    observed = [float(n) for n in range(10_000, 1_010_000, 10_000)]
    warm_up = [50.0 + n for n in range(10)]
    flat, leaking = [*warm_up, *[60.0] * 90], [*warm_up, *[60.0 + 0.5 * n for n in range(90)]]
    assert soak.growth(observed, flat) == (100_000, 60.0, 0.0, pytest.approx(0.0, abs=1e-6))
    warm, start, grown, slope = soak.growth(observed, leaking)
    assert (
        warm == 100_000
        and start == 62.25
        and grown == pytest.approx(40.0)
        and slope == pytest.approx(5.0)
    )
    assert (
        soak.growth([n / 10 for n in observed], flat)[0] == soak.WARM_UP
        and soak.growth([n / 100 for n in observed], flat)[0] == 1_000
    )


def test_a_state_is_grown_opened_and_recovered_after_a_kill(tmp_path: Path) -> None:
    bundle, state = str(bundle_path()), str(tmp_path / "state")
    grown = large_state.grow(bundle, state, rows=192, classes=8)
    learned = sum(grown["evidence"].get(status, 0) for status in ("learned", "held_out"))
    assert learned > 170 and grown["bytes"] >= learned * 2 * 192
    (killed,) = large_state.recovery_times(bundle, state, classes=8, kills=1)
    counted = sum(killed["evidence"].get(status, 0) for status in ("learned", "held_out"))
    assert counted > learned and killed["evidence"].get("received", 0) == 0
    assert 0.001 < killed["open"] <= killed["caught_up"] < 30 and killed["imports"] > 0.05
    undone = large_state.undo_times(bundle, state, ids_of=10, commits_back=2)
    assert (
        undone["forget_1/rows"] == 1
        and undone["forget_ids/rows"] == 10
        and 32 <= undone["forget_source/rows"] <= 64
    )
    assert all(
        undone[name] > 0
        for name in (
            "digest",
            "rollback",
            "rollback_far",
            "forget_1",
            "forget_ids",
            "forget_source",
        )
    )


def test_a_measuring_process_that_fails_says_why(tmp_path: Path) -> None:
    with pytest.raises(RuntimeUnavailable, match=r"a measuring process failed: .*missing"):
        in_child(
            large_state.__name__, "open_time", bundle=str(tmp_path / "missing.edge"), state=None
        )


@pytest.mark.parametrize("suite", ["soak", "interference", "serve", "commit"])
def test_the_suite_is_listed_and_knows_quick_alone(suite: str) -> None:
    assert "quick" in SUITES[suite].options
    with pytest.raises(InputError, match=r"it has: --quick$"):
        run(suite, options=("peers",))
