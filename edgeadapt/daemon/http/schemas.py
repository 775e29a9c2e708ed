"""The form of every request and every answer over HTTP."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from msgspec import UNSET, Meta, Raw, Struct, UnsetType

from edgeadapt.daemon.messages import Answer
from edgeadapt.daemon.monitoring.time_series import Window

MAX_SAMPLES = 256  # of a request


# -- requests --------------------------------------------------------------------------------------
_PLAIN = r"^[^\x00-\x1f\x7f]*$"
Stream = Annotated[
    str,
    Meta(
        min_length=1,
        max_length=100,
        pattern=_PLAIN,
        description="whose condition applies; one name for each camera or sensor",
    ),
]
Name = Annotated[
    str,
    Meta(
        max_length=200,
        pattern=_PLAIN,
        description="your own name for a sample, which labels may use; may be empty",
    ),
]
SampleName = Annotated[
    str,
    Meta(
        min_length=1,
        max_length=200,
        pattern=_PLAIN,
        description="an id from an answer or a question, or your own name for the sample",
    ),
]
ClassName = Annotated[str, Meta(min_length=1, max_length=100, pattern=_PLAIN)]
Numbers = Annotated[
    Raw,
    Meta(
        extra_json_schema={
            "type": "array",
            "items": {},
            "minItems": 1,
            "description": "nested lists of numbers",
        }
    ),
]
Limit = Annotated[int, Meta(ge=1, le=1000)]


class _Request(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Unknown fields are errors: a typo must not silently leave a default in place."""


class Features(_Request, frozen=True, kw_only=True):
    """Features from your own encoder: ``z`` (N, D) and, where the bundle has taps, ``taps`` (N,
    T).
    """

    z: Numbers
    taps: Numbers | UnsetType = UNSET


class Samples(_Request, frozen=True, kw_only=True):
    """A batch: exactly one of ``x`` (N inputs of the bundle, or one) and ``features``."""

    x: Numbers | UnsetType = UNSET
    features: Features | UnsetType = UNSET
    stream: Stream | UnsetType = UNSET  # that after the question mark


class NamedSamples(Samples, frozen=True, kw_only=True):
    """A batch as for a prediction, and a name for each sample of it."""

    names: Annotated[tuple[Name, ...], Meta(max_length=MAX_SAMPLES)] = ()


class Label(_Request, frozen=True, kw_only=True):
    sample: SampleName
    label: ClassName


class Labels(_Request, frozen=True, kw_only=True):
    """Labels; ``source`` says who gave them, so that they can be taken back together."""

    labels: Annotated[tuple[Label, ...], Meta(min_length=1, max_length=1000)]
    source: Annotated[str, Meta(max_length=100, pattern=_PLAIN)] = "http"


class Forget(_Request, frozen=True, kw_only=True):
    """Which labels: those that meet every condition that is given, and one must be. ``before``,
    ``after``: when the sample was met, seconds since the epoch.
    """

    samples: Annotated[tuple[SampleName, ...], Meta(min_length=1, max_length=1000)] | None = None
    source: (
        Annotated[str, Meta(max_length=100, pattern=_PLAIN, description="who said so")] | None
    ) = None
    classes: Annotated[tuple[ClassName, ...], Meta(min_length=1, max_length=1000)] | None = None
    before: Annotated[float, Meta(ge=0, le=100_000_000_000)] | None = None
    after: Annotated[float, Meta(ge=0, le=100_000_000_000)] | None = None


class Withdraw(_Request, frozen=True, kw_only=True):
    """Samples whose labels are taken back, as if they had never been given; they can be labelled
    again.
    """

    samples: Annotated[tuple[SampleName, ...], Meta(min_length=1, max_length=1000)]


class NewClass(_Request, frozen=True, kw_only=True):
    name: ClassName


class Target(_Request, frozen=True, kw_only=True):
    """A commit of the history; without it, the one before the last change."""

    to: Annotated[int, Meta(ge=0, le=(1 << 53) - 1)] | None = None


class Freeze(_Request, frozen=True, kw_only=True):
    frozen: bool


class Pause(_Request, frozen=True, kw_only=True):
    paused: bool


class Swap(_Request, frozen=True, kw_only=True):
    """Path of a signed bundle on the device."""

    bundle: Annotated[str, Meta(min_length=1, max_length=1000, pattern=_PLAIN)]


