"""What a table of stress streams allows: ``act``, ``advise`` or ``off``, by rules that are pure
functions of the table.

    act      gains GAIN on shifted shuffled streams and nothing less than 0 on shifted sorted ones
             (means over those that were adapted to), and no loss counts
    advise   one of these fails
    off      a stream loses more than RUIN, or the long run is not bounded

A *loss* is by how much the frozen model is right more often than the learner, on the same samples
in the same order. It counts above LOSS, whatever chance says of it; and below, where the paired
interval of the loss lies above what the gain allows, SHARE of the mean gain on shifted shuffled
streams. A constant stream may not be adapted to at all: its frames carry no information.

Paired interval: with l lost and g gained of n samples, (l - g) / n -+ Z sqrt(l + g - (l - g)^2 / n)
/ n.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from edgeadapt.bundle.schema import AdaptMode
from edgeadapt.host.stress.streams import CLEAN

GAIN = 0.02  # least mean gain on shifted shuffled streams
LOSS = 0.01  # from here on a loss counts even if chance could explain it
# of the gain that a smaller loss may cost: it pays from one twentieth of the time under a shift on
SHARE = 0.05
Z = 2.33  # of the paired interval: 99% on its lower side
RUIN = 0.10  # a loss that nobody should have to live with
# of resident memory in the last quarter of the long run; whichever is more
GROWTH_MIB, GROWTH_SHARE = 8.0, 0.025


@dataclass(frozen=True)
class StressRow:
    """One stream.

    Attributes:
        condition: ``clean``, a shift, or ``mixed``.
        order: ``shuffled``, ``sorted``, ``single``, ``mixed``, ``constant`` or ``long``.
        samples: of the stream.
        learner, frozen: accuracy in [0, 1] of the adapting learner and of the frozen model.
        gained, lost: samples that only the learner, only the frozen model got right.
        refreshes: corrections that were computed; the device refuses those that do not look
            healthy.
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
    def interval(self) -> tuple[float, float]:
        """Paired interval of the loss."""
        spread = self.lost + self.gained - (self.lost - self.gained) ** 2 / self.samples
        half = Z * float(np.sqrt(max(spread, 0.0))) / self.samples
        return self.loss - half, self.loss + half

    def loss_counts(self, gain: float) -> bool:
        """Whether it speaks against a method that gains ``gain`` under shift."""
        return self.loss > LOSS or self.interval[0] > SHARE * max(gain, 0.0)


