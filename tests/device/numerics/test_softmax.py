"""Softmax: the digits that each of its earlier copies gave."""

from __future__ import annotations

import numpy as np
import pytest

from edgeadapt.device.numerics.softmax import softmax, tempered_softmax

LOGITS = np.random.default_rng(0).normal(0, 30, (50, 7)).astype(np.float32)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_shares_keep_the_dtype_and_add_up_however_large_the_logits(dtype: type) -> None:
    shares = softmax(LOGITS.astype(dtype) + dtype(1e4))
    assert shares.dtype == dtype and np.allclose(shares.sum(axis=1), 1.0, atol=1e-6)
    assert np.array_equal(softmax(np.log(np.array([[1.0, 3.0]]))).round(12), [[0.25, 0.75]])


def test_a_temperature_divides_in_double_what_was_subtracted_in_single() -> None:
    below = (LOGITS - LOGITS.max(axis=1, keepdims=True)).astype(np.float64)
    grown = np.exp(below / 0.7)
    wanted = grown / grown.sum(axis=1, keepdims=True)
    assert np.array_equal(tempered_softmax(LOGITS, 0.7), wanted)


def test_no_classes_give_no_shares_and_a_row_of_minus_infinity_is_unknown() -> None:
    assert tempered_softmax(LOGITS[:, :0], 1.0).shape == (50, 0)
    assert np.isnan(tempered_softmax(np.full((1, 3), -np.inf, np.float32), 1.0)).all()
