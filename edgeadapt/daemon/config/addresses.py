"""Where the control interface listens, ``"HOST:PORT"`` or ``"unix:PATH"``: what that says, who can
reach it, and a socket there.
"""

from __future__ import annotations

import ipaddress
import socket
import stat
from pathlib import Path

from edgeadapt.errors import RecipeError

_UNIX = "unix:"


def path_of(listen: str) -> Path | None:
    """Of a unix socket; None for an address."""
    return Path(listen[len(_UNIX) :]) if listen.startswith(_UNIX) else None


def host_and_port(listen: str) -> tuple[str, int]:
    """Of an address.

    Raises:
        RecipeError: it is none.
    """
    host, _, port = listen.rpartition(":")
    if not host or not port.isdecimal() or int(port) > 65535:
        raise RecipeError(f"control.listen = {listen!r}; allowed: HOST:PORT or unix:PATH")
    return host.strip("[]"), int(port)


def is_loopback(host: str) -> bool:
    """Whether only this machine is behind a name or number."""
    try:
        return host.lower() == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def is_local(listen: str) -> bool:
    """Only this machine can reach it."""
    return path_of(listen) is not None or is_loopback(listen.rpartition(":")[0].strip("[]"))


def bound(listen: str) -> socket.socket:
    """A socket at an address, or at a path, that nobody listens on yet.

    Raises:
        RecipeError: it cannot be had.
    """
    try:
        if (path := path_of(listen)) is not None:
            return _bound_file(path)
        host, port = host_and_port(listen)
        family, kind, number, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[
            0
        ]
        taken = socket.socket(family, kind, number)
        try:
            taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            taken.bind(address)
        except BaseException:
            taken.close()
            raise
        return taken
    except OSError as error:
        raise RecipeError(f"control.listen = {listen!r}: {error.strerror or error}") from error


def is_answered(path: Path) -> bool:
    """Whether somebody listens on a unix socket.

    Raises:
        OSError: it cannot be asked.
    """
    if not (path.exists() and stat.S_ISSOCK(path.stat().st_mode)):
        return False
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.settimeout(1.0)
        try:
            probe.connect(str(path))
        except ConnectionRefusedError:
            return False
        return True


def _bound_file(path: Path) -> socket.socket:
    """A unix socket for its owner and group. One that a killed process left is taken over; one that
    answers is not.
    """
    bound = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        if path.exists() and stat.S_ISSOCK(path.stat().st_mode) and not is_answered(path):
            path.unlink()
        bound.bind(str(path))
        path.chmod(0o660)  # nobody can connect before ``listen``
    except BaseException:
        bound.close()
        raise
    return bound


__all__ = ["bound", "host_and_port", "is_answered", "is_local", "is_loopback", "path_of"]
