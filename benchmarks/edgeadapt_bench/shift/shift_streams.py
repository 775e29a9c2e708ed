"""The streams of ``bench shift``: one set of images per condition, in several orders, and the
stress list beyond them.

All conditions of a seed show the same images, so methods, orders and conditions are compared on
equal terms; 1,000 other images give the oracle its labels.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from edgeadapt.host.data.images import ImageData
from edgeadapt.scenarios.corruptions import corrupt
from edgeadapt.scenarios.orders import batches

BATCH = 64
ORACLE = 1000
REPEATS = 64  # of one frame
DRIFTS = (("gaussian_noise", "fog"), ("brightness", "contrast"))
SINGLE = ("clean", "gaussian_noise", "brightness")
I64 = NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Stream:
    """Images in the order in which they arrive.

    Attributes:
        kind: ``shuffled``, ``sorted``, ``batch_1``, ``mixed``, ``constant``, ``drift``.
        batch: images that arrive together.
    """

    kind: str
    condition: str
    severity: int
    x: NDArray[np.uint8]
    y: I64
    batch: int = BATCH

    @property
    def name(self) -> str:
        return f"{self.kind}/{self.condition}" + (f"/{self.severity}" if self.severity else "")

    def parts(self) -> list[slice]:
        return list(batches(len(self.y), self.batch))


class Shown:
    """The images of one seed: rows of a pool for the streams, and others for the oracle."""

    def __init__(self, images: ImageData, count: int, seed: int) -> None:
        rows = np.random.default_rng([seed, 11]).permutation(len(images))
        held = min(ORACLE, len(images) // 2)
        self._images, self.seed = images, seed
        self.oracle_rows, self.rows = rows[:held], rows[held : held + count]
        if len(self.rows) < count:
            self.rows = np.resize(self.rows, count)
        self.y: I64 = images.y[self.rows]
        self.oracle_y: I64 = images.y[self.oracle_rows]
        rank = np.random.default_rng([seed, 12]).permutation(len(images.classes))
        self.sorted: I64 = np.argsort(rank[self.y], kind="stable")
        self.under = lru_cache(maxsize=4)(self._under)

    def _under(self, condition: str, severity: int) -> NDArray[np.uint8]:
        return corrupt(self._images.x[self.rows], condition, severity, self.seed)

    def oracle_x(self, condition: str, severity: int) -> NDArray[np.uint8]:
        return corrupt(self._images.x[self.oracle_rows], condition, severity, 1000 + self.seed)

    def stream(self, kind: str, condition: str, severity: int) -> Stream:
        """Under one condition, shuffled or sorted by class."""
        x = self.under(condition, severity)
        order = self.sorted if kind == "sorted" else np.arange(len(self.y))
        return Stream(
            kind, condition, 0 if condition == "clean" else severity, x[order], self.y[order]
        )

    def stress(self, conditions: tuple[str, ...], severity: int, single: int) -> Iterator[Stream]:
        """What the list holds beyond shuffled and sorted conditions: clean streams, single images,
        mixtures, constant frames, drifts that come back.

        Args:
            conditions: that are mixed. single: images of a stream that arrives one by one.
        """
        yield self.stream("shuffled", "clean", 0)
        yield self.stream("sorted", "clean", 0)
        for condition in SINGLE:
            whole = self.stream("shuffled", condition, severity)
            yield Stream(
                "batch_1", condition, whole.severity, whole.x[:single], whole.y[:single], batch=1
            )
        yield self._mixed(conditions, severity)
        for condition in ("clean", conditions[0]):
            whole = self.stream("shuffled", condition, severity)
            frames = np.repeat(np.arange(max(1, len(self.y) // (2 * REPEATS))), REPEATS)
            yield Stream("constant", condition, whole.severity, whole.x[frames], whole.y[frames])
        for pair in DRIFTS:
            yield self._drift(pair, severity)

    def _mixed(self, conditions: tuple[str, ...], severity: int) -> Stream:
        which = np.random.default_rng([self.seed, 13]).integers(len(conditions), size=len(self.y))
        x = np.empty_like(self.under("clean", severity))
        for k, condition in enumerate(conditions):
            x[which == k] = self.under(condition, severity)[which == k]
        return Stream("mixed", f"{len(conditions)} conditions", severity, x, self.y)

    def _drift(self, pair: tuple[str, str], severity: int) -> Stream:
        """A, B, A, B, each part sorted by class."""
        parts = np.array_split(np.arange(len(self.y)), 4)
        xs, ys = [], []
        for k, rows in enumerate(parts):
            order = rows[np.argsort(self.sorted.argsort()[rows], kind="stable")]
            xs.append(self.under(pair[k % 2], severity)[order])
            ys.append(self.y[order])
        return Stream(
            "drift", f"{pair[0]}-{pair[1]}", severity, np.concatenate(xs), np.concatenate(ys)
        )