class NoQuery(_Request, frozen=True, kw_only=True):
    """Takes nothing after the question mark."""


class InStream(_Request, frozen=True, kw_only=True):
    stream: Stream = "default"


class InStreamNamed(InStream, frozen=True, kw_only=True):
    name: Name = ""


class OfStream(InStream, frozen=True, kw_only=True):
    id: Annotated[
        str,
        Meta(
            max_length=200,
            pattern=_PLAIN,
            description="of an answer that the status showed lately; by default the last one",
        ),
    ] = ""


class InWindow(_Request, frozen=True, kw_only=True):
    window: Annotated[Window, Meta(description="ten minutes, two hours or a day")] = "minutes"


class AtMost5(_Request, frozen=True, kw_only=True):
    limit: Limit = 5


class Asking(AtMost5, frozen=True, kw_only=True):
    alike: Annotated[
        bool, Meta(description="in an order in which like stands beside like, with groups")
    ] = False


class AtMost50(_Request, frozen=True, kw_only=True):
    limit: Limit = 50


class AtMost100(_Request, frozen=True, kw_only=True):
    limit: Limit = 100


# -- answers ---------------------------------------------------------------------------------------
class Answers(Struct, frozen=True, kw_only=True):
    """One for each sample, in order. ``error`` says why a sample has none."""

    answers: tuple[Answer, ...]


class LabelTold(Struct, frozen=True, kw_only=True):
    """What became of a label: the learner has it for good, it waits for its sample, or it was
    refused. ``id``: the learner's, where known.
    """

    sample: str
    outcome: Literal["received", "waiting", "refused"]
    why: str = ""
    id: str = ""


class LabelsTold(Struct, frozen=True, kw_only=True):
    """What became of each label, in order, and how many there are of each outcome. If all were
    refused, the first one's error is told instead.
    """

    labels: tuple[LabelTold, ...]
    received: int
    waiting: int
    refused: int


class AskedSample(Struct, frozen=True, kw_only=True):
    """A sample the learner wants a label for; ``image`` is the path of its picture, which may be
    gone by then.
    """

    id: str
    stream: str
    why: str
    predicted: str
    confidence: float
    novelty: float
    asked_at: float
    image: str
    group: int | UnsetType = UNSET  # of samples that are alike, where they were asked for so


class Questions(Struct, frozen=True, kw_only=True):
    questions: tuple[AskedSample, ...]


class Classes(Struct, frozen=True, kw_only=True):
    classes: tuple[str, ...]


class Change(Struct, frozen=True, kw_only=True):
    """A change that was published, vetoed, held or undone."""

    number: int
    time: float
    kind: str
    outcome: str
    detail: dict[str, Any]


class History(Struct, frozen=True, kw_only=True):
    """Newest first."""

    history: tuple[Change, ...]


class Decision(Struct, frozen=True, kw_only=True):
    """What was decided about a window, and why."""

    time: float
    stream: str
    kind: str
    domain: str
    why: str


class Decisions(Struct, frozen=True, kw_only=True):
    """Newest first."""

    decisions: tuple[Decision, ...]


class Forgotten(Struct, frozen=True, kw_only=True):
    """What was forgotten, and what could not be reached.

    ``removed``: labels and waiting samples deleted. ``subtracted``: labels whose part was taken out
    of the tensors. ``snapshots``: rewritten. ``moved``: labels that changed sides between teaching
    and judging. ``exact``: tensors that are what they would be without these labels.
    """

    removed: int
    subtracted: int
    snapshots: int
    moved: int
    exact: tuple[str, ...]
    unreachable: tuple[str, ...]


class Withdrawn(Struct, frozen=True, kw_only=True):
    withdrawn: int


class AtCommit(Struct, frozen=True, kw_only=True):
    commit: int


class Ready(Struct, frozen=True, kw_only=True):
    ready: bool
    reason: str = ""


class Me(Struct, frozen=True, kw_only=True):
    """``name``: empty where the single token was shown, or none is needed."""

    name: str
    role: Literal["view", "label", "admin"]


class Failure(Struct, frozen=True, kw_only=True):
    """Why there is no answer. ``request`` is in the log, too, where the fault is the daemon's
    own.
    """

    error: str
    kind: str
    request: str | UnsetType = UNSET


Facts = dict[str, Any]
