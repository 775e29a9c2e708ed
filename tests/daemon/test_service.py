"""The daemon as a whole, on the shipped bundle: it serves, learns, swaps, reloads and ends as it
says, in real threads and real processes.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import sqlite3
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgeadapt.bundle.schema import InputSpec
from edgeadapt.bundle.signature import generate_key
from edgeadapt.daemon.config.loader import load_settings
from edgeadapt.daemon.config.schema import LoopSection, PolicySection
from edgeadapt.daemon.decoding.images import as_picture
from edgeadapt.daemon.messages import Arrival, LabelArrival
from edgeadapt.daemon.service import Service
from edgeadapt.demo.sample import CLASSES, Sample, bundle_path
from edgeadapt.device.learner import open as open_learner
from edgeadapt.errors import BundleError, InputError, StateError, StorageError, UnknownClassError
from edgeadapt.testing import inspect_state

Made = Callable[..., Any]


def known(sample: Sample, count: int) -> tuple[Any, list[str]]:
    rows = np.flatnonzero(sample.y < 6)[:count]
    return sample.x[rows], [CLASSES[i] for i in sample.y[rows]]


# -- opening ---------------------------------------------------------------------------------------
def test_a_bundle_is_opened_only_with_a_key_that_signed_it_or_where_unsigned_ones_are_accepted(
    settings: Made, tmp_path: Path, successor: Made
) -> None:
    private, public = generate_key()
    _, stranger = generate_key()
    signed = successor(tmp_path / "signed.edge", private)
    for refused in (
        settings(unsigned="refuse"),
        settings(unsigned="refuse", trust=(public,)),
        settings(bundle=signed, unsigned="refuse", trust=(stranger,)),
    ):
        with pytest.raises(BundleError):
            Service(refused)
    service = Service(settings(bundle=signed, unsigned="refuse", trust=(public,)))
    assert service.status()["bundle"]["signed_by"]
    service.stop()


def test_a_service_that_cannot_be_assembled_leaves_the_state_folder_free(
    settings: Made, tmp_path: Path
) -> None:
    (tmp_path / "serve.toml").write_text(
        f'bundle = "{bundle_path()}"\nstate = "state"\nunsigned = "accept"\n[[source]]\nkind ='
        ' "sensor"\npath = "v.csv"\nwindow = 8\nrate_hz = 1\n'
    )
    with pytest.raises(InputError):
        Service(load_settings(tmp_path / "serve.toml"))
    Service(settings()).stop()


# -- serving ---------------------------------------------------------------------------------------
def test_samples_of_sources_are_answered_to_the_sinks_and_their_labels_are_learned(
    serve: Made, playing: Any, listening: Any, sample: Sample, until: Made
) -> None:
    x, names = known(sample, 60)
    early = [LabelArrival(f"{row}.png", names[row], "camera") for row in range(20)]
    frames = [
        Arrival(
            "camera",
            "camera",
            x=x[row],
            name=f"{row}.png",
            label=names[row] if 20 <= row < 40 else None,
        )
        for row in range(60)
    ]
    late = [LabelArrival(f"{row}.png", names[row], "camera") for row in range(40, 60)]
    service = serve(
        sources=[playing("camera", [*early, *frames, *late], failing=1)], sinks=[listening]
    )
    until(lambda: len(listening.answers()) == 60)
    until(lambda: service.status()["labels"]["received"] == 60)
    status = service.status()
    assert [event["name"] for event in listening.answers()] == [f"{row}.png" for row in range(60)]
    assert (
        status["sources"][0]["state"] == "finished"
        and status["sources"][0]["failures"] == 1
        and status["sources"][0]["labels"] == 40
    )
    assert (
        status["streams"]["camera"]["samples"] == 60
        and status["loop"]["answered"] == 60
        and status["labels"]["held"] == 0
    )
    assert (
        sum(status["learner"]["evidence"].values()) == 60
        and status["ok"]
        and status["ready"]
        and status["problems"] == []
    )
    json.dumps(status)
    service.stop()
    assert listening.is_closed


def test_predict_and_observe_say_the_same_and_only_what_was_observed_can_be_labelled(
    serve: Made, sample: Sample
) -> None:
    service = serve()
    x, names = known(sample, 16)
    predicted = service.predict(x, stream="door")
    observed = service.observe(x, stream="door", names=[f"{row}.png" for row in range(16)])
    assert [answer.label for answer in predicted] == [answer.label for answer in observed]
    assert [answer.name for answer in observed] == [f"{row}.png" for row in range(16)] and all(
        answer.id for answer in observed
    )
    assert all(
        not answer.id and answer.stream == "door" and answer.took_ms > 0 for answer in predicted
    )
    said = service.label(
        [
            (observed[0].id, names[0]),
            ("1.png", names[1]),
            ("not-here.png", names[2]),
            (observed[3].id, "Hat"),
        ],
        "anna",
    )
    assert [row["outcome"] for row in said["labels"]] == [
        "received",
        "received",
        "waiting",
        "refused",
    ]
    assert (said["received"], said["waiting"], said["refused"]) == (2, 1, 1) and said["labels"][1][
        "id"
    ] == observed[1].id
    with pytest.raises(UnknownClassError, match="Hat"):
        service.label([(observed[3].id, "Hat")])
    service.checkpoint()
    assert [commit.kind for commit in service.history(5)] and service.decisions(5) == []


def test_features_are_taken_where_frames_are(serve: Made, sample: Sample) -> None:
    service = serve()
    x, _ = known(sample, 4)
    with service.context.lease.borrow() as learner:
        z, taps = inspect_state(learner).program.encode(x)
    answers = service.observe(features={"z": z, "taps": taps}, stream="vectors")
    assert [answer.label for answer in answers] == [answer.label for answer in service.predict(x)]


@pytest.mark.parametrize(
    "given",
    [
        {},
        {"x": np.zeros((1, 5, 5), np.uint8)},
        {"x": np.zeros((1, 28, 28))},
        {"features": {"z": np.zeros((1, 3))}},
    ],
)
def test_what_does_not_fit_the_bundle_is_refused_before_it_enters_the_inbox(
    serve: Made, given: dict[str, Any]
) -> None:
    service = serve()
    with pytest.raises(InputError):
        service.observe(**given)
    with pytest.raises(InputError, match="names"):
        service.observe(np.zeros((2, 28, 28), np.uint8), names=["one"])
    with pytest.raises(InputError, match="places of the queue"):
        service.observe(np.zeros((300, 28, 28), np.uint8))
    assert service.status()["loop"]["answered"] == 0


def test_new_frames_become_questions_with_a_picture_and_an_answer_closes_them(
    serve: Made, settings: Made, sample: Sample, until: Made
) -> None:
    service = serve(settings(policy=PolicySection(new_classes="add"), loop=LoopSection(batch=8)))
    bags = sample.x[np.flatnonzero(sample.y == CLASSES.index("Bag"))[:256]]
    for start in range(0, len(bags), 32):
        service.observe(bags[start : start + 32], stream="door")
    until(lambda: service.questions())
    asked = service.questions()[0]
    picture = service.frame_of(asked.id)
    assert picture is not None and picture.dtype == np.uint8 and picture.shape == (28, 28)
    assert any((picture == bag).all() for bag in bags) and service.frame_of("nobody") is None
    assert service.label([(asked.id, "Bag")], "anna")["received"] == 1
    assert "Bag" in service.classes() and asked.id not in {
        question.id for question in service.questions(100)
    }
    assert service.frame_of(asked.id) is None


def test_classes_freeze_pause_and_rollback_reach_the_learner(
    serve: Made, sample: Sample, until: Made
) -> None:
    service = serve()
    service.add_class("Scarf")
    assert "Scarf" in service.classes()
    service.remove_class("Scarf")
    assert "Scarf" not in service.classes()
    x, names = known(sample, 8)
    service.pause(True)
    ids = [answer.id for answer in service.observe(x)]
    service.label(list(zip(ids, names, strict=True)))
    time.sleep(0.2)
    assert service.status()["learner"]["evidence"] == {"received": 8} and service.status()[
        "paused_by"
    ] == ["user"]
    service.pause(False)
    until(lambda: "received" not in service.status()["learner"]["evidence"])
    before = service.history(1)[0].number
    assert service.rollback() < before
    service.freeze(True)
    assert service.status()["is_frozen"]


def test_a_pause_for_latency_does_not_end_the_users_and_the_other_way_round(serve: Made) -> None:
    service = serve()
    service.pause(True)
    service.context.pause_reasons.set("latency", True)
    service.context.pause_reasons.set("latency", False)
    assert service.status()["is_paused"]
    service.context.pause_reasons.set("latency", True)
    service.pause(False)
    assert service.status()["is_paused"] and service.status()["paused_by"] == ["latency"]
    service.context.pause_reasons.set("latency", False)
    assert not service.status()["is_paused"]


def test_a_sink_that_fails_does_not_keep_the_others_from_hearing(
    serve: Made, listening: Any, sample: Sample, until: Made
) -> None:
    class Broken(type(listening)):  # type: ignore[misc]
        def take(self, event: Any) -> None:
            raise OSError("no space left on device")

    service = serve(sinks=[Broken("broken"), listening])
    service.observe(known(sample, 3)[0])
    until(lambda: len(listening.answers()) == 3)
    assert (
        next(sink for sink in service.status()["sinks"] if sink["name"] == "broken")["errors"] == 3
    )


def test_a_checkpoint_under_load_does_not_wait_for_work_that_never_ends(
    serve: Made, settings: Made, playing: Any, sample: Sample
) -> None:
    class Endless(playing):  # type: ignore[misc]
        def run(self, deliver: Any, stop: threading.Event) -> None:
            row = 0
            while not stop.is_set():
                deliver(
                    Arrival(
                        "camera",
                        "camera",
                        x=255 - sample.x[row % 4000],
                        label=CLASSES[sample.y[row % 4000]] if sample.y[row % 4000] < 6 else None,
                    )
                )
                row += 37

    service = serve(
        settings(loop=LoopSection(batch=8, drop="wait", queue=32)), sources=[Endless("camera")]
    )
    time.sleep(1.0)
    for _ in range(3):
        started = time.monotonic()
        assert service.checkpoint() >= 0
        assert time.monotonic() - started < 10.0
    status = service.status()
    assert (
        status["checkpointed_at"] > 0
        and status["paused_by"] in ([], ["latency"])
        and status["problems"] == []
    )
    started = time.monotonic()
    assert service.stop() and time.monotonic() - started < 2.0


def test_over_http_a_sample_is_observed_labelled_and_counted(serve: Made, sample: Sample) -> None:
    for module in ("starlette", "uvicorn", "prometheus_client"):
        pytest.importorskip(module)
    service = serve()
    x, names = known(sample, 2)

    def post(path: str, body: dict[str, Any]) -> Any:
        request = urllib.request.Request(
            service.control.url + path,
            json.dumps(body).encode(),
            {"content-type": "application/json"},
        )
        with urllib.request.urlopen(request, timeout=20) as answer:
            return json.load(answer)

    answers = post("/v1/observe", {"x": x.tolist(), "stream": "door", "names": ["a.png", ""]})[
        "answers"
    ]
    assert [answer["label"] for answer in answers] == [
        answer.label for answer in service.predict(x)
    ]
    assert (
        post(
            "/v1/labels",
            {
                "labels": [
                    {"sample": "a.png", "label": names[0]},
                    {"sample": answers[1]["id"], "label": names[1]},
                ]
            },
        )["received"]
        == 2
    )
    assert post("/v1/freeze", {"frozen": True}) == {"frozen": True}
    with urllib.request.urlopen(service.control.url + "/metrics", timeout=20) as answer:
        text = answer.read().decode()
    assert 'edgeadapt_samples_total{stream="door"} 2.0' in text and "edgeadapt_frozen 1.0" in text


def test_health_names_what_fails_and_is_tried_again(serve: Made, playing: Any, until: Made) -> None:
    service = serve(sources=[playing("camera", failing=1000)])
    until(lambda: service.health()["problems"])
    health = service.health()
    assert (
        health["ok"]
        and "source camera: ConnectionError: failure" in health["problems"][0]
        and service.ready() == (True, "")
    )


def test_stopping_refuses_what_waits_says_it_is_not_ready_and_may_be_done_twice(
    serve: Made, settings: Made, tmp_path: Path, sample: Sample
) -> None:
    service = serve()
    assert service.ready() == (True, "")
    service.observe(known(sample, 1)[0])
    assert service.stop() and service.stop()
    assert service.ready() == (False, "stopping")
    assert "stops" in service.observe(known(sample, 1)[0])[0].error
    with pytest.raises(StateError):
        service.swap(bundle_path())
    with open_learner(bundle_path(), tmp_path / "state"):  # the folder is free
        pass


# -- another bundle --------------------------------------------------------------------------------
@contextmanager
def asking(service: Service, x: Any) -> Iterator[list[Any]]:
    """Predicts and observes all the while; yields every answer or error."""
    said, stop = list[Any](), threading.Event()

    def ask(call: Callable[..., Any]) -> None:
        while not stop.is_set():
            try:
                said.extend(call(x))
            except Exception as error:
                said.append(error)

    threads = [
        threading.Thread(target=ask, args=(call,))
        for call in (service.predict, service.predict, service.observe)
    ]
    for thread in threads:
        thread.start()
    try:
        yield said
    finally:
        stop.set()
        for thread in threads:
            thread.join(30)


def test_a_swap_keeps_what_was_learned_and_every_request_beside_it_is_answered(
    serve: Made, sample: Sample, tmp_path: Path, successor: Made
) -> None:
    service = serve()
    x, names = known(sample, 32)
    ids = [answer.id for answer in service.observe(x)]
    service.label(list(zip(ids, names, strict=True)), "anna")
    service.add_class("Scarf")
    service.freeze(True)
    new = successor(tmp_path / "new.edge", version=2)
    with asking(service, x[:2]) as said:
        time.sleep(0.3)
        report = service.swap(new)
        time.sleep(0.3)
    assert (
        report["version"] == 2
        and report["before"]["version"] == 1
        and report["agreement"] == 1.0
        and report["compared"] >= 1
    )
    assert 0 < report["paused_ms"] < 10_000
    assert len(said) > 20 and [one for one in said if isinstance(one, Exception) or one.error] == []
    status = service.status()
    assert status["bundle"]["version"] == 2 and "Scarf" in status["classes"] and status["is_frozen"]
    assert sum(status["learner"]["evidence"].values()) == 32
    assert service.observe(x[:1])[0].id


def test_after_a_swap_a_label_by_name_is_refused_and_one_by_id_waits_for_a_sample_of_that_name(
    serve: Made, sample: Sample, tmp_path: Path, successor: Made
) -> None:
    service = serve()
    x, names = known(sample, 1)
    observed = service.observe(x, names=["1.png"])
    service.swap(successor(tmp_path / "new.edge", version=2))
    assert service.label([(observed[0].id, names[0])])["labels"][0]["outcome"] == "waiting"
    with pytest.raises(InputError, match=observed[0].id):
        service.label([("1.png", names[0])])


def test_a_bundle_that_must_not_follow_is_refused_and_the_old_one_serves_on(
    serve: Made, sample: Sample, tmp_path: Path, successor: Made
) -> None:
    service = serve()
    x, _ = known(sample, 2)
    (tmp_path / "torn.edge").write_bytes(bundle_path().read_bytes()[:5000])
    with asking(service, x) as said:
        for bad in (tmp_path / "torn.edge", tmp_path / "missing.edge"):
            with pytest.raises((BundleError, OSError)):
                service.swap(bad)
    assert [one for one in said if isinstance(one, Exception) or one.error] == []
    assert service.status()["bundle"]["version"] == 1 and service.ready() == (True, "")


def test_going_back_to_an_older_version_is_refused(
    serve: Made, tmp_path: Path, successor: Made
) -> None:
    service = serve()
    service.swap(successor(tmp_path / "new.edge", version=2))
    with pytest.raises(BundleError, match="older"):
        service.swap(bundle_path())
    assert service.status()["bundle"]["version"] == 2


def test_a_bundle_that_fails_only_once_it_is_opened_gives_way_to_the_old_one(
    serve: Made, sample: Sample, tmp_path: Path, successor: Made, monkeypatch: pytest.MonkeyPatch
) -> None:
    service = serve()
    x, names = known(sample, 8)
    service.label(list(zip([answer.id for answer in service.observe(x)], names, strict=True)))
    warm, calls = service._reload._open_warm, [0]

    def failing(*arguments: Any, **options: Any) -> Any:
        calls[0] += 1
        learner = warm(*arguments, **options)
        if calls[0] == 1:  # the state folder has seen version 2 by now
            learner.close()
            raise MemoryError("no memory for the arena")
        return learner

    monkeypatch.setattr(service._reload, "_open_warm", failing)
    with asking(service, x[:1]) as said, pytest.raises(StateError, match="no memory for the arena"):
        service.swap(successor(tmp_path / "new.edge", version=2))
    assert [one for one in said if isinstance(one, Exception) or one.error] == []
    status = service.status()
    assert (
        status["bundle"]["version"] == 1
        and status["ready"]
        and sum(status["learner"]["evidence"].values()) == 8
    )


def test_a_disk_that_takes_no_last_checkpoint_leaves_the_old_bundle_serving(
    serve: Made, sample: Sample, tmp_path: Path, successor: Made, monkeypatch: pytest.MonkeyPatch
) -> None:
    service = serve()

    def full() -> int:
        raise StorageError("the disk is full")

    with service.context.lease.borrow() as learner:
        monkeypatch.setattr(learner, "checkpoint", full)
    with pytest.raises(StorageError, match="the disk is full"):
        service.swap(successor(tmp_path / "new.edge", version=2))
    assert service.status()["bundle"]["version"] == 1 and service.observe(known(sample, 1)[0])[0].id
    assert service.swap(tmp_path / "new.edge")["version"] == 2  # it has room again


def test_two_swaps_at_once_are_one_too_many(serve: Made, tmp_path: Path, successor: Made) -> None:
    service = serve()
    new = successor(tmp_path / "new.edge", version=2)
    said: list[Any] = []

    def swap() -> None:
        try:
            said.append(service.swap(new))
        except StateError as error:
            said.append(error)

    threads = [threading.Thread(target=swap) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    done = [one for one in said if not isinstance(one, StateError)]
    assert (
        len(said) == 4
        and len(done) >= 1
        and all("under way" in str(one) for one in said if isinstance(one, StateError))
    )


# -- other settings --------------------------------------------------------------------------------
def toml(folder: Path, body: str = "", *, bundle: Path | None = None, top: str = "") -> Path:
    path = folder / "serve.toml"
    path.write_text(
        f'bundle = "{bundle or bundle_path()}"\nstate = "state"\nunsigned ='
        f' "accept"\n{top}[control]\nlisten = ""\ntimeout_s = 20\n{body}'
    )
    return path


def test_a_reload_changes_sources_sinks_loop_and_budget_and_keeps_what_is_the_same(
    serve: Made, tmp_path: Path, sample: Sample, until: Made
) -> None:
    np.savez(tmp_path / "one.npz", x=sample.x[:500])
    np.savez(tmp_path / "two.npz", x=sample.x[500:520])
    one = '[[source]]\nkind = "npz"\nname = "one"\npath = "one.npz"\nrate_hz = 50\nloop = true\n'
    path = toml(tmp_path, one + '[[sink]]\nkind = "jsonl"\nname = "first"\npath = "first.jsonl"\n')
    service = serve(load_settings(path), reread=lambda: load_settings(path))
    until(lambda: service.status()["loop"]["answered"] > 5)
    x, names = known(sample, 4)
    service.label(list(zip([answer.id for answer in service.observe(x)], names, strict=True)))
    kept = next(iter(service.context.source_threads.values()))
    two = '[[source]]\nkind = "npz"\nname = "two"\npath = "two.npz"\nrate_hz = 200\n'
    toml(
        tmp_path,
        one
        + two
        + "[loop]\nqueue = 64\nbatch = 4\n[budget]\nbusy_fraction = 0.5\n"
        + '[[sink]]\nkind = "jsonl"\nname = "second"\npath = "second.jsonl"\n',
    )
    assert service.reload() == {"ok": True, "why": "", "restart": []}
    until(
        lambda: (
            {source["name"]: source["state"] for source in service.health()["sources"]}
            == {"one": "running", "two": "finished"}
        )
    )
    until(
        lambda: (
            (tmp_path / "second.jsonl").exists()
            and (tmp_path / "second.jsonl").read_text().count("two") >= 20
        )
    )
    assert next(iter(service.context.source_threads.values())) is kept
    with service.context.lease.borrow() as learner:
        assert learner._budget.busy_fraction == 0.5
    status = service.status()
    assert (
        status["inbox"]["size"] == 64
        and service.context.loop.settings.batch == 4
        and sum(status["learner"]["evidence"].values()) == 4
    )
    written = (tmp_path / "first.jsonl").stat().st_size
    time.sleep(0.2)
    assert (tmp_path / "first.jsonl").stat().st_size == written
    toml(tmp_path, two)
    assert service.reload()["ok"] and [
        source["name"] for source in service.health()["sources"]
    ] == ["two"]
    assert kept.join(5.0) and kept.state == "stopped"


@pytest.mark.parametrize(
    "body",
    [
        "[loop]\nbatch = 0\n",
        "nonsense",
        '[[source]]\nkind = "sensor"\npath = "v.csv"\nwindow = 8\nrate_hz = 1\n',
    ],
)
def test_a_bad_file_is_reported_and_the_old_settings_go_on(
    serve: Made, tmp_path: Path, sample: Sample, body: str
) -> None:
    path = toml(tmp_path)
    service = serve(load_settings(path), reread=lambda: load_settings(path))
    before = service.context.settings
    toml(tmp_path, body)
    report = service.reload()
    assert not report["ok"] and report["why"] and service.context.settings is before
    assert any(
        "settings not taken" in problem for problem in service.health()["problems"]
    ) and service.ready() == (True, "")
    assert service.observe(known(sample, 1)[0])[0].id
    toml(tmp_path)
    assert service.reload()["ok"] and service.health()["problems"] == []


def test_what_needs_a_restart_is_named_and_a_new_file_of_the_bundle_is_opened(
    serve: Made, tmp_path: Path, successor: Made
) -> None:
    bundle = successor(tmp_path / "model.edge", version=1)
    path = toml(tmp_path, bundle=bundle)
    service = serve(load_settings(path), reread=lambda: load_settings(path))
    toml(tmp_path, "max_body_mib = 3\n", bundle=bundle, top='runtime = "onnxruntime"\n')
    assert service.reload()["restart"] == ["runtime", "control"]
    os.replace(successor(tmp_path / "next.edge", version=2), bundle)
    assert service.reload()["ok"] and service.status()["bundle"]["version"] == 2


def test_without_a_file_there_is_nothing_to_reload(serve: Made) -> None:
    assert "not started from a settings file" in serve().reload()["why"]


# -- processes -------------------------------------------------------------------------------------
RUN = """
import sys
from edgeadapt.daemon.service import Service
from edgeadapt.daemon.config.loader import load_settings
sys.exit(Service(load_settings(sys.argv[1]), reread=lambda: load_settings(sys.argv[1])).run())
"""


@contextmanager
def process(
    path: Path, tmp_path: Path, **environment: str
) -> Iterator[tuple[subprocess.Popen[str], Callable[[str], str]]]:
    """The daemon, and a way to wait for what it tells its supervisor."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as heard:
        heard.bind(str(tmp_path / "notify"))
        heard.settimeout(60.0)

        def hear(wanted: str) -> str:
            while True:
                said = heard.recv(4096).decode()
                if wanted in said:
                    return said

        environment = {**os.environ, "NOTIFY_SOCKET": str(tmp_path / "notify"), **environment}
        child = subprocess.Popen(
            [sys.executable, "-c", RUN, str(path)],
            env=environment,
            stderr=subprocess.PIPE,
            text=True,
        )
        try:
            yield child, hear
        finally:
            child.kill()
            child.communicate()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_under_load_ends_the_daemon_within_two_seconds_with_its_state_intact(
    number: int, tmp_path: Path, sample: Sample
) -> None:
    x, names = known(sample, 2000)
    np.savez(tmp_path / "x.npz", x=x, y=np.array(names))
    path = toml(
        tmp_path,
        '[[source]]\nkind = "npz"\npath = "x.npz"\nrate_hz = 400\nloop = true\n[loop]\nbatch ='
        ' 8\n[[sink]]\nkind = "jsonl"\npath = "out.jsonl"\n',
    )
    with process(path, tmp_path) as (child, hear):
        assert "answering with fashion 1" in hear("READY=1")
        time.sleep(2.0)
        sent = time.monotonic()
        child.send_signal(number)
        assert "STOPPING=1" in hear("STOPPING")
        code = child.wait(10)
        took = time.monotonic() - sent
        error = child.stderr.read() if child.stderr else ""
    assert code == 0 and took < 2.0, (took, error)
    assert "Traceback" not in error
    with sqlite3.connect(tmp_path / "state" / "learner.db") as database:
        assert database.execute("pragma integrity_check").fetchone() == ("ok",)
    lines = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    assert len(lines) > 100 and not any(line.get("error") for line in lines)
    with open_learner(bundle_path(), tmp_path / "state") as learner:
        assert learner.settle(20.0)
        assert learner.predict(x[:1]).labels


