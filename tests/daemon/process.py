"""A daemon as a process of its own, started by ``edgeadapt serve``, asked over its port or unix
socket, killed and started again.
"""

from __future__ import annotations

import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple

from edgeadapt.demo.sample import bundle_path


class Said(NamedTuple):
    status: int
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)


class Daemon:
    """Serves the shipped bundle from ``folder``, on a free port of loopback or on a unix socket,
    until it is stopped or killed.

    Args:
        extra: lines of its settings, with sections.
        top: lines before them.
        control: lines of that section.
        token: what requests carry.
        is_unix: whether it listens on ``folder/s``. environment: beside that of this process.
    """

    def __init__(
        self,
        folder: Path,
        extra: str = "",
        *,
        top: str = "",
        control: str = "",
        token: str = "",
        is_unix: bool = False,
        environment: dict[str, str] | None = None,
    ) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder
        self._token = token
        self._environment = {**os.environ, **(environment or {})}
        if token:
            (folder / "token").write_text(f"{token}\n")
            control += 'token_file = "token"\n'
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port: int = free.getsockname()[1]
        self._path = folder / "s" if is_unix else None
        listen = "unix:s" if is_unix else f"127.0.0.1:{self.port}"
        settings = (
            f'bundle = "{bundle_path()}"\nstate = "state"\nunsigned ='
            f' "accept"\n{top}[control]\nlisten = "{listen}"\n{control}{extra}'
        )
        (folder / "serve.toml").write_text(settings)
        self.process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Daemon:
        self.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.kill()

    @property
    def log(self) -> str:
        return (self.folder / "log").read_text(errors="replace")

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def start(self, timeout_s: float = 60.0) -> None:
        """Returns once samples are answered."""
        with open(self.folder / "log", "ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "edgeadapt", "serve", str(self.folder / "serve.toml")],
                stderr=log,
                env=self._environment,
            )
        until = time.monotonic() + timeout_s
        while True:
            try:
                if self.ask("GET", "/readyz").status == 200:
                    return
            except OSError:
                pass
            assert self.process.poll() is None and time.monotonic() < until, self.log
            time.sleep(0.02)

    def kill(self, number: int = signal.SIGKILL) -> int:
        """End it, and return its exit status; 0 if it does not run."""
        if self.process is None:
            return 0
        self.process.send_signal(number)
        status, self.process = self.process.wait(20.0), None
        return status

    def ask(
        self,
        method: str,
        path: str,
        body: Any = None,
        media: str = "application/json",
        *,
        timeout_s: float = 30.0,
    ) -> Said:
        """One request on a connection of its own.

        Raises:
            OSError, http.client.HTTPException: nobody answers, or the answer is torn.
        """
        connection = (
            _Unix(self._path, timeout_s)
            if self._path is not None
            else http.client.HTTPConnection("127.0.0.1", self.port, timeout=timeout_s)
        )
        headers = ({"content-type": media} if body is not None else {}) | (
            {"authorization": f"Bearer {self._token}"} if self._token else {}
        )
        try:
            connection.request(
                method,
                path,
                body if isinstance(body, bytes | None) else json.dumps(body).encode(),
                headers,
            )
            answer = connection.getresponse()
            return Said(answer.status, answer.read())
        finally:
            connection.close()

    def status(self) -> dict[str, Any]:
        found: dict[str, Any] = self.ask("GET", "/v1/status").json
        return found


class _Unix(http.client.HTTPConnection):
    def __init__(self, path: Path, timeout_s: float) -> None:
        super().__init__("localhost", timeout=timeout_s)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(str(self._path))
