"""The daemon as a user has it, in a measuring process: control interface on a unix socket, metrics,
a file of JSON lines, checkpoints.

Its one source hands over frames as fast as they are taken and waits where the queue is full, so the
rate is what the daemon can do. Run by ``edgeadapt bench serve``, which see for what is measured.
"""

from __future__ import annotations

import queue
import tempfile
import threading
import time
from collections import Counter, OrderedDict, deque
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from edgeadapt.daemon.config.schema import (
    BudgetSection,
    ControlSection,
    JsonlSink,
    KeepSection,
    LoopSection,
    Settings,
)
from edgeadapt.daemon.messages import Answer, Arrival, Deliver, LabelArrival
from edgeadapt.daemon.service import Service
from edgeadapt.errors import StateError
from edgeadapt.scenarios.environment import resident_mib
from edgeadapt_bench.harness.child.job_server import serve
from edgeadapt_bench.serving.frame_sequence import FrameSequence
from edgeadapt_bench.serving.player import jobs_of

# frames: of each such one the label comes, by name, so many frames later
LABEL_EVERY, LABEL_LATE = 512, 64
CHECKPOINT_S = 10.0
# of the time that passes: half of it the daemon is stopped, so of the time that it runs it is what
# a user has
BUSY = BudgetSection().busy_fraction / 2
_QUEUE, _REMEMBERED, _PATIENCE_S = 8, 4096, 60.0


class Desk:
    """A sink that hears the questions, and knows of late answers which frame they are about."""

    name, dropped = "desk", 0

    def __init__(self) -> None:
        self.asked: deque[int] = deque()
        self._frames: OrderedDict[str, int] = OrderedDict()  # id -> frame

    def take(self, event: Mapping[str, Any]) -> None:
        if event["event"] == "question":
            if event["id"] in self._frames:
                self.asked.append(self._frames[event["id"]])
            return
        self._frames[event["id"]] = int(event["name"])
        if len(self._frames) > _REMEMBERED:
            self._frames.popitem(last=False)

    def close(self) -> None:
        """It holds nothing open."""


class Camera:
    """A source that plays so many frames when it is told to, with labels that come late, by name,
    and answers to what was asked.
    """

    name = stream = "camera"

    def __init__(self, sequence: FrameSequence, desk: Desk) -> None:
        self._sequence, self._desk = sequence, desk
        self._orders: queue.SimpleQueue[tuple[int, float]] = queue.SimpleQueue()
        self._at = 0
        self.handed: dict[str, float] = {}  # frame -> when, in perf_counter seconds
        self.told: list[tuple[Answer, float]] = []
        self.done = threading.Event()
        self.questions = 0
        # seconds of CPU that the thread that answers spends on a frame
        self.loop_cpu = self._cpu = 0.0

    def play(self, frames: int, rate_hz: float) -> None:
        self.handed, self.told = {}, []
        self.done.clear()
        self._orders.put((frames, rate_hz))

    def run(self, deliver: Deliver, stop: threading.Event) -> None:
        while not stop.is_set():
            try:
                frames, rate_hz = self._orders.get(timeout=0.2)
            except queue.Empty:
                continue
            started, last = time.perf_counter(), self._at + frames - 1
            for number in range(self._at, last + 1):
                if rate_hz:
                    stop.wait(
                        max(0.0, started + (number - self._at) / rate_hz - time.perf_counter())
                    )
                self.handed[str(number)] = time.perf_counter()
                deliver(
                    Arrival(
                        self.stream,
                        self.name,
                        x=self._sequence.frame(number),
                        name=str(number),
                        reply=self._last if number == last else self._next,
                    )
                )
                self._label(number, deliver)
            self._at = last + 1

    def _label(self, number: int, deliver: Deliver) -> None:
        due = number - LABEL_LATE
        if due >= 0 and due % LABEL_EVERY == 0:
            deliver(LabelArrival(str(due), self._sequence.label(due), "desk"))
        while self._desk.asked:
            asked = self._desk.asked.popleft()
            self.questions += deliver(LabelArrival(str(asked), self._sequence.label(asked), "desk"))

    def _next(self, answer: Answer) -> None:
        if not self.told:
            self._cpu = time.thread_time()
        self.told.append((answer, time.perf_counter()))

    def _last(self, answer: Answer) -> None:
        self._next(answer)
        self.loop_cpu = (time.thread_time() - self._cpu) / max(1, len(self.told) - 1)
        self.done.set()


