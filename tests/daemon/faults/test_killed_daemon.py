"""``kill -9`` while samples, labels and changes flow: what was acknowledged is there after the next
start, and the next start comes.
"""

from __future__ import annotations

import contextlib
import http.client
import random
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("edgeadapt.daemon.http.server")  # with starlette and uvicorn

from process import Daemon

from edgeadapt.demo.sample import CLASSES, Sample

SOURCE = (
    '[[source]]\nkind = "npz"\nname = "belt"\npath = "belt.npz"\nrate_hz = 200\nloop = true\nlabels'
    " = true\n[loop]\nbatch = 4\ncheckpoint_s = 1\n"
)
Key = tuple[int, str, float]


class Acknowledged:
    """What a daemon said it has for good, kept by those who were told."""

    def __init__(self) -> None:
        self.ids = set[str]()  # of labels that were received
        self.commits = set[Key]()  # of the history
        self.evidence = 0  # rows, as the status said
        self.checkpoint = 0
        self.lock = threading.Lock()

    def see(self, daemon: Daemon) -> None:
        commits = {
            (one["number"], one["kind"], one["time"])
            for one in daemon.ask("GET", "/v1/history?limit=1000").json["history"]
        }
        evidence = sum(daemon.status()["learner"]["evidence"].values())
        with self.lock:
            self.commits |= commits
            self.evidence = max(self.evidence, evidence)


@contextmanager
def under_load(daemon: Daemon, sample: Sample, told: Acknowledged, run: int) -> Iterator[None]:
    """Two clients observe and label, one asks for checkpoints, one reads along; all of them live
    through the daemon's death.
    """
    dead = threading.Event()
    rows = np.flatnonzero(sample.y < 6)

    def client(number: int) -> None:
        for at in range(number, len(rows) // 4 - 1, 2):
            group = rows[4 * at : 4 * at + 4]
            names = [f"r{run}-{row}" for row in group]
            said = daemon.ask(
                "POST", "/v1/observe?stream=desk", {"x": sample.x[group].tolist(), "names": names}
            ).json["answers"]
            labels = [
                {"sample": one["id"] if row % 2 else one["name"], "label": CLASSES[sample.y[row]]}
                for one, row in zip(said, group, strict=True)
            ]
            for one in daemon.ask(
                "POST", "/v1/labels", {"labels": labels, "source": f"client {number}"}
            ).json["labels"]:
                if one["outcome"] == "received":
                    with told.lock:
                        told.ids.add(one["id"])

    def checkpoints() -> None:
        while not dead.wait(0.1):
            said = daemon.ask("POST", "/v1/checkpoint")
            if said.status == 200:
                with told.lock:
                    told.checkpoint = max(told.checkpoint, said.json["commit"])

    def reader() -> None:
        while not dead.wait(0.05):
            told.see(daemon)

    def until_it_dies(call: Callable[[], None]) -> None:
        with contextlib.suppress(OSError, http.client.HTTPException):
            call()

    calls: list[Callable[[], None]] = [lambda: client(0), lambda: client(1), checkpoints, reader]
    threads = [threading.Thread(target=until_it_dies, args=(call,)) for call in calls]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        dead.set()
        daemon.kill()
        for thread in threads:
            thread.join(30.0)


@pytest.mark.parametrize("is_unix", [False, True], ids=["port", "socket"])
def test_what_was_acknowledged_survives_every_kill_and_nothing_that_is_left_prevents_the_next_start(
    tmp_path: Path, sample: Sample, is_unix: bool
) -> None:
    rows = np.flatnonzero(sample.y < 6)[-400:]
    np.savez(
        tmp_path / "belt.npz",
        x=sample.x[rows],
        y=np.array([CLASSES[label] for label in sample.y[rows]]),
    )
    daemon = Daemon(tmp_path, SOURCE, is_unix=is_unix)
    told = Acknowledged()
    chance = random.Random(17 + is_unix)
    try:
        for run in range(4):
            daemon.start()
            before, checkpoint = len(told.ids), told.checkpoint
            if run:
                seen = Acknowledged()
                seen.see(daemon)
                assert told.commits <= seen.commits and told.evidence <= seen.evidence, f"run {run}"
                assert told.checkpoint <= max(number for number, _, _ in seen.commits)
                assert not daemon.ask("POST", "/v1/observe", {"x": sample.x[:1].tolist()}).json[
                    "answers"
                ][0]["error"]
            with under_load(daemon, sample, told, run):
                while len(told.ids) < before + 8 or (run == 2 and told.checkpoint == checkpoint):
                    assert daemon.process is not None and daemon.process.poll() is None, daemon.log
                    time.sleep(0.005)
                time.sleep(chance.uniform(0.0, 0.7))
            assert evidence_of(tmp_path / "state") >= told.ids, f"run {run}"
        assert (
            len(told.ids) > 100
            and told.commits
            and told.evidence > len(told.ids)
            and told.checkpoint
        )
        daemon.start()
        one = next(iter(told.ids))
        # a second label corrects the first
        assert (
            daemon.ask("POST", "/v1/labels", {"labels": [{"sample": one, "label": "Dress"}]}).json[
                "received"
            ]
            == 1
        )
        assert daemon.kill(15) == 0 and "Traceback" not in daemon.log
    finally:
        daemon.kill()


def evidence_of(state: Path) -> set[str]:
    """Ids of the samples whose labels a state folder holds; a copy of it is read, so that the next
    start finds what the kill left.
    """
    copy: Any = sqlite3.connect(":memory:")
    with contextlib.closing(
        sqlite3.connect(f"file:{state / 'learner.db'}?mode=ro", uri=True)
    ) as left:
        left.backup(copy)
    return {row[0] for row in copy.execute("SELECT id FROM evidence")}
