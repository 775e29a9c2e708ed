"""The backend for Label Studio over real HTTP, and a real Label Studio where one is installed."""

from __future__ import annotations

import base64
import io
import json
import os
import shutil
import socket
import subprocess
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from label_studio_trial import Studio, trial
from PIL import Image

import edgeadapt
from edgeadapt import cli
from edgeadapt.dataset.label_studio import choice, label_config
from edgeadapt.demo.sample import CLASSES, KNOWN, bundle_path, load_sample
from edgeadapt.errors import InputError
from edgeadapt.exporters.label_studio import Backend, Server, names_in
from edgeadapt.testing import inspect_state

CONFIG = label_config(KNOWN).replace('"label"', '"kind"').replace('"image"', '"shot"', 1)
CONFIG = CONFIG.replace('toName="image"', 'toName="shot"')


@pytest.fixture
def learner() -> Iterator[edgeadapt.Learner]:
    with edgeadapt.open(str(bundle_path())) as opened:
        yield opened


@pytest.fixture
def said() -> list[str]:
    return []


@pytest.fixture
def url(learner: edgeadapt.Learner, said: list[str]) -> Iterator[str]:
    server = Server(Backend(learner, say=said.append), "127.0.0.1", 0)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_address[1]}"
    server.shutdown()
    server.server_close()


def asked(url: str, body: Any = None, kind: str = "application/json", **headers: str) -> Any:
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(url, data, {"Content-Type": kind, **headers})
    try:
        with urllib.request.urlopen(request, timeout=30) as answer:
            return json.loads(answer.read())
    except urllib.error.HTTPError as error:
        return error.code


def task(name: str, number: int) -> dict[str, Any]:
    """A task with the picture in it."""
    sample = load_sample()
    x = sample.x[np.flatnonzero(sample.y == CLASSES.index(name))[number]]
    written = io.BytesIO()
    Image.fromarray(np.asarray(x).reshape(28, 28)).save(written, "PNG")
    uri = "data:image/png;base64," + base64.b64encode(written.getvalue()).decode()
    return {"id": number, "data": {"image": uri}}


def test_tasks_get_the_answers_of_the_learner_under_the_names_of_their_interface(
    url: str, said: list[str]
) -> None:
    assert asked(f"{url}/health")["status"] == "UP"
    version = asked(f"{url}/setup", {"schema": CONFIG, "project": "1.1"})["model_version"]
    tasks = [task(name, k) for name in KNOWN[:4] for k in range(4)]
    tasks.insert(3, {"id": 99, "data": {"image": "/data/upload/1/a.png"}})
    found = asked(f"{url}/predict", {"tasks": tasks, "label_config": CONFIG})["results"]
    assert found[3]["result"] == [] and "99" in said[0]
    del found[3], tasks[3]
    answers = [one["result"][0] for one in found]
    assert {(a["from_name"], a["to_name"], a["type"]) for a in answers} == {
        ("kind", "shot", "choices")
    }
    truth = [name for name in KNOWN[:4] for _ in range(4)]
    right = [a["value"]["choices"] == [name] for a, name in zip(answers, truth, strict=True)]
    assert sum(right) >= 12 and {one["model_version"] for one in found} == {version}
    assert all(0 < one["score"] <= 1 for one in found)


def test_an_annotation_teaches_a_changed_one_corrects_and_a_deleted_one_is_taken_back(
    url: str, learner: edgeadapt.Learner
) -> None:
    def event(action: str, label: str) -> dict[str, Any]:
        annotation = {"id": 7, "completed_by": 3, "result": [choice(label)]}
        return {"action": action, "task": task(KNOWN[1], 30), "annotation": annotation}

    before = asked(f"{url}/versions")["versions"]
    asked(f"{url}/webhook", event("ANNOTATION_CREATED", KNOWN[1]))
    learner.settle()
    assert learner.labelled()[KNOWN[1]] == 1 and asked(f"{url}/versions")["versions"] != before
    asked(f"{url}/webhook", event("ANNOTATION_UPDATED", KNOWN[2]))
    learner.settle()
    assert learner.counters()["evidence"].get("withdrawn") == 1
    assert asked(f"{url}/webhook", {"action": "TASKS_DELETED"}) == {"status": "ignored"}
    taken = asked(f"{url}/webhook", {"action": "ANNOTATIONS_DELETED", "annotations": [{"id": 7}]})
    learner.settle()
    assert taken == {"status": "withdrawn", "labels": 1}
    assert learner.counters()["evidence"] == {"withdrawn": 2}
    assert asked(f"{url}/webhook", event("ANNOTATION_CREATED", "Spoon")) == 400


