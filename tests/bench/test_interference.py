"""Latency under background work, on the shipped bundle with tiny blocks."""

from __future__ import annotations

import numpy as np
import pytest
from edgeadapt_bench.operations import interference
from edgeadapt_bench.operations.interference import Pool, latencies, rows_of

from edgeadapt.bundle import read_bundle
from edgeadapt.demo.sample import KNOWN, bundle_path


def test_predictions_are_timed_while_labels_windows_and_undoing_really_happen() -> None:
    times = latencies(
        str(bundle_path()), batch=1, rounds=1, rows=64, works=list(interference.WORKS), block_s=0.1
    )
    for work in ("idle", *interference.WORKS):
        assert len(times[work]) > 3 and all(0 < seconds < 5 for seconds in times[work]), work
    assert times["learned"] > 0 and times["undone"][0] > max(1e-3, np.median(times["idle"]))
    rows = {row.name: row for row in rows_of("demo/b1", times, 1e6)}
    ratio = rows["p99_ratio/demo/b1/labels"]
    assert (
        ratio.value
        == pytest.approx(np.quantile(times["labels"], 0.99) / np.quantile(times["idle"], 0.99))
        and ratio.holds
    )
    assert rows["max_ms/demo/b1/undoing"].value == pytest.approx(1e3 * max(times["undoing"]))
    assert rows["p50_ms/demo/b1/windows"].baseline == pytest.approx(1e3 * np.median(times["idle"]))


def test_a_ratio_above_the_bound_is_missed() -> None:
    times = {"idle": [0.001] * 100, "labels": [0.001] * 90 + [0.006] * 10}
    assert [row.holds for row in rows_of("x", times, 5.0)] == [False, None, None, None]
    assert rows_of("x", times, 5.0)[0].value == pytest.approx(6.0)


def test_every_batch_of_the_pool_has_its_own_labels() -> None:
    pool = Pool.of(read_bundle(bundle_path()))
    assert set(pool.labels) == set(KNOWN)
    first, again = pool.some(0, 8), pool.some(1, 8)
    assert (
        first[0]["x"].shape == (8, 28, 28)
        and len(first[1]) == 8
        and not (first[0]["x"] == again[0]["x"]).all()
    )
    shifted = pool.some(0, 8, shifted=True)[0]["x"]
    assert shifted.shape == first[0]["x"].shape and (shifted != first[0]["x"]).any()
