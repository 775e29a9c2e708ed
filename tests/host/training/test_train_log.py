"""``metrics.csv`` and TensorBoard events, whole or resumed."""

from __future__ import annotations

import csv
import sys
from pathlib import Path

import pytest
from toy_training import interrupt_at, network, run

from edgeadapt.errors import StateError
from edgeadapt.host.training.train import one_cycle


def table(folder: Path) -> list[dict[str, str]]:
    with open(folder / "metrics.csv", encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


@pytest.fixture
def without_tensorboard(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tensorboard", None)
    monkeypatch.delitem(sys.modules, "torch.utils.tensorboard", raising=False)


@pytest.mark.usefixtures("without_tensorboard")
def test_the_table_has_rows_within_an_epoch_and_the_accuracy_at_its_end(tmp_path: Path) -> None:
    lines: list[str] = []
    # 24 steps: a row every third
    result = run(network(), batch=4, epochs=2, log=tmp_path / "new" / "log", progress=lines.append)
    rows = table(tmp_path / "new" / "log")
    assert list(rows[0]) == ["epoch", "step", "lr", "loss", "validation_accuracy", "seconds"]
    assert [int(row["step"]) for row in rows] == list(range(3, 49, 3)) and [
        row["epoch"] for row in rows
    ] == ["1"] * 8 + ["2"] * 8
    assert [float(row["lr"]) for row in rows] == pytest.approx(
        [one_cycle(step - 1, 48, 0.1) for step in range(3, 49, 3)], rel=1e-5
    )
    ends = [row for row in rows if row["validation_accuracy"]]
    assert [float(row["validation_accuracy"]) for row in ends] == pytest.approx(
        [r.accuracy for r in result.history], rel=1e-5
    )
    assert [float(row["loss"]) for row in ends] == pytest.approx(
        [r.loss for r in result.history], rel=1e-5
    )
    seconds = [float(row["seconds"]) for row in rows]
    assert seconds == sorted(seconds) and seconds[-1] == pytest.approx(result.seconds, abs=2e-3)
    assert sum("pip install 'edgeadapt[tensorboard]'" in line for line in lines) == 1
    assert [path.name for path in (tmp_path / "new" / "log").iterdir()] == ["metrics.csv"]


@pytest.mark.usefixtures("without_tensorboard")
def test_a_resumed_run_has_the_table_of_an_uninterrupted_one(tmp_path: Path) -> None:
    run(network(), log=tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        run(
            network(),
            checkpoint=tmp_path / "a",
            log=tmp_path / "first",
            progress=interrupt_at("epoch 2 of 4  loss"),
        )
    with open(tmp_path / "first" / "metrics.csv", "a", encoding="utf-8") as file:
        file.write("3,13,0.1,0.5,,9\n")  # of an epoch that was not finished
    # the same folder, and one that knows nothing of the beginning
    for folder in ("first", "other"):
        (tmp_path / "b").write_bytes((tmp_path / "a").read_bytes())
        run(network(), checkpoint=tmp_path / "b", resume=True, log=tmp_path / folder)
        without_time = [
            [{k: v for k, v in row.items() if k != "seconds"} for row in table(tmp_path / name)]
            for name in ("whole", folder)
        ]
        assert without_time[0] == without_time[1] and len(without_time[0]) == 24
        seconds = [float(row["seconds"]) for row in table(tmp_path / folder)]
        assert seconds == sorted(seconds)


@pytest.mark.usefixtures("without_tensorboard")
def test_a_log_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StateError, match=r"file.*: the log cannot be written"):
        run(network(), log=tmp_path / "file")


def test_tensorboard_reads_the_same_curves(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    with pytest.raises(KeyboardInterrupt):
        run(
            network(),
            checkpoint=tmp_path / "a",
            log=tmp_path,
            progress=interrupt_at("epoch 1 of 4  loss"),
        )
    run(network(), checkpoint=tmp_path / "a", log=tmp_path, resume=True)
    rows, events = table(tmp_path), EventAccumulator(str(tmp_path))
    events.Reload()
    for tag, column in (
        ("loss", "loss"),
        ("learning_rate", "lr"),
        ("validation_accuracy", "validation_accuracy"),
    ):
        wanted = [(int(row["step"]), float(row[column])) for row in rows if row[column]]
        found = [(event.step, event.value) for event in events.Scalars(tag)]
        assert [step for step, _ in found] == [step for step, _ in wanted]
        assert [value for _, value in found] == pytest.approx(
            [value for _, value in wanted], rel=1e-4
        )
