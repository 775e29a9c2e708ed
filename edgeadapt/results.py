"""What the learner hands back: frozen values that a human can read. Those made for every batch are
structs: made in a third of a dataclass's time.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
from msgspec import Struct
from numpy.typing import NDArray

Axis = Literal["clear", "shifted", "novel", "uncertain", "warming", "stuck"]


class Prediction(Struct, frozen=True, eq=False):
    """The answer for a batch of N inputs.

    Attributes:
        labels: the most probable class per input, N strings.
        probs: (N, classes) float32, in the order of ``classes``.
        novelty: (N,) float32, larger is more unlike every known class.
        embedding: (N, D) float32, the corrected feature.
        classes: the names of the columns of ``probs``.
    """

    labels: tuple[str, ...]
    probs: NDArray[np.float32]
    novelty: NDArray[np.float32]
    embedding: NDArray[np.float32]
    classes: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.labels)

    def __repr__(self) -> str:
        head = ", ".join(
            f"{label} {p:.2f}"
            for label, p in zip(self.labels[:4], self.probs.max(axis=1)[:4], strict=False)
        )
        return f"Prediction({head}{', ...' if len(self) > 4 else ''})"


class AccuracyEstimate(Struct, frozen=True):
    """An accuracy that was estimated, with its 95% interval: without labels from margins, or from
    the answers to random questions.

    Attributes:
        value, low, high: shares, 0 to 1.
        samples: that it rests on; for answers, how many.
        held_out: accuracy on the factory's held-out samples, to compare with.
        has_fallen: it is lower than that by more than a margin and chance.
    """

    value: float
    low: float
    high: float
    samples: int
    held_out: float
    has_fallen: bool


class RightAnswers(Struct, frozen=True):
    """Predictions that the labels given later agreed with, with a 95% interval (Wilson, 1927).

    Attributes:
        value, low, high: shares of right ones, 0 to 1. count: answers that it rests on.
    """

    value: float
    low: float
    high: float
    count: int


class ExpectedGain(Struct, frozen=True):
    """What more labels are expected to bring, as a difference of accuracies.

    Attributes:
        value, low, high: 0.02 is two points; the interval held at least 80% of the gains of
            validation streams.
        labels: there are now. more: labels whose gain it is.
    """

    value: float
    low: float
    high: float
    labels: int
    more: int


class Confusion(Struct, frozen=True):
    """How often a sample predicted as one class was given the label of another, or the same."""

    predicted: str
    label: str
    count: int


class Quality(Struct, frozen=True):
    """How good predictions in the field are, by answers, and whether more answers would help.

    Attributes:
        accuracy: right answers to questions that were drawn at random, conditions weighted by the
            windows met in them since the learner was opened; None without such answers.
        by_condition: the same in each condition, without any weights. by_class: by the label given.
        chosen: right answers to questions that were chosen for their doubt. These are harder than
            the stream: no estimate of accuracy.
        confusion: of the last answers to any questions, the most frequent first.
        answers: how many those are.
        estimates: by stream, the estimate *without labels* over its last windows.
        held_out: accuracy on the factory's held-out samples, to compare with.
        gain: what the next ten labels are expected to bring.
    """

    accuracy: RightAnswers | None
    by_condition: dict[str, RightAnswers]
    by_class: dict[str, RightAnswers]
    chosen: RightAnswers | None
    confusion: tuple[Confusion, ...]
    answers: int
    estimates: dict[str, AccuracyEstimate]
    held_out: float
    gain: ExpectedGain


class Reading(Struct, frozen=True):
    """What the window of one stream says: the numbers behind every decision.

    Attributes:
        axis: the summary: ``warming`` until a window is full, ``stuck`` when its frames do not
            differ, ``uncertain`` where no other statistic moved and accuracy seems to have fallen,
            by its estimate or by answers.
        shift: window statistic divided by its threshold; above 1 the conditions differ from
            calibration.
        novel_share: share of the window above the novelty threshold; None while shifted, when it
            means nothing.
        window: samples in the window.
        domain: the condition the stream is in; ``"source"`` too where it is about to leave one,
            reads clear, and nothing is corrected.
        accuracy: an estimate, without labels, over the last windows that were looked at; None
            before the first, and for a bundle without it.
    """

    axis: Axis
    shift: float
    novel_share: float | None
    window: int
    domain: str
    accuracy: AccuracyEstimate | None = None

    @property
    def is_shifted(self) -> bool:
        return self.axis == "shifted"


ActionKind = Literal[
    "ask",
    "adapt",
    "probe",
    "open_domain",
    "route",
    "close_domain",
    "learn",
    "hold",
    "suspend",
    "merge",
]


@dataclass(frozen=True)
class Action:
    """One decision: what, for which stream and domain, and why."""

    kind: ActionKind
    stream: str = ""
    domain: str = ""
    ids: tuple[str, ...] = ()
    why: str = ""


class Observation(Struct, frozen=True, eq=False):
    """What ``observe`` returns: the prediction now, the reading, and the work it queued.

    Attributes:
        ids: one stable id per input, valid for ``label`` until ``Keep.pending_s`` has passed.
        abstained: (N,) bool, inputs the learner would rather not answer.
        queued: decisions taken; what became of them is in ``learner.history()``.
    """

    prediction: Prediction
    ids: tuple[str, ...]
    abstained: NDArray[np.bool_]
    reading: Reading
    queued: tuple[Action, ...]


@dataclass(frozen=True)
class Question:
    """A sample the learner wants a label for, and why."""

    id: str
    stream: str
    why: str
    predicted: str
    confidence: float
    novelty: float
    asked_at: float  # seconds since the epoch
    # the input, while it is kept in memory
    frame: Any = field(default=None, repr=False, compare=False)


@dataclass(frozen=True)
class Commit:
    """One line of ``learner.history()``: a change that was published, vetoed, held or undone."""

    number: int
    time: float
    kind: str
    outcome: str
    detail: Mapping[str, Any]

    def __str__(self) -> str:
        inside = ", ".join(f"{key} {value}" for key, value in self.detail.items())
        return f"#{self.number} {self.kind}: {self.outcome}{f' ({inside})' if inside else ''}"


LabelStatus = Literal["received", "learned", "held_out", "held", "vetoed", "withdrawn"]


@dataclass(frozen=True)
class LabelState:
    """What became of a label.

    Attributes:
        id: of the sample. label, source: what it was called, and by whom.
        status: ``received``: waits to be learned. ``learned``: teaches. ``held_out``: accepted, and
            judges. ``held``: put aside because it contradicts what is known; looked at again as
            evidence grows. ``vetoed``: it would have cost too much accuracy. ``withdrawn``.
        why: the reason, where there is one.
        commit: the change in ``history()`` that made it so; None while it waits.
    """

    id: str
    label: str
    source: str
    status: LabelStatus
    why: str = ""
    commit: int | None = None


@dataclass(frozen=True)
class Receipt:
    """What ``forget`` or ``withdraw`` did and what it could not reach.

    Attributes:
        removed: evidence rows and pending samples deleted.
        subtracted: rows whose contribution was subtracted from the live tensors.
        snapshots: retained snapshots that were rewritten.
        moved: other labels that changed sides between teaching and judging, so that a fifth of
            every class still judges.
        exact: tensors that are now, bit for bit, what they would be without these rows. In float32
            sums the counts are; the rest is to float tolerance.
        unreachable: why something could not be undone, one line each; of a factory class, that the
            bundle's own samples still answer for it. What waits is named too: deleted rows that a
            reader of another connection keeps in the write-ahead log.
    """

    removed: int
    subtracted: int
    snapshots: int
    moved: int = 0
    exact: tuple[str, ...] = ()
    unreachable: tuple[str, ...] = ()


def describe(value: Any) -> str:
    """Shape, dtype and range of an array, for error messages."""
    if isinstance(value, np.ndarray):
        return f"{value.dtype} array of shape {value.shape}"
    return f"{type(value).__name__}"
