"""The long run of the stress card: feature vectors one at a time, and everything that may not grow.

Phases take turns: clean, a shift, clean, the next shift; the second half repeats the first, so that
it meets nothing it has to make room for. A bundle that corrects features meets shifts of feature
columns and adapts all the while. One that adapts its encoder cannot adapt to features that were
computed elsewhere: it meets the factory's features of clean and shifted inputs, and is watched for
bounds alone.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgeadapt.bundle import Bundle
from edgeadapt.device.detection.policy import Keep, Policy
from edgeadapt.device.inference.program import Program
from edgeadapt.device.learner import Learner
from edgeadapt.device.learner import open as open_learner
from edgeadapt.device.querying.pending import LARGEST_PENDING
from edgeadapt.device.resources.budget import Budget
from edgeadapt.host.stress.streams import CLEAN, COLUMN_SHIFTS, Columns, EncodedPool, Pool
from edgeadapt.host.stress.verdict import LongRun, StressRow
from edgeadapt.runtime import Runtime, open_runtime
from edgeadapt.scenarios.environment import resident_mib

_LARGEST_POOL = 1000  # different samples
_LOOK_EVERY = 250  # batches
_FRESH = Budget(busy_fraction=1.0, memory_mib=4096)
# the store of samples that wait for labels is full at once: what grows later does not hide behind
# it
_SOON = Keep(pending_s=2.0)


@dataclass(frozen=True, eq=False)
class Features:
    """Features of one condition, z then taps in a row (N, D + T), their labels, and which the
    frozen model gets right (N,).
    """

    values: NDArray[np.float32]
    y: NDArray[np.int64]
    is_right: NDArray[np.bool_]


def conditions_of(bundle: Bundle, pool: Pool, engine: Runtime) -> dict[str, Features]:
    """What the phases are made of, the clean condition first."""
    program, count = Program(bundle, engine), min(_LARGEST_POOL, len(pool.y))
    x, y = pool.shuffled(CLEAN, count)
    clean = x if isinstance(pool, EncodedPool) else np.concatenate(program.encode(x), axis=1)
    columns = Columns.of(clean)
    with open_learner(bundle, runtime=engine, budget=_FRESH, policy=Policy(adapt="off")) as frozen:
        found = {}
        names = (CLEAN, *(pool.shifts if program.adapts_encoder else COLUMN_SHIFTS))
        for name in names:
            if name == CLEAN:
                values, labels = clean, y
            elif program.adapts_encoder:
                shifted, labels = pool.shuffled(name, count)
                values = np.concatenate(program.encode(shifted), axis=1)
            else:
                values, labels = columns.shifted(clean, name, pool.seed), y
            right = (
                np.array(frozen.predict(features=ports_of(values, bundle)).labels)
                == np.array(bundle.manifest.classes)[labels]
            )
            found[name] = Features(values, labels, right)
    return found


def ports_of(values: NDArray[np.float32], bundle: Bundle) -> dict[str, Any]:
    """``features=`` of a batch of values, z then taps in a row."""
    dim = bundle.manifest.feature_dim
    return (
        {"z": values[:, :dim], "taps": values[:, dim:]}
        if bundle.manifest.tap_dim
        else {"z": values}
    )


class _Watch:
    """The most that anything took, measured every few hundred batches."""

    def __init__(self, learner: Learner) -> None:
        self._learner = learner
        self.most = {"tensor_bytes": 0, "pending": 0, "backlog": 0, "conditions": 0}

    def update(self) -> None:
        counters = self._learner.counters() | {"conditions": len(self._learner.domains())}
        self.most = {name: max(most, int(counters[name])) for name, most in self.most.items()}


def long_run(
    bundle: Bundle,
    pool: Pool,
    batches: int,
    say: Callable[[str], None],
    engine: Runtime | None = None,
) -> LongRun:
    """``batches`` feature vectors, one at a time; the worker is waited for whenever it has work, so
    that the result repeats.
    """
    engine = engine or open_runtime()
    conditions = conditions_of(bundle, pool, engine)
    shifts = [name for name in conditions if name != CLEAN]
    cycle = [name for shift in shifts for name in (CLEAN, shift)]
    length = max(1, batches // (2 * len(cycle)))
    classes = np.array(bundle.manifest.classes)
    rng = np.random.default_rng(pool.seed)
    late = min(settling(bundle), length // 2)
    phases: list[StressRow] = []
    everything: list[StressRow] = []
    warm = 0.0
    with open_learner(bundle, runtime=engine, budget=_FRESH, keep=_SOON) as learner:
        watch = _Watch(learner)
        for number, name in enumerate(cycle * 2):
            if number == 3 * len(cycle) // 2:
                warm = resident_mib()
            features, before = conditions[name], int(learner.counters()["refreshes"])
            rows = np.concatenate(
                [rng.permutation(len(features.y)) for _ in range(-(-length // len(features.y)))]
            )[:length]
            right = np.zeros(length, np.bool_)
            for i, row in enumerate(rows):
                seen = learner.observe(features=ports_of(features.values[row : row + 1], bundle))
                right[i] = seen.prediction.labels[0] == classes[features.y[row]]
                if seen.queued:
                    learner.settle()
                if i % _LOOK_EVERY == 0:
                    watch.update()
            frozen, refreshes = (
                features.is_right[rows],
                int(learner.counters()["refreshes"]) - before,
            )
            everything.append(row_of(name, "long", right, frozen, refreshes))
            phases.append(row_of(name, "long", right[late:], frozen[late:], refreshes))
            if number % len(cycle) == len(cycle) - 1:
                say(
                    f"stress: {sum(row.samples for row in everything)} of {length * 2 * len(cycle)}"
                    " feature batches"
                )
        watch.update()
        grown = resident_mib() - warm
    return LongRun(
        _total(everything),
        tuple(phases),
        watch.most["tensor_bytes"],
        _declared(bundle, engine),
        watch.most["pending"],
        LARGEST_PENDING,
        watch.most["backlog"],
        watch.most["conditions"],
        bundle.manifest.domain_slots,
        warm,
        max(0.0, grown),
    )


def settling(bundle: Bundle) -> int:
    """Samples within which a device notices that a condition began or ended."""
    shift = bundle.manifest.policy.shift
    return shift.window * (max(shift.confirm_windows, shift.clear_windows) + 1)


def row_of(
    condition: str, order: str, right: NDArray[np.bool_], frozen: NDArray[np.bool_], refreshes: int
) -> StressRow:
    """A row from what the learner and the frozen model got right, sample by sample."""
    gained, lost = int((right & ~frozen).sum()), int((frozen & ~right).sum())
    return StressRow(
        condition,
        order,
        len(right),
        float(right.mean()),
        float(frozen.mean()),
        gained,
        lost,
        refreshes,
    )


def _total(phases: list[StressRow]) -> StressRow:
    samples = sum(row.samples for row in phases)
    learner, frozen = (
        sum(getattr(row, who) * row.samples for row in phases) / samples
        for who in ("learner", "frozen")
    )
    gained, lost, refreshes = (
        sum(getattr(row, what) for row in phases) for what in ("gained", "lost", "refreshes")
    )
    return StressRow("features", "long", samples, learner, frozen, gained, lost, refreshes)


def _declared(bundle: Bundle, engine: Runtime) -> int:
    """Bytes of global tensors and of a full set of conditions, and of the factory's, which lies
    underneath; frozen ones do not change.
    """
    program = Program(bundle, engine)
    return (
        sum(size for kind, size in program.nbytes().items() if kind != "frozen")
        + program.factory_domain().nbytes
    )
