"""The socket under the HTTP interface. Who may ask is in ``authentication``, how a request is
answered in ``endpoints``, what can be asked in ``routes``.
"""

from __future__ import annotations

import contextlib
import logging
import os
import socket
import ssl
import threading
import time
from functools import partial
from pathlib import Path
from typing import Any

import uvicorn

from edgeadapt.daemon.config.addresses import bound, host_and_port, is_local, path_of
from edgeadapt.daemon.config.certificate import Certificate
from edgeadapt.daemon.config.secrecy import exposure_of, read_secret, weakness_of
from edgeadapt.daemon.config.users import Users
from edgeadapt.daemon.http.authentication import AuthMiddleware
from edgeadapt.daemon.http.connections import Connection
from edgeadapt.daemon.http.endpoints import Endpoints
from edgeadapt.daemon.operations import Operations
from edgeadapt.errors import RecipeError, StateError

log = logging.getLogger("edgeadapt.daemon.http")


class Control:
    """The HTTP interface of a service, in a thread of its own.

    Args:
        listen: ``"HOST:PORT"`` (port 0: any that is free), or ``"unix:PATH"``.
        token: what every request must carry, or that of a user; one of both is needed where
            ``listen`` is neither a loopback address nor a unix socket. Whoever shows ``token`` is
            an admin.
        max_body_mib: the largest body that is read.
        timeout_s: what a request may take; rollback, forget, checkpoint and swap ten times as long.
        certificate: for https; without it, http.
        users: each with a token and a role.

    Raises:
        RecipeError: an address that others can reach, without a token or with one that is easily
            guessed.
    """

    def __init__(
        self,
        operations: Operations,
        listen: str = "127.0.0.1:8420",
        token: str | None = None,
        max_body_mib: float = 16.0,
        timeout_s: float = 10.0,
        certificate: Certificate | None = None,
        users: Users | None = None,
    ) -> None:
        self._listen, self._certificate = listen, certificate
        if path_of(listen) is None:
            host_and_port(listen)
        if token is not None and not (
            token.isascii() and token.isprintable() and token.strip() == token and token
        ):
            raise RecipeError("the token is not a line of printable ASCII")
        if token is None and users is None and not is_local(listen):
            raise RecipeError(
                f"control.listen = {listen!r} can be reached from other machines: give a token"
                " (control.token_file) or users (control.users_file)"
            )
        if token is not None and (weak := weakness_of(token)):
            weak = (
                f"the token can be guessed: it {weak}; take one that 'head -c 24 /dev/urandom |"
                " base64' makes"
            )
            if not is_local(listen):
                raise RecipeError(weak)
            log.warning("%s", weak)
        self._endpoints = Endpoints(operations, int(max_body_mib * (1 << 20)), timeout_s)
        self._authentication = AuthMiddleware(
            self._endpoints.app(), token, users, operations.metrics
        )
        self._timeout_s = timeout_s
        self._socket: socket.socket | None = None
        self._server: uvicorn.Server | None = None
        self._thread: threading.Thread | None = None
        self._failure: BaseException | None = None
        self._file: tuple[Path, int] | None = None  # of a unix socket: path and inode

    @property
    def url(self) -> str:
        """``http://HOST:PORT``, ``https://HOST:PORT``, or ``unix:PATH``. Known once it is
        started.
        """
        if self._socket is None:
            raise StateError("the HTTP interface is not started")
        if path_of(self._listen) is not None:
            return self._listen
        host, port = self._address
        scheme = "http" if self._certificate is None else "https"
        return f"{scheme}://[{host}]:{port}" if ":" in host else f"{scheme}://{host}:{port}"

    @property
    def invitation(self) -> str:
        """Where to look, in one line: the page's address, on a port that nobody need guess."""
        if path_of(self._listen) is not None:
            socket_path = path_of(self._listen)
            return (
                f"edgeadapt ctl --socket {socket_path} status; "
                "the page needs control.listen = HOST:PORT"
            )
        url = self.url
        for everywhere in ("0.0.0.0", "[::]"):
            url = url.replace(f"//{everywhere}:", f"//{socket.gethostname()}:")
        return f"the page: {url}/"

    def start(self) -> None:
        """Returns when the port is bound and requests are answered.

        Raises:
            RecipeError: the address cannot be had.
        """
        self._socket = bound(self._listen)
        if (path := path_of(self._listen)) is not None:
            self._file = path, path.stat().st_ino
        else:
            self._address = self._socket.getsockname()[:2]
        protocol: Any = partial(Connection, self._authentication.peers, self._context)
        config = uvicorn.Config(
            self._authentication,
            loop="asyncio",
            http=protocol,
            ws="none",
            lifespan="off",
            log_config=None,
            access_log=False,
            server_header=False,
            proxy_headers=False,
            timeout_keep_alive=max(1, int(self._timeout_s)),
            h11_max_incomplete_event_size=32 << 10,
        )
        self._server = uvicorn.Server(config)
        self._thread = threading.Thread(target=self._serve, name="edgeadapt-http", daemon=True)
        self._thread.start()
        while not self._server.started:
            if not self._thread.is_alive():
                raise RecipeError(f"control.listen = {self._listen!r}: {self._failure}")
            time.sleep(0.005)

    def _context(self) -> ssl.SSLContext | None:
        return None if self._certificate is None else self._certificate.context

    def _serve(self) -> None:
        assert self._server is not None and self._socket is not None
        try:
            self._server.run([self._socket])
        except BaseException as error:
            self._failure = error
            log.exception("the HTTP interface ended")

    def stop(self) -> None:
        """Finish what is under way if it takes no more than half a second, and return within one.
        Stopping twice is harmless.
        """
        if self._server is None or self._thread is None:
            return
        self._authentication.is_closing = True
        self._server.should_exit = True
        self._unlink()
        self._thread.join(0.6)
        self._server.force_exit = True
        self._endpoints.close()
        self._thread.join(0.35)

    def _unlink(self) -> None:
        """Only its own: another daemon may have taken the path since."""
        if self._file is not None:
            with contextlib.suppress(OSError):
                if os.stat(self._file[0]).st_ino == self._file[1]:
                    os.unlink(self._file[0])


def control_of(operations: Operations) -> Control:
    """The interface that the settings describe.

    Raises:
        RecipeError: as ``Control``.
    """
    context = operations.context
    control = context.settings.control
    if context.certificate is None and not control.is_local:
        log.warning(
            "control.listen = %r without TLS: token and pictures can be read on the way",
            control.listen,
        )
    token = None if control.token_file is None else read_secret(control.token_file)
    if control.token_file is not None and (exposed := exposure_of(control.token_file)):
        log.warning("%s", exposed)
    return Control(
        operations,
        control.listen,
        token,
        control.max_body_mib,
        control.timeout_s,
        context.certificate,
        context.users,
    )


__all__ = ["Control", "control_of"]
