"""The socket under the HTTP interface: who may speak, how much, and for how long. What can be asked
is in ``edgeadapt.daemon.http.routes``.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import hmac
import logging
import os
import queue
import secrets
import socket
import ssl
import threading
import time
from collections.abc import Awaitable, Callable, Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qsl

import uvicorn
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Route as Path_
from starlette.types import ASGIApp, Receive, Scope, Send

from edgeadapt.daemon.config.addresses import bound, host_and_port, is_local, is_loopback, path_of
from edgeadapt.daemon.config.certificate import Certificate
from edgeadapt.daemon.config.secrecy import exposure_of, read_secret, weakness_of
from edgeadapt.daemon.config.users import ADMIN, User, Users
from edgeadapt.daemon.http import page
from edgeadapt.daemon.http import routes as api
from edgeadapt.daemon.http.connection_shares import Peers
from edgeadapt.daemon.http.connections import SCOPE_KEY, Connection
from edgeadapt.daemon.http.openapi import ALL_ROUTES
from edgeadapt.daemon.http.request_bodies import is_costly
from edgeadapt.daemon.http.schemas import Failure
from edgeadapt.daemon.operations import Operations
from edgeadapt.errors import RecipeError, StateError

if TYPE_CHECKING:
    from edgeadapt.daemon.monitoring.metrics import Metrics

log = logging.getLogger("edgeadapt.daemon.http")
# threads that call the service; requests that may wait for one
_CALLS, _PROBES, _WAITING = 8, 3, 64
# the same for pictures that cost much, which keep no other request from its turn
_PICTURES, _PICTURES_WAITING = 2, 16
_BODIES = 4  # of the full size, held at once
_GRACE_S = 0.5  # the service has the same time-out, and says more
_SLOW = 10.0  # times the time-out, for what loads a bundle or waits for the worker
_USER = "edgeadapt.user"  # of a request's scope: who asks
_HEADERS = {
    "cache-control": "no-store",
    "x-content-type-options": "nosniff",
    "cross-origin-resource-policy": "same-origin",
}


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
        self._calls, self._probes = _Workers(_CALLS, _WAITING), _Workers(_PROBES, _WAITING)
        self._pictures = _Workers(_PICTURES, _PICTURES_WAITING)
        desk = _Endpoints(
            operations,
            self._calls,
            self._probes,
            self._pictures,
            int(max_body_mib * (1 << 20)),
            timeout_s,
        )
        self._guard = _AuthMiddleware(desk.app(), token, users, operations.metrics)
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
        protocol: Any = partial(Connection, self._guard.peers, self._context)
        config = uvicorn.Config(
            self._guard,
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
        self._guard.is_closing = True
        self._server.should_exit = True
        self._unlink()
        self._thread.join(0.6)
        self._server.force_exit = True
        self._calls.close()
        self._probes.close()
        self._pictures.close()
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


# answered where there is room for nothing else
_PROBED = frozenset(route.path for route in ALL_ROUTES if route.is_probe)


# -- who may speak ---------------------------------------------------------------------------------
class _AuthMiddleware:
    """Refuses what no route should see: a wrong token, another site's page, a name of this machine
    that is not its own.
    """

    def __init__(
        self, app: ASGIApp, token: str | None, users: Users | None, metrics: Metrics | None
    ) -> None:
        self._app, self._metrics, self._users = app, metrics, users
        self._is_open = token is None and users is None  # whoever reaches it may do everything
        self._token = None if token is None else hashlib.sha256(token.encode()).digest()
        self.peers = Peers()
        self.is_closing = False

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return
        headers = [(bytes(name), bytes(value)) for name, value in scope["headers"]]
        refused = self._refusal(headers, scope["method"])
        # they say nothing secret
        if refused is None and (self._is_open or scope["path"] not in page.PATHS):
            scope[_USER] = user = self._user(_all_of(headers, b"authorization"))
            refused = await self._let_in(scope[SCOPE_KEY], headers, scope["path"], user)
        if refused is None:
            return await self._app(scope, receive, send)
        if self._metrics is not None:
            self._metrics.requested("refused", refused.status, 0.0)
        await _told(refused)(scope, receive, send)

    async def _let_in(
        self, guest: Connection, headers: list[tuple[bytes, bytes]], path: str, user: User | None
    ) -> api.Refused | None:
        given = _all_of(headers, b"authorization")
        if given and not self._is_open:
            await asyncio.sleep(self.peers.wait_s(guest, time.monotonic()))
        if user is None:
            if given:
                self.peers.failed(guest, time.monotonic())
            return api.Refused(
                401,
                "Unauthorized",
                "send the token: Authorization: Bearer ...",
                headers={"www-authenticate": "Bearer"},
            )
        if not self.peers.was_let_in(guest) and path not in _PROBED:
            return api.Refused(
                503, "Busy", "too many requests at once", retry_s=1, headers={"connection": "close"}
            )
        return None

    def _refusal(self, headers: list[tuple[bytes, bytes]], method: str) -> api.Refused | None:
        def all_of(name: bytes) -> list[str]:
            return _all_of(headers, name)

        host = all_of(b"host")
        if self.is_closing:
            return api.Refused(503, "Stopping", "the daemon stops", retry_s=5)
        if self._is_open and not (len(host) == 1 and is_loopback(_name_of(host[0]))):
            return api.Refused(
                403,
                "ForeignHost",
                "without a token only a loopback name is answered, got Host"
                f" {(host or [''])[0][:100]!r}; use localhost",
            )
        own = (
            {f"http://{host[0]}".lower(), f"https://{host[0]}".lower()} if len(host) == 1 else set()
        )
        if any(origin.lower() not in own for origin in all_of(b"origin")):
            return api.Refused(
                403,
                "ForeignOrigin",
                f"a page of {all_of(b'origin')[0][:100]!r} asks; only the daemon's own may",
            )
        if any(site in ("cross-site", "same-site") for site in all_of(b"sec-fetch-site")) and not (
            method == "GET" and all_of(b"sec-fetch-mode") == ["navigate"]
        ):
            return api.Refused(
                403, "ForeignOrigin", "a page of another site asks; only the daemon's own may"
            )
        return None

    def _user(self, given: list[str]) -> User | None:
        """Who shows this header; None for nobody that is known."""
        if self._is_open:
            return ADMIN
        scheme, _, token = (given[0] if len(given) == 1 else "").partition(" ")
        token = token.strip()
        same = hmac.compare_digest(
            hashlib.sha256(token.encode()).digest(), self._token or b""
        )  # digests: equally long, whatever was sent
        user = None if self._users is None else self._users.find(token)
        if scheme.lower() != "bearer":
            return None
        return ADMIN if same else user


def _all_of(headers: list[tuple[bytes, bytes]], name: bytes) -> list[str]:
    return [value.decode("latin-1").strip() for key, value in headers if key == name]


def _name_of(host: str) -> str:
    """The name in ``name``, ``name:80``, ``[::1]`` or ``[::1]:80``."""
    return host[1:].partition("]")[0] if host.startswith("[") else host.partition(":")[0]


# -- one request -----------------------------------------------------------------------------------
class _Endpoints:
    """Takes a request in, has a worker answer it, and tells what went wrong."""

    def __init__(
        self,
        operations: Operations,
        calls: _Workers,
        probes: _Workers,
        pictures: _Workers,
        max_body: int,
        timeout_s: float,
    ) -> None:
        self._operations, self._calls, self._probes, self._pictures = (
            operations,
            calls,
            probes,
            pictures,
        )
        self._max_body, self._timeout_s, self._metrics = max_body, timeout_s, operations.metrics
        self._held = 0  # bytes of bodies that are not answered yet

    def app(self) -> Starlette:
        by_path: dict[str, dict[str, api.Route]] = {}
        for route in ALL_ROUTES:
            by_path.setdefault(route.path, {})[route.method] = route
        paths = [
            Path_(
                path.replace("{name}", "{name:path}"), self._endpoint(routes), methods=list(routes)
            )
            for path, routes in by_path.items()
        ]
        app = Starlette(
            routes=[*page.routes(self._operations), *paths],
            exception_handlers={HTTPException: self._no_route},
        )
        app.router.redirect_slashes = False
        return app

    def _no_route(self, request: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)
        kind = {404: "NotFound", 405: "MethodNotAllowed"}.get(error.status_code, "HTTPError")
        refused = api.Refused(
            error.status_code,
            kind,
            f"{request.method} {request.url.path[:100]}: {error.detail}; see /openapi.json",
            headers=error.headers,
        )
        self._count("none", error.status_code, 0.0)
        return _told(refused)

    def _endpoint(
        self, routes: Mapping[str, api.Route]
    ) -> Callable[[Request], Awaitable[Response]]:
        async def endpoint(request: Request) -> Response:
            route = routes["GET" if request.method == "HEAD" else request.method]
            started = time.monotonic()
            response = await self._answered(route, request)
            self._count(route.path, response.status_code, time.monotonic() - started)
            return response

        return endpoint

    def _count(self, route: str, status: int, took_s: float) -> None:
        if self._metrics is not None:
            self._metrics.requested(route, status, took_s)

    async def _answered(self, route: api.Route, request: Request) -> Response:
        limit_s = self._timeout_s * (_SLOW if route.is_slow else 1.0)
        user: User = request.scope[_USER]
        if not user.may(route.role):  # before its body is read
            return _told(
                api.Refused(
                    403,
                    "Forbidden",
                    f"{user.name} has the role {user.role}, and this needs {route.role}",
                )
            )
        if user.name and route.role == "admin":
            log.info("%s: %s %s", user.name, route.method, route.path)
        body = bytearray()
        try:
            await asyncio.wait_for(self._read(request, body), self._timeout_s)
            said = await asyncio.wait_for(
                self._call(route, request, bytes(body)), limit_s + _GRACE_S
            )
            return Response(said.body, said.status, _HEADERS, said.media)
        except api.Refused as refused:
            return _told(refused)
        except asyncio.TimeoutError:
            return _told(
                api.Refused(
                    503,
                    "TimedOut",
                    f"no answer within {limit_s:g} s; what was asked for may still happen",
                    retry_s=1,
                )
            )
        # the server ends: the client is told, and its answer, if there is one, is let go
        except asyncio.CancelledError:
            return _told(
                api.Refused(
                    503,
                    "Stopping",
                    "the daemon stops; what was asked for may still happen",
                    retry_s=5,
                )
            )
        except ClientDisconnect:
            return Response(status_code=400)
        except Exception:
            number = secrets.token_hex(8)
            log.exception("request %s: %s %s failed", number, route.method, route.path)
            return _told(
                api.Refused(
                    500,
                    "InternalError",
                    f"a fault of the daemon; its log has more about request {number}",
                ),
                number,
            )
        finally:
            self._held -= len(body)

    async def _read(self, request: Request, body: bytearray) -> None:
        """Append the body; its bytes are counted in ``_held`` as they come."""
        declared = request.headers.get("content-length", "0")
        if len(declared) > 15 or int(declared) > self._max_body:
            raise self._too_large(declared)
        async for block in request.stream():
            if len(body) + len(block) > self._max_body:
                raise self._too_large("more")
            if self._held + len(block) > _BODIES * self._max_body:
                raise api.Refused(503, "Busy", "too many large bodies at once", retry_s=1)
            body += block
            self._held += len(block)

    def _too_large(self, got: str) -> api.Refused:
        return api.Refused(
            413,
            "TooLarge",
            f"a body has at most {self._max_body} bytes (control.max_body_mib), got {got[:20]}",
        )

    async def _call(self, route: api.Route, request: Request, body: bytes) -> api.Reply:
        query = _query(request.scope["query_string"])
        media = request.headers.get("content-type", "").partition(";")[0].strip().lower()
        key = next(iter(request.path_params.values()), "")
        workers = (
            self._probes
            if route.is_probe
            else self._pictures
            if is_costly(media, body)
            else self._calls
        )
        given = [body]
        del body

        def work() -> api.Reply:
            user: User = request.scope[_USER]
            return api.answer(route, self._operations, query, media, given.pop(), key, user)

        try:
            reply: api.Reply = await workers.run(work)
        finally:
            given.clear()  # a request whose time is up may still wait, and its body is not counted
        return reply


def _query(text: bytes) -> list[tuple[str, str]]:
    try:
        return parse_qsl(
            text.decode("ascii"),
            keep_blank_values=True,
            strict_parsing=bool(text),
            errors="strict",
            max_num_fields=20,
        )
    except ValueError:
        raise api.Refused(
            400,
            "MalformedQuery",
            "what stands after the question mark is not name=value&name=value in UTF-8",
        ) from None


def _told(refused: api.Refused, number: str | None = None) -> Response:
    said = (
        Failure(error=refused.why, kind=refused.kind)
        if number is None
        else Failure(error=refused.why, kind=refused.kind, request=number)
    )
    return Response(api.encode(said), refused.status, _HEADERS | refused.headers, api.JSON)


class _Workers:
    """Threads that call the service. They are daemons: a call that hangs keeps no process from
    ending.
    """

    def __init__(self, count: int, waiting: int) -> None:
        self._waiting: queue.Queue[tuple[Callable[[], Any], asyncio.Future[Any]] | None] = (
            queue.Queue(waiting)
        )
        self._threads = [
            threading.Thread(target=self._work, name="edgeadapt-http-call", daemon=True)
            for _ in range(count)
        ]
        self._is_started = False

    async def run(self, work: Callable[[], Any]) -> Any:
        """The result of ``work``, or its error.

        Raises:
            Refused: all threads are busy and as many wait as may.
        """
        if not self._is_started:
            self._is_started = True
            for thread in self._threads:
                thread.start()
        done: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        try:
            self._waiting.put_nowait((work, done))
        except queue.Full:
            raise api.Refused(503, "Busy", "too many requests wait", retry_s=1) from None
        return await done

    def _work(self) -> None:
        while (taken := self._waiting.get()) is not None:
            work, done = taken
            if done.cancelled():  # its time was up before its turn came
                continue
            try:
                outcome: tuple[Any, BaseException | None] = work(), None
            except BaseException as error:
                outcome = None, error
            with contextlib.suppress(RuntimeError):  # the loop has ended: nobody waits
                done.get_loop().call_soon_threadsafe(_settle, done, *outcome)

    def close(self) -> None:
        """No turn comes any more for what waits; threads end after their present call."""
        with contextlib.suppress(queue.Empty):
            while True:
                self._waiting.get_nowait()
        for _ in self._threads:
            with contextlib.suppress(queue.Full):
                self._waiting.put_nowait(None)


def _settle(done: asyncio.Future[Any], result: Any, error: BaseException | None) -> None:
    if done.cancelled():
        return
    if error is None:
        done.set_result(result)
    else:
        done.set_exception(
            error
            if isinstance(error, Exception) and not isinstance(error, StopIteration)
            else RuntimeError(repr(error))
        )


__all__ = ["Control", "control_of"]
