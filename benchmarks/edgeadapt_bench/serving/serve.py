"""The daemon at 96 px, batch 1, CPU, while it adapts and learns, beside the loop one could write
instead.

Both play the same film of clean legs and legs under a condition. The *bare* loop reads a frame,
runs the encoder, takes the arg max of the factory's linear head. The *daemon* is the whole of
``edgeadapt serve``: its inbox and loop, sensing, corrections, labels that come late and by name,
answered questions, checkpoints, a file of JSON lines, metrics that somebody reads every second.
Each has a process without torch, one thread in ONNX Runtime; they take turns of the same frames in
alternating order, and whoever has not its turn is stopped.

    rate          frames / (first frame handed over .. last answer told .. the worker has nothing
                  left to do), so work in the background counts
    an answer     at full speed the time from one answer to the next: all that the loop does in
                  between counts; at a camera's rate from the frame in hand to its answer
    ratio         of the two in one round; reported is the median over the rounds, and the lowest
                  and the highest
    CPU           of the thread that answers, and of all threads, a frame: on a machine that does
                  other things, too, these move least

On all cores the worker has a core of its own; on ``one_core`` it shares the loop's, as on the
smallest devices. Between turns the clock goes on, so the daemon has half of the default
``budget.busy_fraction``: of the time that it runs, the whole of it. If no correction was computed
or no label learned, nothing was measured, and the rows with targets are missed.
"""

from __future__ import annotations

import http.client
import socket
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from edgeadapt.errors import RuntimeUnavailable
from edgeadapt_bench.harness._serve_turns import Turns
from edgeadapt_bench.harness.measure import Row, Say, at_least, at_most
from edgeadapt_bench.serving import _serve_bare, _serve_daemon
from edgeadapt_bench.serving.serve_film import LEG
from edgeadapt_bench.serving.serve_subject import Subject, at_96_px, shipped

RATE_RATIO, P99_RATIO = 0.85, 1.5
GROWTH_MIB, GROWTH_SHARE = 16.0, 0.05  # after the warm-up; whichever is more
CAMERA_HZ = 10.0
# frames a turn: a clean leg and one under a condition
ROUNDS, FRAMES, CAMERA_FRAMES = 6, 2 * LEG, 200
MEMORY_FRAMES, KEEP_S, WARM_UP = 24_576, 10.0, 1 / 3
"""How long the memory is watched, with how long a sample waits for its label there: the store of
those is full early in the warm-up.
"""
_ASKED_EVERY_S, _PATIENCE_S = 1.0, 60.0
Said = dict[str, Any]


@dataclass(eq=False)
class Match:
    """Turns of both, and what the daemon had to say at the end."""

    bare: list[Said] = field(default_factory=list)
    daemon: list[Said] = field(default_factory=list)
    camera_bare: list[Said] = field(default_factory=list)
    camera_daemon: list[Said] = field(default_factory=list)
    told: Said = field(default_factory=dict)
    readings: int = 0  # of the metrics

    @property
    def is_measurement(self) -> bool:
        """Whether something was adapted and something learned."""
        return self.told["refreshes"] > 0 and self.told["commits"].get("learned", 0) > 0


class Readers:
    """Whoever reads ``/metrics`` once a second while the daemon has its turn; ``path`` of its
    socket.
    """

    def __init__(self, path: str) -> None:
        self.path, self.count = path, 0

    @contextmanager
    def reading(self) -> Iterator[None]:
        done = threading.Event()
        thread = threading.Thread(target=self._read, args=(done,))
        thread.start()
        try:
            yield
        finally:
            done.set()
            thread.join()

    def _read(self, done: threading.Event) -> None:
        while True:
            connection = http.client.HTTPConnection("localhost")
            connection.sock = socket.socket(socket.AF_UNIX)
            connection.sock.settimeout(_PATIENCE_S)
            connection.sock.connect(self.path)
            connection.request("GET", "/metrics")
            self.count += b"edgeadapt_refreshes_total" in connection.getresponse().read()
            connection.close()
            if done.wait(_ASKED_EVERY_S):
                return


