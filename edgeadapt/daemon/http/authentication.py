"""Who may ask: what a request is refused for before any route sees it."""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import time
from typing import TYPE_CHECKING

from starlette.types import ASGIApp, Receive, Scope, Send

from edgeadapt.daemon.config.addresses import is_loopback
from edgeadapt.daemon.config.users import ADMIN, User, Users
from edgeadapt.daemon.decoding.codec import Refused
from edgeadapt.daemon.http import page
from edgeadapt.daemon.http.connection_shares import Peers
from edgeadapt.daemon.http.connections import SCOPE_KEY, Connection
from edgeadapt.daemon.http.openapi import ALL_ROUTES
from edgeadapt.daemon.http.responses import response_to

if TYPE_CHECKING:
    from edgeadapt.daemon.monitoring.metrics import Metrics

USER = "edgeadapt.user"  # of a request's scope: who asks
# answered where there is room for nothing else
_PROBED = frozenset(route.path for route in ALL_ROUTES if route.is_probe)


class AuthMiddleware:
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
            scope[USER] = user = self._user(_all_of(headers, b"authorization"))
            refused = await self._admission(scope[SCOPE_KEY], headers, scope["path"], user)
        if refused is None:
            return await self._app(scope, receive, send)
        if self._metrics is not None:
            self._metrics.requested("refused", refused.status, 0.0)
        await response_to(refused)(scope, receive, send)

    async def _admission(
        self, peer: Connection, headers: list[tuple[bytes, bytes]], path: str, user: User | None
    ) -> Refused | None:
        given = _all_of(headers, b"authorization")
        if given and not self._is_open:
            await asyncio.sleep(self.peers.wait_s(peer, time.monotonic()))
        if user is None:
            if given:
                self.peers.failed(peer, time.monotonic())
            return Refused(
                401,
                "Unauthorized",
                "send the token: Authorization: Bearer ...",
                headers={"www-authenticate": "Bearer"},
            )
        if not self.peers.was_let_in(peer) and path not in _PROBED:
            return Refused(
                503, "Busy", "too many requests at once", retry_s=1, headers={"connection": "close"}
            )
        return None

    def _refusal(self, headers: list[tuple[bytes, bytes]], method: str) -> Refused | None:
        def all_of(name: bytes) -> list[str]:
            return _all_of(headers, name)

        host = all_of(b"host")
        if self.is_closing:
            return Refused(503, "Stopping", "the daemon stops", retry_s=5)
        if self._is_open and not (len(host) == 1 and is_loopback(_name_of(host[0]))):
            return Refused(
                403,
                "ForeignHost",
                "without a token only a loopback name is answered, got Host"
                f" {(host or [''])[0][:100]!r}; use localhost",
            )
        own = (
            {f"http://{host[0]}".lower(), f"https://{host[0]}".lower()} if len(host) == 1 else set()
        )
        if any(origin.lower() not in own for origin in all_of(b"origin")):
            return Refused(
                403,
                "ForeignOrigin",
                f"a page of {all_of(b'origin')[0][:100]!r} asks; only the daemon's own may",
            )
        if any(site in ("cross-site", "same-site") for site in all_of(b"sec-fetch-site")) and not (
            method == "GET" and all_of(b"sec-fetch-mode") == ["navigate"]
        ):
            return Refused(
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


__all__ = ["USER", "AuthMiddleware"]
