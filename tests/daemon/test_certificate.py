"""The control interface over https: who is answered, who is told no, and a certificate that is replaced."""

from __future__ import annotations

import datetime
import http.client
import ipaddress
import socket
import ssl
from collections.abc import Callable
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from shell import Shell

from edgeadapt.daemon.certificate import Certificate
from edgeadapt.daemon.service import Service
from edgeadapt.daemon.settings import ControlSection, Settings
from edgeadapt.daemon.settings_file import load_settings
from edgeadapt.errors import RecipeError

pytest.importorskip("edgeadapt.daemon.control")  # with starlette and uvicorn
TOKEN = "a token of the tests"


def make(folder: Path, number: int = 1) -> ControlSection:
    """A certificate for loopback that vouches for itself, with a serial number, and a token."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "edge")])
    start = datetime.datetime(2020, 1, 1)
    builder = x509.CertificateBuilder(name, name, key.public_key(), number, start, datetime.datetime(2100, 1, 1))
    alternatives = x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))])
    signed = builder.add_extension(alternatives, critical=False).sign(key, hashes.SHA256())
    (folder / "cert.pem").write_bytes(signed.public_bytes(serialization.Encoding.PEM))
    pem = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    (folder / "key.pem").write_bytes(pem)
    (folder / "key.pem").chmod(0o600)
    (folder / "token").write_text(f"{TOKEN}\n")
    return ControlSection(
        listen="127.0.0.1:0", token_file=folder / "token", certificate=folder / "cert.pem", key=folder / "key.pem"
    )


def place_of(service: Service) -> tuple[str, int]:
    assert service._control is not None and service._control.url.startswith("https://127.0.0.1:")
    return "127.0.0.1", int(service._control.url.rpartition(":")[2])


def serial_of(service: Service) -> int:
    pem = ssl.get_server_certificate(place_of(service), timeout=10)
    return x509.load_pem_x509_certificate(pem.encode()).serial_number


@pytest.fixture
def secured(serve: Callable[..., Service], settings: Callable[..., Settings], tmp_path: Path) -> Service:
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
    connection.request("GET", "/v1/classes", headers={"Authorization": f"Bearer {TOKEN}", "Origin": f"https://127.0.0.1:{place_of(secured)[1]}"})
    assert connection.getresponse().status == 200
    connection.close()
    shell, url = Shell(capsys), "https://{}:{}".format(*place_of(secured))
    asked = ("ctl", "--url", url, "--token-file", tmp_path / "token")
    assert '"ok": true' in shell(*asked, "--ca-file", tmp_path / "cert.pem", "--json", "health")
    shell(*asked, "health", code=1)
    assert "not trusted" in shell.error and "--ca-file" in shell.error
    shell("ctl", "--url", url.replace("https", "http"), "--token-file", tmp_path / "token", "health", code=1)
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


def test_files_that_are_no_pair_are_refused_and_none_of_their_content_is_told(tmp_path: Path) -> None:
    make(tmp_path)
    cert, key = tmp_path / "cert.pem", tmp_path / "key.pem"
    (tmp_path / "other").mkdir()
    make(tmp_path / "other")
    for pair, why in (
        ((cert, tmp_path / "other" / "key.pem"), "are no pair: KEY_VALUES_MISMATCH"), ((cert, cert), "are no pair"), ((key, key), "are no pair"),
        ((cert, tmp_path / "none.pem"), "control.key: .*none.pem: No such file"),
    ):  # fmt: skip
        with pytest.raises(RecipeError, match=why) as refused:
            Certificate(*pair)
        assert "\n" not in str(refused.value) and key.read_text().splitlines()[1][:20] not in str(refused.value)


def test_a_certificate_needs_its_key_and_an_address(tmp_path: Path) -> None:
    for lines, why in (
        ('certificate = "cert.pem"', "control.key is missing"), ('key = "key.pem"', "control.certificate is missing"),
        ('listen = "unix:s"\nkey = "key.pem"\ncertificate = "cert.pem"', "allowed: only where control.listen is HOST:PORT"),
    ):  # fmt: skip
        (tmp_path / "serve.toml").write_text(f'bundle = "b.edge"\nstate = "state"\nunsigned = "accept"\n[control]\n{lines}\n')
        with pytest.raises(RecipeError, match=why):
            load_settings(tmp_path / "serve.toml")