def daemon_of(
    subject: Subject,
    readers: Readers,
    *,
    keep_s: float = 3600.0,
    p99_ratio: float = 1.5,
    on_one_core: bool = False,
) -> Turns:
    return Turns(
        _serve_daemon.__name__,
        readers.reading,
        bundle=str(subject.bundle),
        film=str(subject.film),
        socket=readers.path,
        keep_s=keep_s,
        p99_ratio=p99_ratio,
        on_one_core=on_one_core,
    )


def match(
    subject: Subject,
    rounds: int,
    frames: int,
    camera_frames: int,
    *,
    p99_ratio: float = 1.5,
    on_one_core: bool = False,
) -> Match:
    """Rounds at full speed after one that warms up, then a turn each at the camera's rate."""
    found = Match()
    with tempfile.TemporaryDirectory() as folder:
        readers = Readers(f"{folder}/socket")
        bare_of = Turns(
            _serve_bare.__name__,
            encoder=str(subject.encoder),
            film=str(subject.film),
            on_one_core=on_one_core,
        )
        with (
            bare_of as bare,
            daemon_of(subject, readers, p99_ratio=p99_ratio, on_one_core=on_one_core) as daemon,
        ):
            for number in range(rounds + 1):
                for player, said in ((bare, found.bare), (daemon, found.daemon))[
                    :: 1 if number % 2 else -1
                ]:
                    said.append(player.play(frames))
            del found.bare[0], found.daemon[0]
            if camera_frames:
                found.camera_bare.append(bare.play(camera_frames, CAMERA_HZ))
                found.camera_daemon.append(daemon.play(camera_frames, CAMERA_HZ))
            found.told, found.readings = daemon.end(), readers.count
    return found


