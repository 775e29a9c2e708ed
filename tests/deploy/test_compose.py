"""The container files and the composition say what keeps them safe, name what is there, and fit
each other. No engine runs here: nothing is built.
"""

from __future__ import annotations

import json
import re
import shutil
import signal
import socket
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest

from edgeadapt.cli import _parser
from edgeadapt.daemon.config.loader import load_settings

yaml = pytest.importorskip("yaml")
ROOT = Path(__file__).parents[2]
COMPOSE, CONTAINER = ROOT / "deploy" / "compose", ROOT / "deploy" / "container"
FILE: dict[str, Any] = yaml.safe_load((COMPOSE / "compose.yaml").read_text())
SERVICES: dict[str, dict[str, Any]] = FILE["services"]
CONTAINERFILES = [CONTAINER / "Containerfile.cpu", CONTAINER / "Containerfile.jetson"]
PINNED = re.compile(r"[a-z0-9.]+/[a-z0-9/_-]+:r?v?\d+\.\d+(\.\d+)?(-[a-z0-9-]+)?")
MADE_BY_HAND = ("./model", "./secrets/")  # a key, a token and a bundle are nobody's but the owner's
_LONG = {
    "build",
    "image",
    "restart",
    "read_only",
    "cap_drop",
    "security_opt",
    "tmpfs",
    "stop_grace_period",
    "ports",
    "volumes",
    "secrets",
    "healthcheck",
    "command",
    "environment",
    "depends_on",
    "profiles",
    "user",
}


# -- the composition -------------------------------------------------------------------------------
@pytest.mark.parametrize("name", SERVICES)
def test_a_service_is_pinned_confined_and_watched(name: str) -> None:
    service = SERVICES[name]
    assert set(service) <= _LONG  # a key that is misspelled is one that compose refuses
    assert PINNED.fullmatch(service["image"]) or service["image"] == f"edgeadapt:{_version()}"
    assert (
        service["read_only"] is True
        and service["cap_drop"] == ["ALL"]
        and service["security_opt"] == ["no-new-privileges:true"]
    )
    assert (
        service["healthcheck"]["test"][0] in ("CMD", "CMD-SHELL")
        and service["healthcheck"]["interval"]
        and service["restart"] == "unless-stopped"
    )
    assert all(re.fullmatch(r"127\.0\.0\.1:(\d+):\1", port) for port in service["ports"])


def test_every_file_volume_and_secret_that_is_named_is_there() -> None:
    mounts = [mount for service in SERVICES.values() for mount in service["volumes"]]
    named = {mount.split(":")[0] for mount in mounts}
    files = {path for path in named if path.startswith(".")}
    assert named - files == set(FILE["volumes"])
    assert [
        path
        for path in files
        if not path.startswith(MADE_BY_HAND) and not (COMPOSE / path).exists()
    ] == []
    assert all(mount.endswith(":ro") for mount in mounts if mount.startswith("."))
    assert {secret for service in SERVICES.values() for secret in service["secrets"]} == set(
        FILE["secrets"]
    )
    assert all(secret["file"].startswith(MADE_BY_HAND) for secret in FILE["secrets"].values())
    ignored = (ROOT / "deploy" / ".gitignore").read_text().splitlines()
    assert {"compose/secrets/", "compose/model/"} <= set(ignored)


def test_ports_are_open_once_and_belong_to_what_listens(tmp_path: Path) -> None:
    published = [port.split(":")[1] for service in SERVICES.values() for port in service["ports"]]
    assert len(set(published)) == len(published)
    settings = load_settings(_settings(tmp_path))
    assert (
        settings.control.address == ("0.0.0.0", 8420)
        and "127.0.0.1:8420:8420" in SERVICES["edgeadapt"]["ports"]
    )
    assert yaml.safe_load((COMPOSE / "prometheus.yml").read_text())["scrape_configs"][0][
        "static_configs"
    ] == [{"targets": ["edgeadapt:8420"]}]
    assert (
        "listener 1883" in (COMPOSE / "mosquitto.conf").read_text()
        and "127.0.0.1:1883:1883" in SERVICES["mosquitto"]["ports"]
    )


