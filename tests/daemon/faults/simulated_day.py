"""A day and a bit in the life of a daemon, in a process whose clocks the script moves on: ``python
simulated_day.py FOLDER`` prints what was seen as JSON.

``time.time`` and ``time.monotonic`` are replaced before edgeadapt is imported, so that all of it
reads the moved clocks, whether it calls them or keeps them as a default. What sleeps on the kernel
(the thread that looks once a second, the one that takes checkpoints) sleeps in real time, and is
put to sleep for good: the script looks once a step, and takes every second step a checkpoint.
"""

from __future__ import annotations

import json
import math
import sys
import threading  # it keeps the real clock: the kernel's waits are not moved
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import psutil

STEP_S, HOURS, CHECKPOINT_STEPS = 180.0, 27, 2
_ahead_s = 0.0
_time, _monotonic = time.time, time.monotonic
time.time, time.monotonic = lambda: _time() + _ahead_s, lambda: _monotonic() + _ahead_s

from edgeadapt.daemon.config.schema import (  # noqa: E402
    BudgetSection,
    ControlSection,
    JsonlSink,
    KeepSection,
    LoopSection,
    PolicySection,
    Settings,
)
from edgeadapt.daemon.messages import Arrival, LabelArrival  # noqa: E402
from edgeadapt.daemon.monitoring import time_series as series  # noqa: E402
from edgeadapt.daemon.service import Service  # noqa: E402
from edgeadapt.demo.sample import CLASSES, bundle_path, load_sample  # noqa: E402
from edgeadapt.errors import BudgetError, EdgeadaptError  # noqa: E402
from edgeadapt.testing import inspect_state  # noqa: E402


class Camera:
    """A source that hands over what the script gives it."""

    name = stream = "cam"

    def __init__(self) -> None:
        self.deliver: Any = None

    def run(self, deliver: Any, stop: threading.Event) -> None:
        self.deliver = deliver
        stop.wait()


def negatives(value: Any, path: str = "") -> Iterator[str]:
    """Where a status has a number below zero or none at all."""
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from negatives(inner, f"{path}.{key}")
    elif isinstance(value, list | tuple):
        for at, inner in enumerate(value):
            yield from negatives(inner, f"{path}[{at}]")
    elif isinstance(value, int | float) and not (math.isfinite(value) and value >= 0):
        yield path


def live(folder: Path) -> dict[str, Any]:
    global _ahead_s
    sink = JsonlSink(name="out", path=folder / "out.jsonl", max_mib=0.25, keep=2)
    settings = Settings(
        bundle=bundle_path(),
        state=folder / "state",
        unsigned="accept",
        control=ControlSection(listen="127.0.0.1:0"),
        sink=(sink,),
        budget=BudgetSection(write_mib_per_day=float(sys.argv[2])),
        keep=KeepSection(pending_s=3600.0),
        policy=PolicySection(questions_per_day=6, quiet_questions_per_day=0),
        loop=LoopSection(batch=8, checkpoint_s=1e6),
    )
    camera, sample, process = Camera(), load_sample(), psutil.Process()
    service = Service(settings, sources=[camera])
    series._EVERY_S = 1e6
    service.start()
    seen: dict[str, Any] = {
        "hours": [],
        "refused_at": [],
        "negative": [],
        "problems": [],
        "asked": {},
    }
    order = np.random.default_rng(0).permutation(len(sample.y))
    began, at, received = time.time(), 0, 0
    for step in range(int(HOURS * 3600 / STEP_S)):
        _ahead_s += STEP_S
        night = (step // 80) % 2 == 1  # four hours of light, four of another condition
        rows = order[at % (len(order) - 6) :][:6]
        at += 6
        x = 255 - sample.x[rows] if night else sample.x[rows]
        said = service.observe(x, stream="door", names=[f"{step}-{n}" for n in range(6)])
        assert not any(one.error for one in said), said
        camera.deliver(Arrival("cam", "cam", x=x[0], name=f"{step}"))
        camera.deliver(LabelArrival(f"never-{step}", "Coat", "cam"))
        label = CLASSES[sample.y[rows[0]]]
        if sample.y[rows[0]] < 6:
            try:
                received += service.label([(f"{step}-0", label)])["received"]
            except BudgetError:
                seen["refused_at"].append(step * STEP_S / 3600)
        if step % CHECKPOINT_STEPS == 0:
            try:
                service.checkpoint()
            except EdgeadaptError as error:
                seen["problems"].append(str(error))
        status = service.status()
        service.context.series.sample(status)
        for question in service.questions(100):
            seen["asked"].setdefault(question.id, (time.time() - began) / 3600)
        if step % 20 == 19:
            seen["hours"].append(hour_of(service, status, process, folder, received))
            seen["negative"] += negatives(
                {key: value for key, value in status.items() if key != "telemetry"}
            )
            json.dumps(status)
    service.context.lease._learner.settle(5.0)
    seen |= {
        "past": {window: past_of(service, window) for window in ("minutes", "hours", "day")},
        "received": received,
        "questions_left": len(service.questions(1000)),
    }
    seen["problems"] += service.health()["problems"]
    _ahead_s += 3700.0
    seen["questions_later"] = len(service.questions(1000))
    seen["files"] = {path.name: path.stat().st_size for path in folder.glob("out.jsonl*")}
    seen["stopped"] = service.stop()
    return seen


def past_of(service: Service, window: Any) -> dict[str, Any]:
    past = service.series(window)
    return {
        "rate_hz": past.streams["door"].rate_hz,
        "written_mib": past.written_mib,
        "busy": past.busy,
        "start": past.start - time.time(),
        "step_s": past.step_s,
    }


def hour_of(
    service: Service, status: dict[str, Any], process: psutil.Process, folder: Path, received: int
) -> dict[str, Any]:
    with service.context.lease.borrow() as learner:
        pending = len(inspect_state(learner).pending)
    labels = status["labels"]
    return {
        "rss_mib": process.memory_info().rss / 2**20,
        "state_mib": sum(path.stat().st_size for path in (folder / "state").iterdir()) / 2**20,
        "pending": pending,
        "domains": len(status["domains"]),
        "written_mib": status["learner"]["written_bytes_last_day"] / 2**20,
        "received": received,
        "held": labels["held"],
        "expired": labels["expired"],
        "names": labels["names"],
        "queued": labels["queued"],
        "ok": status["ok"],
        "questions": status["questions"],
    }


if __name__ == "__main__":
    print(json.dumps(live(Path(sys.argv[1]))))
