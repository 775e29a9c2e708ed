"""The wall clock is set by an hour and by a year, back and forth, under a running daemon: nothing
that waits or is counted follows it.
"""

from __future__ import annotations

import json
import shutil
import socket
import struct
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("edgeadapt.daemon.http.server")  # with starlette and uvicorn

from process import Daemon

from edgeadapt.daemon.messages import Arrival
from edgeadapt.daemon.monitoring.time_series import Series
from edgeadapt.demo.sample import CLASSES, Sample
from edgeadapt.device.querying.questions import Questions
from edgeadapt.results import Question

Made = Callable[..., Any]
HOUR_S, YEAR_S = 3600, 365 * 86_400
QUESTIONS = 4
EXTRA = f"""
[policy]
questions_per_day = {QUESTIONS}
[loop]
batch = 8
checkpoint_s = 1
[[source]]
kind = "npz"
name = "belt"
path = "belt.npz"
rate_hz = 50
loop = true
labels = true
[[sink]]
kind = "jsonl"
path = "out.jsonl"
"""


class Clock:
    """The wall clock of a process that is started with ``environment``."""

    def __init__(self, folder: Path) -> None:
        cc = shutil.which("cc")
        if cc is None:
            pytest.skip("the clock shim needs a C compiler named cc, and this machine has none")
        library, self._offset = folder / "clock_shim.so", folder / "offset"
        subprocess.run(
            [
                cc,
                "-std=gnu11",
                "-O1",
                "-shared",
                "-fPIC",
                "-o",
                str(library),
                str(Path(__file__).with_name("clock_shim.c")),
                "-ldl",
            ],
            check=True,
        )
        self._offset.write_bytes(struct.pack("q", 0))
        self.environment = {"LD_PRELOAD": str(library), "CLOCK_SHIM": str(self._offset)}

    def set(self, offset_s: int) -> None:
        with open(self._offset, "r+b") as file:
            file.write(struct.pack("q", offset_s))


class Watchdog:
    """What systemd would hear."""

    def __init__(self, folder: Path) -> None:
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind(str(folder / "notify"))
        self._socket.setblocking(False)
        self.environment = {"NOTIFY_SOCKET": str(folder / "notify"), "WATCHDOG_USEC": "400000"}

    def beats(self) -> int:
        """Since it was last asked."""
        count = 0
        while True:
            try:
                count += self._socket.recv(4096).startswith(b"WATCHDOG=1")
            except BlockingIOError:
                return count


def rates_of(past: Any) -> list[float]:
    """Of the belt, where it is known."""
    return [
        rate for rate in past["streams"].get("belt", {"rate_hz": []})["rate_hz"] if rate is not None
    ]


