"""What arrives when, and how a run over it is judged: stages of classes or of domains, final
accuracy, forgetting, average accuracy on the way.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from edgeadapt.errors import InputError
from edgeadapt_bench.datasets.pool import Pool

F32 = NDArray[np.float32]
I64 = NDArray[np.int64]
Right = NDArray[np.bool_]


@dataclass(frozen=True, eq=False)
class Plan:
    """A pool cut into cells (classes or domains), which arrive stage by stage.

    Attributes:
        stages: cells that arrive together, in order. cell, test_cell: (N,), (M,) the cell of every
            row.
        is_by_class: cells are classes, and a stage is judged on the classes seen so far; else cells
            are domains.
    """

    pool: Pool
    stages: tuple[tuple[int, ...], ...]
    is_by_class: bool
    seed: int = 0

    @property
    def cell(self) -> I64:
        return self.pool.y if self.is_by_class else self.pool.group

    @property
    def test_cell(self) -> I64:
        return self.pool.test_y if self.is_by_class else self.pool.test_group

    def rows(self, stage: int) -> I64:
        """Training rows of a stage, shuffled."""
        rows = np.flatnonzero(np.isin(self.cell, self.stages[stage]))
        return np.random.default_rng([self.seed, stage]).permutation(rows)

    def asked(self, stage: int) -> NDArray[np.bool_]:
        """(M,) test rows that are asked for after a stage: of the classes met so far, or of every
        domain.
        """
        if not self.is_by_class:
            return np.ones(len(self.pool.test_y), bool)
        return np.isin(self.test_cell, [cell for met in self.stages[: stage + 1] for cell in met])


def by_class(pool: Pool, size: int, seed: int) -> Plan:
    """Tasks of ``size`` classes; seed 0 keeps the order of the classes, others shuffle it.

    Raises:
        InputError: the classes do not divide into tasks of this size, or make only one.
    """
    count = len(pool.classes)
    if size < 1 or count % size or count == size:
        raise InputError(f"{count} classes do not make two or more tasks of {size}")
    return Plan(pool, _stages(count, size, seed), True, seed)


def by_group(pool: Pool, seed: int) -> Plan:
    """One domain after the other; seed 0 keeps their order, others shuffle it.

    Raises:
        InputError: the pool has a single domain.
    """
    if len(pool.groups) < 2:
        raise InputError(f"pool {pool.name!r} has one domain; a stream of domains needs two")
    return Plan(pool, _stages(len(pool.groups), 1, seed), False, seed)


def _stages(count: int, size: int, seed: int) -> tuple[tuple[int, ...], ...]:
    order = np.random.default_rng(seed).permutation(count) if seed else np.arange(count)
    return tuple(tuple(int(k) for k in order[i : i + size]) for i in range(0, count, size))


class Learner(Protocol):
    """What a stream is run on."""

    def learn(self, z: F32, y: I64) -> None: ...

    def predict(self, z: F32) -> I64: ...


@dataclass(frozen=True, eq=False)
class Outcome:
    """One run over a stream.

    Attributes:
        accuracy: (S, S) share right on the cells of stage j after stage i; NaN where j has not
            arrived and is no fair question.
        on_the_way: (S,) after stage i, on everything that arrived. right: (M,) at the end.
    """

    accuracy: NDArray[np.float64]
    on_the_way: NDArray[np.float64]
    right: Right

    @property
    def final(self) -> float:
        return float(self.right.mean())

    @property
    def incremental(self) -> float:
        """Mean over stages of the accuracy on what arrived so far (average incremental accuracy;
        Rebuffi et al., iCaRL, CVPR 2017).
        """
        return float(self.on_the_way.mean())

    @property
    def forgetting(self) -> float:
        """Mean over all stages but the last of (best accuracy since it arrived - accuracy at the
        end); Chaudhry et al., ECCV 2018, eq. 3.

        In a stream of classes it contains what nobody can avoid: more classes to confuse.
        """
        last = len(self.accuracy) - 1
        return float(
            np.mean([np.max(self.accuracy[j:, j]) - self.accuracy[last, j] for j in range(last)])
        )


def judge(plan: Plan, predictions: list[I64]) -> Outcome:
    """What a run is worth.

    Args:
        predictions: after every stage, (M,) predicted classes. Rows that are not asked for are not
            looked at.
    """
    count = len(plan.stages)
    accuracy, on_the_way = np.full((count, count), np.nan), np.zeros(count)
    members = [np.isin(plan.test_cell, stage) for stage in plan.stages]
    for i, predicted in enumerate(predictions):
        right = predicted == plan.pool.test_y
        for j in range(i + 1 if plan.is_by_class else count):
            accuracy[i, j] = right[members[j]].mean()
        on_the_way[i] = right[np.any(members[: i + 1], axis=0)].mean()
    return Outcome(accuracy, on_the_way, predictions[-1] == plan.pool.test_y)


def run_plan(plan: Plan, learner: Learner) -> Outcome:
    """Let a learner meet the stages, each row once, and ask it about every test row after each."""
    predictions = []
    for stage in range(len(plan.stages)):
        rows = plan.rows(stage)
        learner.learn(plan.pool.z[rows], plan.pool.y[rows])
        asked = plan.asked(stage)
        answer = np.full(len(asked), -1)
        answer[asked] = learner.predict(plan.pool.test_z[asked])
        predictions.append(answer)
    return judge(plan, predictions)


def by_unit(pool: Pool, right: NDArray[np.float64]) -> NDArray[np.float64]:
    """(U,) mean of (M,) shares over test rows of one unit, the resampling unit of an interval."""
    _, unit = np.unique(pool.test_unit, return_inverse=True)
    return np.asarray(np.bincount(unit, right) / np.bincount(unit), np.float64)


def least(call: Callable[[], object], turns: int = 7, calls: int = 5) -> float:
    """Seconds of one call: the least of ``turns`` means over ``calls``, after one that is not
    counted.
    """
    call()
    seconds = []
    for _ in range(turns):
        started = time.perf_counter()
        for _ in range(calls):
            call()
        seconds.append((time.perf_counter() - started) / calls)
    return min(seconds)
