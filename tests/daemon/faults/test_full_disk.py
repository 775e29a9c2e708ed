"""A disk that fills up under a running daemon, and has room again: a file system of its own, as
small as it takes.
"""

from __future__ import annotations

import json
import os
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("edgeadapt.daemon.http.server")  # with starlette and uvicorn

from edgeadapt.daemon.config.schema import LoopSection, PolicySection
from edgeadapt.daemon.io.sinks.jsonl import JsonLines
from edgeadapt.daemon.messages import Arrival, LabelArrival
from edgeadapt.daemon.service import Service
from edgeadapt.demo.sample import CLASSES, Sample
from edgeadapt.errors import StorageError
from edgeadapt.testing import inspect_state

Made = Callable[..., Any]


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """16 MiB of memory as a file system."""
    folder = tmp_path / "disk"
    folder.mkdir()
    made = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=16m", "tmpfs", str(folder)],
        capture_output=True,
        text=True,
    )
    if made.returncode:
        pytest.skip(f"a file system of its own cannot be mounted here: {made.stderr.strip()}")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


def fill(disk: Path) -> Path:
    """Take all the room there is, and return the file that has it."""
    ballast = os.open(disk / "ballast", os.O_WRONLY | os.O_CREAT)
    try:
        for size in (1 << 20, 1 << 12, 1):
            try:
                while True:
                    os.write(ballast, bytes(size))
            except OSError:
                continue
    finally:
        os.close(ballast)
    return disk / "ballast"


def ask(service: Service, path: str, body: dict[str, Any] | None = None) -> tuple[int, Any]:
    data = None if body is None else json.dumps(body).encode()
    try:
        with urllib.request.urlopen(
            urllib.request.Request(
                service.control.url + path, data, {"content-type": "application/json"}
            ),
            timeout=30,
        ) as answer:
            return answer.status, json.load(answer)
    except urllib.error.HTTPError as error:
        return error.code, json.load(error)


def test_on_a_full_disk_answers_go_on_and_labels_are_refused_or_kept_until_there_is_room(
    disk: Path, settings: Made, playing: Any, serve: Made, sample: Sample, until: Made
) -> None:
    rows = [int(row) for row in (sample.y < 6).nonzero()[0][:40]]
    names = [CLASSES[sample.y[row]] for row in rows]

    class Late(playing):  # type: ignore[misc]
        def run(self, deliver: Any, stop: Any) -> None:
            for row in rows[:20]:
                deliver(Arrival("belt", "belt", x=sample.x[row], name=f"b{row}"))
            until(lambda: is_full or stop.is_set())
            for row, name in zip(rows[:20], names[:20], strict=True):
                deliver(LabelArrival(f"b{row}", name, "belt"))
            stop.wait()

    is_full: list[bool] = []
    sink = JsonLines("answers", disk / "answers.jsonl", size=50)
    service = serve(
        settings(
            state=disk / "state",
            loop=LoopSection(checkpoint_s=3600.0),
            policy=PolicySection(quiet_questions_per_day=0),
        ),
        sources=[Late("belt")],
        sinks=[sink],
    )
    first = service.observe(sample.x[rows[20:]])
    assert (
        ask(service, "/v1/labels", {"labels": [{"sample": first[0].id, "label": names[20]}]})[1][
            "received"
        ]
        == 1
    )
    until(lambda: sink.written >= 40 and service.status()["loop"]["answered"] == 40)
    written, evidence = sink.written, sum(service.status()["learner"]["evidence"].values())

    # so that a checkpoint has something to write
    inspect_state(service.context.lease._learner).journal.set_meta(
        {"clock": repr(time.time() - 7200.0)}
    )
    ballast = fill(disk)
    is_full.append(True)
    status, said = ask(
        service, "/v1/labels", {"labels": [{"sample": first[1].id, "label": names[21]}]}
    )
    assert status == 507 and said["kind"] == "StorageError" and "full" in said["error"]
    assert ask(service, "/v1/checkpoint", {})[0] == 507
    for start in range(0, 400, 50):
        assert all(
            answer.label and not answer.error
            for answer in service.observe(sample.x[start : start + 50])
        )
    until(lambda: service.status()["labels"]["queued"] == 20 and sink.dropped > 0)
    status = service.status()
    assert (
        status["ok"]
        and status["ready"]
        and status["labels"]["refused"] >= 1
        and sum(status["learner"]["evidence"].values()) == evidence
    )
    assert any(
        problem.startswith("checkpoint: ") and "full" in problem for problem in status["problems"]
    ), status["problems"]
    assert any(
        problem.startswith("labels: ") and "full" in problem for problem in status["problems"]
    ), status["problems"]
    assert any(
        problem.startswith("sink answers: ") and "No space left" in problem
        for problem in status["problems"]
    ), status["problems"]

    ballast.unlink()
    until(lambda: service.status()["labels"]["queued"] == 0, 30.0)
    assert (
        ask(service, "/v1/labels", {"labels": [{"sample": first[1].id, "label": names[21]}]})[1][
            "received"
        ]
        == 1
    )
    assert ask(service, "/v1/checkpoint", {})[0] == 200
    service.observe(sample.x[:1])
    until(lambda: service.health()["problems"] == [], 40.0)
    until(lambda: sink.written + sink.dropped == 441)
    assert (
        sum(service.status()["learner"]["evidence"].values()) == evidence + 21
        and sink.written > written
    )
    service.stop()
    lines = (disk / "answers.jsonl").read_text().splitlines()
    assert len(lines) == sink.written and all(json.loads(line)["event"] for line in lines)


def test_a_daemon_that_is_started_on_a_full_disk_says_so_and_leaves_what_is_there(
    disk: Path, settings: Made, serve: Made, sample: Sample
) -> None:
    service = serve(settings(state=disk / "state"))
    answers = service.observe(sample.x[:4])
    service.label([(answer.id, "Coat") for answer in answers])
    service.stop()
    ballast = fill(disk)
    with pytest.raises(StorageError, match=f"{disk}/state"):
        serve(settings(state=disk / "state"))
    ballast.unlink()
    assert sum(serve(settings(state=disk / "state")).status()["learner"]["evidence"].values()) == 4
