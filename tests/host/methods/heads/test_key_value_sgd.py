"""Gradient descent at the published settings arrives at counts."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from key_value_sgd import centred_counts, train_values, vote

from edgeadapt.errors import InputError
from edgeadapt.host.methods.heads.key_value.keys import moving_average_keys, nearest_keys

CLASSES, BOOKS, PAIRS, WIDTH = 6, 24, 16, 6
MEANS = np.random.default_rng(0).standard_normal((CLASSES, BOOKS, WIDTH))


def queries(count: int, seed: int) -> tuple[Any, Any]:
    rng = np.random.default_rng(seed)
    y = rng.integers(CLASSES, size=count)
    return (MEANS[y] + rng.standard_normal((count, BOOKS, WIDTH))).astype(np.float32), y


def test_values_by_gradient_descent_task_by_task_are_centred_counts() -> None:
    q, y = queries(600, 1)
    keys = moving_average_keys(q, PAIRS, epochs=4).keys
    codes = nearest_keys(q, keys)
    values = None
    for task in ((0, 1), (2, 3), (4, 5)):
        rows = np.isin(y, task)
        values = train_values(
            codes[rows], y[rows], pairs=PAIRS, classes=CLASSES, epochs=60, start=values
        )
    assert values is not None
    counts = np.zeros((BOOKS, PAIRS, CLASSES), np.int32)
    for c in range(BOOKS):
        np.add.at(counts[c], (codes[:, c], y), 1)
    centred = centred_counts(counts)
    cosine = float((values * centred).sum() / np.linalg.norm(values) / np.linalg.norm(centred))
    assert cosine > 0.99
    other, truth = queries(400, 2)
    found = nearest_keys(other, keys)
    by_values, by_counts = (vote(v, found).argmax(axis=1) for v in (values, centred))
    assert (by_values == by_counts).mean() > 0.95 and (by_values == truth).mean() > 0.8


def test_values_move_only_where_samples_hit_and_steps_are_cut() -> None:
    codes, y = np.zeros((4, 2), np.int64), np.array([0, 0, 1, 0])
    values = train_values(codes, y, pairs=3, classes=2, rate=1.0, clip=1e-3)
    assert not values[:, 1:].any() and np.linalg.norm(values) == pytest.approx(1e-3, rel=1e-4)


def test_labels_and_keys_out_of_range_are_refused() -> None:
    with pytest.raises(InputError, match="below 2"):
        train_values(np.zeros((1, 2), np.int64), np.array([2]), pairs=3, classes=2)
    with pytest.raises(InputError, match="N at least 1"):
        train_values(np.zeros((0, 2), np.int64), np.zeros(0, np.int64), pairs=3, classes=2)