@dataclass(frozen=True)
class LongRun:
    """Feature vectors one at a time, through clean and shifted phases; the second half repeats the
    first.

    Attributes:
        row: all of it.
        phases: each phase, from where a device has had the time to notice it (``settling``
            samples), since what a change costs until then is in ``row``, which is held to the rule
            as well.
        tensor_bytes, tensor_bytes_declared: most that tensors and corrections took, and what the
            bundle declares.
        pending, backlog, conditions: most samples, tasks and conditions kept at a time.
        pending_allowed, conditions_allowed: of these.
        resident_mib, resident_growth_mib: of the process after three quarters, when every store is
            full, and what the last quarter added.
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
            return (
                f"tensors take {self.tensor_bytes} bytes, {self.tensor_bytes_declared} are declared"
            )
        if self.pending > self.pending_allowed:
            return f"{self.pending} samples are kept for labels, {self.pending_allowed} may be"
        if self.conditions > self.conditions_allowed:
            return f"{self.conditions} conditions are kept, {self.conditions_allowed} may be"
        if self.resident_growth_mib > allowed:
            return (
                f"resident memory grows by {self.resident_growth_mib:.0f} MiB in the last quarter,"
                f" {allowed:.0f} MiB are allowed"
            )
        return ""


@dataclass(frozen=True)
class StressCard:
    """The table and what it allows. ``kind`` is ``full`` or ``short``; ``distinct``: different
    samples the streams were drawn from.
    """

    rows: tuple[StressRow, ...]
    long: LongRun | None
    mode: AdaptMode
    reason: str
    kind: str = "full"
    distinct: int = 0

    @property
    def is_harmful(self) -> bool:
        """Something was lost that a milder correction might keep."""
        if self.mode == "act" or (self.long is not None and self.long.problem):
            return False
        rows = (*self.rows, *((*self.long.phases, self.long.row) if self.long else ()))
        gain = mean_gain(self.rows, "shuffled")
        return any(row.loss_counts(gain) for row in rows) or mean_gain(self.rows, "sorted") < 0

    def as_dict(self) -> dict[str, Any]:
        """As ``card.json`` holds it."""
        long = None if self.long is None else {**asdict(self.long), "problem": self.long.problem}
        rules = {"gain": GAIN, "loss": LOSS, "share": SHARE, "z": Z, "ruin": RUIN}
        return {
            "mode": self.mode,
            "reason": self.reason,
            "kind": self.kind,
            "distinct": self.distinct,
            "rules": rules,
            "rows": [asdict(row) for row in self.rows],
            "long": long,
        }


def mean_gain(rows: Sequence[StressRow], order: str) -> float:
    """Over the shifted streams of an order that were adapted to; 0 where none was. The others are
    as they were, and say nothing of it.
    """
    gains = [
        row.learner - row.frozen
        for row in rows
        if row.order == order and row.condition != CLEAN and row.refreshes
    ]
    return float(np.mean(gains)) if gains else 0.0


def verdict(
    rows: Sequence[StressRow], long: LongRun | None = None, *, kind: str = "full", distinct: int = 0
) -> StressCard:
    """The mode, and a reason that names the row that decided.

    Args:
        rows: shuffled and sorted ones of at least one shift among them; any others are held to the
            rule on losses.
    """
    mode, reason = _judge([*rows, *((*long.phases, long.row) if long else ())], rows, long)
    return StressCard(
        tuple(rows),
        long,
        mode,
        reason if kind == "full" else f"{reason} (short streams)",
        kind,
        distinct,
    )


def _judge(
    everything: Sequence[StressRow], rows: Sequence[StressRow], long: LongRun | None
) -> tuple[AdaptMode, str]:
    worst = max(everything, key=lambda row: row.loss)
    if long is not None and long.problem:
        return "off", f"not bounded over {long.row.samples} batches: {long.problem}"
    if worst.loss > RUIN:
        return "off", f"{worst.name}: loses {worst.loss:.1%}"
    shuffled, ordered = (mean_gain(rows, order) for order in ("shuffled", "sorted"))
    if counted := sorted(
        (row for row in everything if row.loss_counts(shuffled)), key=lambda row: -row.loss
    ):
        first, losses = counted[0], dict[str, float]()
        for row in counted[1:]:  # phases of the long run share a name
            losses.setdefault(row.name, row.loss)
        others = (
            "; also " + ", ".join(f"{name} {loss:.1%}" for name, loss in losses.items())
            if losses
            else ""
        )
        return (
            "advise",
            (
                f"{first.name}: loses {first.loss:.1%} ({first.lost} samples lost, {first.gained}"
                f" gained){others}"
            ),
        )
    if moved := [row for row in rows if row.order == "constant" and row.refreshes]:
        return (
            "advise",
            f"{moved[0].name}: adapts {moved[0].refreshes} times to frames that do not change",
        )
    if shuffled < GAIN:
        return "advise", f"shifted shuffled: gains {shuffled:+.1%}, {GAIN:.0%} are needed"
    if ordered < 0:
        return "advise", f"shifted sorted: gains {ordered:+.1%}"
    loss = (
        f"largest loss {worst.loss:.1%} ({worst.name})" if worst.loss > 0 else "loses on no stream"
    )
    return "act", f"gains {shuffled:+.1%} shuffled and {ordered:+.1%} sorted under shift; {loss}"
