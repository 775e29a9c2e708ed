"""Tasks: a trained base, few labels of where it is used, and what it must not lose.

wrist   motion at the wrist: a small convolutional network trained on four people meets another;
        up to 20 windows an exercise of one arm are learned, the other arm is judged
clothes EfficientNet-Lite0 at 48 px meets Fashion-MNIST: 50 images a class, 2,000 are judged

A twin has other people, or digits in place of clothes; rates are chosen there, and nothing of it is
reported.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from edgeadapt.host.data.images import ImageData, fashion_mnist
from edgeadapt.host.data.labelled import Labelled
from edgeadapt.host.data.sensors import SensorData
from edgeadapt.host.encoders.networks import build_network
from edgeadapt.host.training.train import train
from edgeadapt_bench.datasets.lite0 import upscaled
from edgeadapt_bench.downloads.folder import load

I64 = NDArray[np.int64]
WINDOW, PER_CLASS = 100, 20
_BASE, _TWIN = 4, 2  # people; the other four are reported
PIXELS, IMAGES_PER_CLASS, JUDGED = 48, 50, 2000


@dataclass(frozen=True, eq=False)
class Task:
    """One base at one place.

    Attributes:
        name: ``task/place``, of the rows.
        base: makes the network, in evaluation mode.
        fit, test: of the place. control: of where the base comes from; None without one.
        bytes: of the budget. epochs: of tuning, in batches of 32.
    """

    name: str
    base: Callable[[], nn.Module]
    fit: Labelled
    test: Labelled
    control: Labelled | None
    bytes: int
    epochs: int


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


def clothes(seed: int, is_twin: bool) -> Iterator[Task]:
    """Clothes, or as a twin digits.

    Raises:
        InputError: the data are not here.
        RuntimeUnavailable: the network's packages are not installed.
    """
    rng = np.random.default_rng([seed, 8, int(is_twin)])
    if is_twin:
        kept = load("mnist")
        x, y = kept["x"].reshape(-1, 28, 28), kept["y"].astype(np.int64)
        order = rng.permutation(len(x))
        pools = (x[order[:5000]], y[order[:5000]]), (x[order[5000:]], y[order[5000:]])
        names = tuple(map(str, range(10)))
    else:
        training, testing = fashion_mnist(None)
        pools, names = ((training.x, training.y), (testing.x, testing.y)), training.classes
    (x, y), (tx, ty) = pools
    rows = np.concatenate(
        [rng.permutation(np.flatnonzero(y == k))[:IMAGES_PER_CLASS] for k in range(10)]
    )
    judged = np.random.default_rng(3).permutation(len(tx))[:JUDGED]
    yield Task(
        "clothes/digits" if is_twin else "clothes/fashion",
        _lite0,
        ImageData(upscaled(x[rows], PIXELS), y[rows], names),
        ImageData(upscaled(tx[judged], PIXELS), ty[judged], names),
        None,
        bytes=16_000,
        epochs=13,
    )


@cache
def _lite0() -> nn.Module:
    options = {"pretrained": True, "image_size": PIXELS}
    return build_network("efficientnet-lite0", 10, 3, seed=0, **options).eval()


@torch.no_grad()
def right(network: nn.Module, data: Labelled) -> NDArray[np.bool_]:
    """(N,) whether each sample is answered rightly; images in [0, 255]."""
    from edgeadapt.host.encoders.networks import to_nchw

    parts = [network(part.float()).argmax(1) for part in to_nchw(data.x).split(256)]
    found: NDArray[np.bool_] = torch.cat(parts).numpy() == data.y
    return found


TASKS = {"wrist": wrist, "clothes": clothes}

__all__ = ["TASKS", "Task", "right"]
