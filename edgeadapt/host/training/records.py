"""What a run leaves behind: a record of every epoch and the rows of its log."""

from __future__ import annotations

from dataclasses import dataclass

from edgeadapt.errors import EdgeadaptError


class DivergenceError(EdgeadaptError):
    """The loss or the logits stopped being finite; the message has the epoch, the step and the
    learning rate.
    """


@dataclass(frozen=True)
class EpochRecord:
    """One epoch: mean training loss (nats, on augmented samples), validation accuracy in [0, 1],
    wall-clock seconds.
    """

    epoch: int
    loss: float
    accuracy: float
    seconds: float


@dataclass(frozen=True)
class LogRow:
    """One row of ``metrics.csv``.

    ``epoch`` counts from 1 and ``step`` over all epochs; ``loss`` is the mean since the epoch
    began; ``accuracy`` is given in the last row of an epoch; ``seconds`` are those of training
    since the run began, without the time in which it was interrupted.
    """

    epoch: int
    step: int
    lr: float
    loss: float
    accuracy: float | None
    seconds: float


__all__ = ["DivergenceError", "EpochRecord", "LogRow"]