def test_a_label_is_taken_back_when_its_last_annotation_goes_or_is_emptied(
    url: str, learner: edgeadapt.Learner
) -> None:
    def event(id: int, *result: Any, action: str = "ANNOTATION_CREATED", number: int = 30) -> Any:
        annotation = {"id": id, "completed_by": 3, "result": list(result)}
        body = {"action": action, "task": task(KNOWN[1], number), "annotation": annotation}
        return asked(f"{url}/webhook", body)

    def gone(*ids: int) -> Any:
        listed = [{"id": id} for id in ids]
        body = {"action": "ANNOTATIONS_DELETED", "annotations": listed}
        return asked(f"{url}/webhook", body)

    for id in (1, 2):  # of one picture
        event(id, choice(KNOWN[1]))
    learner.settle()
    assert gone(1) == {"status": "withdrawn", "labels": 0}
    assert gone(2) == {"status": "withdrawn", "labels": 1}
    event(3, choice(KNOWN[1]), number=31)
    assert event(3, action="ANNOTATION_UPDATED", number=31) == {"status": "withdrawn", "labels": 1}
    event(4, choice(KNOWN[1]), number=32)
    learner.settle()
    (newest,) = inspect_state(learner).journal.evidence(limit=1, newest_first=True)
    learner.forget([newest.id])
    event(5, choice(KNOWN[1]), number=33)
    assert gone(4, 5) == {"status": "withdrawn", "labels": 1}


def test_what_a_page_or_a_stranger_could_send_is_refused(url: str, learner: Any) -> None:
    body = {"tasks": [], "label_config": CONFIG}
    assert asked(f"{url}/predict", body, kind="text/plain") == 415
    assert asked(f"{url}/predict", body, Host="evil.example") == 403
    assert asked(f"{url}/predict", [1]) == 400 and asked(f"{url}/nowhere", {}) == 404
    assert asked(f"{url}/predict", {**body, "tasks": [task(KNOWN[0], 1)] * 1001}) == 400
    with pytest.raises(InputError, match="needs a token"):
        Server(Backend(learner), "0.0.0.0", 0)
    with pytest.raises(InputError, match="document type"):
        names_in('<!DOCTYPE a [<!ENTITY b "c">]><View/>')
    server = Server(Backend(learner), "127.0.0.1", 0, "a1b2c3d4e5f6a7b8")
    threading.Thread(target=server.serve_forever, daemon=True).start()
    place = f"http://127.0.0.1:{server.server_address[1]}"
    assert asked(f"{place}/health") == 403
    assert asked(f"{place}/a1b2c3d4e5f6a7b8/health")["status"] == "UP"
    server.shutdown()
    server.server_close()


def test_the_service_ends_at_once_and_keeps_what_it_learned(tmp_path: Path) -> None:
    program = [
        shutil.which("python3") or "python3",
        "-c",
        "import sys; from edgeadapt.cli import main; sys.exit(main())",
    ]
    import sys

    program[0] = sys.executable
    arguments = [
        "label-studio",
        str(bundle_path()),
        "--state",
        str(tmp_path / "state"),
        "--port",
        "0",
    ]
    running = subprocess.Popen([*program, *arguments], stdout=subprocess.PIPE, text=True)
    assert running.stdout is not None
    url = running.stdout.readline().rpartition(" ")[2].strip()
    annotation = {"id": 1, "result": [choice(KNOWN[1])]}
    event = {"action": "ANNOTATION_CREATED", "task": task(KNOWN[1], 5), "annotation": annotation}
    assert asked(f"{url}/webhook", event) == {"status": "learned"}
    running.terminate()
    assert running.wait(30) == 0
    with edgeadapt.open(str(bundle_path()), state=tmp_path / "state") as learner:
        learner.settle()
        assert learner.labelled()[KNOWN[1]] == 1