def test_the_daemon_gets_what_its_settings_name(tmp_path: Path) -> None:
    settings = load_settings(_settings(tmp_path))
    service = SERVICES["edgeadapt"]
    assert (
        str(settings.control.token_file) == "/run/secrets/edgeadapt_token"
        and "edgeadapt_token" in service["secrets"]
    )
    assert (
        settings.unsigned == "refuse"
        and str(settings.bundle).startswith("/etc/edgeadapt/model/")
        and settings.trust
    )
    assert (
        "./model:/etc/edgeadapt/model:ro" in service["volumes"]
        and "state:/var/lib/edgeadapt" in service["volumes"]
    )
    assert (
        COMPOSE / service["build"]["context"] / service["build"]["dockerfile"]
    ).resolve() == CONTAINERFILES[0]


def test_the_source_that_is_commented_out_speaks_to_the_broker_beside_it(tmp_path: Path) -> None:
    path = _settings(tmp_path)
    path.write_text(re.sub(r"^#(?=\S)", "", path.read_text(), flags=re.MULTILINE))
    (source,) = load_settings(path).source
    assert (source.host, source.port) == ("mosquitto", 1883)


def _settings(folder: Path) -> Path:
    """The settings, with a state folder whose parent is there."""
    path = folder / "edgeadapt.toml"
    path.write_text(
        (COMPOSE / "edgeadapt.toml").read_text().replace("/var/lib/edgeadapt", str(folder))
    )
    return path


def _version() -> str:
    found = re.search(r'^version = "(.+)"$', (ROOT / "pyproject.toml").read_text(), re.MULTILINE)
    assert found is not None
    return found.group(1)


# -- the container files ---------------------------------------------------------------------------
def instructions(path: Path) -> list[tuple[str, str]]:
    text = re.sub(r"^#.*\n", "", path.read_text(), flags=re.MULTILINE)
    return [
        (word, rest)
        for word, _, rest in (
            line.partition(" ") for line in re.sub(r"\s*\\\n\s*", " ", text).strip().splitlines()
        )
        if word
    ]


@pytest.mark.parametrize("path", CONTAINERFILES, ids=lambda path: path.name)
def test_a_container_file_is_pinned_runs_as_nobody_special_and_is_watched(path: Path) -> None:
    said = instructions(path)
    assert {word for word, _ in said} <= {
        "FROM",
        "RUN",
        "COPY",
        "WORKDIR",
        "ENV",
        "USER",
        "VOLUME",
        "EXPOSE",
        "STOPSIGNAL",
        "HEALTHCHECK",
        "CMD",
    }
    assert all(PINNED.fullmatch(rest.split()[0]) for word, rest in said if word == "FROM")
    last = said[max(n for n, (word, _) in enumerate(said) if word == "FROM") :]
    assert ("USER", "482:482") in last and last.index(("USER", "482:482")) > max(
        n for n, (word, _) in enumerate(last) if word == "RUN"
    )
    assert (
        ("VOLUME", "/var/lib/edgeadapt") in last
        and ("EXPOSE", "8420") in last
        and last[-1][0] == "CMD"
    )
    assert all(
        found in dict(last)["ENV"].split() for found in ("OMP_NUM_THREADS=1", "MALLOC_ARENA_MAX=1")
    )
    assert any(
        "[daemon,images]" in rest and "/wheels/edgeadapt-*.whl" in rest
        for word, rest in last
        if word == "RUN"
    )
    assert "sudo" not in path.read_text() and "ADD " not in path.read_text()