def memory_of(subject: Subject, frames: int, turn: int) -> tuple[list[float], Said]:
    """Resident MiB of the daemon after each turn of a long run at full speed, and what it said at
    the end.
    """
    with (
        tempfile.TemporaryDirectory() as folder,
        daemon_of(subject, Readers(f"{folder}/socket"), keep_s=KEEP_S) as daemon,
    ):
        mib = [daemon.play(turn)["mib"] for _ in range(frames // turn)]
        return mib, daemon.end()


# -- rows ------------------------------------------------------------------------------------------
def rows_of(end: str, found: Match, *, with_targets: bool) -> list[Row]:
    """Of one match; ``end`` says on what and where."""
    return [
        *full_speed_rows(end, found, with_targets),
        *camera_rows(end, found),
        *work_rows(end, found, with_targets),
    ]


def full_speed_rows(end: str, found: Match, with_targets: bool) -> list[Row]:
    """Rates and times between answers."""
    rates = [
        _rate(theirs) / _rate(bare) for theirs, bare in zip(found.daemon, found.bare, strict=True)
    ]
    tails = [
        _ms(theirs, 0.99) / _ms(bare, 0.99)
        for theirs, bare in zip(found.daemon, found.bare, strict=True)
    ]
    whole, bare = _together(found.daemon), _together(found.bare)
    rate = at_least(
        f"rate_ratio/{end}",
        _median(rates),
        f"x bare, {_range(rates)}",
        RATE_RATIO if with_targets else None,
        1.0,
    )
    tail = at_most(
        f"p99_ratio/{end}",
        _median(tails),
        f"x bare, {_range(tails)}",
        P99_RATIO if with_targets else None,
        1.0,
    )
    if with_targets and not found.is_measurement:
        rate, tail = _missed(rate), _missed(tail)
    return [
        rate,
        Row(
            f"rate_hz/{end}",
            _median([_rate(said) for said in found.daemon]),
            "frames/s, background work included",
            _median([_rate(said) for said in found.bare]),
        ),
        tail,
        *[
            Row(
                f"p{share:.0f}_ms/{end}",
                1e3 * float(np.quantile(whole, share / 100)),
                "ms an answer, all rounds",
                1e3 * float(np.quantile(bare, share / 100)),
            )
            for share in (50, 99)
        ],
        Row(f"max_ms/{end}", 1e3 * float(whole.max()), "ms an answer", 1e3 * float(bare.max())),
        Row(
            f"loop_cpu_ms/{end}",
            1e3 * _median([said["loop_cpu"] for said in found.daemon]),
            "ms of CPU a frame, the thread that answers",
            _bare_cpu_ms(found.bare),
        ),
        Row(
            f"cpu_ms/{end}",
            _cpu_ms(found.daemon),
            "ms of CPU a frame, all threads",
            _cpu_ms(found.bare),
        ),
        Row(
            f"worker_share/{end}",
            sum(said["worked"] for said in found.daemon) / _seconds(found.daemon),
            "of the time, adapting, learning, writing",
        ),
        Row(
            f"caught_up_s/{end}",
            _median([said["caught_up"] for said in found.daemon]),
            "s after the last answer of a turn",
        ),
    ]


def camera_rows(end: str, found: Match) -> list[Row]:
    """At a fixed rate of frames."""
    if not found.camera_daemon:
        return []
    theirs, bare = found.camera_daemon, found.camera_bare
    at = f"{end}/{CAMERA_HZ:.0f}_hz"
    return [
        Row(
            f"busy/{at}",
            sum(said["cpu"] for said in theirs) / _seconds(theirs),
            "of a core",
            sum(said["cpu"] for said in bare) / _seconds(bare),
        ),
        *[
            Row(
                f"p{share:.0f}_ms/{at}",
                1e3 * float(np.quantile(_together(theirs), share / 100)),
                "ms an answer",
                1e3 * float(np.quantile(_together(bare), share / 100)),
            )
            for share in (50, 99)
        ],
    ]


def work_rows(end: str, found: Match, with_targets: bool) -> list[Row]:
    """What was adapted and learned meanwhile, and how right both were under the conditions."""
    told, turns = found.told, found.daemon + found.camera_daemon
    floor = 1.0 if with_targets else None
    return [
        at_least(f"refreshes/{end}", float(told["refreshes"]), "corrections computed", floor),
        at_least(
            f"commits/{end}",
            float(told["commits"].get("learned", 0)),
            "commits of labels, learned",
            floor,
        ),
        Row(
            f"labels/{end}",
            float(told["evidence"].get("learned", 0) + told["evidence"].get("held_out", 0)),
            "labels learned or held out",
        ),
        Row(f"questions/{end}", float(told["questions"]), "questions answered"),
        Row(f"conditions/{end}", float(told["conditions"]), "conditions known at the end"),
        Row(f"checkpoints/{end}", float(told["checkpoints"]), "checkpoints, at least"),
        Row(
            f"pauses/{end}",
            float(told["latency"]["pauses"]),
            "times the worker waited for the answers",
        ),
        Row(f"deferred/{end}", float(told["deferred"]), "times work was put off"),
        Row(
            f"lost/{end}",
            float(
                told["loop"]["refused"]
                + told["loop"]["failures"]
                + sum(sink["dropped"] for sink in told["sinks"])
            ),
            "frames or events without an answer",
        ),
        Row(
            f"accuracy/{end}",
            _right(turns),
            "right under a condition",
            _right(found.bare + found.camera_bare),
        ),
        Row(f"metrics_read/{end}", float(found.readings), "times"),
    ]


def memory_rows(
    end: str, mib: list[float], frames: int, told: Said, *, with_targets: bool
) -> list[Row]:
    """Growth after the warm-up: medians of the first and the last fifth of what follows it."""
    after = np.array(mib[int(WARM_UP * len(mib)) :])
    part = max(1, len(after) // 5)
    start, last = float(np.median(after[:part])), float(np.median(after[-part:]))
    bound = max(GROWTH_MIB, GROWTH_SHARE * start)
    name, unit = f"rss_growth_mib/{end}/{frames}", f"MiB after {WARM_UP * frames:.0f} frames"
    row = at_most(name, last - start, unit, bound if with_targets else None, start)
    if with_targets and not (told["refreshes"] and told["commits"].get("learned", 0)):
        row = _missed(row)
    return [
        row,
        Row(
            f"rss_slope_mib/{end}/{frames}",
            _slope(after) * 1e4 * len(mib) / frames,
            "MiB per 10,000 frames, after the warm-up",
        ),
        Row(f"rss_max_mib/{end}/{frames}", max(mib), "MiB"),
        Row(f"refreshes/{end}/{frames}", float(told["refreshes"]), "corrections computed"),
        Row(
            f"commits/{end}/{frames}",
            float(told["commits"].get("learned", 0)),
            "commits of labels, learned",
        ),
    ]


def _slope(values: np.ndarray) -> float:
    """A step, by least squares."""
    return float(np.polyfit(np.arange(len(values)), values, 1)[0]) if len(values) > 1 else 0.0


def _missed(row: Row) -> Row:
    """A row whose target nothing can meet: without a correction and a label that was learned it
    says what idling costs.
    """
    return replace(
        row, unit=f"{row.unit}; not measured: nothing was adapted, or nothing learned", holds=False
    )


def _rate(said: Said) -> float:
    return len(said["answers"]) / (said["seconds"] + said.get("caught_up", 0.0))


def _ms(said: Said, share: float) -> float:
    return 1e3 * float(np.quantile(said["answers"], share))


def _seconds(turns: list[Said]) -> float:
    return float(sum(said["seconds"] + said.get("caught_up", 0.0) for said in turns))


def _together(turns: list[Said]) -> np.ndarray:
    return np.concatenate([said["answers"] for said in turns])


def _cpu_ms(turns: list[Said]) -> float:
    return 1e3 * sum(said["cpu"] for said in turns) / len(_together(turns))


def _bare_cpu_ms(turns: list[Said]) -> float:
    return _median([1e3 * said["cpu"] / len(said["answers"]) for said in turns])


def _right(turns: list[Said]) -> float:
    return sum(said["right"] for said in turns) / max(1, sum(said["shifted"] for said in turns))


def _median(values: list[float]) -> float:
    return float(np.median(values))


def _range(values: list[float]) -> str:
    return f"{min(values):.2f} to {max(values):.2f}"


def run_serve(data: str | None, say: Say, *, quick: bool = False) -> list[Row]:
    """All cores, one core, memory.

    Args:
        data: not used; the film is of images that ship.
        quick: the shipped bundle at 28 px, two short rounds, no targets.

    Raises:
        RuntimeUnavailable: the daemon or the host extra is not installed, or a measuring process
            failed.
    """
    try:
        import prometheus_client  # noqa: F401
        import starlette  # noqa: F401
        import uvicorn  # noqa: F401
    except ImportError as error:
        raise RuntimeUnavailable(f"{error}: pip install 'edgeadapt[daemon]'") from error
    rounds, camera, memory, turn = (
        (2, 32, 2 * LEG, LEG // 2) if quick else (ROUNDS, CAMERA_FRAMES, MEMORY_FRAMES, FRAMES)
    )
    rows: list[Row] = []
    with tempfile.TemporaryDirectory() as folder:
        subject = shipped(Path(folder)) if quick else at_96_px(Path(folder), say)
        for where, on_one_core in (("all_cores", False), ("one_core", True)):
            say(f"serve: {subject.name}, {where}, {rounds} rounds of {turn} frames each")
            found = match(subject, rounds, turn, camera, on_one_core=on_one_core)
            rows += rows_of(f"{subject.name}/b1/{where}", found, with_targets=not quick)
        say(f"serve: {subject.name}, memory over {memory} frames")
        mib, told = memory_of(subject, memory, turn)
        rows += memory_rows(f"{subject.name}/b1", mib, memory, told, with_targets=not quick)
    return rows


__all__ = ["Match", "Readers", "match", "memory_of", "memory_rows", "rows_of", "run_serve"]
