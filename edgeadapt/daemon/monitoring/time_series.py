"""What the status page draws over time: the last minutes in detail, the last day in outline, in
memory that does not grow.

Each window is cut into ``POINTS`` steps of equal length. What falls into one step becomes one
number: the largest of shift, novel share, latency and heat, so that nothing that was too much is
smoothed away, and the mean of confidence, rates and the busy share. A step without a measurement is
None. Steps are counted on the monotonic clock, so a clock that is set does not tear the lines.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import Counter, OrderedDict, deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Literal

from msgspec import Struct
from msgspec.structs import replace
from numpy.typing import NDArray

from edgeadapt.daemon.messages import Arrival
from edgeadapt.results import Commit

log = logging.getLogger("edgeadapt.daemon")
Window = Literal["minutes", "hours", "day"]
POINTS = 240
STEP_S: Mapping[str, float] = {"minutes": 2.5, "hours": 30.0, "day": 360.0}
"""Seconds a step: ten minutes, two hours and twenty-four hours in all."""
STREAMS = 16  # those that brought a sample last
_CLASSES, _MARKS, _SETS = 1024, 240, 16
_BUSY_OVER_S = 10.0  # as the budget counts it
_EVERY_S = 1.0
# answers of a stream that were shown last: who was shown one can still ask for its picture
_SHOWN = 4
_OLD_S = 2.0  # a picture is dropped for a later answer that has none
_JUDGED = "accuracy on "
# shown before the first of them, too
_COUNTED = (
    ("learn", "learned"),
    ("learn", "vetoed"),
    ("learn", "held"),
    ("rollback", "rolled back"),
)

Line = tuple["float | None", ...]


class StreamPast(Struct, frozen=True, kw_only=True):
    """Of one stream, ``POINTS`` numbers each. ``confidence``: the mean of its answers. ``rate_hz``:
    samples a second.
    """

    shift: Line
    novel_share: Line
    confidence: Line
    rate_hz: Line


class Past(Struct, frozen=True, kw_only=True):
    """One window. ``start``: seconds since the epoch of the first step. ``held_out``: judges ->
    (seconds since the epoch, share right).
    """

    window: Window
    start: float
    step_s: float
    streams: dict[str, StreamPast]
    latency_ratio: Line
    plain_p99_ms: Line
    learning_p99_ms: Line
    busy: Line
    written_mib: Line
    temperature_c: Line
    power_w: Line
    held_out: dict[str, tuple[tuple[float, float], ...]]


class Latest(Struct, frozen=True, eq=False):
    """The newest answer of a stream, and the input it is about; None where there was none or it is
    gone. ``came``: by the monotonic clock.
    """

    answer: Mapping[str, Any]
    x: NDArray[Any] | None
    came: float


class Track:
    """One line at one step length: the last ``POINTS`` steps that had a number."""

    def __init__(self, join: Literal["max", "mean"]) -> None:
        self._join = join
        # step, largest or sum, how many
        self._steps: deque[tuple[int, float, int]] = deque(maxlen=POINTS)

    def add(self, step: int, value: float) -> None:
        if not self._steps or self._steps[-1][0] != step:
            self._steps.append((step, value, 1))
            return
        _, kept, count = self._steps[-1]
        self._steps[-1] = (
            step,
            max(kept, value) if self._join == "max" else kept + value,
            count + 1,
        )

    def line(self, last: int) -> Line:
        """``POINTS`` numbers, the last one of step ``last``."""
        values: list[float | None] = [None] * POINTS
        for step, value, count in self._steps:
            place = step - last + POINTS - 1
            if 0 <= place < POINTS:
                values[place] = float(f"{value / count if self._join == 'mean' else value:.4g}")
        return tuple(values)


_OF_ALL: Mapping[str, Literal["max", "mean"]] = {
    "latency_ratio": "max",
    "plain_p99_ms": "max",
    "learning_p99_ms": "max",
    "busy": "mean",
    "written_mib": "max",
    "temperature_c": "max",
    "power_w": "max",
}
_OF_STREAM: Mapping[str, Literal["max", "mean"]] = {
    "shift": "max",
    "novel_share": "max",
    "confidence": "mean",
    "rate_hz": "mean",
}


class Series:
    """Takes every answer from the loop and the status once a second; asked by anyone.

    Args:
        clock: monotonic seconds. epoch: seconds since the epoch.
    """

    def __init__(
        self, clock: Callable[[], float] = time.monotonic, epoch: Callable[[], float] = time.time
    ) -> None:
        self._clock, self._epoch = clock, epoch
        self._lock = threading.Lock()
        # stream ("" for all) -> (window, name) -> line
        self._tracks: OrderedDict[str, dict[tuple[str, str], Track]] = OrderedDict()
        self._latest: OrderedDict[str, Latest] = OrderedDict()
        self._shown: dict[str, deque[Latest]] = {}  # of the same streams, one a second
        # stream -> sum and count since the last sample
        self._confidence: dict[str, list[float]] = {}
        self._answers: Counter[str] = Counter()
        # when, seconds that went into learning until then
        self._spent: deque[tuple[float, float]] = deque()
        self._samples: dict[str, tuple[float, int]] = {}
        self._held_out: dict[str, deque[tuple[float, float]]] = {}
        self._last_commit = -1
        self._commits: Counter[tuple[str, str]] = Counter(dict.fromkeys(_COUNTED, 0))
        self._has_history = False

    # -- what comes in -----------------------------------------------------------------------------
    def take(self, event: Mapping[str, Any], recent: Sequence[Arrival]) -> None:
        """An event as a sink takes it, which is not changed from then on; microseconds, on the
        loop's thread. ``recent``: observed samples, the newest last.
        """
        if event.get("event") != "answer" or event["error"]:
            return
        stream, label, newest = event["stream"], event["label"], recent[-1] if recent else None
        is_of_it, now = (
            newest is not None and newest.stream == stream and newest.at == event["at"],
            self._clock(),
        )
        with self._lock:
            kept = self._latest.get(stream)
            if is_of_it or kept is None or kept.x is None or now - kept.came > _OLD_S:
                self._latest[stream] = Latest(
                    event, newest.x if is_of_it and newest is not None else None, now
                )
                self._latest.move_to_end(stream)
                if len(self._latest) > STREAMS:
                    self._shown.pop(self._latest.popitem(last=False)[0], None)
            if stream in self._latest:
                said = self._confidence.get(stream)
                if said is None:
                    said = self._confidence[stream] = [0.0, 0]
                said[0] += event["confidence"]
                said[1] += 1
            if label in self._answers or len(self._answers) < _CLASSES:
                self._answers[label] += 1

    def sample(self, status: Mapping[str, Any]) -> None:
        """Take down the numbers of a status."""
        now = self._clock()
        telemetry = status["telemetry"]
        latency, timings = status["latency"], status["timings"]
        with self._lock:
            for stream in self._latest:
                self._show(stream)
            for stream in list(status["streams"])[-STREAMS:]:
                self._add_stream(now, stream, status["streams"][stream])
            for gone in [stream for stream in self._confidence if stream not in self._latest]:
                del self._confidence[gone]
            self._add(
                now,
                "",
                _OF_ALL,
                {
                    "latency_ratio": latency["ratio"],
                    "plain_p99_ms": latency["plain"]["p99_ms"],
                    "learning_p99_ms": latency["learning"]["p99_ms"],
                    "busy": self._busy(now, timings["learn"] + timings["record"]),
                    "written_mib": status["learner"]["written_bytes_last_day"] / 2**20,
                    "temperature_c": telemetry["hottest_c"],
                    "power_w": telemetry["total_power_w"],
                },
            )

    def learned(self, history: Iterable[Commit]) -> None:
        """Take down what changes were judged with; those that are known already are passed over. In
        any order. What comes first is of before the start.
        """
        with self._lock:
            new = sorted(
                (commit for commit in history if commit.number > self._last_commit),
                key=lambda commit: commit.number,
            )
            if self._has_history:
                self._commits.update((commit.kind, commit.outcome) for commit in new)
            self._has_history = True
            for commit in new:
                self._last_commit = commit.number
                for name, share in commit.detail.items():
                    judges = name[len(_JUDGED) :]
                    if name.startswith(_JUDGED) and (
                        judges in self._held_out or len(self._held_out) < _SETS
                    ):
                        self._held_out.setdefault(judges, deque(maxlen=_MARKS)).append(
                            (commit.time, float(share))
                        )

    def drop_pictures(self) -> None:
        """Of every answer that is shown: a picture of something forgotten may be among them. The
        next samples bring others.
        """
        with self._lock:
            self._latest = OrderedDict(
                (stream, replace(found, x=None)) for stream, found in self._latest.items()
            )
            for shown in self._shown.values():
                kept = [replace(found, x=None) for found in shown]
                shown.clear()
                shown.extend(kept)

    def _show(self, stream: str) -> Latest:
        shown = self._shown.setdefault(stream, deque(maxlen=_SHOWN))
        if not shown or shown[-1] is not self._latest[stream]:
            shown.append(self._latest[stream])
        return shown[-1]

    def _add_stream(self, now: float, stream: str, seen: Mapping[str, Any]) -> None:
        then, before = self._samples.get(stream, (now, seen["samples"]))
        self._samples[stream] = (now, seen["samples"])
        total, count = self._confidence.pop(stream, (0.0, 0))
        self._add(
            now,
            stream,
            _OF_STREAM,
            {
                "shift": seen["shift"] if seen["axis"] != "warming" else None,
                "novel_share": seen["novel_share"] if seen["axis"] != "warming" else None,
                "confidence": total / count if count else None,
                "rate_hz": max(0, seen["samples"] - before) / (now - then) if now > then else None,
            },
        )
        self._tracks.move_to_end(stream)
        streams = [name for name in self._tracks if name]
        for gone in streams[: max(0, len(streams) - STREAMS)]:
            self._tracks.pop(gone)
            self._samples.pop(gone, None)

    def _add(
        self,
        now: float,
        stream: str,
        joins: Mapping[str, Literal["max", "mean"]],
        values: Mapping[str, float | None],
    ) -> None:
        tracks = self._tracks.setdefault(
            stream,
            {(window, name): Track(join) for window in STEP_S for name, join in joins.items()},
        )
        for window, step_s in STEP_S.items():
            for name, value in values.items():
                if value is not None:
                    tracks[window, name].add(int(now // step_s), value)

    def _busy(self, now: float, spent: float) -> float | None:
        """Share of the last ten seconds; a learner that was replaced begins anew."""
        if self._spent and spent < self._spent[-1][1]:
            self._spent.clear()
        self._spent.append((now, spent))
        while self._spent[0][0] < now - _BUSY_OVER_S and len(self._spent) > 2:
            self._spent.popleft()
        (first, before), (last, after) = self._spent[0], self._spent[-1]
        return min(1.0, (after - before) / (last - first)) if last > first else None

    # -- what is asked -----------------------------------------------------------------------------
    def past(self, window: Window = "minutes") -> Past:
        now, step_s = self._clock(), STEP_S[window]
        last = int(now // step_s)
        start = self._epoch() - now + (last - POINTS + 1) * step_s
        with self._lock:
            lines = {
                stream: {
                    name: track.line(last) for (of, name), track in tracks.items() if of == window
                }
                for stream, tracks in self._tracks.items()
            }
            held_out = {judges: tuple(marks) for judges, marks in self._held_out.items()}
        of_all = lines.pop("", dict.fromkeys(_OF_ALL, (None,) * POINTS))
        streams = {stream: StreamPast(**of_stream) for stream, of_stream in sorted(lines.items())}
        return Past(
            window=window, start=start, step_s=step_s, streams=streams, held_out=held_out, **of_all
        )

    def view(self) -> dict[str, Any]:
        """For a status: ``latest``, an answer of each stream that is a second old at most, and
        whether there is a ``picture`` of it; ``answers`` by class; ``commits`` since the start.
        """
        with self._lock:
            shown = {
                stream: self._shown[stream][-1] if self._shown.get(stream) else self._show(stream)
                for stream in sorted(self._latest)
            }
            latest = {
                stream: {**found.answer, "picture": found.x is not None}
                for stream, found in shown.items()
            }
            commits = [
                {"kind": kind, "outcome": outcome, "count": count}
                for (kind, outcome), count in sorted(self._commits.items())
            ]
            return {"latest": latest, "answers": dict(self._answers), "commits": commits}

    def input_of(self, stream: str, sample: str = "") -> NDArray[Any] | None:
        """What an answer is about that ``view`` showed lately: the one with this id, or the last of
        the stream.
        """
        with self._lock:
            return next(
                (
                    found.x
                    for found in reversed(self._shown.get(stream, ()))
                    if sample in ("", found.answer["id"])
                ),
                None,
            )


def watch(
    series: Series,
    status: Callable[[], Mapping[str, Any]],
    history: Callable[[int], Iterable[Commit]],
    stop: threading.Event,
) -> None:
    """Look at once and then once a second, until ``stop`` is set; a look that fails is left out."""
    known = -1
    while True:
        try:
            series.sample(status())
            newest = next((commit.number for commit in history(1)), 0)
            if newest != known:
                series.learned(history(_MARKS if known < 0 else max(1, newest - known)))
                known = newest
        # the daemon stops, or a bundle is replaced: the next second will do
        except Exception as error:
            log.debug("the status could not be taken down: %s: %s", type(error).__name__, error)
        if stop.wait(_EVERY_S):
            return


__all__ = [
    "POINTS",
    "STEP_S",
    "STREAMS",
    "Latest",
    "Past",
    "Series",
    "StreamPast",
    "Window",
    "watch",
]
