"""What is trained on a selection: a ridge read-out, a softmax head by SGD, and a softmax head that
meets tasks in turn and replays what was kept.
"""

from __future__ import annotations

import time
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from edgeadapt.device.coreset import Samples, Selector
from edgeadapt.device.numerics.softmax import softmax
from edgeadapt_bench.datasets.pool import Pool

F32 = NDArray[np.float32]
F64 = NDArray[np.float64]
I64 = NDArray[np.int64]
BATCH, RATE, MOMENTUM, EPOCHS, TASK = 32, 0.03, 0.9, 30, 2


@dataclass(frozen=True, eq=False)
class Linear:
    """argmax of ``((z - centre) / scale) @ weight[:-1] + weight[-1]``."""

    weight: NDArray[np.floating]
    centre: NDArray[np.floating]
    scale: float

    def logits(self, z: F32) -> NDArray[np.floating]:
        logits: NDArray[np.floating] = (z - self.centre) / self.scale @ self.weight[
            :-1
        ] + self.weight[-1]
        return logits

    def right(self, z: F32, y: I64) -> NDArray[np.bool_]:
        result: NDArray[np.bool_] = self.logits(z).argmax(axis=1) == y
        return result


def ridge(z: F32, y: I64, classes: int, penalty: float) -> Linear:
    """Ridge on one-hot labels; the penalty is relative to the mean diagonal of the scatter. In dual
    form: a selection has fewer rows than columns.
    """
    centre = z.mean(axis=0)
    rows, target = (z - centre).astype(np.float64), np.eye(classes)[y]
    gram = rows @ rows.T
    gram.flat[:: len(gram) + 1] += penalty * max(float(np.trace(gram)), 1e-12) / z.shape[1]
    weight = rows.T @ np.linalg.solve(gram, target - target.mean(axis=0))
    return Linear(np.vstack([weight, target.mean(axis=0)]), centre, 1.0)


class SoftmaxHead:
    """Cross-entropy, SGD with momentum, features over their one standard deviation."""

    def __init__(self, dim: int, classes: int, scale: float) -> None:
        self.weight = np.zeros((dim + 1, classes), np.float32)
        self.velocity = np.zeros_like(self.weight)
        self.scale = max(scale, 1e-9)

    def step(self, z: F32, y: I64) -> None:
        x = np.hstack([z / np.float32(self.scale), np.ones((len(z), 1), np.float32)])
        gradient = softmax((x @ self.weight).astype(np.float64))
        gradient[np.arange(len(y)), y] -= 1.0
        self.velocity *= np.float32(MOMENTUM)
        self.velocity += x.T @ gradient.astype(np.float32) / np.float32(len(y))
        self.weight -= np.float32(RATE) * self.velocity

    def linear(self) -> Linear:
        return Linear(self.weight, np.zeros(len(self.weight) - 1, np.float32), self.scale)


def by_gradient(z: F32, y: I64, classes: int, seed: int) -> Linear:
    """A softmax head after 30 epochs over the selection."""
    head, rng = SoftmaxHead(z.shape[1], classes, float(z.std())), np.random.default_rng(seed)
    for _ in range(EPOCHS):
        order = rng.permutation(len(y))
        for i in range(0, len(y), BATCH):
            head.step(z[order[i : i + BATCH]], y[order[i : i + BATCH]])
    return head.linear()


@dataclass(frozen=True, eq=False)
class Replayed:
    """Outcome of one stream: the head, what was kept at the end, and the seconds that selecting
    took per offered sample.
    """

    head: Linear
    z: F32
    y: I64
    seconds: float


def replay(pool: Pool, selector: Selector, budget: int, seed: int, per_class: int) -> Replayed:
    """Tasks of two classes, each image once, in batches of 32 new and 32 kept; after a task the
    selector chooses from what is kept and the task.

    Seed 0 has the natural class order, the others a drawn one.
    """
    rng, classes = np.random.default_rng(seed), len(pool.classes)
    order = rng.permutation(classes) if seed else np.arange(classes)
    kept_z, kept_y = np.zeros((0, pool.dim), np.float32), np.zeros(0, np.int64)
    head, spent, offered, weight = SoftmaxHead(pool.dim, classes, 1.0), 0.0, 0, 1.0
    for start in range(0, classes, TASK):
        rows = rng.permutation(
            np.concatenate(
                [np.flatnonzero(pool.y == k)[:per_class] for k in order[start : start + TASK]]
            )
        )
        z, y = pool.z[rows], pool.y[rows]
        if not start:
            head.scale = max(float(z.std()), 1e-9)
        for i in range(0, len(y), BATCH):
            again = rng.integers(len(kept_y), size=BATCH) if len(kept_y) else np.zeros(0, np.int64)
            head.step(
                np.concatenate([z[i : i + BATCH], kept_z[again]]),
                np.concatenate([y[i : i + BATCH], kept_y[again]]),
            )
        all_z, all_y = np.concatenate([kept_z, z]), np.concatenate([kept_y, y])
        # what a kept row stands for
        weights = np.where(np.arange(len(all_y)) < len(kept_y), weight, 1.0)
        samples = Samples(
            all_z, all_y, softmax(head.linear().logits(all_z).astype(np.float64)), weights
        )
        before = time.perf_counter()
        chosen = selector.select(samples, budget, seed)
        spent, offered = spent + time.perf_counter() - before, offered + len(y)
        kept_z, kept_y = all_z[chosen], all_y[chosen]
        weight = offered / len(kept_y)
    return Replayed(head.linear(), kept_z, kept_y, spent / offered)
