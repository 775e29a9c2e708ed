"""What comes in, what goes out, and the one bounded queue between the threads that bring samples
and the loop that answers them.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal, Protocol

from msgspec import Struct, field
from numpy.typing import NDArray

OTHER_STREAMS = "other"
_STREAMS = 256
Drop = Literal["oldest", "newest", "wait"]
"""What a full inbox does: forget the sample that waited longest, refuse the one that comes, or let
its source wait.
"""


class Answer(Struct, frozen=True):
    """What the daemon says about one sample: flat, so that a line of JSON holds it.

    Attributes:
        id: the learner's, for labels.
        name: the source's own, if it has one.
        at: seconds since the epoch, when the sample came.
        confidence: of ``label``, in (0, 1].
        shift: window statistic / threshold.
        axis: see ``edgeadapt.results.Reading``.
        waited_ms: in the inbox.
        took_ms: of the batch it was answered in.
        error: why there is no answer; the other fields are empty then.
    """

    stream: str
    source: str
    at: float
    id: str = ""
    name: str = ""
    label: str = ""
    confidence: float = 0.0
    novelty: float = 0.0
    abstained: bool = False
    axis: str = ""
    shift: float = 0.0
    domain: str = ""
    waited_ms: float = 0.0
    took_ms: float = 0.0
    error: str = ""


class Arrival(Struct, frozen=True, eq=False):
    """One sample. Exactly one of ``x`` (an input of the bundle, without batch axis) and
    ``features`` (``{"z": (D,)[, "taps": (T,)]}``) is there.

    Attributes:
        name: how the source calls it; unique within the source for as long as labels may come.
        label: a label that came with it.
        reply: called once, on the loop's thread, with the answer or the error; it must not block.
        came: monotonic seconds.
    """

    stream: str
    source: str
    x: NDArray[Any] | None = None
    features: Mapping[str, NDArray[Any]] | None = None
    name: str = ""
    label: str | None = None
    at: float = field(default_factory=time.time)
    came: float = field(default_factory=time.monotonic)
    reply: Callable[[Answer], None] | None = None


@dataclass(frozen=True)
class LabelArrival:
    """A label for a sample that came, or is still to come: by the learner's id or by its source's
    name for it.
    """

    sample: str
    label: str
    source: str


Deliver = Callable[["Arrival | LabelArrival"], bool]
"""Hand over; False if it was dropped. With ``wait`` it blocks until there is room or the daemon
stops.
"""


class Source(Protocol):
    """Brings samples. ``run`` returns when it has no more (a replay that ended) or ``stop`` is set,
    and raises if it cannot go on.
    """

    name: str
    stream: str

    def run(self, deliver: Deliver, stop: threading.Event) -> None: ...


class Sink(Protocol):
    """Takes what the loop says. ``take`` is called on the loop's thread and must not block;
    ``close`` flushes.
    """

    name: str
    dropped: int

    def take(self, event: Mapping[str, Any]) -> None: ...

    def close(self) -> None: ...


class SampleQueue:
    """A bounded queue of samples, in order of arrival; thread-safe.

    Args:
        size: samples. drop: see ``Drop``.
    """

    def __init__(self, size: int = 256, drop: Drop = "oldest") -> None:
        self.size, self.drop = size, drop
        self.dropped: dict[str, int] = {}
        """Samples that were forgotten or refused, by stream; beyond 256 streams together."""
        self._waiting: deque[Arrival] = deque()
        # taken by itself on the way to an answer: a condition's own way in and out is Python
        self._lock = threading.Lock()
        self._changed = threading.Condition(self._lock)
        self._is_closed = False

    def __len__(self) -> int:
        return len(self._waiting)

    def put(self, arrival: Arrival, timeout_s: float | None = None) -> bool:
        """False if this sample was refused; an older one that had to go gets it as its reply.

        Args:
            timeout_s: the longest that ``wait`` waits for room; None for as long as it takes.
        """
        forgotten = None
        with self._lock:
            if self.drop == "wait":
                self._changed.wait_for(
                    lambda: (
                        self._is_closed or self.drop != "wait" or len(self._waiting) < self.size
                    ),
                    timeout_s,
                )
            if self._is_closed:
                return False
            if len(self._waiting) >= self.size:
                if self.drop != "oldest":
                    self._count(arrival)
                    return False
                forgotten = self._waiting.popleft()
                self._count(forgotten)
            self._waiting.append(arrival)
            self._changed.notify_all()
        if forgotten is not None and forgotten.reply is not None:
            forgotten.reply(refused(forgotten, "dropped: the inbox was full"))
        return True

    def change(self, size: int, drop: Drop) -> None:
        """Other limits from now on; what waits beyond a smaller size still gets its turn."""
        with self._changed:
            self.size, self.drop = size, drop
            self._changed.notify_all()

    def _count(self, arrival: Arrival) -> None:
        known = arrival.stream in self.dropped or len(self.dropped) < _STREAMS
        stream = arrival.stream if known else OTHER_STREAMS  # whoever asks may invent names
        self.dropped[stream] = self.dropped.get(stream, 0) + 1

    def take(self, most: int, timeout_s: float) -> list[Arrival]:
        """Up to ``most`` samples of the stream that waited longest, all with frames or all with
        features; empty after ``timeout_s``.
        """
        with self._lock:
            if not self._waiting:
                self._changed.wait_for(lambda: self._waiting or self._is_closed, timeout_s)
            if not self._waiting:
                return []
            first = self._waiting.popleft()
            taken: list[Arrival] = [first]
            kept: list[Arrival] = []
            while self._waiting and len(taken) < most:
                arrival = self._waiting.popleft()
                fits = arrival.stream == first.stream and (arrival.x is None) == (first.x is None)
                (taken if fits else kept).append(arrival)
            self._waiting.extendleft(reversed(kept))
            self._changed.notify_all()
            return taken

    def close(self) -> list[Arrival]:
        """Take no more, and hand back what waits."""
        with self._changed:
            self._is_closed = True
            left, self._waiting = list(self._waiting), deque()
            self._changed.notify_all()
            return left


def refused(arrival: Arrival, why: str) -> Answer:
    """The answer to a sample that gets none."""
    return Answer(arrival.stream, arrival.source, arrival.at, name=arrival.name, error=why)


__all__ = [
    "OTHER_STREAMS",
    "Answer",
    "Arrival",
    "Deliver",
    "Drop",
    "LabelArrival",
    "SampleQueue",
    "Sink",
    "Source",
    "refused",
]