def test_hangup_reads_the_settings_again_and_the_supervisor_hears_of_it(tmp_path: Path) -> None:
    path = toml(tmp_path)
    with process(path, tmp_path) as (child, hear):
        hear("READY=1")
        toml(tmp_path, "[loop]\nbatch = 0\n")
        child.send_signal(signal.SIGHUP)
        assert "MONOTONIC_USEC=" in hear("RELOADING=1")
        assert "loop.batch = 0" in hear("READY=1")
        toml(tmp_path, "[loop]\nbatch = 2\n")
        child.send_signal(signal.SIGHUP)
        assert "settings read again" in hear("READY=1")
        child.send_signal(signal.SIGTERM)
        assert child.wait(10) == 0


def test_the_loop_itself_feeds_the_watchdog_and_checkpoints_are_taken_in_between(
    tmp_path: Path,
) -> None:
    path = toml(tmp_path, "[loop]\ncheckpoint_s = 1\n")
    with process(path, tmp_path, WATCHDOG_USEC="500000") as (child, hear):
        hear("READY=1")
        started = time.monotonic()
        for _ in range(6):
            hear("WATCHDOG=1")
        assert 1.0 < time.monotonic() - started < 4.0
        child.send_signal(signal.SIGTERM)
        assert child.wait(10) == 0


