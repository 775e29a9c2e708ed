"""One connection of the control interface: its handshake, and how long it may be silent."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Callable
from typing import Any

from starlette.types import Receive, Scope, Send
from uvicorn.protocols.http.h11_impl import H11Protocol

from edgeadapt.daemon.http.connection_shares import Peers, address_of

# from a connection to the end of its first request's headers; so long may a handshake take, too
HEADERS_S = 5.0
SCOPE_KEY = "edgeadapt.connection"


class Connection(H11Protocol):
    """Closed when it sends no whole request in time, and when ``Peers`` says so.

    Args:
        peers: counts it from the first byte on, before its handshake.
        context: of TLS, asked at every connection; None for plain HTTP.
    """

    def __init__(
        self, peers: Peers, context: Callable[[], ssl.SSLContext | None], **given: Any
    ) -> None:
        super().__init__(**given)
        self._peers, self._context = peers, context
        self._inner = self.app
        self.app = self._asked
        self._raw: asyncio.Transport | None = None
        # kept: a task that nobody holds may vanish
        self._handshake: asyncio.Task[None] | None = None
        self._free_since, self._early = 0.0, b""
        self.address = ""

    async def _asked(self, scope: Scope, receive: Receive, send: Send) -> None:
        scope[SCOPE_KEY] = self
        await self._inner(scope, receive, send)

    @property
    def is_busy(self) -> bool:
        return self.cycle is not None and not self.cycle.response_complete

    def leave(self) -> None:
        if self._raw is not None:
            self._raw.abort()

    def connection_made(self, transport: Any) -> None:
        name = transport.get_extra_info("peername")
        self.address = address_of(str(name[0])) if isinstance(name, tuple) else "unix"
        self._raw = transport
        self._free_since = self.loop.time()
        self._peers.came(self)
        self.loop.call_later(min(HEADERS_S, self.timeout_keep_alive), self._close_if_idle)
        context = self._context()
        if context is None:
            super().connection_made(transport)
        else:
            transport.pause_reading()  # until the handshake reads
            self._handshake = self.loop.create_task(self._secured(transport, context))

    async def _secured(self, plain: asyncio.Transport, context: ssl.SSLContext) -> None:
        try:
            transport = await self.loop.start_tls(
                plain, self, context, server_side=True, ssl_handshake_timeout=HEADERS_S
            )
        # not TLS, too slow, or gone; there is nobody to tell
        except (OSError, asyncio.CancelledError):
            self._peers.left(self)
            plain.abort()
            return
        if transport is None or transport.is_closing():  # it went with the end of the handshake
            self._peers.left(self)
            plain.abort()
        else:
            super().connection_made(transport)
            if self._early:
                super().data_received(self._early)

    def data_received(self, data: bytes) -> None:
        if self.transport is None:  # it came with the end of the handshake
            self._early += data
        else:
            super().data_received(data)

    def connection_lost(self, exc: Exception | None) -> None:
        self._peers.left(self)
        if self.transport is not None:
            super().connection_lost(exc)

    def on_response_complete(self) -> None:
        self._free_since = self.loop.time()
        super().on_response_complete()

    def _close_if_idle(self) -> None:
        raw = self._raw
        if raw is None or raw.is_closing():
            return
        most = float(self.timeout_keep_alive)
        if not self._peers.is_known(self):
            most = min(HEADERS_S, most)
        left = most if self.is_busy else self._free_since + most - self.loop.time()
        if left > 0:
            self.loop.call_later(left, self._close_if_idle)
        elif self.transport is None:
            raw.abort()
        else:
            self.transport.close()


__all__ = ["HEADERS_S", "SCOPE_KEY", "Connection"]
