"""What is tried at every task, under one budget of bytes."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from edgeadapt.host.tuning.budget import Budget
from edgeadapt.host.tuning.contracts import Delta, Score, Start
from edgeadapt.host.tuning.members import DELTAS, SCORES, STARTS, member
from edgeadapt.host.tuning.run import RATES, TuneSettings
from edgeadapt_bench.tuning.tasks import Task

FACTORS = (1 / 9, 1 / 3, 1.0, 3.0, 9.0)
"""Of the rates that are tried on the twin: the same effort for everyone."""


@dataclass(frozen=True)
class Contender:
    """A method as a recipe names it. ``is_bounded``: its size follows the budget; the others have
    one size, whatever that takes.
    """

    name: str
    method: str
    start: str = ""
    score: str = ""
    is_bounded: bool = True
    options: dict[str, Any] = field(default_factory=dict)

    @property
    def rate(self) -> float:
        """The rate that the factors multiply."""
        return RATES.get(self.method, RATES["low_rank"])

    @property
    def delta(self) -> Delta:
        return member(DELTAS, "method", self.method, self.options)

    @property
    def start_member(self) -> Start | None:
        return member(STARTS, "start", self.start, {}) if self.start else None

    @property
    def score_member(self) -> Score | None:
        return member(SCORES, "score", self.score, {}) if self.score else None

    def settings(self, task: Task, seed: int, lr: float) -> TuneSettings:
        """At a task, with a rate."""
        return TuneSettings(
            delta=self.delta,
            start=self.start_member,
            score=self.score_member,
            budget=Budget(task.bytes, "bytes") if self.is_bounded else None,
            epochs=task.epochs,
            lr=lr,
            augment="plain",
            seed=seed,
        )


CONTENDERS = (
    Contender("head", "head", is_bounded=False),
    Contender("bias", "bias", is_bounded=False),
    Contender("scale_shift", "scale_shift", is_bounded=False),
    Contender("residual_scale", "residual_scale", is_bounded=False),
    Contender("low_rank", "low_rank"),
    Contender("low_rank+squared_gradient", "low_rank", score="squared_gradient"),
    Contender("low_rank+explained_variance", "low_rank", start="explained_variance"),
    Contender("two_sided", "two_sided", score="squared_gradient"),
    Contender("kronecker", "kronecker", score="squared_gradient"),
    Contender("full", "full", is_bounded=False),
)

__all__ = ["CONTENDERS", "FACTORS", "Contender"]
