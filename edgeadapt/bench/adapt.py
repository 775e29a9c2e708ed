"""Label-free adaptation alone: what it wins under a condition, and what it costs on clean streams.

A stream is eight clean windows, then a condition that stays. The learner is told nothing; beside it run a frozen twin, the
frozen twin on the same images without the condition (the clean mark), and plain batch statistics of every batch of 32.
"""

from __future__ import annotations

import time
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from edgeadapt.bench.material import (
    BATCH,
    CONDITIONS,
    PREFIX,
    SETTLED,
    Material,
    Say,
    bar,
    degraded,
    load_material,
    open_quick,
    right,
    spread,
)
from edgeadapt.bench.measure import Row
from edgeadapt.bench.orders import Order, arrange, batches
from edgeadapt.device.learner import Learner
from edgeadapt.device.policy import Policy
from edgeadapt.device.program import Program
from edgeadapt.device.resume import factory_memory
from edgeadapt.host.datasets import ImageData

ORDERS: tuple[Order, ...] = ("shuffled", "sorted")
SHARE: dict[Order, float] = {"shuffled": 0.55, "sorted": 0.40}
CLEAN_LOSS = 0.01
Marks = NDArray[np.bool_]


@dataclass(frozen=True, eq=False)
class Pass:
    """One stream: right or wrong per image for the learner, its frozen twin and batch statistics; refreshes; seconds per batch."""

    learner: Marks
    frozen: Marks
    batch_statistics: Marks
    refreshes: int
    learner_s: float  # median, background work included
    plain_s: float


class BatchStatistics:
    """Normalisation statistics of the very batch that is predicted (Schneider et al., NeurIPS 2020, arXiv 2006.16971)."""

    def __init__(self, program: Program) -> None:
        self._program, self._memory = program, factory_memory(program)

    def predict(self, x: NDArray[np.uint8]) -> NDArray[np.int64]:
        """(N,) slots; a bundle without norm statistics answers as if frozen."""
        encoder, tensors = None, self._program.factory_domain()
        if self._program.adapts_encoder:
            _, written = self._program.adapt(tensors.over(self._memory.tensors), x, np.ones(len(x), np.float32))
            encoder = self._program.refold(written.over(tensors))
        z, taps = self._program.encode(x, encoder)
        slots: NDArray[np.int64] = self._program.read(z, taps, self._memory.tensors).logits.argmax(axis=1)
        return slots


