"""What systemd hears, through real datagram sockets, named and abstract."""

from __future__ import annotations

import os
import secrets
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from edgeadapt.daemon.monitoring.systemd_notify import Notify


@pytest.fixture(params=["named", "abstract"])
def systemd(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[tuple[socket.socket, str]]:
    """A socket, and what NOTIFY_SOCKET says of it."""
    name = (
        f"@edgeadapt-{secrets.token_hex(8)}"
        if request.param == "abstract"
        else str(tmp_path / "notify")
    )
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as heard:
        heard.bind(name.replace("@", "\0", 1) if request.param == "abstract" else name)
        heard.settimeout(5.0)
        yield heard, name


def test_every_state_is_one_datagram_of_lines(systemd: tuple[socket.socket, str]) -> None:
    heard, name = systemd
    notify = Notify({"NOTIFY_SOCKET": name})
    notify.ready("answering\nwith fashion 1")
    notify.status("half way")
    before = time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000
    notify.reloading()
    notify.stopping()
    said = [heard.recv(4096).decode() for _ in range(4)]
    assert (
        said[0] == "READY=1\nSTATUS=answering with fashion 1"
        and said[1] == "STATUS=half way"
        and said[3] == "STOPPING=1"
    )
    first, second = said[2].split("\n")
    assert (
        first == "RELOADING=1"
        and second.startswith("MONOTONIC_USEC=")
        and 0 <= int(second.partition("=")[2]) - before < 5_000_000
    )


def test_the_watchdog_is_told_at_half_its_interval_however_often_the_loop_turns(
    systemd: tuple[socket.socket, str],
) -> None:
    heard, name = systemd
    notify = Notify(
        {"NOTIFY_SOCKET": name, "WATCHDOG_USEC": "400000", "WATCHDOG_PID": str(os.getpid())}
    )
    end = time.monotonic() + 1.1
    while time.monotonic() < end:
        notify.beat()
        time.sleep(0.002)
    heard.setblocking(False)
    beats = 0
    with pytest.raises(BlockingIOError):
        while True:
            assert heard.recv(4096) == b"WATCHDOG=1"
            beats += 1
    assert 3 <= beats <= 6


@pytest.mark.parametrize(
    "environment",
    [
        {},
        {"WATCHDOG_USEC": "1000000", "WATCHDOG_PID": "1"},
        {"WATCHDOG_USEC": "soon"},
        {"WATCHDOG_USEC": "0"},
    ],
)
def test_a_watchdog_of_nobody_or_of_another_process_hears_nothing(
    systemd: tuple[socket.socket, str], environment: dict[str, str]
) -> None:
    heard, name = systemd
    Notify({"NOTIFY_SOCKET": name, **environment}).beat()
    heard.setblocking(False)
    with pytest.raises(BlockingIOError):
        heard.recv(4096)


def test_a_watchdog_without_a_pid_is_ours(systemd: tuple[socket.socket, str]) -> None:
    heard, name = systemd
    Notify({"NOTIFY_SOCKET": name, "WATCHDOG_USEC": "1000000"}).beat()
    assert heard.recv(4096) == b"WATCHDOG=1"


@pytest.mark.parametrize(
    "environment",
    [
        {},
        {"NOTIFY_SOCKET": ""},
        {"NOTIFY_SOCKET": "/nowhere/at/all"},
        {"NOTIFY_SOCKET": "relative"},
    ],
)
def test_without_a_supervisor_nothing_is_sent_and_nothing_fails(
    environment: dict[str, str],
) -> None:
    assert not Notify(environment).send("READY=1")


def test_a_supervisor_that_does_not_read_does_not_hold_the_loop_up(
    systemd: tuple[socket.socket, str],
) -> None:
    _, name = systemd
    notify = Notify({"NOTIFY_SOCKET": name})
    started = time.monotonic()
    sent = [notify.status("x" * 1000) or notify.send("STATUS=full") for _ in range(2000)]
    assert not all(sent) and time.monotonic() - started < 5.0


def test_the_environment_of_the_process_is_read_by_default(
    systemd: tuple[socket.socket, str],
) -> None:
    heard, name = systemd
    code = "from edgeadapt.daemon.monitoring.systemd_notify import Notify; Notify().ready('up')"
    subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "NOTIFY_SOCKET": name},
        check=True,
        timeout=60,
    )
    assert heard.recv(4096) == b"READY=1\nSTATUS=up"
