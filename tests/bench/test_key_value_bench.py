"""The bench of the counting bottleneck, in its quick form."""

from __future__ import annotations

import numpy as np
import pytest
from edgeadapt_bench.datasets.pool import Pool
from edgeadapt_bench.datasets.small_pools import drawn_pool
from edgeadapt_bench.streams.key_value import BUDGETS, FAMILIES, Choice, compare, run_key_value
from numpy.typing import NDArray


def test_the_quick_run_compares_every_family_within_the_budget() -> None:
    said: list[str] = []
    rows = {row.name: row for row in run_key_value(None, said.append, quick=True)}
    where = f"smartwatch_{BUDGETS[0] // 1000}kB"
    for family in FAMILIES:
        size, accuracy = rows[f"{family}/{where}/bytes"], rows[f"{family}/{where}"].value
        assert (
            size.value is not None and size.baseline is not None and 0 < size.value <= size.baseline
        )
        assert accuracy is not None and accuracy > 60.0
    assert any("ahead_of" in name for name in rows) and sum(
        "validation" in line for line in said
    ) == len(FAMILIES)


def test_a_choice_is_made_on_training_rows_and_never_on_test_rows(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    pool = drawn_pool("tiny", 4, 1, 8, 1, per_cell=30, test_per_cell=10)
    seen: list[NDArray[np.float32]] = []

    def answers(p: Pool, seed: int) -> NDArray[np.bool_]:
        seen.append(p.test_z)
        return np.ones(len(p.test_y), bool)

    choices = [Choice("a", 50_000, answers), Choice("b", 60_000, answers)]
    monkeypatch.setattr(
        "edgeadapt_bench.streams.key_value.FAMILIES",
        {"key_value": lambda d, k: iter(choices), "other": lambda d, k: iter(choices)},
    )
    compare(pool, (100_000,), (0,), lambda line: None)
    assert [len(z) for z in seen].count(len(pool.test_z)) == 2 and all(
        not np.array_equal(z, pool.test_z) for z in seen[:2]
    )
