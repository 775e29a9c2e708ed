"""What the demo records: ``report.json`` holds exactly a ``Report``, and the page shows nothing
else.

Accuracies and shares run from 0 to 1; times are milliseconds per batch; ``None`` means that a value
was not measured or is not known.
"""

from __future__ import annotations

from typing import Literal, TypedDict

EventKind = Literal[
    "shift_on",
    "shift_off",
    "question",
    "answer",
    "adapt",
    "domain_opened",
    "domain_found",
    "class_added",
    "vetoed",
    "held",
    "forgotten",
    "rolled_back",
    "killed",
    "resumed",
    "learned",
    "novel",
]


class Product(TypedDict):
    version: str
    bundle: str
    runtime: str
    machine: str
    seed: int
    date: str


class Headline(TypedDict):
    """Mean accuracies over the degraded act, and what the whole run took."""

    frozen: float
    learner: float
    oracle: float
    questions: int
    seconds: float


class Fact(TypedDict):
    label: str
    value: str
    holds: bool | None  # None: a figure, not a check


class Act(TypedDict):
    id: str
    title: str
    sentence: str
    first_batch: int
    last_batch: int
    facts: list[Fact]


class Batch(TypedDict):
    index: int
    act: str
    condition: str
    order: Literal["shuffled", "sorted"]
    size: int
    accuracy: float
    frozen: float
    oracle: float | None
    shift: float  # statistic / threshold
    is_shifted: bool
    novel_share: float | None  # None: unknown, because under shift everything looks novel
    domain: str
    encode_ms: float
    sense_ms: float
    learn_ms: float
    record_ms: float


class Event(TypedDict):
    batch: int
    kind: EventKind
    text: str
    count: int


class Condition(TypedDict):
    name: str
    order: Literal["shuffled", "sorted"]
    frozen: float
    learner: float
    oracle: float
    clean: float


class PerClass(TypedDict):
    name: str
    known_from_start: bool
    frozen: float | None
    learner: float | None


class Classes(TypedDict):
    old_among_old: list[float]  # [before, after] the new classes were learned
    new_in_ten: float
    all: float
    per_class: list[PerClass]


class Question(TypedDict):
    batch: int
    why: str
    image: str  # data:image/png;base64,... 28 x 28, grey
    predicted: str
    answer: str
    novelty: float


class Safety(TypedDict):
    what: str
    outcome: str
    detail: str


class Cost(TypedDict):
    """Medians per batch of 32, and sizes at the end."""

    encode_ms: float
    sense_ms: float
    learn_ms: float
    record_ms: float
    rss_mib: float
    bundle_kib: float
    state_kib: float
    forwards_per_batch: float


class Report(TypedDict):
    product: Product
    headline: Headline
    acts: list[Act]
    batches: list[Batch]
    events: list[Event]
    conditions: list[Condition]
    classes: Classes
    questions: list[Question]
    safety: list[Safety]
    cost: Cost
