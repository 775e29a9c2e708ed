"""Messages to systemd, the watchdog's among them, as datagrams of sd_notify(3)."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Mapping


class Notify:
    """Sends to ``NOTIFY_SOCKET``; without one nothing is sent.

    Args:
        environment: of the process. ``WATCHDOG_USEC`` counts only if ``WATCHDOG_PID`` is absent or
            ours.
    """

    def __init__(self, environment: Mapping[str, str] = os.environ) -> None:
        self._address = environment.get("NOTIFY_SOCKET", "")
        mine = environment.get("WATCHDOG_PID", str(os.getpid())) == str(os.getpid())
        interval = environment.get("WATCHDOG_USEC", "") if mine else ""
        self._every_s = int(interval) / 2e6 if interval.isdecimal() else 0.0
        self._beaten = float("-inf")

    def send(self, *lines: str) -> bool:
        """One datagram; False if nobody listens. A supervisor that does not read must not stop the
        loop, so nothing waits or raises.
        """
        if self._address[:1] not in ("/", "@"):
            return False
        address = "\0" + self._address[1:] if self._address[0] == "@" else self._address
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as peer:
                peer.setblocking(False)
                peer.sendto("\n".join(lines).encode(errors="replace"), address)
        except OSError:
            return False
        return True

    def ready(self, status: str) -> None:
        self.send("READY=1", f"STATUS={_line(status)}")

    def reloading(self) -> None:
        self.send(
            "RELOADING=1", f"MONOTONIC_USEC={time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000}"
        )

    def stopping(self) -> None:
        self.send("STOPPING=1")

    def status(self, text: str) -> None:
        self.send(f"STATUS={_line(text)}")

    def beat(self) -> None:
        """``WATCHDOG=1`` at half the interval, however often it is called."""
        now = time.monotonic()
        if self._every_s and now - self._beaten >= self._every_s and self.send("WATCHDOG=1"):
            self._beaten = now


def _line(text: str) -> str:
    return " ".join(text.split())


__all__ = ["Notify"]