def stream_rows(y: NDArray[np.int64], order: Order, length: int, seed: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Rows of the clean prefix, and of what follows it: both in the same order, each shuffled or sorted for itself."""
    rows = np.random.default_rng([seed, 3]).permutation(len(y))
    cut = min(PREFIX, len(y) // 5)
    first, rest = rows[:cut], rows[cut:]
    return first[arrange(y[first], order, PREFIX, seed)], rest[arrange(y[rest], order, length, seed)]


def play(learner: Learner, frozen: Learner, statistics: BatchStatistics, x: NDArray[np.uint8], y: NDArray[np.int64]) -> Pass:
    """Show a stream to all three; the worker is waited for after every batch."""
    marks: list[tuple[Marks, Marks, Marks]] = []
    spent, plain = [], []
    before = int(learner.counters()["refreshes"])
    for rows in batches(len(x), BATCH):
        started = time.perf_counter()
        seen = learner.observe(x[rows])
        learner.settle()
        middle = time.perf_counter()
        twin = frozen.predict(x[rows])
        plain.append(time.perf_counter() - middle)
        spent.append(middle - started)
        marks.append((right(seen.prediction.labels, y[rows]), right(twin.labels, y[rows]), statistics.predict(x[rows]) == y[rows]))
    mine, theirs, plain_marks = (np.concatenate(column) for column in zip(*marks, strict=True))
    refreshes = int(learner.counters()["refreshes"]) - before
    return Pass(mine, theirs, plain_marks, refreshes, float(np.median(spent)), float(np.median(plain)))


def run_adapt(
    data: str | None = None, seeds: tuple[int, ...] = (0, 1, 2), say: Say = print, *, length: int = 960, clean_length: int = 2016,
    conditions: tuple[str, ...] = CONDITIONS, tuning: bool = False,
) -> list[Row]:  # fmt: skip
    """Share of the gap between frozen and clean accuracy that adapting without labels closes.

    Args:
        data, tuning: see ``load_material``. length: images under the condition. clean_length: of the clean streams.
    """
    material = load_material(data, tuning=tuning)
    rows: list[Row] = []
    for order in ORDERS:
        rows += _shifted(material, order, seeds, say, length, conditions) + _clean(material, order, seeds, say, clean_length)
    return rows


@dataclass(frozen=True)
class _Gap:
    """Accuracies of one stream, over the part that counts."""

    frozen: float
    learner: float
    batch_statistics: float
    clean: float

    @property
    def share(self) -> float:
        return (self.learner - self.frozen) / max(self.clean - self.frozen, 1e-9)


def share_of(gaps: list[_Gap], mark: str = "learner") -> float:
    """Mean gain over mean gap: a condition that hardly hurts does not decide."""
    gain = float(np.mean([getattr(g, mark) - g.frozen for g in gaps]))
    return gain / max(float(np.mean([g.clean - g.frozen for g in gaps])), 1e-9)


def _shifted(material: Material, order: Order, seeds: tuple[int, ...], say: Say, length: int, conditions: tuple[str, ...]) -> list[Row]:
    images = material.known()
    settled: dict[int, list[_Gap]] = {seed: [] for seed in seeds}
    whole: dict[int, list[_Gap]] = {seed: [] for seed in seeds}
    refreshes, times = [], []
    for condition in conditions:
        for seed in seeds:
            first, rest = stream_rows(images.y, order, length, seed)
            played, clean = _with_condition(material, images, first, rest, condition, seed)
            skip = min(SETTLED, length // 2)
            for start, gaps in ((skip, settled), (0, whole)):
                parts = [part[start:].mean() for part in (played.frozen, played.learner, played.batch_statistics, clean)]
                gaps[seed].append(_Gap(*map(float, parts)))
            refreshes.append(played.refreshes)
            times.append(played.learner_s / played.plain_s)
            g = settled[seed][-1]
            say(
                f"{condition}, {order}, seed {seed}: {g.frozen:.1%} frozen, {g.learner:.1%} adapting, {g.clean:.1%} clean, "
                f"{g.batch_statistics:.1%} batch statistics; {played.refreshes} refreshes, {times[-1]:.1f} x plain"
            )
    pooled, everything = ([g for seed in seeds for g in gaps[seed]] for gaps in (settled, whole))
    say(f"share of the gap, {order}, over seeds: {spread([share_of(settled[seed]) for seed in seeds])}")
    return [
        bar(f"share/{order}", share_of(pooled), "share", share_of(pooled, "batch_statistics"), at_least=SHARE[order]),
        bar(f"share_with_onset/{order}", share_of(everything), "share", share_of(everything, "batch_statistics")),
        bar(f"share_mean_of_streams/{order}", float(np.mean([g.share for g in pooled])), "share"),
        bar(f"accuracy/{order}", float(np.mean([g.learner for g in pooled])), "accuracy", float(np.mean([g.frozen for g in pooled]))),
        bar(f"refreshes/{order}", float(np.mean(refreshes)), "per stream"),
        bar(f"time/{order}", float(np.median(times)), "x plain inference", 1.0),
    ]


def _with_condition(
    material: Material, images: ImageData, first: NDArray[np.int64], rest: NDArray[np.int64], condition: str, seed: int
) -> tuple[Pass, Marks]:
    """Clean prefix, then the condition: what happened under it, and the frozen marks on the same images undisturbed."""
    statistics = BatchStatistics(material.program())
    with open_quick(material.bundle) as learner, open_quick(material.bundle, Policy(adapt="off")) as frozen:
        play(learner, frozen, statistics, images.x[first], images.y[first])
        played = play(learner, frozen, statistics, degraded(images, rest, condition, seed), images.y[rest])
        clean = right(frozen.predict(images.x[rest]).labels, images.y[rest])
    return played, clean


def _clean(material: Material, order: Order, seeds: tuple[int, ...], say: Say, length: int) -> list[Row]:
    images = material.known()
    lost, statistics_lost, refreshes = [], [], 0
    for seed in seeds:
        rows = arrange(images.y, order, length, seed)
        statistics = BatchStatistics(material.program())
        with open_quick(material.bundle) as learner, open_quick(material.bundle, Policy(adapt="off")) as frozen:
            played = play(learner, frozen, statistics, images.x[rows], images.y[rows])
        lost.append(float(played.frozen.mean() - played.learner.mean()))
        statistics_lost.append(float(played.frozen.mean() - played.batch_statistics.mean()))
        refreshes += played.refreshes
    say(f"clean, {order}: loses {spread(lost)}, {refreshes} refreshes; batch statistics lose {spread(statistics_lost)}")
    return [bar(f"clean_loss/{order}", max(lost), "accuracy", max(statistics_lost), at_most=CLEAN_LOSS)]