# -- pictures --------------------------------------------------------------------------------------
def test_inputs_of_every_layout_become_pictures_and_vectors_do_not() -> None:
    rng = np.random.default_rng(0)
    rgb = rng.integers(0, 256, (4, 6, 3), np.uint8)

    def seen(
        frame: Any, layout: str, dtype: str = "uint8", colour: str = "rgb", **more: Any
    ) -> Any:
        return as_picture(
            frame, InputSpec(layout=layout, dtype=dtype, shape=frame.shape, colour=colour, **more)
        )  # type: ignore[arg-type]

    np.testing.assert_array_equal(seen(rgb, "NHWC"), rgb)
    np.testing.assert_array_equal(seen(rgb[..., ::-1], "NHWC", colour="bgr"), rgb)
    np.testing.assert_array_equal(seen(rgb.transpose(2, 0, 1), "NCHW"), rgb)
    np.testing.assert_array_equal(seen(rgb[..., 0], "NHW", colour="gray"), rgb[..., 0])
    np.testing.assert_array_equal(seen(rgb[..., :1], "NHWC", colour="gray"), rgb[..., 0])
    np.testing.assert_array_equal(
        seen((rgb / 127.5 - 1.0).astype(np.float32), "NHWC", "float32", range=(-1.0, 1.0)), rgb
    )
    assert (
        seen(rgb[0, 0], "NC") is None
        and seen(rng.integers(0, 256, (4, 6, 5), np.uint8), "NHWC", colour="none") is None
    )
