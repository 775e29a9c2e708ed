"""The stress card: the shipped configuration on streams that it was not tuned on decides whether
adaptation may act.

The learner adapts without labels beside a frozen model, with the policy, windows and limits that a
device has. What is run is in ``stress_streams`` and ``stress_long``, what follows from it in
``stress_verdict``, and for people in ``docs/stress_card.md``.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from edgeadapt.bundle import Bundle
from edgeadapt.bundle._stress_table import row_line
from edgeadapt.device.detection.policy import Policy
from edgeadapt.device.inference.program import Program
from edgeadapt.device.learner import Learner
from edgeadapt.device.learner import open as open_learner
from edgeadapt.device.resources.budget import Budget
from edgeadapt.host.stress.features import RemembersFeatures
from edgeadapt.host.stress.long_run import long_run, ports_of, row_of
from edgeadapt.host.stress.streams import (
    BATCH,
    EncodedPool,
    Pool,
    StressStream,
    constants,
    pool_of,
    streams,
)
from edgeadapt.host.stress.verdict import StressCard, StressRow, verdict
from edgeadapt.runtime import Runtime, open_runtime
from edgeadapt.scenarios.orders import batches

Kind = Literal["full", "short"]
_BUDGET = Budget(busy_fraction=1.0, memory_mib=4096)


@dataclass(frozen=True)
class Lengths:
    """Samples of a stream, and batches of the long run."""

    samples: int
    batches: int


LENGTHS: dict[Kind, Lengths] = {"full": Lengths(960, 100_000), "short": Lengths(480, 5_000)}


def stress_card(
    bundle: Bundle,
    x: NDArray[Any],
    y: NDArray[np.int64],
    *,
    seed: int,
    say: Callable[[str], None],
    kind: Kind = "full",
    lengths: Lengths | None = None,
    pool: Pool | None = None,
) -> StressCard:
    """Run every stream.

    Args:
        bundle: with adaptation acting.
        x, y: held-out calibration inputs (N, ...) and labels (N,).
        kind: how long the streams are.
        lengths: instead of those of ``kind``. pool: see ``pool_for``; made here if it is not given.
    """
    chosen, pool = lengths or LENGTHS[kind], pool or pool_for(bundle, x, y, seed)
    rows: list[StressRow] = []
    # one for all streams, so that each graph is loaded once
    started, engine = time.perf_counter(), engine_of(bundle, pool)

    shifts = len(pool.shifts)
    singles = (
        kind == "full" or isinstance(pool, EncodedPool) or bundle.manifest.input.dtype != "uint8"
    )
    expected = 2 * (1 + shifts) + (1 + shifts if singles else 1) + 1 + 2 + 2  # the long run as two

    def run(stream: StressStream, frozen: FrozenModel) -> None:
        rows.append(run_stream(bundle, frozen, stream, engine))
        left = (time.perf_counter() - started) * (expected / len(rows) - 1)
        line = row_line(rows[-1].name, rows[-1].learner, rows[-1].frozen, rows[-1].refreshes)
        say(f"stress: {line}   about {left:.0f} s left")

    with open_learner(
        bundle, runtime=engine, budget=_BUDGET, policy=Policy(adapt="off")
    ) as learner:
        frozen = FrozenModel(bundle, learner, is_encoded=isinstance(pool, EncodedPool))
        for stream in streams(pool, chosen.samples, singles):
            run(stream, frozen)
        for stream in constants(pool, chosen.samples, frozen.right):
            run(stream, frozen)
    long = long_run(bundle, pool, chosen.batches, say, engine)
    say(f"stress: {row_line(long.row.name, long.row.learner, long.row.frozen, long.row.refreshes)}")
    say(
        f"stress: {sum(row.samples for row in (*rows, long.row))} samples in"
        f" {time.perf_counter() - started:.0f} s"
    )
    return verdict(rows, long, kind=kind, distinct=len(y))


def engine_of(bundle: Bundle, pool: Pool) -> Runtime:
    """A runtime that encodes each sample of the pool once for as long as nothing corrects the
    encoder.
    """
    engine, encoder = open_runtime(), bundle.manifest.encoder()
    return engine if encoder is None else RemembersFeatures(engine, encoder.file, pool.encoded)


def run_stream(
    bundle: Bundle, frozen: FrozenModel, stream: StressStream, runtime: Runtime | None = None
) -> StressRow:
    """Label-free pass of a new learner over a stream, beside the frozen model.

    Args:
        runtime: one that other streams share; None opens one for this stream.

    The worker is waited for after every batch, so that the result does not depend on the machine's
    speed.
    """
    right = []
    with open_learner(bundle, runtime=runtime or open_runtime(), budget=_BUDGET) as learner:
        names = np.array(bundle.manifest.classes)
        for rows in batches(len(stream.x), stream.batch):
            seen = learner.observe(**frozen.given(stream.x[rows]))
            right.append(np.array(seen.prediction.labels) == names[stream.y[rows]])
            if seen.queued:
                learner.settle()
        refreshes = int(learner.counters()["refreshes"])
    before = frozen.right(stream.x, stream.y, stream.batch)
    return row_of(stream.condition, stream.order, np.concatenate(right), before, refreshes)


def pool_for(bundle: Bundle, x: NDArray[Any], y: NDArray[np.int64], seed: int) -> Pool:
    """Held-out samples and their shifts: features of them, where nothing adapts the encoder, which
    then has to run once and not in every trial.
    """
    pool, program = pool_of(x, y, bundle.manifest.input, seed), Program(bundle, open_runtime())
    if not program.has_encoder or program.adapts_encoder:
        return pool
    return EncodedPool(
        pool.x,
        pool.y,
        pool.shifts,
        pool.shift,
        pool.seed,
        encode=lambda some: np.concatenate(program.encode(some), axis=1),
    )


class FrozenModel:
    """The frozen learner beside those that adapt. It sees each sample once: streams are orders of
    the same ones.

    Args:
        bundle: of both.
        frozen: a learner of it that never adapts.
        is_encoded: the samples are features of an ``EncodedPool``; their shape does not say so,
            where inputs are as wide.
    """

    def __init__(self, bundle: Bundle, frozen: Learner, *, is_encoded: bool) -> None:
        self._bundle, self._frozen, self._is_encoded = bundle, frozen, is_encoded
        self._labels: dict[bytes, str] = {}

    def given(self, x: NDArray[Any]) -> dict[str, Any]:
        """What a learner is called with: inputs, or features."""
        return {"features": ports_of(x, self._bundle)} if self._is_encoded else {"x": x}

    def right(self, x: NDArray[Any], y: NDArray[np.int64], batch: int = BATCH) -> NDArray[np.bool_]:
        """(N,) which samples it gets right; asked in batches of ``batch``, where it was not asked
        before.
        """
        keys = [hashlib.blake2b(row.tobytes(), digest_size=16).digest() for row in x]
        unseen = [
            place
            for key, place in {key: place for place, key in enumerate(keys)}.items()
            if key not in self._labels
        ]
        for rows in batches(len(unseen), batch):
            some = np.asarray(unseen)[rows]
            labels = self._frozen.predict(**self.given(x[some])).labels
            self._labels |= {keys[place]: label for place, label in zip(some, labels, strict=True)}
        names = np.array(self._frozen.classes)
        return np.array([self._labels[key] for key in keys]) == names[y]


__all__ = [
    "LENGTHS",
    "FrozenModel",
    "Kind",
    "Lengths",
    "StressCard",
    "StressRow",
    "pool_for",
    "run_stream",
    "stress_card",
    "verdict",
]