@pytest.mark.parametrize("path", CONTAINERFILES, ids=lambda path: path.name)
def test_what_a_container_runs_is_a_command_of_ours(path: Path) -> None:
    said = dict(instructions(path))
    checked = json.loads(said["HEALTHCHECK"].partition("CMD ")[2])
    for command in (checked, json.loads(said["CMD"])):
        assert command[0] == "edgeadapt"
        _parser(command[1:2]).parse_args(command[1:])
    if path == CONTAINERFILES[0]:
        assert SERVICES["edgeadapt"]["healthcheck"]["test"] == ["CMD", *checked]


@pytest.mark.parametrize("path", CONTAINERFILES, ids=lambda path: path.name)
def test_what_is_copied_is_there_and_not_kept_out(path: Path) -> None:
    copied = [
        name
        for word, rest in instructions(path)
        if word == "COPY" and "--from" not in rest
        for name in rest.split()[:-1]
    ]
    let_in = {
        line[1:]
        for line in Path(f"{path}.dockerignore").read_text().splitlines()
        if line.startswith("!")
    }
    assert copied and set(copied) == let_in and all((ROOT / name).exists() for name in copied)


def test_the_jetson_file_says_that_nobody_has_built_it() -> None:
    assert "NOT BUILT AND NOT RUN BY US" in CONTAINERFILES[1].read_text()
    assert "Not built by us" in CONTAINERFILES[0].read_text()


@pytest.mark.parametrize("page", sorted((ROOT / "deploy").glob("*.md")), ids=lambda page: page.name)
def test_links_and_files_of_a_page_are_there(page: Path) -> None:
    text = page.read_text()
    assert [
        link for link in re.findall(r"\]\(([^)#]+)\)", text) if not (page.parent / link).exists()
    ] == []
    assert [
        name
        for name in re.findall(r"^install -Dm 644 (\S+)", text, re.MULTILINE)
        if not (ROOT / name).exists()
    ] == []


# -- the broker ------------------------------------------------------------------------------------
@pytest.mark.skipif(
    shutil.which("mosquitto") is None or shutil.which("mosquitto_passwd") is None,
    reason="needs mosquitto",
)
def test_a_real_mosquitto_takes_its_settings_and_refuses_whoever_has_no_password(
    tmp_path: Path,
) -> None:
    passwords = tmp_path / "passwords"
    subprocess.run(
        ["mosquitto_passwd", "-b", "-c", passwords, "camera", "secret"],
        check=True,
        capture_output=True,
        timeout=30,
    )
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    text = (COMPOSE / "mosquitto.conf").read_text()
    config = tmp_path / "mosquitto.conf"
    config.write_text(
        text.replace("listener 1883", f"listener {port} 127.0.0.1")
        .replace("/run/secrets/mosquitto_passwords", str(passwords))
        # it steps down from root, to a user who may not enter this folder
        .replace("persistence true", "persistence false")
        + "user root\n"
    )
    with subprocess.Popen(["mosquitto", "-c", config], stderr=subprocess.PIPE, text=True) as broker:
        try:
            assert _connected(port, b"") == 5  # not authorised
            assert _connected(port, b"camera", b"wrong") == 5
            assert _connected(port, b"camera", b"secret") == 0
        finally:
            broker.send_signal(signal.SIGTERM)
            _, log = broker.communicate(timeout=10)
    assert "Unknown configuration variable" not in log, log


def _connected(port: int, user: bytes, password: bytes = b"") -> int:
    """The code with which a broker answers CONNECT of MQTT 3.1.1."""

    def field(text: bytes) -> bytes:
        return len(text).to_bytes(2, "big") + text

    body = (
        field(b"MQTT")
        + bytes([4, 0xC2 if user else 0x02, 0, 60])
        + field(b"test")
        + (field(user) + field(password) if user else b"")
    )
    end = time.monotonic() + 10
    while True:
        try:
            with socket.create_connection(("127.0.0.1", port), timeout=5) as peer:
                peer.sendall(bytes([0x10, len(body)]) + body)
                return peer.recv(4)[3]
        except ConnectionRefusedError:
            assert time.monotonic() < end
            time.sleep(0.05)
