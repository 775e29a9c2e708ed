"""What a label costs, with a handful of labels of the shipped bundle."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from edgeadapt_bench.operations.commit import (
    Plain,
    forget_rows,
    forget_times,
    label_rows,
    label_times,
)

from edgeadapt.demo.sample import bundle_path


def test_a_label_is_durable_before_it_is_learned_and_every_call_stands_beside_a_plain_insert() -> (
    None
):
    times = label_times(str(bundle_path()), count=4, together=2)
    assert len(times["durable"]) == len(times["learned"]) == len(times["plain"]) == 4
    assert all(
        0 < durable < learned
        for durable, learned in zip(times["durable"], times["learned"], strict=True)
    )
    assert times["outcomes"].count("learned") == len(times["outcomes"]) == 9
    rows = {row.name: row for row in label_rows("demo/2_labels", times)}
    assert rows["durable_ms/demo/2_labels"].value == pytest.approx(
        1e3 * np.median(times["durable"])
    )
    assert rows["learned_ms/demo/2_labels"].baseline == pytest.approx(
        1e3 * np.median(times["plain"])
    )
    assert rows["learned_share/demo/2_labels"].value == 1.0
    written = rows["written_bytes/demo/2_labels"]
    assert (
        written.unit.startswith("absent")
        if times["written_plain"] == 0
        else written.value > 2 * (96 + 96)
    )


def test_forgetting_takes_the_rows_that_it_says_and_leaves_a_snapshot() -> None:
    times = forget_times(str(bundle_path()), [1, 20], kept=10)
    assert (
        times["1"]["removed"] == 1
        and times["20"]["removed"] == 20
        and 0 < times["20"]["subtracted"] <= 20
    )
    rows = {row.name: row for row in forget_rows("demo", times)}
    assert set(rows) == {
        f"{what}/demo/{n}" for what in ("forget_ms", "forget_written_bytes") for n in (1, 20)
    } | {"snapshot_bytes/demo"}
    # gram, two moments, residual moments in float32
    tensors = 4 * (97 * 97 + 2 * 97 * 32 + 193 * 32)
    assert tensors <= rows["snapshot_bytes/demo"].value < 2 * tensors


def test_the_plain_table_keeps_and_deletes_what_it_is_given(tmp_path: Path) -> None:
    table = Plain(tmp_path / "plain.db")
    secret = np.full((2, 8), 1.2345, np.float16)
    table.insert(["a", "b"], ["shirt", "bag"], secret)
    assert secret[0].tobytes() in (tmp_path / "plain.db-wal").read_bytes()
    table.delete(["a", "b"])
    table.close()
    assert secret[0].tobytes() not in (tmp_path / "plain.db").read_bytes()
