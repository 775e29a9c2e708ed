"""The systemd unit is valid and tight, and the daemon answers, learns and stops under what the unit
forbids.
"""

from __future__ import annotations

import ctypes.util
import http.client
import importlib.util
import io
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
from confined import allowed_calls, directives

from edgeadapt.cli import _parser
from edgeadapt.daemon.config.loader import load_settings
from edgeadapt.daemon.config.schema import Settings
from edgeadapt.demo.sample import bundle_path

ROOT = Path(__file__).parents[2]
SYSTEMD = ROOT / "deploy" / "systemd"
GPU = ROOT / "deploy" / "jetson" / "gpu.conf"
UNIT, CONFIG = SYSTEMD / "edgeadapt.service", SYSTEMD / "edgeadapt.toml"
HAS_DAEMON = all(
    importlib.util.find_spec(name) is not None
    for name in ("starlette", "uvicorn", "prometheus_client", "PIL")
)
needs_daemon = pytest.mark.skipif(not HAS_DAEMON, reason="needs the daemon and images extras")
needs_systemd = pytest.mark.skipif(
    shutil.which("systemd-analyze") is None, reason="needs systemd-analyze"
)
needs_seccomp = pytest.mark.skipif(
    ctypes.util.find_library("seccomp") is None, reason="needs libseccomp"
)
MOST_EXPOSED = 15  # tenths, as --threshold counts; systemd calls up to 20 safe


@pytest.fixture
def unit(tmp_path: Path) -> Path:
    """The unit with a program that is here."""
    path = tmp_path / UNIT.name
    path.write_text(UNIT.read_text().replace("/opt/edgeadapt/bin/edgeadapt", sys.executable))
    return path


@needs_systemd
def test_systemd_finds_nothing_to_say_about_the_unit(unit: Path) -> None:
    done = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", unit],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


@needs_systemd
def test_what_the_unit_has_commented_out_is_valid_too(unit: Path) -> None:
    text, count = re.subn(r"^#(?=[A-Z]\w+=)", "", unit.read_text(), flags=re.MULTILINE)
    assert count >= 8
    unit.write_text(text)
    done = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", unit],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


@needs_systemd
def test_a_service_on_a_gpu_has_a_folder_for_its_engines_and_may_build_them_first(
    unit: Path,
) -> None:
    """The drop-in laid over the unit, with what it has commented out; the command is one that the
    command line takes.
    """
    text = GPU.read_text()
    assert "CacheDirectory=edgeadapt\n" in text and "/var/cache/edgeadapt" in text
    whole = re.sub(r"^#(?=[A-Z]\w+=)", "", text, flags=re.MULTILINE)
    arguments = re.search(r"^ExecStartPre=-/opt/edgeadapt/bin/edgeadapt (.+)$", whole, re.MULTILINE)
    assert arguments and _parser(["build"]).parse_args(arguments[1].split()).call.endswith(
        "commands.build:build"
    )
    unit.write_text(
        unit.read_text() + whole.replace("/opt/edgeadapt/bin/edgeadapt", sys.executable)
    )
    done = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", unit],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


@needs_systemd
def test_systemd_would_say_something_about_a_unit_that_is_wrong(unit: Path) -> None:
    unit.write_text(
        unit.read_text().replace("ProtectSystem=strict", "ProtectSystem=very")
        + "\n[Service]\nWatchdog=30\n"
    )
    done = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", unit],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert "ProtectSystem" in done.stderr and "Watchdog" in done.stderr


@needs_systemd
def test_the_unit_is_hardened_beyond_what_systemd_calls_safe(unit: Path) -> None:
    command = [
        "systemd-analyze",
        "security",
        "--offline=true",
        f"--threshold={MOST_EXPOSED}",
        "--no-pager",
        unit,
    ]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_unit_says_how_it_is_watched_reloaded_and_stopped() -> None:
    said = directives(UNIT)
    expected = {
        "Type": "notify",
        "NotifyAccess": "main",
        "WatchdogSec": "30",
        "Restart": "on-failure",
        "TimeoutStopSec": "10",
        "User": "edgeadapt",
        "StateDirectory": "edgeadapt",
        "StateDirectoryMode": "0700",
        "ExecReload": "/usr/bin/kill -HUP $MAINPID",
        "StartLimitIntervalSec": "0",
    }
    assert {key: said[key] for key in expected} == {key: [value] for key, value in expected.items()}
    assert said["Environment"] == ["OMP_NUM_THREADS=1", "MALLOC_ARENA_MAX=1"]


# -- the settings beside it ------------------------------------------------------------------------
def settings_of(text: str, folder: Path) -> Settings:
    (folder / "state").mkdir(exist_ok=True)
    path = folder / "edgeadapt.toml"
    path.write_text(text.replace("/var/lib/edgeadapt", str(folder / "state")))
    return load_settings(path)


def test_the_settings_beside_the_unit_live_in_the_folders_that_it_makes(tmp_path: Path) -> None:
    said, found = directives(UNIT), settings_of(CONFIG.read_text(), tmp_path)
    assert found.trust and found.unsigned == "refuse" and found.control.is_local
    assert str(found.control.socket) == f"/run/{said['RuntimeDirectory'][0]}/edgeadapt.sock"
    assert f'state = "/var/lib/{said["StateDirectory"][0]}/state"' in CONFIG.read_text()
    assert f'path = "/var/log/{said["LogsDirectory"][0]}/answers.jsonl"' in CONFIG.read_text()
    assert said["ExecStart"][0].endswith(
        f"serve /etc/{said['ConfigurationDirectory'][0]}/edgeadapt.toml"
    )


