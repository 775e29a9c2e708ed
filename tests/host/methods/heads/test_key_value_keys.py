"""Keys are averages of the queries they won: whatever they start from, none is lost, and a start by
k-means keeps its centroids.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgeadapt.errors import InputError
from edgeadapt.host.methods.heads.key_value.keys import (
    MovingAverage,
    MovingKeys,
    Start,
    moving_average_keys,
    nearest_keys,
    start_keys,
    step,
)

NO_REPLACEMENT = MovingAverage(replace_below=0.0)


def clustered(count: int, seed: int, books: int = 3, width: int = 4, clusters: int = 8) -> Any:
    """Queries far from the origin in tight clusters, each book with its own."""
    rng = np.random.default_rng(seed)
    centres = 5.0 + 3.0 * np.random.default_rng(1).standard_normal((clusters, books, width))
    return (
        centres[rng.integers(clusters, size=count)]
        + 0.1 * rng.standard_normal((count, books, width))
    ).astype(np.float32)


def error(queries: Any, keys: Any) -> float:
    nearest = nearest_keys(queries, keys)
    return float(
        np.mean(
            [
                ((queries[:, c] - keys[c][nearest[:, c]]) ** 2).sum(axis=1).mean()
                for c in range(len(keys))
            ]
        )
    )


def test_a_start_by_kmeans_survives_the_first_average_and_would_not_with_empty_sums() -> None:
    queries = clustered(600, 0)
    started = start_keys(queries, 8, "kmeans", np.random.default_rng(0))
    hit = started.sizes > 0
    np.testing.assert_allclose(started.sums, started.keys * started.sizes[:, :, None], rtol=1e-5)
    lengths = np.linalg.norm(started.keys, axis=2)[hit]
    ours = step(started, queries[:256], np.random.default_rng(1), NO_REPLACEMENT)
    np.testing.assert_allclose(np.linalg.norm(ours.keys, axis=2)[hit] / lengths, 1.0, atol=0.02)
    released = step(
        MovingKeys(started.keys, np.zeros_like(started.sums), started.sizes),
        queries[:256],
        np.random.default_rng(1),
        NO_REPLACEMENT,
    )
    assert np.median(np.linalg.norm(released.keys, axis=2)[hit] / lengths) < 0.1


@pytest.mark.parametrize("start", ["normal", "rows", "kmeans"])
def test_keys_from_any_start_find_the_clusters(start: Start) -> None:
    queries = clustered(1500, 2)
    keys = moving_average_keys(queries, 24, start=start, epochs=6).keys
    assert error(clustered(400, 3), keys) < 0.2


def test_dead_keys_are_replaced_by_queries_and_stay_where_they_were_put() -> None:
    queries = clustered(512, 4)
    far = np.full((3, 8, 4), 1e3, np.float32)
    far[:, 0] = queries[0]
    state = step(
        MovingKeys(far, np.zeros_like(far), np.zeros((3, 8), np.float32)),
        queries[:256],
        np.random.default_rng(0),
    )
    assert np.abs(state.keys).max() < 50
    again = step(state, queries[:2], np.random.default_rng(1), NO_REPLACEMENT)
    missed = ~np.stack(
        [np.isin(np.arange(8), nearest_keys(queries[:2], state.keys)[:, c]) for c in range(3)]
    )
    np.testing.assert_allclose(again.keys[missed], state.keys[missed], rtol=1e-3)


@settings(max_examples=12, deadline=None)
@given(
    seed=st.integers(0, 2**16),
    count=st.integers(1, 40),
    same=st.booleans(),
    start=st.sampled_from(["normal", "rows", "kmeans"]),
)
def test_few_or_equal_queries_give_finite_keys_near_them(
    seed: int, count: int, same: bool, start: Start
) -> None:
    queries = clustered(count, seed, books=2)
    queries = np.repeat(queries[:1], count, axis=0) if same else queries
    keys = moving_average_keys(queries, 16, start=start, epochs=3, seed=seed).keys
    assert np.isfinite(keys).all() and keys.shape == (2, 16, 4)
    if start != "normal":
        assert np.abs(keys).max() <= 1.01 * np.abs(queries).max()


def test_equal_seeds_give_equal_keys() -> None:
    queries = clustered(200, 5)
    one, two = (moving_average_keys(queries, 16, epochs=2, seed=3).keys for _ in range(2))
    np.testing.assert_array_equal(one, two)


def test_no_queries_and_queries_that_are_not_finite_are_refused() -> None:
    with pytest.raises(InputError, match="at least 1"):
        moving_average_keys(np.zeros((0, 2, 4), np.float32), 4)
    with pytest.raises(InputError, match="not finite"):
        moving_average_keys(np.full((3, 2, 4), np.inf, np.float32), 4)
