"""One request over TCP or a unix socket, and its answer."""

from __future__ import annotations

import http.client
import json
import socket
from collections.abc import Iterator, Mapping
from typing import Any


class Said:
    """An answer over HTTP."""

    def __init__(self, status: int, headers: Mapping[str, str], body: bytes) -> None:
        self.status = status
        self.headers = {k.lower(): v for k, v in headers.items()}
        self.body = body

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def kind(self) -> str:
        assert set(self.json) <= {"error", "kind", "request"} and self.json["error"], self.body
        return str(self.json["kind"])


class Unix(http.client.HTTPConnection):
    """HTTP over a unix socket."""

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self.host)


def connected(url: str) -> http.client.HTTPConnection:
    return (
        Unix(url[len("unix:") :], timeout=20)
        if url.startswith("unix:")
        else http.client.HTTPConnection(url[len("http://") :], timeout=20)
    )


def ask(
    url: str, method: str, path: str, body: Any = None, headers: Mapping[str, str] | None = None
) -> Said:
    """One request on a connection of its own; a body that is not bytes goes as JSON."""
    sent = dict(headers or {})
    if body is not None and not isinstance(body, (bytes, Iterator)):
        body = json.dumps(body).encode()
    if body is not None:
        sent.setdefault("Content-Type", "application/json")
    if url.startswith("unix:"):
        sent.setdefault("Host", "localhost")
    connection = connected(url)
    try:
        connection.request(method, path, body, sent, encode_chunked=isinstance(body, Iterator))
        response = connection.getresponse()
        return Said(response.status, dict(response.getheaders()), response.read())
    finally:
        connection.close()