def test_every_setting_that_is_commented_out_is_one_and_shows_its_default(tmp_path: Path) -> None:
    text = CONFIG.read_text()
    plain = settings_of(text, tmp_path)
    listens = re.compile(r"^#?listen = .*\n", re.MULTILINE)
    full = settings_of(listens.sub("", re.sub(r"^#(?=\S)", "", text, flags=re.MULTILINE)), tmp_path)
    assert (
        [source.name for source in full.source] == ["door", "motor", "camera", "press"]
        and full.policy.questions_per_day == 20
        and full.control.token_file is not None
    )
    shown = {"temperature_c": 85, "power_w": 15, "rate_hz": 30}  # have no default
    for section in ("budget", "keep", "loop", "metrics"):
        for key in getattr(plain, section).__struct_fields__:
            assert re.search(rf"^#{key} = ", text, re.MULTILINE), f"{section}.{key} is not shown"
            assert getattr(getattr(full, section), key) == shown.get(
                key, getattr(getattr(plain, section), key)
            ), key
    assert (full.control.max_body_mib, full.control.timeout_s, full.runtime) == (
        plain.control.max_body_mib,
        plain.control.timeout_s,
        plain.runtime,
    )
    for address in re.findall(r"^#?(listen = \"[^\"]+\")", text, re.MULTILINE):
        settings_of(
            listens.sub("", text).replace(
                "[control]", f'[control]\n{address}\ntoken_file = "/etc/token"'
            ),
            tmp_path,
        )


# -- the daemon in it ------------------------------------------------------------------------------
@needs_systemd
def test_the_filter_lets_through_what_is_used_and_not_what_is_dangerous() -> None:
    calls = allowed_calls(directives(UNIT)["SystemCallFilter"])
    assert {"read", "futex", "fsync", "epoll_wait", "setpriority", "execve"} <= calls
    assert (
        not {
            "ptrace",
            "mount",
            "bpf",
            "chown",
            "setuid",
            "reboot",
            "sched_setaffinity",
            "init_module",
        }
        & calls
    )


def posted_large_picture(port: int) -> int:
    from PIL import Image

    file = io.BytesIO()
    Image.new("RGB", (1600, 1200)).save(file, "JPEG")
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    connection.request("POST", "/v1/predict", file.getvalue(), {"content-type": "image/jpeg"})
    status = connection.getresponse().status
    connection.close()
    return status


@needs_daemon
@needs_systemd
@needs_seccomp
def test_the_daemon_answers_learns_and_stops_in_time_under_what_the_unit_forbids(
    tmp_path: Path,
) -> None:
    with (
        socket.socket(socket.AF_INET) as free,
        socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as supervisor,
    ):
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
        supervisor.bind(str(tmp_path / "notify"))
        supervisor.settimeout(60)
        free.close()
        config = tmp_path / "serve.toml"
        config.write_text(
            f'bundle = "{bundle_path()}"\nstate = "state"\nunsigned ='
            ' "accept"\n[policy]\nnew_classes = "add"\n[budget]\np99_ratio ='
            f' 1000\n[control]\nlisten = "127.0.0.1:{port}"\n[[sink]]\nkind = "jsonl"\npath ='
            ' "answers.jsonl"\n'
        )
        command = [
            sys.executable,
            Path(__file__).with_name("confined.py"),
            UNIT,
            sys.executable,
            "-m",
            "edgeadapt",
            "serve",
            config,
        ]
        environment = {
            **os.environ,
            "NOTIFY_SOCKET": str(tmp_path / "notify"),
            "WATCHDOG_USEC": "1000000",
        }
        with subprocess.Popen(
            command, env=environment, stderr=subprocess.PIPE, text=True
        ) as daemon:
            try:
                while not (said := supervisor.recv(1000)).startswith(b"READY=1"):
                    assert said == b"WATCHDOG=1", daemon.poll()
                example = [
                    sys.executable,
                    ROOT / "examples" / "http_labels.py",
                    "--url",
                    f"http://127.0.0.1:{port}",
                ]
                told = subprocess.run(
                    example, capture_output=True, text=True, timeout=120, check=True
                ).stdout
                # read in a child, which sets limits of its own
                assert posted_large_picture(port) == 200
                status = Path(f"/proc/{daemon.pid}/status").read_text()
                assert re.search(r"^NoNewPrivs:\s+1$", status, re.MULTILINE) and re.search(
                    r"^Seccomp:\s+2$", status, re.MULTILINE
                )
                assert supervisor.recv(1000) == b"WATCHDOG=1"
            finally:
                asked = time.monotonic()
                daemon.send_signal(signal.SIGTERM)
                _, log = daemon.communicate(timeout=30)
    assert daemon.returncode == 0 and time.monotonic() - asked < 5, log
    assert int(re.findall(r"(\d+) questions answered", told)[0]) >= 5
    assert "Permission" not in log and "not permitted" not in log and "Traceback" not in log, log
    assert (tmp_path / "state").stat().st_mode & 0o777 == 0o700
    assert (tmp_path / "answers.jsonl").stat().st_mode & 0o777 == 0o600 and len(
        (tmp_path / "answers.jsonl").read_text().splitlines()
    ) >= 600