def test_the_daemon_goes_on_as_before_whatever_the_clock_is_set_to(
    tmp_path: Path, sample: Sample, until: Made
) -> None:
    clock, watchdog = Clock(tmp_path), Watchdog(tmp_path)
    rows = np.flatnonzero(sample.y < 6)[:400]
    np.savez(
        tmp_path / "belt.npz",
        x=sample.x[rows],
        y=np.array([CLASSES[label] for label in sample.y[rows]]),
    )
    bags = sample.x[np.flatnonzero(sample.y >= 8)]
    with Daemon(tmp_path, EXTRA, environment=clock.environment | watchdog.environment) as daemon:
        until(lambda: any(rates_of(daemon.ask("GET", "/v1/series").json)))
        offsets = (HOUR_S, -HOUR_S, YEAR_S, -YEAR_S)
        for turn, offset in enumerate(offsets):
            clock.set(offset)
            watchdog.beats()
            started, base = time.monotonic(), daemon.status()
            for start in range(0, 128, 32):  # a stream that nobody has met, and that is asked about
                said = daemon.ask(
                    "POST", f"/v1/observe?stream=s{turn}", {"x": bags[start : start + 32].tolist()}
                )
                assert said.status == 200 and not any(one["error"] for one in said.json["answers"])
            until(
                lambda base=base: daemon.status()["checkpointed_at"] != base["checkpointed_at"],
                10.0,
            )
            time.sleep(max(0.0, 1.2 - (time.monotonic() - started)))
            now, took_s = daemon.status(), time.monotonic() - started
            assert abs(now["checkpointed_at"] - time.time() - offset) < 20.0
            assert (
                watchdog.beats() >= 3
                and now["ok"]
                and now["problems"] == []
                and 0.0 <= now["loop_still_s"] < 1.0
            )
            came = (
                now["streams"]["belt"]["samples"]
                - base["streams"].get("belt", {"samples": 0})["samples"]
            )
            assert 0.5 * 50 * took_s - 10 < came < 1.5 * 50 * took_s + 10
            assert sum(now["learner"]["evidence"].values()) > sum(
                base["learner"]["evidence"].values()
            )
            assert (
                now["learner"]["written_bytes_last_day"] > 0
                and now["labels"]["expired"] == 0
                and now["latest"]["belt"]["picture"]
            )
            assert abs(now["latest"]["belt"]["at"] - time.time() - offset) < 20.0
            past = daemon.ask("GET", "/v1/series").json
            rates = rates_of(past)
            assert (
                rates
                and all(0.0 <= rate < 100.0 for rate in rates)
                and abs(past["start"] + 600 - time.time() - offset) < 20.0
            )
            assert all(value is None or 0.0 <= value <= 1.0 for value in past["busy"])
            known = now
        events = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
        # of one day, whatever its clock said
        assert len({event["id"] for event in events if event["event"] == "question"}) <= QUESTIONS
        assert (
            known["labels"]["received"] > 100
            and daemon.kill(15) == 0
            and "Traceback" not in daemon.log
        )
        daemon.start()  # from a state whose commits lie a year ahead and a year back
        assert sum(daemon.status()["learner"]["evidence"].values()) >= sum(
            known["learner"]["evidence"].values()
        )


@pytest.mark.parametrize("jump", [-YEAR_S, -HOUR_S, HOUR_S, YEAR_S])
def test_a_clock_that_is_set_neither_gives_a_second_day_of_questions_nor_takes_the_next(
    jump: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    day, clocks = Questions(QUESTIONS), {"time": 1.8e9, "monotonic": 500.0}
    for name in clocks:
        monkeypatch.setattr(f"time.{name}", lambda name=name: clocks[name])

    def asked(stream: str) -> int:
        return day.ask(
            [
                Question(f"{stream}-{n}", stream, "new", "Coat", 0.5, 1.0, clocks["time"], None)
                for n in range(QUESTIONS)
            ]
        )

    assert asked("a") == QUESTIONS
    clocks["time"] += jump
    assert asked("b") == 0
    clocks["time"] += 86_401
    clocks["monotonic"] += 86_401
    assert asked("c") == QUESTIONS


@pytest.mark.parametrize("jump", [-YEAR_S, HOUR_S])
def test_a_picture_of_a_stream_is_let_go_after_as_long_as_ever(jump: int) -> None:
    steady = [50.0]
    series = Series(clock=lambda: steady[0])
    seen = Arrival("door", "http", x=np.zeros((28, 28), np.uint8), at=1.8e9)
    event = {
        "event": "answer",
        "error": "",
        "stream": "door",
        "id": "a",
        "at": seen.at,
        "label": "Coat",
        "confidence": 0.5,
    }
    series.take(event, [seen])
    series.take(event | {"id": "b", "at": seen.at + jump}, [seen])
    assert series._latest["door"].answer["id"] == "a"
    steady[0] += 2.5
    series.take(event | {"id": "c", "at": seen.at + jump + 2.5}, [seen])
    latest = series.view()["latest"]["door"]
    assert latest["id"] == "c" and not latest["picture"]
