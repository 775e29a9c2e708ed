"""Heads that ship, run over a stream of cached features: by their own torch functions and the
numerics that a device runs.

Their evidence is a sum over samples, so it is summed once per cell (class or domain) and added up
in whatever order the cells arrive: one pass over the data serves every order, every stage,
validation and every penalty. ``order_difference`` checks that on real streams.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from edgeadapt.host.contracts import Dims, FactoryData, with_derived
from edgeadapt_bench.baselines.stream_plan import Plan, least
from edgeadapt_bench.datasets.pool import Pool

F32 = NDArray[np.float32]
I64 = NDArray[np.int64]
State = dict[str, Tensor]
FACTORY_ROWS = 1000
_BATCH = 2048
KEPT = ("evidence", "frozen", "parameter", "statistic")


def factory_of(plan: Plan, of_all_stages: bool = False) -> FactoryData:
    """What a bundle would have been calibrated with: up to 1,000 training rows of the first stage,
    or of all. Frozen tensors are made from it, and nothing else.
    """
    rows = (
        np.random.default_rng(plan.seed).permutation(len(plan.pool.y))
        if of_all_stages
        else plan.rows(0)
    )
    rows = rows[:FACTORY_ROWS]
    z, y = plan.pool.z[rows], plan.pool.y[rows]
    return FactoryData(
        z,
        np.zeros((len(rows), 0), np.float32),
        y,
        np.ones(len(rows), np.float32),
        len(plan.pool.classes),
    )


def empty(method: Any, factory: FactoryData) -> tuple[State, tuple[str, ...]]:
    """Frozen tensors as the factory makes them and evidence of nothing, and the names of the
    evidence.
    """
    made = method.factory(factory)
    specs = method.tensors(factory.dims)
    evidence = tuple(spec.name for spec in specs if spec.kind == "evidence")
    state = {
        spec.name: (
            torch.zeros(spec.shape, dtype=getattr(torch, spec.dtype))
            if spec.kind == "evidence"
            else torch.from_numpy(np.ascontiguousarray(made[spec.name]))
        )
        for spec in specs
        if spec.kind in KEPT
    }
    return state, evidence


def state_bytes(method: Any, dims: Dims, kinds: Sequence[str] = KEPT) -> int:
    """Bytes without which learning cannot go on: every tensor but the derived ones. What a graph
    makes from a seed is no tensor.
    """
    return sum(
        int(np.prod(s.shape, dtype=np.int64)) * np.dtype(s.dtype).itemsize
        for s in method.tensors(dims)
        if s.kind in kinds
    )


def learn(method: Any, state: State, z: F32, y: I64) -> State:
    """``state`` after these rows, in batches."""
    for start in range(0, len(y), _BATCH):
        part = slice(start, start + _BATCH)
        count = len(y[part])
        state = state | method.learn(
            state,
            torch.from_numpy(z[part]),
            torch.zeros(count, 0),
            torch.from_numpy(y[part]),
            torch.ones(count),
        )
    return state


def derive(method: Any, state: State) -> State:
    """``state`` with the derived tensors."""
    return with_derived(state, method.numerics())


def predict(method: Any, state: State, z: F32) -> I64:
    """(N, D) -> (N,) classes."""
    with torch.no_grad():
        parts = [
            method.predict(state, torch.from_numpy(z[i : i + _BATCH])).argmax(dim=1).numpy()
            for i in range(0, len(z), _BATCH)
        ]
    answer: I64 = np.concatenate(parts)
    return answer


class Sums:
    """Evidence of every cell of a pool, and of the training rows that validation keeps.

    Args:
        held: (N,) bool, rows that validation holds out.
    """

    def __init__(
        self, method: Any, factory: FactoryData, pool: Pool, cell: I64, held: NDArray[np.bool_]
    ) -> None:
        self.start, self.names = empty(method, factory)
        self.cells: dict[int, State] = {}
        self.kept = dict(self.start)
        for k in np.unique(cell):
            fitted, rest = ((cell == k) & ~held), ((cell == k) & held)
            part = learn(method, self.start, pool.z[fitted], pool.y[fitted])
            self.kept = self._add(self.kept, part)
            self.cells[int(k)] = learn(method, part, pool.z[rest], pool.y[rest])

    def _add(self, a: State, b: State) -> State:
        return a | {name: a[name] + b[name] for name in self.names}

    def of(self, cells: Sequence[int]) -> State:
        total = self.start
        for k in cells:
            total = self._add(total, self.cells[k])
        return total


def choose(variants: Sequence[Any], sums: Sums, held: Pool) -> Any:
    """The variant that is best on held-out training rows; the first of equals."""
    if len(variants) == 1:
        return variants[0]
    marks = [
        float((predict(v, derive(v, sums.kept), held.test_z) == held.test_y).mean())
        for v in variants
    ]
    return variants[int(np.argmax(marks))]


def difference(shipped: Any, chosen: Any) -> str:
    """The arguments in which a chosen head differs from the one that ships."""
    changed = [
        f.name for f in fields(shipped) if getattr(shipped, f.name) != getattr(chosen, f.name)
    ]
    return ", ".join(f"{name} {getattr(chosen, name):g}" for name in changed)


def predictions(method: Any, sums: Sums, plan: Plan) -> list[I64]:
    """What the head answers after every stage on the test rows that are asked for; -1 elsewhere."""
    met: list[int] = []
    answers = []
    for i, stage in enumerate(plan.stages):
        met += stage
        asked = plan.asked(i)
        answer = np.full(len(asked), -1)
        answer[asked] = predict(method, derive(method, sums.of(met)), plan.pool.test_z[asked])
        answers.append(answer)
    return answers


def order_difference(method: Any, factory: FactoryData, plan: Plan, sums: Sums) -> float:
    """Share of test rows on which sample-by-sample order and sums of cells give another answer."""
    state = sums.start
    for stage in range(len(plan.stages)):
        rows = plan.rows(stage)
        state = learn(method, state, plan.pool.z[rows], plan.pool.y[rows])
    summed = sums.of([k for stage in plan.stages for k in stage])
    streamed, added = (
        predict(method, derive(method, s), plan.pool.test_z) for s in (state, summed)
    )
    return float((streamed != added).mean())


@dataclass(frozen=True)
class Cost:
    """Microseconds per sample in batches of 32 on one thread, the least of several turns;
    milliseconds to derive the weights once.
    """

    update_us: float
    readout_us: float
    derive_ms: float | None = None


def cost(method: Any, state: State, z: F32, y: I64) -> Cost:
    """Time of a head in torch eager; on a device the same functions are graphs."""
    derived = derive(method, state)
    inputs, labels = torch.from_numpy(z[:32]), torch.from_numpy(y[:32])
    taps, ones = torch.zeros(len(labels), 0), torch.ones(len(labels))
    with torch.no_grad():
        update = least(lambda: method.learn(derived, inputs, taps, labels, ones)) / len(labels)
        readout = least(lambda: method.predict(derived, inputs)) / len(labels)
    return Cost(
        1e6 * update, 1e6 * readout, 1e3 * least(lambda: derive(method, state), turns=3, calls=1)
    )
