"""The stress card: the shipped configuration on streams that it was not tuned on decides whether adaptation may act.

Clean and shifted (the four tuning corruptions, severity 3), each shuffled and label-sorted; the learner adapts without labels
beside a frozen twin. ``act`` needs a gain on shifted streams of both orders and no loss on clean ones.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from edgeadapt.bench.corruptions import TUNING, corrupt
from edgeadapt.bench.orders import Order, arrange, batches
from edgeadapt.bundle import Bundle
from edgeadapt.bundle.schema import AdaptMode
from edgeadapt.device.budget import Budget
from edgeadapt.device.learner import open as open_learner

GAIN = 0.02  # least mean gain on shifted streams
LOSS = 0.01  # largest loss on a clean stream
_SAMPLES = 960


@dataclass(frozen=True)
class StressRow:
    """One stream: accuracy of the adapting learner and of its frozen twin, and how often it adapted."""

    condition: str
    order: str
    learner: float
    frozen: float
    refreshes: int


@dataclass(frozen=True)
class StressCard:
    rows: tuple[StressRow, ...]
    mode: AdaptMode
    reason: str

    def as_dict(self) -> dict[str, Any]:
        return {"rows": [asdict(row) for row in self.rows], "mode": self.mode, "reason": self.reason, "gain_needed": GAIN, "loss_allowed": LOSS}


def run_stream(bundle: Bundle, x: NDArray[Any], y: NDArray[np.int64], batch: int = 32) -> tuple[NDArray[np.bool_], NDArray[np.bool_], int]:
    """Label-free pass over a stream: correct per sample for the learner and for the frozen twin, and refreshes.

    The worker is waited for after every batch, so that the result does not depend on the machine's speed.
    """
    right, twin = [], []
    with open_learner(bundle, budget=Budget(busy_fraction=1.0, memory_mib=4096)) as learner, open_learner(
        bundle, budget=Budget(memory_mib=4096)
    ) as frozen:
        names = np.array(bundle.manifest.classes)
        for rows in batches(len(x), batch):
            right.append(np.array(learner.observe(x[rows]).prediction.labels) == names[y[rows]])
            twin.append(np.array(frozen.predict(x[rows]).labels) == names[y[rows]])
            learner.settle()
        refreshes = int(learner.counters()["refreshes"])
    return np.concatenate(right), np.concatenate(twin), refreshes


def stress_card(bundle: Bundle, x: NDArray[Any], y: NDArray[np.int64], *, seed: int, say: Callable[[str], None]) -> StressCard:
    """Run the stress streams.

    Args:
        bundle: with adaptation acting. x, y: held-out calibration images (N, H, W[, C]) uint8 and labels (N,).
    """
    rows: list[StressRow] = []
    for condition in ("clean", *TUNING):
        for order in ("shuffled", "sorted"):
            picked = arrange(y, cast(Order, order), min(_SAMPLES, len(y)), seed)
            right, twin, refreshes = run_stream(bundle, corrupt(x[picked], condition, 3, seed), y[picked])
            rows.append(StressRow(condition, order, float(right.mean()), float(twin.mean()), refreshes))
            say(f"stress: {condition}, {order}: {right.mean():.1%}, frozen {twin.mean():.1%}, {refreshes} refreshes")
    return verdict(rows)


def verdict(rows: list[StressRow]) -> StressCard:
    """``act`` if every bar holds, else ``advise`` with the bar that did not."""
    loss = max(row.frozen - row.learner for row in rows if row.condition == "clean")
    gains = {
        order: float(np.mean([row.learner - row.frozen for row in rows if row.condition != "clean" and row.order == order]))
        for order in ("shuffled", "sorted")
    }
    if loss > LOSS:
        return StressCard(tuple(rows), "advise", f"loses {loss:.1%} on a clean stream, {LOSS:.0%} is allowed")
    for order, gain in gains.items():
        if gain < (GAIN if order == "shuffled" else 0.0):
            return StressCard(tuple(rows), "advise", f"gains {gain:+.1%} on shifted {order} streams")
    return StressCard(
        tuple(rows), "act", f"gains {gains['shuffled']:+.1%} shuffled and {gains['sorted']:+.1%} sorted under shift, loses {max(loss, 0):.1%} on clean streams"
    )
