"""The streams of the stress card: what arrives, in which order, in batches of what size.

Every stream is drawn from held-out calibration samples. Images meet the four corruptions that
settings are chosen on; other inputs (feature vectors, sensor windows) meet four shifts of their
columns, in units of each column's standard deviation on clean samples.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from edgeadapt.bundle.schema import InputSpec
from edgeadapt.host.stress.features import Rows
from edgeadapt.scenarios.corruptions import TUNING, corrupt
from edgeadapt.scenarios.orders import arrange

Order = Literal["shuffled", "sorted", "single", "mixed", "constant"]
ORDERS: tuple[Order, ...] = ("shuffled", "sorted", "single", "mixed", "constant")
CLEAN, MIXED = "clean", "mixed"
SEVERITY = 3
COLUMN_SHIFTS = ("offset", "gain", "noise", "dead")
BATCH = 32
_CONSTANT = 8  # windows of 32


@dataclass(frozen=True, eq=False)
class StressStream:
    """One stream: inputs x (N, ...), labels y (N,), and how many come at a time."""

    condition: str
    order: Order
    x: NDArray[Any]
    y: NDArray[np.int64]
    batch: int


@dataclass(frozen=True, eq=False)
class Pool:
    """Held-out samples, and the shifts they meet. ``shift(x, name, seed)`` keeps shape, dtype and
    range.
    """

    x: NDArray[Any]
    y: NDArray[np.int64]
    shifts: tuple[str, ...]
    shift: Callable[[NDArray[Any], str, int], NDArray[Any]]
    seed: int
    # for every bundle that is tried on it
    encoded: dict[str, Rows] = field(default_factory=dict, kw_only=True)
    _made: dict[tuple[str, int], tuple[NDArray[Any], NDArray[np.int64]]] = field(
        default_factory=dict
    )

    def shuffled(self, condition: str, count: int) -> tuple[NDArray[Any], NDArray[np.int64]]:
        """``count`` samples under a condition, shuffled; the pool is passed through again, newly
        shifted, if it is smaller.
        """
        if (condition, count) not in self._made:
            rows = arrange(self.y, "shuffled", count, self.seed)
            x = (
                self.x[rows]
                if condition == CLEAN
                else self.shift(self.x[rows], condition, self.seed)
            )
            self._made[condition, count] = x, self.y[rows]
        return self._made[condition, count]


@dataclass(frozen=True, eq=False)
class EncodedPool(Pool):
    """The same, of features: each condition goes through the encoder once, whatever number of
    bundles is tried on it.

    Args:
        encode: inputs (N, *shape) to features, z then taps in a row (N, D + T) float32.
    """

    encode: Callable[[NDArray[Any]], NDArray[np.float32]] = field(kw_only=True)

    def shuffled(self, condition: str, count: int) -> tuple[NDArray[Any], NDArray[np.int64]]:
        is_made = (condition, count) in self._made
        x, y = super().shuffled(condition, count)
        if not is_made:
            self._made[condition, count] = self.encode(x), y
        return self._made[condition, count]


def pool_of(x: NDArray[Any], y: NDArray[np.int64], spec: InputSpec, seed: int) -> Pool:
    """The shifts that make sense for an input: corruptions of images, shifts of columns of
    everything else.
    """
    if spec.dtype == "uint8":
        return Pool(x, y, TUNING, lambda images, name, s: corrupt(images, name, SEVERITY, s), seed)
    columns = Columns.of(x, channel_axis(spec))
    return Pool(
        x,
        y,
        COLUMN_SHIFTS,
        lambda values, name, s: columns.shifted(values, name, s, spec.range),
        seed,
    )


def channel_axis(spec: InputSpec) -> int:
    """The axis of a batch along which columns are counted: the channels of float images, the
    shortest axis of anything else.
    """
    return 1 if spec.layout == "NCHW" else 1 + int(np.argmin(spec.shape))


@dataclass(frozen=True, eq=False)
class Columns:
    """Mean and spread of every column of clean samples, shaped so that they broadcast over a
    batch.
    """

    mean: NDArray[np.float32]
    spread: NDArray[np.float32]

    @classmethod
    def of(cls, x: NDArray[Any], axis: int = 1) -> Columns:
        others = tuple(i for i in range(x.ndim) if i != axis)
        mean, spread = (
            f(x, axis=others, keepdims=True, dtype=np.float64).astype(np.float32)
            for f in (np.mean, np.std)
        )
        return cls(mean, spread)

    def shifted(
        self, x: NDArray[Any], name: str, seed: int, limits: tuple[float, float] | None = None
    ) -> NDArray[np.float32]:
        """A shift of the columns; which columns go which way is drawn by ``seed`` alone, so that it
        is one condition.

        Args:
            x: (N, ...) float32.
            name: ``offset``: one spread up or down, per column. ``gain``: times 2 or 1/2, per
                column, about zero. ``noise``: normal, one spread. ``dead``: a quarter of the
                columns stand at their mean.
            limits: results are clipped to them.
        """
        rng = np.random.default_rng([seed, COLUMN_SHIFTS.index(name)])
        up = rng.integers(0, 2, self.mean.shape).astype(bool)
        if name == "offset":
            moved = x + np.where(up, self.spread, -self.spread)
        elif name == "gain":
            moved = x * np.where(up, 2.0, 0.5)
        elif name == "noise":
            moved = x + self.spread * rng.standard_normal(x.shape, np.float32)
        else:
            order = rng.permutation(self.mean.size).reshape(self.mean.shape)
            moved = np.where(order < max(1, self.mean.size // 4), self.mean, x)
        moved = moved.astype(np.float32)
        return moved if limits is None else np.clip(moved, *limits).astype(np.float32)


def streams(pool: Pool, samples: int, singles: bool = True) -> Iterator[StressStream]:
    """All streams but the long one, each of ``samples``; constant ones of eight windows.

    Args:
        singles: every condition one sample at a time too; otherwise the first shift alone, for
            windows, and so corrections, are the same whatever number comes at a time.
    """
    for order, batch in (("shuffled", BATCH), ("sorted", BATCH), ("single", 1)):
        is_short = order == "single" and not singles
        for condition in pool.shifts[:1] if is_short else (CLEAN, *pool.shifts):
            x, y = pool.shuffled(condition, samples)
            rows = _sorted(y, pool.seed) if order == "sorted" else np.arange(len(y))
            yield StressStream(condition, order, x[rows], y[rows], batch)  # type: ignore[arg-type]
    yield StressStream(MIXED, "mixed", *_mixed(pool, samples), BATCH)


def constants(
    pool: Pool,
    samples: int,
    is_right: Callable[[NDArray[Any], NDArray[np.int64]], NDArray[np.bool_]],
) -> Iterator[StressStream]:
    """One frame again and again, clean and shifted: the first that the frozen model gets right, so
    that a loss shows.
    """
    for condition in (CLEAN, pool.shifts[0]):
        x, y = pool.shuffled(condition, samples)
        right = np.flatnonzero(is_right(x, y))
        row = np.repeat(right[0] if len(right) else 0, _CONSTANT * BATCH)
        yield StressStream(condition, "constant", x[row], y[row], BATCH)


def _sorted(y: NDArray[np.int64], seed: int) -> NDArray[np.int64]:
    """One class after the other, classes in random order."""
    rank = np.random.default_rng(seed).permutation(int(y.max()) + 1)
    return np.argsort(rank[y], kind="stable")


def _mixed(pool: Pool, samples: int) -> tuple[NDArray[Any], NDArray[np.int64]]:
    """Every sample under a condition of its own, drawn from the shifts and the clean one."""
    conditions: Sequence[str] = (CLEAN, *pool.shifts)
    drawn = np.random.default_rng([pool.seed, 1]).integers(0, len(conditions), samples)
    x, y = pool.shuffled(CLEAN, samples)
    x = x.copy()
    for number, condition in enumerate(conditions):
        rows = drawn == number
        x[rows] = pool.shuffled(condition, samples)[0][rows]
    return x, y
