"""The control interface over https: who is answered, who is told no, and a certificate that is
replaced.
"""

from __future__ import annotations

import datetime
import http.client
import ipaddress
import re
import socket
import ssl
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from command_line import Shell
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from edgeadapt.daemon.config.certificate import Certificate
from edgeadapt.daemon.config.loader import load_settings
from edgeadapt.daemon.config.schema import ControlSection, Settings
from edgeadapt.daemon.service import Service
from edgeadapt.errors import RecipeError

pytest.importorskip("edgeadapt.daemon.http.server")  # with starlette and uvicorn
TOKEN = "a token of the tests"


def make(folder: Path, number: int = 1, *, days: float = 25_000) -> ControlSection:
    """A certificate for loopback that vouches for itself, with a serial number, and a token."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "edge")])
    start = datetime.datetime(2020, 1, 1)
    builder = x509.CertificateBuilder(
        name,
        name,
        key.public_key(),
        number,
        start,
        datetime.datetime.now() + datetime.timedelta(days=days),
    )
    alternatives = x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))])
    signed = builder.add_extension(alternatives, critical=False).sign(key, hashes.SHA256())
    (folder / "cert.pem").write_bytes(signed.public_bytes(serialization.Encoding.PEM))
    pem = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    (folder / "key.pem").write_bytes(pem)
    (folder / "key.pem").chmod(0o600)
    (folder / "token").write_text(f"{TOKEN}\n")
    return ControlSection(
        listen="127.0.0.1:0",
        token_file=folder / "token",
        certificate=folder / "cert.pem",
        key=folder / "key.pem",
    )


def place_of(service: Service) -> tuple[str, int]:
    assert service.control is not None and service.control.url.startswith("https://127.0.0.1:")
    return "127.0.0.1", int(service.control.url.rpartition(":")[2])


def serial_of(service: Service) -> int:
    pem = ssl.get_server_certificate(place_of(service), timeout=10)
    return x509.load_pem_x509_certificate(pem.encode()).serial_number


@pytest.fixture
def secured(
    serve: Callable[..., Service], settings: Callable[..., Settings], tmp_path: Path
) -> Service:
    made = settings(control=make(tmp_path))
    return serve(made, reread=lambda: made)


def test_page_and_ctl_speak_https_and_silence_before_the_handshake_locks_nobody_out(
    secured: Service, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    held = [socket.create_connection(place_of(secured)) for _ in range(300)]
    trusting = ssl.create_default_context(cafile=tmp_path / "cert.pem")
    connection = http.client.HTTPSConnection(*place_of(secured), timeout=10, context=trusting)
    connection.request("GET", "/")
    page = connection.getresponse()
    assert page.status == 200 and page.read().startswith(b"<!doctype html>")
    connection.request(
        "GET",
        "/v1/classes",
        headers={
            "Authorization": f"Bearer {TOKEN}",
            "Origin": f"https://127.0.0.1:{place_of(secured)[1]}",
        },
    )
    assert connection.getresponse().status == 200
    connection.close()
    shell, url = Shell(capsys), "https://{}:{}".format(*place_of(secured))
    asked = ("ctl", "--url", url, "--token-file", tmp_path / "token")
    assert '"ok": true' in shell(*asked, "--ca-file", tmp_path / "cert.pem", "--json", "health")
    shell(*asked, "health", code=1)
    assert "not trusted" in shell.error and "--ca-file" in shell.error
    shell(
        "ctl",
        "--url",
        url.replace("https", "http"),
        "--token-file",
        tmp_path / "token",
        "health",
        code=1,
    )
    held[0].settimeout(2)
    assert held[0].recv(1) == b""
    for one in held:
        one.close()


def test_a_reload_shows_the_new_certificate_and_keeps_the_old_one_where_the_new_is_broken(
    secured: Service, tmp_path: Path
) -> None:
    assert serial_of(secured) == 1
    trusting = ssl.create_default_context(cafile=tmp_path / "cert.pem")
    connection = http.client.HTTPSConnection(*place_of(secured), timeout=10, context=trusting)
    for number in (2, 3):
        connection.request("GET", "/healthz", headers={"Authorization": f"Bearer {TOKEN}"})
        assert connection.getresponse().read()
        make(tmp_path, number)
        secured.reload()
        assert serial_of(secured) == number and secured.health()["problems"] == []
    connection.close()
    (tmp_path / "key.pem").write_text("half of a")
    assert not secured.reload()["ok"] and serial_of(secured) == 3
    assert "are no pair" in secured.health()["problems"][0]


def test_files_that_are_no_pair_are_refused_and_none_of_their_content_is_told(
    tmp_path: Path,
) -> None:
    make(tmp_path)
    cert, key = tmp_path / "cert.pem", tmp_path / "key.pem"
    (tmp_path / "other").mkdir()
    make(tmp_path / "other")
    for pair, why in (
        ((cert, tmp_path / "other" / "key.pem"), "are no pair: KEY_VALUES_MISMATCH"),
        ((cert, cert), "are no pair"),
        ((key, key), "are no pair"),
        ((cert, tmp_path / "none.pem"), "control.key: .*none.pem: No such file"),
    ):
        with pytest.raises(RecipeError, match=why) as refused:
            Certificate(*pair)
        assert "\n" not in str(refused.value) and key.read_text().splitlines()[1][:20] not in str(
            refused.value
        )


def test_a_certificate_needs_its_key_and_an_address(tmp_path: Path) -> None:
    for lines, why in (
        ('certificate = "cert.pem"', "control.key is missing"),
        ('key = "key.pem"', "control.certificate is missing"),
        (
            'listen = "unix:s"\nkey = "key.pem"\ncertificate = "cert.pem"',
            "allowed: only where control.listen is HOST:PORT",
        ),
    ):
        (tmp_path / "serve.toml").write_text(
            f'bundle = "b.edge"\nstate = "state"\nunsigned = "accept"\n[control]\n{lines}\n'
        )
        with pytest.raises(RecipeError, match=why):
            load_settings(tmp_path / "serve.toml")


# -- its end ---------------------------------------------------------------------------------------
def test_one_that_has_ended_is_refused_at_a_reload_and_the_old_goes_on(
    secured: Service, tmp_path: Path
) -> None:
    make(tmp_path, 2, days=-1)
    assert not secured.reload()["ok"] and serial_of(secured) == 1
    (problem,) = secured.health()["problems"]
    assert "cert.pem ended on 20" in problem and "the one before goes on" in problem
    assert secured.health()["certificate_days_left"] > 20_000
    make(tmp_path, 3, days=300)
    assert secured.reload()["ok"] and serial_of(secured) == 3 and secured.health()["problems"] == []


@pytest.mark.parametrize(
    "days, said",
    [(13.5, "ends in 13 days|ends in 14 days"), (1.0, "ends within two days"), (-3.0, "ended on")],
)
def test_its_end_is_said_in_health_metrics_and_the_log_from_two_weeks_before(
    days: float,
    said: str,
    serve: Callable[..., Service],
    settings: Callable[..., Settings],
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    made = settings(control=make(tmp_path, days=days))
    with caplog.at_level("WARNING"):
        service = serve(made, reread=lambda: made)
        for _ in range(3):
            service.context.certificate.watch()
    warnings = [
        record.message
        for record in caplog.records
        if "cert.pem" in record.message and "SIGHUP" in record.message
    ]
    assert len(warnings) == 1 and re.search(said, warnings[0])
    assert service.health()["problems"] == warnings and service.health()["ok"]
    exposed = service.metrics.exposition(service.status).decode()
    (shown,) = [
        line for line in exposed.splitlines() if line.startswith("edgeadapt_certificate_days_left ")
    ]
    assert abs(float(shown.split()[1]) - days) < 0.1
    make(tmp_path, days=90)
    assert service.reload()["ok"] and service.health()["problems"] == []


def test_the_log_is_told_again_the_next_day(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    make(tmp_path, days=5)
    certificate, now = Certificate(tmp_path / "cert.pem", tmp_path / "key.pem"), time.time()
    for later in (0, 3600, 90_000, 90_001, 180_000):
        monkeypatch.setattr(time, "time", lambda later=later: now + later)
        certificate.watch()
    assert 3 <= len([record for record in caplog.records if "cert.pem" in record.message]) <= 4
