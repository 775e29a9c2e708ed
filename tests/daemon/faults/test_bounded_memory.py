"""Twenty thousand samples through a daemon, with everything beside them that could pile up: its
memory stays where it was after the warm-up.
"""

from __future__ import annotations

import gc
import io
import json
import os
import socket
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("edgeadapt.daemon.http.server")  # with starlette and uvicorn
psutil = pytest.importorskip("psutil")

from process import Daemon  # noqa: E402

from edgeadapt.daemon.config.schema import LoopSection  # noqa: E402
from edgeadapt.demo.sample import CLASSES, Sample  # noqa: E402
from edgeadapt.device.detection.window import StreamWindow  # noqa: E402
from edgeadapt.testing import inspect_state  # noqa: E402

EXTRA = """
[policy]
questions_per_day = 1000
[keep]
pending_s = 1
[loop]
batch = 32
queue = 512
[[sink]]
kind = "jsonl"
path = "out.jsonl"
max_mib = 0.5
keep = 1
"""
# samples of a request; requests. The learner keeps 256 streams: the warm-up has more
BATCH, WARM, MEASURED = 64, 280, 320


def npy(x: np.ndarray) -> bytes:
    file = io.BytesIO()
    np.save(file, x)
    return file.getvalue()


def slow_consumer(port: int, stop: threading.Event) -> None:
    """Asks again and again on one connection, and reads nothing until the daemon closes it; then
    once more.
    """
    request = b"GET /v1/status HTTP/1.1\r\nhost: localhost\r\n\r\n"
    while not stop.is_set():
        with socket.create_connection(("127.0.0.1", port)) as peer:
            peer.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            peer.settimeout(0.2)
            try:
                for _ in range(50):
                    peer.sendall(request)
                    if stop.wait(0.1):
                        return
            except OSError:
                continue


@pytest.mark.slow
def test_memory_is_flat_whatever_streams_names_labels_and_consumers_come(
    tmp_path: Path, sample: Sample
) -> None:
    stop = threading.Event()
    with Daemon(tmp_path, EXTRA) as daemon:
        assert daemon.process is not None
        process = psutil.Process(daemon.process.pid)
        consumer = threading.Thread(target=slow_consumer, args=(daemon.port, stop))
        consumer.start()
        try:
            sent, before = 0, 0
            for request in range(WARM + MEASURED):
                if request == WARM:
                    before = process.memory_info().rss
                rows = np.arange(request * BATCH, (request + 1) * BATCH) % len(sample.x)
                x = 255 - sample.x[rows] if request % 5 == 0 else sample.x[rows]
                stream = (
                    f"invented-{request}"
                    if request < WARM or request % 4 == 0
                    else f"door-{request % 3}"
                )
                if request % 8 == 0:  # names that nobody will use
                    body = json.dumps(
                        {
                            "x": x.tolist(),
                            "names": [f"{request}-{row}" for row in range(BATCH)],
                            "stream": stream,
                        }
                    ).encode()
                    said = daemon.ask("POST", "/v1/observe", body)
                else:
                    said = daemon.ask(
                        "POST", f"/v1/observe?stream={stream}", npy(x), "application/x-npy"
                    )
                assert said.status == 200, said
                sent += BATCH
                answers = said.json["answers"]
                labels = [
                    {"sample": answers[0]["id"], "label": CLASSES[sample.y[rows[0]] % 6]},
                    *({"sample": f"never-{request}-{n}", "label": "Coat"} for n in range(4)),
                ]
                assert daemon.ask("POST", "/v1/labels", {"labels": labels}).json["received"] == 1
            after, status = process.memory_info().rss, daemon.status()
        finally:
            stop.set()
            consumer.join(10.0)
        assert (
            sent > 30_000
            and status["loop"]["answered"] == sent
            and status["ok"]
            and status["problems"] == []
        )
        assert after - before < 8 * 2**20, f"{before / 2**20:.1f} MiB -> {after / 2**20:.1f} MiB"
        assert (
            len(status["streams"]) <= 256
            and len(status["latest"]) <= 16
            and len(status["inbox"]["dropped"]) <= 257
        )
        assert (
            status["labels"]["names"] == sent // 8
            and status["labels"]["held"] == 4 * (WARM + MEASURED)
            and status["questions"] <= 1000
        )
        series = daemon.ask("GET", "/v1/series").json
        assert len(series["streams"]) <= 16
        text = daemon.ask("GET", "/metrics").body.decode()
        assert (
            len({line for line in text.splitlines() if line.startswith("edgeadapt_samples_total{")})
            <= 257
            and len(text) < 2**20
        )
        assert sum(os.path.getsize(path) for path in tmp_path.glob("out.jsonl*")) <= 2**20
        assert daemon.kill(15) == 0 and "Traceback" not in daemon.log


def test_streams_invented_while_learning_is_paused_take_no_more_memory_than_those_kept(
    serve: Any, settings: Any, sample: Sample, until: Any
) -> None:
    service = serve(settings(loop=LoopSection(batch=32)))
    service.pause(True)
    for number in range(330):
        service.observe(
            255 - sample.x[32 * (number % 100) : 32 * (number % 100) + 32],
            stream=f"invented-{number}",
        )
    with service.context.lease.borrow() as learner:
        assert (
            len(inspect_state(learner).streams.found) == 256
            and len(inspect_state(learner).streams._waiting) == 64
            and learner.counters()["deferred"] >= 330 - 64
        )
    gc.collect()
    assert sum(isinstance(one, StreamWindow) for one in gc.get_objects()) <= 256 + 64
    service.pause(False)
    with service.context.lease.borrow() as learner:
        learner.settle(30.0)
        assert not inspect_state(learner).streams._waiting
    assert service.health()["problems"] == []
