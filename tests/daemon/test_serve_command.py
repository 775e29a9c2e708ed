"""``serve --check`` says in one line each what holds here; ``ctl`` talks to a daemon over TCP and
unix sockets.
"""

from __future__ import annotations

import importlib.util
import io
import json
import os
import socket
import socketserver
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from command_line import Shell

from edgeadapt import cli
from edgeadapt.bundle import read_bundle, write_bundle
from edgeadapt.bundle.signature import write_keypair
from edgeadapt.daemon.config.loader import load_settings
from edgeadapt.daemon.service import Service
from edgeadapt.demo.sample import bundle_path
from edgeadapt.device.storage.folder import FolderLock

HAS_DAEMON = all(
    importlib.util.find_spec(name) is not None
    for name in ("starlette", "uvicorn", "prometheus_client")
)
needs_daemon = pytest.mark.skipif(
    not HAS_DAEMON, reason="needs the daemon extra (starlette, uvicorn, prometheus-client, psutil)"
)
needs_pillow = pytest.mark.skipif(
    importlib.util.find_spec("PIL") is None, reason="needs the images extra (Pillow)"
)


@pytest.fixture
def edgeadapt(capsys: pytest.CaptureFixture[str]) -> Shell:
    return Shell(capsys)


# -- serve --check ---------------------------------------------------------------------------------
@pytest.fixture(scope="module")
def signed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the demo's bundle, signed, and the maker's public key."""
    folder = tmp_path_factory.mktemp("signed")
    write_keypair(folder / "maker")
    bundle = read_bundle(bundle_path())
    graphs = {spec.file: bundle.graph(spec.file) for spec in bundle.manifest.graphs}
    weights = {
        name: bundle.weights(name)
        for name in bundle.manifest.members
        if name.endswith(".safetensors")
    }
    write_bundle(
        folder / "signed.edge",
        bundle.manifest,
        graphs,
        weights,
        bundle.card,
        (folder / "maker").read_bytes(),
    )
    return folder


def config(folder: Path, signed: Path, extra: str = "", *, trust: str = "maker.pub") -> Path:
    np.savez(folder / "x.npz", x=np.zeros((3, 28, 28), np.uint8))
    extra = extra if "[control]" in extra else extra + '[control]\nlisten = "127.0.0.1:0"\n'
    (folder / "serve.toml").write_text(
        f'bundle = "{signed}/signed.edge"\nstate = "state"\ntrust ='
        f' ["{signed}/{trust}"]\n{extra}[[source]]\nkind = "npz"\npath = "x.npz"\nrate_hz ='
        ' 5\n[[sink]]\nkind = "jsonl"\npath = "out.jsonl"\n'
    )
    return folder / "serve.toml"


@needs_daemon
def test_check_says_one_line_for_everything_and_makes_nothing(
    edgeadapt: Shell, tmp_path: Path, signed: Path
) -> None:
    path = config(tmp_path, signed)
    lines = edgeadapt("serve", path, "--check").splitlines()
    assert [line.split(":")[0] for line in lines] == [
        "ok       settings",
        "ok       packages",
        "ok       bundle",
        "ok       runtime",
        "ok       state",
        "ok       control",
        "ok       source npz",
        "ok       sink jsonl",
    ]
    assert (
        "fashion version 1, signed by " in lines[2]
        and lines[4].endswith("can be made")
        and edgeadapt.error == ""
    )
    assert sorted(p.name for p in tmp_path.iterdir()) == ["serve.toml", "x.npz"]


def test_a_mistake_in_the_settings_is_2_and_names_file_key_and_allowed_values(
    edgeadapt: Shell, tmp_path: Path, signed: Path
) -> None:
    path = config(tmp_path, signed, "[loop]\ndrop = 'newer'\n")
    assert edgeadapt("serve", path, "--check", code=2) == ""
    assert (
        edgeadapt.error
        == f"edgeadapt: error: {path}: loop.drop = 'newer'; allowed: 'newest' or 'oldest' or"
        " 'wait'\n"
    )
    edgeadapt("serve", tmp_path / "none.toml", code=2)
    assert "none.toml: cannot be read as TOML" in edgeadapt.error


@needs_daemon
def test_check_names_a_token_that_can_be_guessed_and_a_file_that_all_can_read(
    edgeadapt: Shell, tmp_path: Path, signed: Path
) -> None:
    (tmp_path / "token").write_text("a token of the tests\n")
    control = '[control]\ntoken_file = "token"\n'
    for mode, is_exposed in ((0o600, False), (0o640, False), (0o644, True)):
        (tmp_path / "token").chmod(mode)
        said = edgeadapt("serve", config(tmp_path, signed, control), "--check")
        assert (
            "every user of this machine can read it" in said
        ) == is_exposed and "can be guessed" not in said
    (tmp_path / "token").write_text("hunter2\n")
    assert "but the token has 7 characters" in edgeadapt(
        "serve", config(tmp_path, signed, control), "--check"
    )
    elsewhere = control.replace("[control]", '[control]\nlisten = "0.0.0.0:8420"')
    refused = edgeadapt("serve", config(tmp_path, signed, elsewhere), "--check", code=2)
    assert (
        "the token can be guessed: it has 7 characters" in refused
        and "hunter2" not in refused + edgeadapt.error
    )


@needs_daemon
def test_an_unsigned_or_foreign_bundle_is_3_and_every_other_check_is_still_made(
    edgeadapt: Shell, tmp_path: Path, signed: Path
) -> None:
    if not (signed / "other").exists():
        write_keypair(signed / "other")
    out = edgeadapt("serve", config(tmp_path, signed, trust="other.pub"), "--check", code=3)
    assert (
        "REFUSED  bundle: " in out
        and "unknown key" in out
        and out.count("\n") == 8
        and out.count("REFUSED") == 1
    )
    unsigned = (
        config(tmp_path, signed).read_text().replace(f"{signed}/signed.edge", str(bundle_path()))
    )
    (tmp_path / "serve.toml").write_text(unsigned)
    assert "absent; an unsigned bundle is refused here" in edgeadapt(
        "serve", tmp_path / "serve.toml", "--check", code=3
    )
    accepted = "\n".join(
        line if "trust" not in line else "unsigned = 'accept'" for line in unsigned.splitlines()
    )
    (tmp_path / "serve.toml").write_text(accepted)
    assert "fashion version 1, unsigned" in edgeadapt("serve", tmp_path / "serve.toml", "--check")


@needs_daemon
def test_a_state_folder_of_something_else_is_4(
    edgeadapt: Shell, tmp_path: Path, signed: Path
) -> None:
    path = config(tmp_path, signed)
    (tmp_path / "state").write_text("")
    assert "is a file; a state folder is a directory" in edgeadapt("serve", path, "--check", code=4)
    (tmp_path / "state").unlink()
    (tmp_path / "state").mkdir()
    assert "state: can be written" in edgeadapt("serve", path, "--check").replace(
        str(tmp_path / "state"), "state"
    )
    (tmp_path / "state" / "holiday.jpg").write_text("")
    assert "it has no learner.db but holds 'holiday.jpg'" in edgeadapt(
        "serve", path, "--check", code=4
    )
    (tmp_path / "state" / "learner.db").write_text("")
    edgeadapt("serve", path, "--check")


@needs_daemon
def test_check_tries_the_port_and_the_lock_unless_the_daemon_that_holds_them_is_to_reload(
    edgeadapt: Shell, tmp_path: Path, signed: Path
) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        listen = f"127.0.0.1:{taken.getsockname()[1]}"
        path = config(tmp_path, signed, f'[control]\nlisten = "{listen}"\n')
        assert (
            f"REFUSED  control: control.listen = '{listen}': Address already in use"
            in edgeadapt("serve", path, "--check", code=2)
        )
        assert f"ok       control: {listen}" in edgeadapt("serve", path, "--check", "--reload")
    with socket.socket(socket.AF_UNIX) as taken:
        taken.bind(str(tmp_path / "s"))
        taken.listen()
        path = config(tmp_path, signed, '[control]\nlisten = "unix:s"\n')
        assert f"REFUSED  control: {tmp_path / 's'}: a daemon answers there already" in edgeadapt(
            "serve", path, "--check", code=2
        )
        edgeadapt("serve", path, "--check", "--reload")
    edgeadapt("serve", path, "--check")  # what a killed daemon left is taken over
    path = config(tmp_path, signed)
    (tmp_path / "state").mkdir()
    lock = FolderLock(tmp_path / "state")
    try:
        out = edgeadapt("serve", path, "--check", code=4)
        assert (
            f"is in use by the process with pid {os.getpid()}; --reload if" in out
            and out.count("REFUSED") == 1
        )
        assert f"pid {os.getpid()}, as --reload expects" in edgeadapt(
            "serve", path, "--check", "--reload"
        )
    finally:
        lock.release()
    assert "REFUSED" not in edgeadapt("serve", path, "--check")
    edgeadapt("serve", path, "--reload", code=2)


@needs_daemon
@pytest.mark.parametrize(
    ("listen", "says"),
    [
        ("127.0.0.1:0", "the page: http://127.0.0.1:{}/"),
        ("0.0.0.0:0", "the page: http://HOST:{}/"),
        ("unix:s.sock", "ctl --socket"),
    ],
)
def test_a_control_interface_says_where_its_page_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, listen: str, says: str
) -> None:
    from edgeadapt.daemon.http.server import Control

    class Nothing:
        metrics = None

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(socket, "gethostname", lambda: "HOST")
    control = Control(Nothing(), listen, "a-token-of-24-characters")  # type: ignore[arg-type]
    control.start()
    try:
        port = control.url.rpartition(":")[2]
        assert says.format(port) in control.invitation
    finally:
        control.stop()


@needs_daemon
@needs_pillow
@pytest.mark.parametrize(
    ("extra", "line"),
    [
        (
            '[[source]]\nkind = "folder"\npath = "gone"\n',
            "REFUSED  source folder: {}/gone: no folder that this user can read",
        ),
        (
            '[[source]]\nkind = "sequence"\npath = "."\npattern = "*.png"\nrate_hz = 1\n',
            "REFUSED  source sequence: {}: no file is called '*.png'",
        ),
        (
            '[[source]]\nkind = "sensor"\npath = "v.csv"\nwindow = 8\nrate_hz = 1\n',
            "REFUSED  source sensor: {}/v.csv: is not there",
        ),
        (
            '[[source]]\nkind = "sensor"\nname = "dir"\npath = "d.csv"\nwindow = 8\nrate_hz = 1\n',
            "REFUSED  source dir: {}/d.csv: not a regular file",
        ),
        (
            '[[source]]\nkind = "sensor"\npath = "x.npz"\nwindow = 8\nrate_hz = 1\n',
            (
                "REFUSED  source sensor: source 'sensor' brings windows of 8 readings, and the"
                " bundle takes uint8 NHW of shape (28, 28)"
            ),
        ),
        (
            '[[sink]]\nkind = "jsonl"\nname = "log"\npath = "gone/out.jsonl"\n',
            "REFUSED  sink log: {}/gone: no folder that this user can write, for out.jsonl",
        ),
        (
            '[control]\nlisten = "unix:gone/s.sock"\n',
            "REFUSED  control: {}/gone: no folder that this user can write, for the socket s.sock",
        ),
        (
            '[control]\ntoken_file = "token"\n',
            (
                "REFUSED  control: {}/token: the secret in it cannot be read: No such file or"
                " directory"
            ),
        ),
    ],
)
def test_what_a_source_a_sink_or_the_control_interface_lacks_is_2(
    edgeadapt: Shell, tmp_path: Path, signed: Path, extra: str, line: str
) -> None:
    (tmp_path / "d.csv").mkdir()
    out = edgeadapt("serve", config(tmp_path, signed, extra), "--check", code=2)
    assert line.format(tmp_path) in out.splitlines()
    assert edgeadapt.error == f"edgeadapt: error: {line.format(tmp_path).partition(': ')[2]}\n"


@needs_daemon
@pytest.mark.parametrize(
    ("file", "line"),
    [
        ("/dev/video777", "/dev/video777: is not there"),
        ("camera:777", "/dev/video777: is not there"),
        ("/dev/fd", "/dev/fd: not a device"),
    ],
)
def test_a_camera_that_is_not_there_is_2(
    edgeadapt: Shell, tmp_path: Path, signed: Path, file: str, line: str
) -> None:
    pytest.importorskip("cv2")
    extra = '[[source]]\nkind = "video"\nname = "door"\nfile = "{}"\n'
    assert (
        f"REFUSED  source door: {line}"
        in edgeadapt(
            "serve", config(tmp_path, signed, extra.format(file)), "--check", code=2
        ).splitlines()
    )
    there = edgeadapt(
        "serve", config(tmp_path, signed, extra.format("/dev/null")), "--check"
    ).splitlines()
    assert "ok       source door: camera /dev/null" in there


@needs_daemon
def test_a_package_that_is_not_installed_is_5_and_its_extra_is_named(
    edgeadapt: Shell, tmp_path: Path, signed: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = config(
        tmp_path, signed, '[[source]]\nkind = "video"\nurl = "rtsp://user:secret@camera/1"\n'
    )
    monkeypatch.setattr(sys, "path", [p for p in sys.path if not Path(p, "cv2").exists()])
    monkeypatch.delitem(sys.modules, "cv2", raising=False)
    out = edgeadapt("serve", path, "--check", code=5)
    assert (
        "REFUSED  source video: cv2 is not installed; this needs: pip install 'edgeadapt[video]'"
        in out
        and "secret" not in out
    )


@needs_daemon
@needs_pillow
@pytest.mark.parametrize("command", [("--check",), ()])
@pytest.mark.parametrize(
    ("missing", "extra", "needed"),
    [
        ("uvicorn", "", "pip install 'edgeadapt[daemon]'"),
        ("prometheus_client", "", "pip install 'edgeadapt[daemon]'"),
        (
            "paho",
            '[[source]]\nkind = "mqtt"\nhost = "localhost"\ntopic = "a"\nformat = "json"\n',
            "pip install 'edgeadapt[daemon]'",
        ),
        (
            "paho",
            '[[sink]]\nkind = "mqtt"\nhost = "localhost"\ntopic = "a"\n',
            "pip install 'edgeadapt[daemon]'",
        ),
        (
            "cv2",
            '[[source]]\nkind = "video"\nfile = "/dev/video0"\n',
            "pip install 'edgeadapt[video]'",
        ),
        ("PIL", '[[source]]\nkind = "folder"\npath = "."\n', "pip install 'edgeadapt[images]'"),
    ],
)
def test_serve_and_its_check_refuse_what_is_not_installed_alike(
    edgeadapt: Shell,
    tmp_path: Path,
    signed: Path,
    monkeypatch: pytest.MonkeyPatch,
    command: tuple[str, ...],
    missing: str,
    extra: str,
    needed: str,
) -> None:
    find = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util,
        "find_spec",
        lambda name, *more: None if name == missing else find(name, *more),
    )
    edgeadapt("serve", config(tmp_path, signed, extra), *command, code=5)
    assert (
        edgeadapt.error.endswith(f"{missing} is not installed; this needs: {needed}\n")
        and not (tmp_path / "state").exists()
    )


def test_without_a_control_interface_nothing_is_needed_for_it(
    edgeadapt: Shell, tmp_path: Path, signed: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    find = importlib.util.find_spec
    gone = ("starlette", "uvicorn", "prometheus_client", "psutil", "paho")
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, *more: None if name in gone else find(name, *more)
    )
    path = config(tmp_path, signed, '[control]\nlisten = ""\n')
    lines = edgeadapt("serve", path, "--check").splitlines()
    assert (
        "ok       packages: none is needed" in lines
        and "ok       control: switched off: no HTTP, no edgeadapt ctl, no page, no metrics"
        in lines
    )
    service = Service(load_settings(path))
    service.start()
    try:
        assert service.metrics is None and service.ready() == (True, "")
    finally:
        service.stop()


# -- ctl -------------------------------------------------------------------------------------------
QUESTION = {
    "id": "q1",
    "stream": "cam",
    "why": "shift 2.1 x threshold",
    "predicted": "Coat",
    "confidence": 0.41,
    "novelty": 1.5,
    "asked_at": 1.7e9,
    "image": "",
}
STATUS = {
    "bundle": {"name": "fashion", "version": 1},
    "classes": ["Coat", "Dress"],
    "is_frozen": False,
    "started_at": 1.7e9,
    "sources": [{"name": "cam", "state": "running", "error": ""}],
    "ratio": 1.0416666666,
}
QUALITY = {"accuracy": {"share": 0.9, "low": 0.7, "high": 0.97, "answers": 20}, "held_out": 0.95}
BOTH = STATUS | {"quality": QUALITY}  # what ``status`` prints
ANSWERS: dict[tuple[str, str], Any] = {
    ("GET", "/v1/status"): STATUS,
    ("GET", "/v1/quality"): QUALITY,
    ("GET", "/v1/questions"): {"questions": [QUESTION]},
    ("GET", "/v1/classes"): {"classes": ["Coat", "Ankle boot"]},
    ("GET", "/v1/history"): {
        "history": [
            {
                "number": 7,
                "time": 1.7e9,
                "kind": "learn",
                "outcome": "published",
                "detail": {"rows": 3},
            }
        ]
    },
    ("GET", "/v1/decisions"): {"decisions": []},
    ("POST", "/v1/labels"): {"learned": 1},
    ("POST", "/v1/forget"): {
        "removed": 3,
        "subtracted": 2,
        "snapshots": 1,
        "moved": 0,
        "exact": [],
        "unreachable": [],
    },
    ("POST", "/v1/rollback"): {"commit": 8},
    ("POST", "/v1/checkpoint"): {"commit": 8},
    ("POST", "/v1/swap"): {"name": "fashion", "version": 2},
    ("POST", "/v1/classes"): {"classes": ["Coat", "Bag"]},
    ("DELETE", "/v1/classes/Ankle%20boot%2Fred"): {"classes": ["Coat"]},
}
REFUSALS = {  # by the label that is sent
    "Hat": (422, {"error": "no class 'Hat'; did you mean 'Coat'?", "kind": "UnknownClassError"}, 2),
    "Full": (507, {"error": "the disk is full", "kind": "StorageError"}, 4),
    "Old": (409, {"error": "older than seen", "kind": "BundleError"}, 3),
    "Late": (503, {"error": "no answer within 10 s", "kind": "TimedOut"}, 1),
    "Bug": (500, {"error": "a fault of the daemon", "kind": "InternalError", "request": "ab12"}, 1),
    "Escape": (422, {"error": "no \x1b[2J class", "kind": "InputError"}, 2),
    "Odd": (404, {"error": "no such thing", "kind": "os.system"}, 2),
}


class Desk(BaseHTTPRequestHandler):
    """Speaks the daemon's paths, and keeps what was asked."""

    def log_message(self, *_: Any) -> None: ...

    def address_string(self) -> str:
        return "peer"

    def _answer(self) -> None:
        body = self.rfile.read(int(self.headers.get("content-length", 0)))
        sent = json.loads(body) if body else None
        server: Any = self.server
        server.asked.append((self.command, self.path, sent))
        path = self.path.partition("?")[0]
        label = sent["labels"][0]["label"] if path == "/v1/labels" else ""
        if server.token and self.headers.get("authorization") != f"Bearer {server.token}":
            self._tell(401, {"error": "send the token", "kind": "Unauthorized"})
        elif path == "/metrics":
            self._tell(200, b"edgeadapt_samples_total 3\n", "text/plain; version=0.0.4")
        elif path == "/healthz":
            self._tell(200, {"ok": True})
        elif path == "/readyz":
            self._tell(
                200 if server.is_ready else 503,
                {"ready": server.is_ready, "reason": "" if server.is_ready else "warming"},
            )
        elif label in REFUSALS:
            self._tell(*REFUSALS[label][:2])
        elif path in ("/v1/freeze", "/v1/pause"):
            self._tell(200, sent)
        elif (self.command, path) in ANSWERS:
            self._tell(200, ANSWERS[self.command, path])
        else:
            self._tell(404, {"error": f"no {path}", "kind": "NotFound"})

    do_GET = do_POST = do_DELETE = _answer

    def _tell(self, status: int, answer: Any, media: str = "application/json") -> None:
        data = answer if isinstance(answer, bytes) else json.dumps(answer).encode()
        self.send_response(status)
        self.send_header("content-type", media)
        self.send_header("content-length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)


class UnixServer(socketserver.ThreadingMixIn, socketserver.UnixStreamServer):
    daemon_threads = True


def serving(server: Any) -> Iterator[Any]:
    server.asked, server.token, server.is_ready = [], "", True
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@pytest.fixture
def daemon() -> Iterator[Any]:
    yield from serving(ThreadingHTTPServer(("127.0.0.1", 0), Desk))


@pytest.fixture
def ctl(edgeadapt: Shell, daemon: Any) -> Any:
    return lambda *arguments, code=0: edgeadapt(
        "ctl", "--url", f"http://127.0.0.1:{daemon.server_port}", *arguments, code=code
    )


@pytest.mark.parametrize(
    ("arguments", "asked"),
    [
        (("questions",), ("GET", "/v1/questions", None)),
        (("questions", "--limit", "7"), ("GET", "/v1/questions?limit=7", None)),
        (
            ("label", "q1", "Scarf", "--new"),
            (
                "POST",
                "/v1/labels",
                {"labels": [{"sample": "q1", "label": "Scarf"}], "source": "ctl"},
            ),
        ),
        (("classes",), ("GET", "/v1/classes", None)),
        (("classes", "--add", "Bag"), ("POST", "/v1/classes", {"name": "Bag"})),
        (
            ("classes", "--remove", "Ankle boot/red"),
            ("DELETE", "/v1/classes/Ankle%20boot%2Fred", None),
        ),
        (("history",), ("GET", "/v1/history", None)),
        (("decisions",), ("GET", "/v1/decisions", None)),
        (("forget", "q1", "a.png"), ("POST", "/v1/forget", {"samples": ["q1", "a.png"]})),
        (("forget", "--source", ""), ("POST", "/v1/forget", {"source": ""})),
        (
            (
                "forget",
                "--class",
                "Bag",
                "--class",
                "Ankle boot",
                "--after",
                "1700000000",
                "--before",
                "2033-05-18T03:33:20+00:00",
            ),
            (
                "POST",
                "/v1/forget",
                {"classes": ["Bag", "Ankle boot"], "before": 2e9, "after": 1.7e9},
            ),
        ),
        (("rollback", "7"), ("POST", "/v1/rollback", {"to": 7})),
        (("freeze",), ("POST", "/v1/freeze", {"frozen": True})),
        (("unfreeze",), ("POST", "/v1/freeze", {"frozen": False})),
        (("pause",), ("POST", "/v1/pause", {"paused": True})),
        (("resume",), ("POST", "/v1/pause", {"paused": False})),
        (("checkpoint",), ("POST", "/v1/checkpoint", None)),
        (("swap", "/srv/new.edge"), ("POST", "/v1/swap", {"bundle": "/srv/new.edge"})),
        (("metrics",), ("GET", "/metrics", None)),
    ],
)
def test_each_command_asks_its_path_and_prints_what_comes_back(
    ctl: Any, daemon: Any, arguments: tuple[str, ...], asked: tuple[str, str, Any]
) -> None:
    assert ctl(*arguments).strip()
    assert daemon.asked == [asked]
    method, path, sent = asked
    answer = json.loads(ctl(*arguments, "--json"))
    assert answer == ANSWERS.get(
        (method, path.partition("?")[0]), sent or {"metrics": "edgeadapt_samples_total 3\n"}
    )
    assert json.loads(ctl("--json", *arguments)) == answer


def test_status_is_what_the_page_shows_and_how_good_the_answers_are(ctl: Any, daemon: Any) -> None:
    assert json.loads(ctl("status", "--json")) == BOTH
    assert daemon.asked == [("GET", "/v1/status", None), ("GET", "/v1/quality", None)]


def test_a_label_of_a_known_class_is_given_and_one_of_an_unknown_class_is_asked_about_first(
    ctl: Any, edgeadapt: Shell, daemon: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    looked = ("GET", "/v1/classes", None)
    ctl("label", "a.png", "Ankle boot", "--source", "Ann")
    assert daemon.asked == [
        looked,
        (
            "POST",
            "/v1/labels",
            {"labels": [{"sample": "a.png", "label": "Ankle boot"}], "source": "Ann"},
        ),
    ]
    daemon.asked.clear()
    assert ctl("label", "q1", "Cooat", code=2) == "" and daemon.asked == [looked]
    assert "no class 'Cooat' yet, the closest is 'Coat': --new adds it" in edgeadapt.error

    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    for said, labels in (("y\n", 1), ("\n", 0), ("", 0)):
        daemon.asked.clear()
        monkeypatch.setattr(sys, "stdin", Terminal(said))
        cli.main(["ctl", "--url", f"http://127.0.0.1:{daemon.server_port}", "label", "q1", "Scarf"])
        assert sum(method == "POST" for method, _, _ in daemon.asked) == labels


def test_a_bundle_is_named_by_its_whole_path(
    ctl: Any, daemon: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    ctl("swap", "new.edge")
    assert daemon.asked == [("POST", "/v1/swap", {"bundle": os.path.join(os.getcwd(), "new.edge")})]


def test_a_person_reads_one_line_a_value_and_a_line_an_item(ctl: Any) -> None:
    status = dict(line.split(None, 1) for line in ctl("status").splitlines())
    assert (
        status["bundle.name"] == "fashion"
        and status["classes"] == "Coat, Dress"
        and status["is_frozen"] == "false"
    )
    assert (
        status["sources[0]"] == "name=cam state=running"
        and status["ratio"] == "1.04167"
        and status["started_at"].startswith("2023-11-1")
    )
    assert ctl("questions").startswith(
        'id=q1 stream=cam why="shift 2.1 x threshold" predicted=Coat confidence=0.41 novelty=1.5'
        " asked_at=2023-11-1"
    )
    assert ctl("classes") == 'Coat\n"Ankle boot"\n' and ctl("decisions") == "no decisions\n"


def test_nothing_that_a_terminal_would_obey_is_printed(
    ctl: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(
        ANSWERS, ("GET", "/v1/classes"), {"classes": ["Coat\x1b[2J", "a\nb", "Caf\u00e9"]}
    )
    assert ctl("classes") == '"Coat\\u001b[2J"\n"a\\nb"\nCaf\u00e9\n'


@pytest.mark.parametrize("label", REFUSALS)
def test_an_error_of_the_daemon_has_its_text_and_exit_code(
    ctl: Any, edgeadapt: Shell, label: str
) -> None:
    _, told, code = REFUSALS[label]
    assert ctl("label", "q1", label, "--new", code=code) == ""
    assert (
        told["error"].replace("\x1b", "") in edgeadapt.error
        and edgeadapt.error.strip().isprintable()
        and edgeadapt.error.startswith("edgeadapt: error: ")
        and edgeadapt.error.count("\n") == 1
    )
    assert told.get("request", "") in edgeadapt.error


def test_health_is_1_while_it_is_not_ready(ctl: Any, daemon: Any) -> None:
    assert json.loads(ctl("health", "--json")) == {
        "ok": True,
        "health": {"ok": True},
        "ready": {"ready": True, "reason": ""},
    }
    daemon.is_ready = False
    assert "warming" in ctl("health", code=1)


def test_the_token_is_read_from_its_file(
    ctl: Any, daemon: Any, edgeadapt: Shell, tmp_path: Path
) -> None:
    daemon.token = "s3cret"
    ctl("status", code=2)
    assert edgeadapt.error == "edgeadapt: error: send the token; pass --token-file\n"
    (tmp_path / "token").write_text("s3cret\n")
    assert "fashion" in ctl("--token-file", tmp_path / "token", "status")
    (tmp_path / "token").write_text("other\n")
    ctl("--token-file", tmp_path / "token", "status", code=2)
    assert edgeadapt.error == "edgeadapt: error: send the token\n"


def test_it_talks_over_a_unix_socket(edgeadapt: Shell, tmp_path: Path) -> None:
    for server in serving(UnixServer(str(tmp_path / "s"), Desk)):
        assert json.loads(edgeadapt("ctl", "--socket", tmp_path / "s", "status", "--json")) == BOTH
        assert edgeadapt("ctl", "--socket", tmp_path / "s", "rollback", "3").split() == [
            "commit",
            "8",
        ]
        assert server.asked[0::2] == [
            ("GET", "/v1/status", None),
            ("POST", "/v1/rollback", {"to": 3}),
        ]


def test_where_nobody_answers_the_code_is_1_and_the_address_is_named(
    edgeadapt: Shell, tmp_path: Path
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    edgeadapt("ctl", "--url", f"http://127.0.0.1:{port}", "status", code=1)
    assert (
        edgeadapt.error
        == f"edgeadapt: error: http://127.0.0.1:{port}: no daemon answers there: Connection"
        " refused; 'edgeadapt serve' starts one\n"
    )
    edgeadapt("ctl", "--socket", tmp_path / "none", "status", code=1)
    assert (
        f"unix:{tmp_path}/none: no daemon answers there: No such file or directory"
        in edgeadapt.error
    )


def test_something_that_is_no_daemon_is_1(edgeadapt: Shell) -> None:
    def chat(listener: socket.socket) -> None:
        peer, _ = listener.accept()
        with peer:
            peer.recv(1000)
            peer.sendall(b"220 mail.example ESMTP\r\n")

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=chat, args=(listener,))
        thread.start()
        edgeadapt("ctl", "--url", f"http://127.0.0.1:{listener.getsockname()[1]}", "status", code=1)
        thread.join()
    assert "no daemon answers there" in edgeadapt.error


@pytest.mark.parametrize(
    "arguments",
    [
        (),
        ("frobnicate",),
        ("label", "q1"),
        ("rollback", "-1"),
        ("rollback",),
        ("forget", "--before", "yesterday"),
        ("forget", "--after", "2026-13-01"),
        ("questions", "--limit", "0"),
        ("classes", "--add", "a", "--remove", "b"),
        ("--url", "http://a", "--socket", "b", "status"),
        ("--url", "ftp://a", "status"),
        ("--url", "http://a:b", "status"),
        ("--url", "localhost:8420", "status"),
    ],
)
def test_wrong_usage_is_2(edgeadapt: Shell, arguments: tuple[str, ...]) -> None:
    edgeadapt("ctl", *arguments, code=2)


# -- both ------------------------------------------------------------------------------------------
@needs_daemon
def test_a_daemon_is_started_asked_and_ended(
    edgeadapt: Shell, capsys: pytest.CaptureFixture[str], tmp_path: Path, signed: Path
) -> None:
    path = config(tmp_path, signed, '[control]\nlisten = "unix:s"\n')
    ctl = ("ctl", "--socket", str(tmp_path / "s"))
    with open(tmp_path / "log", "w") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "edgeadapt", "serve", str(path)], stderr=log
        )
    try:
        wait_for(
            process,
            tmp_path / "log",
            lambda: (tmp_path / "s").exists() and cli.main([*ctl, "health"]) == 0,
        )
        wait_for(
            process,
            tmp_path / "log",
            lambda: (
                (tmp_path / "out.jsonl").exists() and len(read_names(tmp_path / "out.jsonl")) == 3
            ),
        )
        capsys.readouterr()
        assert edgeadapt(*ctl, "freeze") == f"{'frozen':<32} true\n"
        assert edgeadapt(*ctl, "classes").startswith("T-shirt/top\n") and json.loads(
            edgeadapt(*ctl, "status", "--json")
        )
        edgeadapt("serve", path, "--check", code=4)
        edgeadapt("serve", path, "--check", "--reload")
        process.terminate()
        assert process.wait(20) == 0, (tmp_path / "log").read_text()
        assert f"ctl --socket {tmp_path / 's'} status" in (tmp_path / "log").read_text()
    finally:
        process.kill()
        process.wait()
    assert read_names(tmp_path / "out.jsonl") == {"0", "1", "2"}
    edgeadapt(*ctl, "status", code=1)


def read_names(path: Path) -> set[str]:
    return {
        event["name"]
        for line in path.read_text().splitlines()
        if (event := json.loads(line)).get("event") == "answer"
    }


def wait_for(process: subprocess.Popen[bytes], log: Path, is_so: Callable[[], bool]) -> None:
    end = time.monotonic() + 60
    while not is_so():
        assert process.poll() is None and time.monotonic() < end, log.read_text()
        time.sleep(0.1)
