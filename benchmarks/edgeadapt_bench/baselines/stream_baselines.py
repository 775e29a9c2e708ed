"""What a user could pick instead of a head that ships, in numpy: a softmax layer by SGD, the same
with replay, a bank of neighbours.

All store features as float16, which is how the pools give them, so a buffer of m rows takes m (2 D
+ 1) bytes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from edgeadapt.device.numerics.softmax import softmax

F32 = NDArray[np.float32]
I64 = NDArray[np.int64]
BATCH = 32
MOMENTUM = np.float32(0.9)
_BLOCK = 2048


def layer_bytes(dim: int, classes: int) -> int:
    """Weights and momentum of a softmax layer, float32."""
    return 2 * 4 * (dim + 1) * classes


def row_bytes(dim: int) -> int:
    """A stored feature and its label."""
    return 2 * dim + 1


class Buffer:
    """Class-balanced store: a reservoir per class (Vitter 1985, algorithm R) with equal quotas, cut
    at random when a class joins.
    """

    def __init__(self, capacity: int, dim: int, seed: int = 0) -> None:
        self.capacity, self._rng = capacity, np.random.default_rng([seed, capacity])
        self._z = np.zeros((capacity, dim), np.float32)
        self._y = np.full(capacity, -1, np.int64)
        self._places: dict[int, list[int]] = {}
        self._met: dict[int, int] = {}
        self._free = list(range(capacity))

    def __len__(self) -> int:
        return self.capacity - len(self._free)

    def add(self, z: F32, y: I64) -> None:
        for row, k in zip(z, y.tolist(), strict=True):
            if k not in self._places:
                self._join(k)
            places, quota = self._places[k], max(self.capacity // len(self._places), 1)
            self._met[k] += 1
            if len(places) < quota and self._free:
                place = self._free.pop()
                places.append(place)
            elif not places or (chosen := int(self._rng.integers(self._met[k]))) >= len(places):
                continue
            else:
                place = places[chosen]
            self._z[place], self._y[place] = row, k

    def _join(self, k: int) -> None:
        self._places[k], self._met[k] = [], 0
        quota = max(self.capacity // len(self._places), 1)
        for places in self._places.values():
            while len(places) > quota:
                place = places.pop(int(self._rng.integers(len(places))))
                self._y[place] = -1
                self._free.append(place)

    def rows(self) -> tuple[F32, I64]:
        used = self._y >= 0
        return self._z[used], self._y[used]

    def draw(self, count: int) -> tuple[F32, I64]:
        used = np.flatnonzero(self._y >= 0)
        chosen = used[self._rng.integers(len(used), size=count)]
        return self._z[chosen], self._y[chosen]


@dataclass(eq=False)
class SoftmaxLayer:
    """Multinomial logistic regression by SGD with momentum, one pass in batches of 32; ``replay``
    stored rows, 0 for none.

    Args:
        rate: of learning, for features scaled to unit deviation (the deviation of the first rows it
            meets).
        passes: over each part it is given.
    """

    dim: int
    classes: int
    rate: float
    replay: int = 0
    passes: int = 1
    seed: int = 0
    _scale: float = 0.0
    _seen: set[int] = field(default_factory=set)

    def __post_init__(self) -> None:
        self._weight = np.zeros((self.dim + 1, self.classes), np.float32)
        self._velocity = np.zeros_like(self._weight)
        self._buffer = Buffer(self.replay, self.dim, self.seed) if self.replay else None
        self._rng = np.random.default_rng(self.seed)

    @property
    def nbytes(self) -> int:
        return layer_bytes(self.dim, self.classes) + self.replay * row_bytes(self.dim)

    def learn(self, z: F32, y: I64) -> None:
        self._scale = self._scale or 1.0 / max(float(z.std()), 1e-6)
        self._seen |= set(y.tolist())
        for turn in range(self.passes):
            order = np.arange(len(y)) if turn == 0 else self._rng.permutation(len(y))
            for start in range(0, len(y), BATCH):
                rows = order[start : start + BATCH]
                self._learn_batch(z[rows], y[rows], is_new=turn == 0)

    def _learn_batch(self, z: F32, y: I64, is_new: bool) -> None:
        step_z, step_y = z, y
        if self._buffer is not None and len(self._buffer):
            old_z, old_y = self._buffer.draw(BATCH)
            step_z, step_y = np.concatenate([z, old_z]), np.concatenate([y, old_y])
        self.step(step_z, step_y, self.rate)
        if self._buffer is not None and is_new:
            self._buffer.add(z, y)

    def step(self, z: F32, y: I64, rate: float) -> None:
        """One step on the mean cross-entropy of a batch."""
        h = np.concatenate([z * np.float32(self._scale), np.ones((len(z), 1), np.float32)], axis=1)
        error = softmax(h @ self._weight)
        error[np.arange(len(y)), y] -= 1.0
        self._velocity *= MOMENTUM
        self._velocity += h.T @ error / np.float32(len(y))
        self._weight -= np.float32(rate) * self._velocity

    def predict(self, z: F32) -> I64:
        logits = (z * np.float32(self._scale)) @ self._weight[:-1] + self._weight[-1]
        return _best_seen(logits, self._seen)


def joint_probe(
    z: F32, y: I64, classes: int, rate: float, seed: int = 0, steps: int = 3000, batch: int = 128
) -> SoftmaxLayer:
    """The same layer on all classes at once, shuffled, many passes, cosine rate: an oracle for
    linear heads, not a baseline.
    """
    layer = SoftmaxLayer(z.shape[1], classes, rate, seed=seed)
    layer._scale, layer._seen = 1.0 / max(float(z.std()), 1e-6), set(y.tolist())
    rng = np.random.default_rng(seed)
    order = np.concatenate([rng.permutation(len(y)) for _ in range(-(-steps * batch // len(y)))])
    for i in range(steps):
        rows = order[i * batch : (i + 1) * batch]
        layer.step(z[rows], y[rows], rate * 0.5 * (1.0 + np.cos(np.pi * i / steps)))
    return layer


@dataclass(eq=False)
class NeighbourBank:
    """A class-balanced bank; the majority of the ``neighbours`` nearest answers, the nearest
    decides a tie.

    Args:
        is_cosine: by angle, else by Euclidean distance.
    """

    dim: int
    capacity: int
    neighbours: int = 5
    is_cosine: bool = True
    seed: int = 0

    def __post_init__(self) -> None:
        self._buffer = Buffer(self.capacity, self.dim, self.seed)

    @property
    def nbytes(self) -> int:
        return self.capacity * row_bytes(self.dim)

    def learn(self, z: F32, y: I64) -> None:
        self._buffer.add(z, y)

    def predict(self, z: F32) -> I64:
        bank, labels = self._buffer.rows()
        k = min(self.neighbours, len(labels))
        unit = (
            bank / np.maximum(np.linalg.norm(bank, axis=1, keepdims=True), 1e-12)
            if self.is_cosine
            else bank
        )
        half_square = (
            np.zeros(len(bank), np.float32) if self.is_cosine else 0.5 * (bank**2).sum(axis=1)
        )
        answers = []
        for start in range(0, len(z), _BLOCK):
            near = z[start : start + _BLOCK] @ unit.T - half_square
            best = (
                np.argpartition(-near, k - 1, axis=1)[:, :k]
                if k < len(bank)
                else np.tile(np.arange(len(bank)), (len(near), 1))
            )
            best = np.take_along_axis(
                best,
                np.argsort(-np.take_along_axis(near, best, axis=1), axis=1, kind="stable"),
                axis=1,
            )
            votes = labels[best]
            counts = (votes[:, :, None] == votes[:, None, :]).sum(axis=2)
            answers.append(votes[np.arange(len(votes)), counts.argmax(axis=1)])
        return np.concatenate(answers)


def _best_seen(logits: F32, seen: Sequence[int] | set[int]) -> I64:
    allowed = np.full(logits.shape[1], -np.inf, np.float32)
    allowed[list(seen)] = 0.0
    answer: I64 = (logits + allowed).argmax(axis=1)
    return answer
