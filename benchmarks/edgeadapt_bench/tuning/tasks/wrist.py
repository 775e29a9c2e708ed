"""Motion at the wrist: a small convolutional network trained on four people meets another. Up to 20
windows an exercise of one arm are learned, the other arm is judged. Twins are other people.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache

import numpy as np
from numpy.typing import NDArray
from torch import nn

from edgeadapt.host.data.labelled import Labelled
from edgeadapt.host.data.sensors import SensorData
from edgeadapt.host.encoders.networks import build_network
from edgeadapt.host.training.train import train
from edgeadapt_bench.downloads.folder import load
from edgeadapt_bench.tuning.tasks.task import Task

I64 = NDArray[np.int64]
WINDOW, PER_CLASS = 100, 20
_BASE, _TWIN = 4, 2  # people; the other four are reported


def wrist(seed: int, is_twin: bool) -> Iterator[Task]:
    """One task a person.

    Raises:
        InputError: the data are not here.
    """
    people = np.random.default_rng(5).permutation(np.unique(_windows()[2]))
    there = people[_BASE : _BASE + _TWIN] if is_twin else people[_BASE + _TWIN :]
    rng = np.random.default_rng([seed, 7, int(is_twin)])
    x, y, subject, side, names = _windows()
    base, control = _wrist_base(tuple(people[:_BASE].tolist()))
    for person in there:
        own = np.flatnonzero((subject == person) & (side == 0))
        kept = np.concatenate([rng.permutation(own[y[own] == k])[:PER_CLASS] for k in np.unique(y)])
        judged = np.flatnonzero((subject == person) & (side == 1))
        yield Task(
            f"wrist/{person}",
            lambda: base,
            SensorData(x[kept], y[kept], names),
            SensorData(x[judged], y[judged], names),
            control,
            bytes=2000,
            epochs=30,
        )


@cache
def _windows() -> tuple[NDArray[np.float32], I64, I64, I64, tuple[str, ...]]:
    """x (N, 6, 100), y, subject and side (N,), names; windows do not overlap."""
    kept = load("smartwatch")
    x, of = [], []
    for recording, (first, end) in enumerate(
        zip(kept["start"][:-1], kept["start"][1:], strict=True)
    ):
        for at in range(int(first), int(end) - WINDOW + 1, WINDOW):
            x.append(kept["x"][at : at + WINDOW].T)
            of.append(recording)
    rows = np.array(of)
    y, subject, side = (kept[key][rows].astype(np.int64) for key in ("y", "subject", "side"))
    return np.stack(x).astype(np.float32), y, subject, side, tuple(kept["classes"].tolist())


@cache
def _wrist_base(people: tuple[int, ...]) -> tuple[nn.Module, Labelled]:
    """The network of four people, and every fourth of their windows, which it did not see."""
    x, y, subject, _, names = _windows()
    rows = np.flatnonzero(np.isin(subject, people))
    unseen = np.arange(len(rows)) % 4 == 3
    fit = SensorData(x[rows[~unseen]], y[rows[~unseen]], names)
    control = SensorData(x[rows[unseen]], y[rows[unseen]], names)
    network = build_network("sensor-cnn", len(names), x.shape[1], seed=0)
    settings = {"epochs": 20, "batch": 64, "optimiser": "adamw", "progress": None, "threads": 1}
    return train(network, fit, control, **settings).network, control  # type: ignore[arg-type]


__all__ = ["wrist"]
