"""A real broker on a port of its own, with its own configuration and data; it is stopped, killed
and started again by the tests.
"""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import time
from pathlib import Path
from types import TracebackType

MISSING = shutil.which("mosquitto", path=f"{os.environ.get('PATH', '')}:/usr/sbin") is None


class Mosquitto:
    """Listens on loopback. What it holds for a client that is away survives ``stop``, and the start
    after it.

    Args:
        extra: lines of its configuration.
    """

    def __init__(self, folder: Path, *extra: str, is_open: bool = True) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port: int = free.getsockname()[1]
        lines = [
            *(["user root"] if os.getuid() == 0 else []),
            f"allow_anonymous {str(is_open).lower()}",
            "persistence true",
            "set_tcp_nodelay true",
            f"persistence_location {folder}/",
            "max_queued_messages 100000",
            f"log_dest file {folder}/log",
            "log_type all",
            f"listener {self.port} 127.0.0.1",
            *extra,
        ]
        self._folder, self._configuration = folder, folder / "mosquitto.conf"
        self._configuration.write_text("\n".join(lines) + "\n")
        self._process: subprocess.Popen[bytes] | None = None
        self.start()

    def __enter__(self) -> Mosquitto:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stop()

    @property
    def log(self) -> str:
        return (self._folder / "log").read_text(errors="replace")

    def start(self) -> None:
        program = shutil.which("mosquitto", path=f"{os.environ.get('PATH', '')}:/usr/sbin")
        assert program is not None
        self._process = subprocess.Popen(
            [program, "-c", str(self._configuration)],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        until = time.monotonic() + 10.0
        while True:
            try:
                socket.create_connection(("127.0.0.1", self.port), 1.0).close()
                return
            except OSError:
                assert self._process.poll() is None and time.monotonic() < until, (
                    f"the broker did not start: {self.log}"
                )
                time.sleep(0.02)

    def stop(self, number: int = signal.SIGTERM) -> None:
        if self._process is not None:
            self.signal(signal.SIGCONT)
            self.signal(number)
            self._process.wait(10.0)
            self._process = None

    def signal(self, number: int) -> None:
        assert self._process is not None
        self._process.send_signal(number)
