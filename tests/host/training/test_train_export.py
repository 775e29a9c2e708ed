"""From a recipe of signals to a bundle that a device opens."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from toy_training import tones

import edgeadapt
from edgeadapt.commands.export import export_recipe
from edgeadapt.host.recipe import load_recipe

RECIPE = """seed = 1
[encoder]
network = "sensor-cnn"
options = { widths = [6, 8, 8] }
[data]
kind = "npz"
path = "tones.npz"
[train]
epochs = 3
batch = 16
optimiser = "lamb"
threads = 1
[export]
name = "tones"
class_slots = 4
domain_slots = 2
batches = [8]
adapt = "off"
"""


def test_signals_are_trained_exported_and_recognised(tmp_path: Path) -> None:
    data = tones(240)
    np.savez(tmp_path / "tones.npz", x=data.x, y=data.y, classes=np.array(data.classes))
    (tmp_path / "tones.toml").write_text(RECIPE, encoding="utf-8")
    lines: list[str] = []
    export_recipe(load_recipe(tmp_path / "tones.toml"), tmp_path / "tones.edge", say=lines.append)
    assert any(
        line.startswith("train: 194 samples, 2 classes") and ", lamb, float32" in line
        for line in lines
    )
    fresh = tones(64, 9)
    with edgeadapt.open(tmp_path / "tones.edge") as learner:
        assert learner.classes == data.classes
        names = learner.predict(fresh.x).labels
    assert (
        np.mean([name == data.classes[label] for name, label in zip(names, fresh.y, strict=True)])
        > 0.9
    )