class Daemon:
    """A service and its camera.

    Args:
        keep_s: how long a sample waits for its label. p99_ratio: above it learning pauses.
    """

    def __init__(
        self, bundle: str, frames: str, socket: str, keep_s: float, p99_ratio: float
    ) -> None:
        self._sequence = FrameSequence.of(frames)
        self._folder = tempfile.TemporaryDirectory()
        scratch, desk = Path(self._folder.name), Desk()
        self._camera = Camera(self._sequence, desk)
        self._service = Service(
            Settings(
                bundle=Path(bundle),
                state=scratch / "state",
                unsigned="accept",
                loop=LoopSection(queue=_QUEUE, drop="wait", checkpoint_s=CHECKPOINT_S),
                control=ControlSection(listen=f"unix:{socket}"),
                budget=BudgetSection(busy_fraction=BUSY, p99_ratio=p99_ratio),
                keep=KeepSection(pending_s=keep_s),
                sink=(JsonlSink(path=scratch / "answers.jsonl"),),
            ),
            sources=[self._camera],
            sinks=[desk],
        )
        self._checkpoints: set[float] = set()
        self._service.start()

    def play(self, frames: int, rate_hz: float) -> dict[str, Any]:
        before = self._service.status()["timings"]
        started, cpu = time.perf_counter(), time.process_time()
        self._camera.play(frames, rate_hz)
        if not self._camera.done.wait(60.0 + 2.0 * frames / (rate_hz or 5.0)):
            raise StateError(f"not answered in time: {self._service.status()['loop']}")
        ended = self._camera.told[-1][1]
        self._catch_up()
        caught_up, cpu = time.perf_counter() - ended, time.process_time() - cpu
        status = self._service.status()
        self._checkpoints |= {status["checkpointed_at"]} - {0.0}
        worked = sum(status["timings"][part] - before[part] for part in ("learn", "record"))
        return {
            "seconds": ended - started,
            "caught_up": caught_up,
            "cpu": cpu,
            "loop_cpu": self._camera.loop_cpu,
            "worked": worked,
            "mib": resident_mib(),
            **self._answers(started, rate_hz),
            **self._right(),
        }

    def _answers(self, started: float, rate_hz: float) -> dict[str, Any]:
        told = [at for _, at in self._camera.told]
        since = (
            [self._camera.handed[answer.name] for answer, _ in self._camera.told]
            if rate_hz
            else [started, *told[:-1]]
        )
        return {"answers": [at - before for at, before in zip(told, since, strict=True)]}

    def _right(self) -> dict[str, int]:
        shifted = [
            (answer, int(answer.name))
            for answer, _ in self._camera.told
            if self._sequence.is_shifted(int(answer.name))
        ]
        return {
            "right": sum(
                answer.label == self._sequence.label(number) for answer, number in shifted
            ),
            "shifted": len(shifted),
        }

    def _catch_up(self) -> None:
        """Until the worker has done what the frames gave it, or rests in a pause: it must not be in
        the middle of anything when it is stopped.
        """
        end = time.perf_counter() + _PATIENCE_S
        with self._service.context.lease.borrow() as learner:
            while not learner.settle(0.005) and (learner.is_working or not learner.is_paused):
                if time.perf_counter() > end:
                    raise StateError(f"the worker did not come to rest within {_PATIENCE_S:g} s")

    def end(self) -> dict[str, Any]:
        status, history = self._service.status(), self._service.history(1_000_000)
        kinds = Counter(kind for _, _, kind, _, _ in self._service.decisions(100_000))
        commits = Counter(commit.outcome for commit in history if commit.kind == "learn")
        is_closed = self._service.stop()
        self._folder.cleanup()
        return {
            "refreshes": status["learner"]["refreshes"],
            "commits": commits,
            "evidence": status["learner"]["evidence"],
            "deferred": status["learner"]["deferred"],
            "conditions": len(status["domains"]),
            "decisions": kinds,
            "questions": self._camera.questions,
            "pauses": status["latency"]["pauses"],
            "latency": status["latency"],
            "loop": status["loop"],
            "labels": status["labels"],
            "sinks": status["sinks"],
            "problems": status["problems"],
            "checkpoints": len(self._checkpoints),
            "is_closed": is_closed,
            "bundle": status["bundle"]["name"],
        }


if __name__ == "__main__":
    serve(jobs_of(Daemon))
