"""The tuning suite at toy size: rates are chosen on the twin, rows say what they claim, and a
second run reads what the first one kept.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from edgeadapt_bench.tuning import tuning
from edgeadapt_bench.tuning.contenders import Contender
from edgeadapt_bench.tuning.tasks import Task
from toy_training import network, stripes

CONTENDERS = (
    Contender("head", "head", is_bounded=False),
    Contender("low_rank", "low_rank", score="squared_gradient"),
    Contender("too large", "low_rank"),
)
BASE = network().eval()


def toy(seed: int, is_twin: bool) -> Iterator[Task]:
    name = "toy/twin" if is_twin else "toy/place"
    fit, test, control = stripes(64, seed), stripes(96, 50 + is_twin), stripes(32, 9)
    yield Task(name, lambda: BASE, fit, test, control, bytes=700, epochs=1)


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(tuning, "TASKS", {"toy": toy})
    monkeypatch.setattr(tuning, "CONTENDERS", CONTENDERS)
    monkeypatch.setattr(tuning, "SEEDS", (0,))
    monkeypatch.setattr(tuning, "data_folder", lambda: tmp_path)
    monkeypatch.setattr("edgeadapt_bench.tuning.contenders.FACTORS", (1.0, 9.0))
    monkeypatch.setattr(tuning, "FACTORS", (1.0, 9.0))


def test_rows_have_accuracy_gain_control_bytes_and_the_rate_of_the_twin() -> None:
    lines: list[str] = []
    rows = {row.name: row for row in tuning.run_tuning(None, lines.append)}
    assert {name.split("/")[0] for name in rows} == {
        "accuracy",
        "gain",
        "control",
        "calibration_error",
        "bytes",
        "rate",
        "seconds",
    }
    assert any("too large" in line and "too small" in line for line in lines)
    assert not any(name.endswith("too large") for name in rows)
    assert 0.0 <= rows["calibration_error/toy/low_rank"].value <= 100.0
    assert rows["bytes/toy/head"].value == 0 < rows["bytes/toy/low_rank"].value <= 700
    assert rows["rate/toy/low_rank"].value in (1e-3, 9e-3)
    gains = [row.value for name, row in rows.items() if name.startswith("gain/")]
    assert 0.0 in gains  # the cheapest that is as good as the best, against itself
    trained = [line for line in lines if ", seed " in line]
    assert len(trained) == 2 * (2 + 1)  # two rates on the twin, one seed
    again: list[str] = []
    kept = {row.name: row for row in tuning.run_tuning(None, again.append)}
    assert kept == rows and not any(", seed " in line for line in again)


def test_the_twin_can_be_reported_and_a_quick_run_chooses_no_rate(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(tuning, "QUICK", ("toy",))
    lines: list[str] = []
    tuning.run_tuning(None, lines.append, quick=True, validation=True)
    trained = [line for line in lines if ", seed " in line]
    assert len(trained) == 2 and all(line.startswith("toy/twin") for line in trained)