# -- a real one ----------------------------------------------------------------------------------
TOKEN = "0123456789abcdef0123456789abcdef01234567"
PROGRAM = os.environ.get("EDGEADAPT_LABEL_STUDIO") or shutil.which("label-studio")


@pytest.fixture
def studio(tmp_path: Path) -> Iterator[Studio]:
    """Label Studio on a free port of loopback, with SQLite in a folder of its own."""
    assert PROGRAM
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    settings = {
        "LABEL_STUDIO_BASE_DATA_DIR": str(tmp_path / "studio"),
        "DJANGO_DB": "sqlite",
        "LABEL_STUDIO_ENABLE_LEGACY_API_TOKEN": "true",
        "ML_BLOCK_LOCAL_IP": "false",
        "SSRF_PROTECTION_ENABLED": "false",
        "COLLECT_ANALYTICS": "false",
        "LATEST_VERSION_CHECK": "false",
    }
    arguments = [
        "start",
        "--no-browser",
        "--internal-host",
        "127.0.0.1",
        "--port",
        str(port),
        "--username",
        "trial@example.com",
        "--password",
        "trial-password-1",
        "--user-token",
        TOKEN,
    ]
    (tmp_path / "studio").mkdir()
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"} | settings
    with open(tmp_path / "log", "w") as log:
        running = subprocess.Popen([PROGRAM, *arguments], env=environment, stdout=log, stderr=log)
    try:
        for _ in range(600):
            if running.poll() is not None or is_up(port):
                break
            time.sleep(1)
        assert is_up(port), (tmp_path / "log").read_text()[-2000:]
        yield Studio(f"http://127.0.0.1:{port}", TOKEN)
    finally:
        running.terminate()
        running.wait(30)


def is_up(port: int) -> bool:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=5) as answer:
            return bool(answer.status == 200)
    except OSError:
        return False


@pytest.mark.slow
@pytest.mark.skipif(
    PROGRAM is None, reason="needs Label Studio: EDGEADAPT_LABEL_STUDIO=.../label-studio"
)
def test_a_real_label_studio_shows_predictions_teaches_and_gives_the_labels_back(
    studio: Studio, tmp_path: Path
) -> None:
    found = trial(studio, tmp_path)
    check(found)


def check(found: dict[str, Any]) -> None:
    ids, labels = found["ids"], found["labels"]
    assert len(found["imported"]) == 15
    ours = [
        [p for p in t["predicted"] if p["model_version"].startswith("fashion-")]
        for t in found["predicted"]
    ]
    assert all(ours) and all(
        p["result"][0]["value"]["choices"][0] in CLASSES for one in ours for p in one
    )
    assert found["learned"] and found["withdrawn"]
    assert (found["state"].label, found["state"].source) == (KNOWN[0], "label-studio 1")
    back = found["came back"]
    assert found["report"].bad == {} and len(back) == 14
    assert [back[id].label for id in ids[2:]] == labels[2:]
    assert {back[id].source for id in ids[2:]} == {"line 1"}
    assert back[ids[0]].source.startswith("label-studio")


def test_the_command_says_what_is_wrong_with_a_token(tmp_path: Path, capsys: Any) -> None:
    (tmp_path / "token").write_text("short")
    arguments = ["--state", str(tmp_path / "s"), "--token-file", str(tmp_path / "token")]
    assert cli.main(["label-studio", str(bundle_path()), *arguments]) == 2
    assert "at least 16 letters and digits" in capsys.readouterr().err
