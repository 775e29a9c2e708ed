"""The selection suite runs on the shipped sample, and its damages do what they say."""

from __future__ import annotations

import numpy as np
from edgeadapt_bench.coreset.selection import run_selection
from edgeadapt_bench.coreset.selection_settings import SETTINGS

from edgeadapt.device.coreset import DEFAULT, SELECTORS


def test_the_quick_form_measures_every_selector_in_every_setting() -> None:
    said: list[str] = []
    rows = {row.name: row for row in run_selection(None, said.append, quick=True)}
    for name in SELECTORS:
        for where in (
            "replay_30/sgd_head",
            "replay_30/buffer_ridge",
            *(f"{s}_30/ridge" for s in SETTINGS),
            "mnist/ridge",
        ):
            value = rows[f"{name}/{where}"].value
            assert value is not None and 15.0 < value <= 100.0
    assert (
        rows[f"{DEFAULT}/near_copies_30/ridge"].value > rows["reservoir/near_copies_30/ridge"].value
    )  # type: ignore[operator]
    assert any("reservoir" in line for line in said)


def test_damages_leave_the_input_alone_and_have_the_size_they_claim() -> None:
    rng = np.random.default_rng(0)
    z, y = rng.standard_normal((2000, 6)).astype(np.float32), np.repeat(np.arange(10), 200)
    before = z.copy(), y.copy()
    found = {name: damage(z, y, np.random.default_rng(1)) for name, damage in SETTINGS.items()}
    np.testing.assert_array_equal(z, before[0])
    np.testing.assert_array_equal(y, before[1])
    assert sorted(np.bincount(found["long_tail"][1]).tolist())[::9] == [10, 200]
    assert 0.17 < (found["wrong_labels"][1] != y).mean() < 0.23
    assert (found["near_copies"][0] != z).any(axis=1).mean() == 0.6
