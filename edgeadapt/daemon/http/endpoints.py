"""One request: its body is read within limits, a worker calls the daemon, an answer goes back."""

from __future__ import annotations

import asyncio
import logging
import secrets
import time
from collections.abc import Awaitable, Callable, Mapping
from urllib.parse import parse_qsl

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Route as Path_

from edgeadapt.daemon.config.users import User
from edgeadapt.daemon.decoding.codec import Refused
from edgeadapt.daemon.http import page
from edgeadapt.daemon.http import route as api
from edgeadapt.daemon.http.authentication import USER
from edgeadapt.daemon.http.openapi import ALL_ROUTES
from edgeadapt.daemon.http.request_bodies import is_costly
from edgeadapt.daemon.http.responses import HEADERS, response_to
from edgeadapt.daemon.http.route import Reply, Route
from edgeadapt.daemon.http.workers import Workers
from edgeadapt.daemon.operations import Operations

log = logging.getLogger("edgeadapt.daemon.http")
# threads that call the service; requests that may wait for one
_CALLS, _PROBES, _WAITING = 8, 3, 64
# the same for pictures that cost much, which keep no other request from its turn
_PICTURES, _PICTURES_WAITING = 2, 16
_BODIES = 4  # of the full size, held at once
_GRACE_S = 0.5  # the service has the same time-out, and says more
_SLOW = 10.0  # times the time-out, for what loads a bundle or waits for the worker


class Endpoints:
    """Reads a request, has a worker answer it, and says what went wrong.

    Args:
        max_body: bytes. timeout_s: what a request may take.
    """

    def __init__(self, operations: Operations, max_body: int, timeout_s: float) -> None:
        self._operations = operations
        self.calls, self._probes = Workers(_CALLS, _WAITING), Workers(_PROBES, _WAITING)
        self._pictures = Workers(_PICTURES, _PICTURES_WAITING)
        self._max_body, self._timeout_s, self._metrics = max_body, timeout_s, operations.metrics
        self._held = 0  # bytes of bodies that are not answered yet

    def app(self) -> Starlette:
        by_path: dict[str, dict[str, Route]] = {}
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

    def close(self) -> None:
        """End the threads after their present calls."""
        for workers in (self.calls, self._probes, self._pictures):
            workers.close()

    def _no_route(self, request: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)
        kind = {404: "NotFound", 405: "MethodNotAllowed"}.get(error.status_code, "HTTPError")
        refused = Refused(
            error.status_code,
            kind,
            f"{request.method} {request.url.path[:100]}: {error.detail}; see /openapi.json",
            headers=error.headers,
        )
        self._count("none", error.status_code, 0.0)
        return response_to(refused)

    def _endpoint(self, routes: Mapping[str, Route]) -> Callable[[Request], Awaitable[Response]]:
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

    async def _answered(self, route: Route, request: Request) -> Response:
        limit_s = self._timeout_s * (_SLOW if route.is_slow else 1.0)
        user: User = request.scope[USER]
        if not user.may(route.role):  # before its body is read
            return response_to(
                Refused(
                    403,
                    "Forbidden",
                    f"{user.name} has the role {user.role}, and this needs {route.role}",
                )
            )
        if user.name and route.role == "admin":
            log.info("%s: %s %s", user.name, route.method, route.path)
        body, number = bytearray(), None
        try:
            await asyncio.wait_for(self._read(request, body), self._timeout_s)
            said = await asyncio.wait_for(
                self._call(route, request, bytes(body)), limit_s + _GRACE_S
            )
            return Response(said.body, said.status, HEADERS, said.media)
        except Refused as error:
            refused = error
        except asyncio.TimeoutError:
            why = f"no answer within {limit_s:g} s; what was asked for may still happen"
            refused = Refused(503, "TimedOut", why, retry_s=1)
        # the server ends: the client gets this, and an answer that still comes is dropped
        except asyncio.CancelledError:
            why = "the daemon stops; what was asked for may still happen"
            refused = Refused(503, "Stopping", why, retry_s=5)
        except ClientDisconnect:
            return Response(status_code=400)
        except Exception:
            number = secrets.token_hex(8)
            log.exception("request %s: %s %s failed", number, route.method, route.path)
            why = f"a fault of the daemon; its log has more about request {number}"
            refused = Refused(500, "InternalError", why)
        finally:
            self._held -= len(body)
        return response_to(refused, number)

    async def _read(self, request: Request, body: bytearray) -> None:
        """Append the body; its bytes are counted in ``_held`` as they come."""
        declared = request.headers.get("content-length", "0")
        if len(declared) > 15 or int(declared) > self._max_body:
            raise self._too_large(declared)
        async for block in request.stream():
            if len(body) + len(block) > self._max_body:
                raise self._too_large("more")
            if self._held + len(block) > _BODIES * self._max_body:
                raise Refused(503, "Busy", "too many large bodies at once", retry_s=1)
            body += block
            self._held += len(block)

    def _too_large(self, got: str) -> Refused:
        return Refused(
            413,
            "TooLarge",
            f"a body has at most {self._max_body} bytes (control.max_body_mib), got {got[:20]}",
        )

    async def _call(self, route: Route, request: Request, body: bytes) -> Reply:
        query = _query(request.scope["query_string"])
        media = request.headers.get("content-type", "").partition(";")[0].strip().lower()
        key = next(iter(request.path_params.values()), "")
        workers = (
            self._probes
            if route.is_probe
            else self._pictures
            if is_costly(media, body)
            else self.calls
        )
        given = [body]
        del body

        def work() -> Reply:
            user: User = request.scope[USER]
            return api.answer(route, self._operations, query, media, given.pop(), key, user)

        try:
            reply: Reply = await workers.run(work)
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
        raise Refused(
            400,
            "MalformedQuery",
            "what stands after the question mark is not name=value&name=value in UTF-8",
        ) from None


__all__ = ["Endpoints"]
