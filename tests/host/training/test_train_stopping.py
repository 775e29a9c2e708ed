"""Early stopping: when it stops, and that the best weights come back."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from toy_training import interrupt_at, network, run, same, stripes

from edgeadapt.host.training.early_stop import BestWeights, best_epoch
from edgeadapt.host.training.train import EpochRecord, TrainResult, evaluate


def records(*accuracies: float) -> list[EpochRecord]:
    return [
        EpochRecord(number, 1.0, accuracy, 1.0) for number, accuracy in enumerate(accuracies, 1)
    ]


@pytest.mark.parametrize(
    ("accuracies", "patience", "best", "is_over"),
    [
        ((0.5,), 1, 1, False),
        ((0.5, 0.6, 0.6), 1, 2, True),  # as good is not better
        ((0.5, 0.6, 0.6), 2, 2, False),
        ((0.5, 0.6, 0.55, 0.58, 0.59), 3, 2, True),
        ((0.5, 0.6, 0.55, 0.58, 0.61), 3, 5, False),
        ((0.9, 0.1, 0.1, 0.1), 0, 1, False),
    ],
)
def test_waiting_is_over_after_so_many_epochs_without_a_better_one(
    accuracies, patience, best, is_over
) -> None:
    assert best_epoch(records(*accuracies)) == best
    assert BestWeights(patience).is_waiting_over(records(*accuracies)) is is_over


def overtrained(lines: list[str] | None = None, **options: object) -> TrainResult:
    """At this rate accuracy jumps about, so that the last epoch is not the best."""
    settings = {
        "epochs": 30,
        "lr": 3.0,
        "patience": 4,
        "augment": "plain",
        "progress": None if lines is None else lines.append,
    }
    return run(network(), **(settings | options))


def test_training_stops_and_returns_the_best_weights(tmp_path: Path) -> None:
    lines: list[str] = []
    result = overtrained(lines, checkpoint=tmp_path / "a")
    accuracies = [record.accuracy for record in result.history]
    assert len(result.history) == result.epoch + 4 < 30
    assert (
        result.accuracy == max(accuracies) == accuracies[result.epoch - 1]
        and max(accuracies) not in accuracies[: result.epoch - 1]
    )
    assert evaluate(result.network, stripes(64, 1)) == result.accuracy
    kept, name = load_file(tmp_path / "a"), "network.head.weight"
    assert torch.equal(result.network.state_dict()[name], kept[f"best.{name}"]) and not torch.equal(
        kept[f"best.{name}"], kept[f"model.{name}"]
    )
    assert lines[-1].startswith(
        f"train: stopped early; the weights are those of epoch {result.epoch},"
    )


def test_stopping_and_the_best_weights_survive_an_interruption(tmp_path: Path) -> None:
    whole, path = overtrained(), tmp_path / "a"
    for epoch in (whole.epoch, whole.epoch + 2):
        with pytest.raises(KeyboardInterrupt):
            overtrained(
                checkpoint=path, resume=True, progress=interrupt_at(f"epoch {epoch} of 30  loss")
            )
    resumed = overtrained(checkpoint=path, resume=True)
    assert same(whole.network, resumed.network) and len(whole.history) == len(resumed.history)
    again = overtrained(checkpoint=path, resume=True)  # a run that has stopped stays stopped
    assert same(whole.network, again.network) and again.history == resumed.history


def test_without_patience_the_last_weights_come_back() -> None:
    result = overtrained(epochs=8, patience=0)
    assert (
        result.epoch == len(result.history) == 8 and result.accuracy == result.history[-1].accuracy
    )
    patient = overtrained(epochs=8, patience=8)
    assert patient.accuracy >= result.accuracy
    # looking changes nothing
    assert [a.loss for a in patient.history] == [b.loss for b in result.history]
