"""What a table of stress streams allows: ``act``, ``advise`` or ``off``, by rules that are pure functions of the table.

    act      gains GAIN on shifted shuffled streams and nothing less than 0 on shifted sorted ones (means over the shifts), and loses nowhere
    advise   one of these fails
    off      a stream loses more than RUIN, or the long run is not bounded

A *loss* is what the frozen twin is right more often than the learner, on the same samples in the same order. It counts above LOSS,
whatever chance says of it; and below, where a one-sided sign test of the samples on which the two differ is significant at SIGNIFICANCE.
A constant stream may not be adapted to at all: frames that do not change teach nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from edgeadapt.bundle.schema import AdaptMode
from edgeadapt.device.guard import sign_test
from edgeadapt.host.stress_streams import CLEAN

GAIN = 0.02  # least mean gain on shifted shuffled streams
LOSS = 0.01  # from here on a loss counts even if chance could explain it
SIGNIFICANCE = 0.01  # of a smaller loss
RUIN = 0.10  # a loss that nobody should have to live with
GROWTH_MIB, GROWTH_SHARE = 8.0, 0.025  # of resident memory in the last quarter of the long run; whichever is more


@dataclass(frozen=True)
class StressRow:
    """One stream.

    Attributes:
        condition: ``clean``, a shift, or ``mixed``. order: ``shuffled``, ``sorted``, ``single``, ``mixed``, ``constant`` or ``long``.
        samples: of the stream. learner, frozen: accuracy in [0, 1] of the adapting learner and of its frozen twin.
        gained, lost: samples that only the learner, only the twin got right. refreshes: corrections that were computed; the device refuses
            those that do not look healthy.
    """

    condition: str
    order: str
    samples: int
    learner: float
    frozen: float
    gained: int
    lost: int
    refreshes: int

    @property
    def name(self) -> str:
        return self.condition if self.condition == self.order else f"{self.condition} {self.order}"

    @property
    def loss(self) -> float:
        return (self.lost - self.gained) / self.samples

    @property
    def loss_counts(self) -> bool:
        return self.loss > LOSS or (self.loss > 0 and sign_test(self.gained, self.lost) < SIGNIFICANCE)


@dataclass(frozen=True)
class LongRun:
    """Feature vectors one at a time, through clean and shifted phases; the second half repeats the first.

    Attributes:
        row: all of it. phases: each phase. tensor_bytes, tensor_bytes_declared: most that tensors and corrections took, and what the
            bundle declares. pending, backlog, conditions: most samples, tasks and conditions kept at a time. pending_allowed,
            conditions_allowed: of these. resident_mib, resident_growth_mib: of the process after three quarters, when every store is full, and
            what the last quarter added.
    """

    row: StressRow
    phases: tuple[StressRow, ...]
    tensor_bytes: int
    tensor_bytes_declared: int
    pending: int
    pending_allowed: int
    backlog: int
    conditions: int
    conditions_allowed: int
    resident_mib: float
    resident_growth_mib: float

    @property
    def problem(self) -> str:
        """What is not bounded; empty if all is."""
        allowed = max(GROWTH_MIB, GROWTH_SHARE * self.resident_mib)
        if self.tensor_bytes > self.tensor_bytes_declared:
            return f"tensors take {self.tensor_bytes} bytes, {self.tensor_bytes_declared} are declared"
        if self.pending > self.pending_allowed:
            return f"{self.pending} samples are kept for labels, {self.pending_allowed} may be"
        if self.conditions > self.conditions_allowed:
            return f"{self.conditions} conditions are kept, {self.conditions_allowed} may be"
        if self.resident_growth_mib > allowed:
            return f"resident memory grows by {self.resident_growth_mib:.0f} MiB in the last quarter, {allowed:.0f} MiB are allowed"
        return ""


@dataclass(frozen=True)
class StressCard:
    """The table and what it allows. ``kind`` is ``full`` or ``short``; ``distinct``: different samples the streams were drawn from."""

    rows: tuple[StressRow, ...]
    long: LongRun | None
    mode: AdaptMode
    reason: str
    kind: str = "full"
    distinct: int = 0

    def as_dict(self) -> dict[str, Any]:
        """As ``card.json`` holds it."""
        long = None if self.long is None else {**asdict(self.long), "problem": self.long.problem}
        rules = {"gain": GAIN, "loss": LOSS, "significance": SIGNIFICANCE, "ruin": RUIN}
        return {
            "mode": self.mode, "reason": self.reason, "kind": self.kind, "distinct": self.distinct, "rules": rules,
            "rows": [asdict(row) for row in self.rows], "long": long,
        }  # fmt: skip


def mean_gain(rows: Sequence[StressRow], order: str) -> float:
    """Over the shifted streams of an order."""
    return float(np.mean([row.learner - row.frozen for row in rows if row.order == order and row.condition != CLEAN]))


def verdict(rows: Sequence[StressRow], long: LongRun | None = None, *, kind: str = "full", distinct: int = 0) -> StressCard:
    """The mode, and a reason that names the row that decided.

    Args:
        rows: shuffled and sorted ones of at least one shift among them; any others are held to the rule on losses.
    """
    mode, reason = _judge([*rows, *(long.phases if long else ())], rows, long)
    return StressCard(tuple(rows), long, mode, reason if kind == "full" else f"{reason} (short streams)", kind, distinct)


def _judge(everything: Sequence[StressRow], rows: Sequence[StressRow], long: LongRun | None) -> tuple[AdaptMode, str]:
    worst = max(everything, key=lambda row: row.loss)
    if long is not None and long.problem:
        return "off", f"not bounded over {long.row.samples} batches: {long.problem}"
    if worst.loss > RUIN:
        return "off", f"{worst.name}: loses {worst.loss:.1%}"
    if counted := [row for row in everything if row.loss_counts]:
        first = max(counted, key=lambda row: row.loss)
        others = f", and {len(counted) - 1} other streams lose" if len(counted) > 1 else ""
        return "advise", f"{first.name}: loses {first.loss:.1%} ({first.lost} samples lost, {first.gained} gained){others}"
    if moved := [row for row in rows if row.order == "constant" and row.refreshes]:
        return "advise", f"{moved[0].name}: adapts {moved[0].refreshes} times to frames that do not change"
    shuffled, ordered = (mean_gain(rows, order) for order in ("shuffled", "sorted"))
    if shuffled < GAIN:
        return "advise", f"shifted shuffled: gains {shuffled:+.1%}, {GAIN:.0%} are needed"
    if ordered < 0:
        return "advise", f"shifted sorted: gains {ordered:+.1%}"
    loss = f"largest loss {worst.loss:.1%} ({worst.name})" if worst.loss > 0 else "loses on no stream"
    return "act", f"gains {shuffled:+.1%} shuffled and {ordered:+.1%} sorted under shift; {loss}"
