"""A client of a daemon's control interface."""

from __future__ import annotations

import http.client
import json
import socket
import ssl
from pathlib import Path
from typing import Any
from urllib.parse import urlencode, urlsplit

from edgeadapt import errors
from edgeadapt.errors import EdgeadaptError, InputError

_CONNECT_S, _PATIENCE_S, _MAX_ANSWER_BYTES = 10.0, 600.0, 64 << 20


class NoAnswer(Exception):
    """Nobody answers there, or not as a daemon would."""


class _UnixConnection(http.client.HTTPConnection):
    def __init__(self, path: Path, timeout: float) -> None:
        super().__init__("localhost", timeout=timeout)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(str(self._path))


class DaemonClient:
    """One daemon, by the address of its control interface; a connection a request."""

    def __init__(
        self, url: str, path: Path | None, token_file: Path | None, ca_file: Path | None
    ) -> None:
        self._path, self.where = path, f"unix:{path}" if path else url
        try:
            self._url = urlsplit(url)
            is_usable = (
                self._url.scheme in ("http", "https")
                and bool(self._url.hostname)
                and self._url.port != 0
            )
        except ValueError:
            is_usable = False
        if not is_usable:
            raise InputError(f"--url {url}: http://HOST:PORT or https://HOST:PORT is expected")
        self._context = _trusting(ca_file) if self._url.scheme == "https" else None
        self._headers = {"accept": "application/json"}
        if token_file is not None:
            from edgeadapt.daemon.config.secrecy import read_secret

            self._headers["authorization"] = f"Bearer {read_secret(token_file)}"

    def ask(
        self, method: str, path: str, body: dict[str, Any] | None = None, **query: int | None
    ) -> Any:
        """What it answers: JSON as Python's values, or text.

        Raises:
            EdgeadaptError: the daemon's own, as it was raised there. NoAnswer: nobody answers, or
                a fault of the daemon.
        """
        status, answer = self.exchange(method, path, body, **query)
        if status < 300:
            return answer
        reply = answer if isinstance(answer, dict) else {}
        why = printable(str(reply.get("error") or f"HTTP status {status}"))
        kind = getattr(errors, str(reply.get("kind")), None)
        if isinstance(kind, type) and issubclass(kind, EdgeadaptError):
            raise kind(why)
        if 400 <= status < 500:
            needs_token = status == 401 and "authorization" not in self._headers
            raise InputError(f"{why}{'; pass --token-file' if needs_token else ''}")
        request = reply.get("request")
        logged = f" (request {printable(str(request))} in its log)" if request else ""
        raise NoAnswer(f"{self.where}: {why}{logged}")

    def exchange(
        self, method: str, path: str, body: dict[str, Any] | None = None, **query: int | None
    ) -> tuple[int, Any]:
        """Status and answer, whatever it is."""
        given = {key: value for key, value in query.items() if value is not None}
        prefix = "" if self._path else self._url.path.rstrip("/")
        target = f"{prefix}{path}{'?' + urlencode(given) if given else ''}"
        data = None if body is None else json.dumps(body).encode()
        headers = self._headers | ({} if data is None else {"content-type": "application/json"})
        connection = self._connection()
        try:
            connection.connect()
            connection.sock.settimeout(_PATIENCE_S)
            connection.request(method, target, data, headers)
            response = connection.getresponse()
            raw = response.read(_MAX_ANSWER_BYTES + 1)
            if len(raw) > _MAX_ANSWER_BYTES:
                raise NoAnswer(f"{self.where}: answers with more than {_MAX_ANSWER_BYTES} bytes")
            is_json = response.headers.get_content_type() == "application/json"
            return response.status, json.loads(raw) if is_json else raw.decode("utf-8", "replace")
        except ssl.SSLCertVerificationError as error:
            raise NoAnswer(
                f"{self.where}: not trusted: {error.verify_message}; pass --ca-file with its"
                " authority's certificate"
            ) from error
        except (OSError, http.client.HTTPException, ValueError) as error:
            why = printable(getattr(error, "strerror", None) or str(error) or type(error).__name__)
            raise NoAnswer(
                f"{self.where}: no daemon answers there: {why}; 'edgeadapt serve' starts one"
            ) from error
        finally:
            connection.close()

    def _connection(self) -> http.client.HTTPConnection:
        if self._path is not None:
            return _UnixConnection(self._path, _CONNECT_S)
        host, port = self._url.hostname or "", self._url.port
        if self._context is not None:
            return http.client.HTTPSConnection(
                host, port, timeout=_CONNECT_S, context=self._context
            )
        return http.client.HTTPConnection(host, port, timeout=_CONNECT_S)


def _trusting(ca_file: Path | None) -> ssl.SSLContext:
    """The authorities of the system, or those in a file instead."""
    try:
        return ssl.create_default_context(cafile=ca_file)
    except (OSError, ValueError) as error:
        why = (
            "no certificate in PEM"
            if isinstance(error, ssl.SSLError)
            else getattr(error, "strerror", None) or error
        )
        raise InputError(f"--ca-file {ca_file}: {why}") from None


def printable(text: str) -> str:
    """In one line, without anything that a terminal would obey."""
    return " ".join("".join(letter if letter.isprintable() else " " for letter in text).split())


__all__ = ["DaemonClient", "NoAnswer", "printable"]
