"""Every row judges, none by a head that learned it, and what is chosen is what the rows outside a
fold say.
"""

from __future__ import annotations

import numpy as np
import pytest

from edgeadapt.errors import InputError
from edgeadapt.host.contracts import FactoryData, as_tensors, with_derived
from edgeadapt.host.exporting.cross_fitting import (
    calibration_error,
    choose_slda,
    cross_fitted,
    folds_of,
    log_loss,
)
from edgeadapt.host.methods.heads.nearest_mean import NearestMean
from edgeadapt.host.methods.heads.slda import StreamingLDA


def drawn(
    count: int, dim: int, classes: int = 4, seed: int = 0, spread: float = 1.0
) -> FactoryData:
    rng = np.random.default_rng(seed)
    centres = np.random.default_rng(99).standard_normal((classes, dim))
    y = np.arange(count) % classes
    z = (centres[y] + spread * rng.standard_normal((count, dim))).astype(np.float32)
    return FactoryData(z, np.zeros((count, 0), np.float32), y, np.ones(count, np.float32), 8)


def test_a_row_is_judged_by_a_head_that_did_not_learn_it() -> None:
    data = drawn(60, 6)
    fold = folds_of(data.y, None, 5, 0)
    head = NearestMean()
    (logits,) = cross_fitted([head], data, fold)
    for k in range(5):
        means = np.stack([data.z[(fold != k) & (data.y == c)].mean(axis=0) for c in range(4)])
        rows = np.flatnonzero(fold == k)
        distance = ((data.z[rows, None] - means[None]) ** 2).sum(axis=2)
        assert (logits[rows, :4].argmax(axis=1) == distance.argmin(axis=1)).all()


def test_classes_are_spread_evenly_over_folds_and_groups_stay_whole() -> None:
    y = np.arange(200) % 4
    table = np.array([np.bincount(y[folds_of(y, None, 5, 3) == k], minlength=4) for k in range(5)])
    assert table.max() - table.min() <= 1
    groups = np.repeat(np.arange(10), 20)
    fold = folds_of(y, groups, 2, 0)
    assert (
        all(len(set(fold[groups == g])) == 1 for g in range(10)) and np.bincount(fold).min() >= 80
    )


def test_one_group_that_is_everything_is_refused_and_two_make_two_folds() -> None:
    y = np.arange(40) % 4
    with pytest.raises(InputError, match="one group only"):
        folds_of(y, np.zeros(40, np.int64), 5, 0)
    assert set(folds_of(y, np.arange(40) // 20, 5, 0)) == {0, 1}


def test_copies_in_one_group_do_not_vouch_for_each_other() -> None:
    """Labels that mean nothing, each row four times: with rows as folds a copy knows the answer,
    with groups none does.
    """
    rng = np.random.default_rng(0)
    z = np.repeat(rng.standard_normal((40, 64)), 4, axis=0).astype(np.float32)
    y = np.repeat(rng.permutation(np.arange(40) % 4), 4)
    data = FactoryData(z, np.zeros((160, 0), np.float32), y, np.ones(160, np.float32), 8)
    right = []
    for groups in (None, np.repeat(np.arange(40), 4)):
        fold = folds_of(y, groups, 5, 0)
        (logits,) = cross_fitted([StreamingLDA(shrinkage=0.01)], data, fold)
        right.append(float((logits.argmax(axis=1) == y).mean()))
    assert right[0] > 0.9 and right[1] < 0.5


def test_columns_in_large_units_do_not_drown_the_others() -> None:
    data = drawn(200, 12)
    units = np.geomspace(1e-3, 1e3, 12).astype(np.float32)
    scaled = FactoryData(data.z * units, data.taps, data.y, data.sample_weight, data.slots)
    fold = folds_of(data.y, None, 5, 0)
    plain = choose_slda(data, fold, 0, lambda line: None)
    found = choose_slda(scaled, fold, 0, lambda line: None)
    assert found.loss < 1.05 * plain.loss + 0.02
    assert found.head.projection is not None and getattr(found.head.projection, "floor", 1.0) == 0.0


def test_noise_is_shrunk_more_than_signal_and_the_choice_is_near_the_best_on_new_rows() -> None:
    test = drawn(2000, 80, seed=5, spread=4.0)
    data = drawn(80, 80, seed=1, spread=4.0)
    chosen = choose_slda(data, folds_of(data.y, None, 5, 0), 0, lambda line: None)

    def accuracy(head: StreamingLDA) -> float:
        import torch

        t = with_derived(as_tensors(head.factory(data)), head.numerics())
        logits = head.predict(t, torch.from_numpy(test.z)).numpy()
        return float((logits.argmax(axis=1) == test.y).mean())

    tried = [
        accuracy(StreamingLDA(shrinkage=s, projection=chosen.head.projection))
        for s in (0.003, 0.1, 1.0, 10.0)
    ]
    assert accuracy(chosen.head) >= max(tried) - 0.03 and max(tried) - min(tried) > 0.03


def test_the_least_loss_is_calibrated_and_the_error_of_an_overconfident_head_is_seen() -> None:
    rng = np.random.default_rng(0)
    true = rng.standard_normal((4000, 3)).astype(np.float32) * 2.0
    p = np.exp(true) / np.exp(true).sum(axis=1, keepdims=True)
    y = (p.cumsum(axis=1) > rng.random((4000, 1))).argmax(axis=1)
    _, temperature = log_loss(5.0 * true, y, 3)
    assert temperature == pytest.approx(5.0, rel=0.15)
    assert (
        calibration_error(5.0 * true, y, 3, temperature)
        < 0.03
        < 0.1
        < calibration_error(5.0 * true, y, 3, 1.0)
    )
