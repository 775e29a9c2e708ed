"""A connection to an MQTT broker on paho's own thread: what the source and the sink share.

paho-mqtt speaks the protocol (taken under its EDL-1.0, a BSD licence). Import this module only
where it is installed.
"""

from __future__ import annotations

import hashlib
import socket
import ssl
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from paho.mqtt.client import Client, error_string
from paho.mqtt.enums import CallbackAPIVersion, MQTTErrorCode, MQTTProtocolVersion

from edgeadapt.daemon.config.schema import MqttSink, MqttSource
from edgeadapt.daemon.config.secrecy import read_secret

_KEEPALIVE_S = 20
_PATIENCE_S = 10.0  # for the broker's first answer
_GOODBYE_S = 0.2


class MqttConnection(Client):
    """One connection, once: after it is lost another is made. ``loop_start`` begins it; messages
    and acknowledgements of QoS 1 come to ``on_message`` and ``on_publish``, on paho's thread, and
    ``ack`` lets the broker forget a message.

    Args:
        section: host, port, username, password_file, tls and ca_file are taken from it.
        is_clean: the broker forgets, and is to forget, what it knows of this client id; else it
            keeps messages while nobody is connected.
        filters: that are subscribed to, with QoS 1.
        will: a topic on which the broker says ``offline``, retained, when this side is gone without
            a word.
        on_session: called, before any message comes, with whether the broker still had a session.

    Attributes:
        ready: set once the broker takes and sends messages.

    Raises:
        RecipeError: the password cannot be read.
        OSError: the authority's certificate cannot be read.
    """

    def __init__(
        self,
        section: MqttSource | MqttSink,
        client_id: str,
        *,
        is_clean: bool,
        filters: Sequence[str] = (),
        will: str = "",
        on_session: Callable[[bool], None] = lambda has_session: None,
    ) -> None:
        super().__init__(
            CallbackAPIVersion.VERSION2,
            client_id,
            clean_session=is_clean,
            protocol=MQTTProtocolVersion.MQTTv311,
            reconnect_on_failure=False,
            manual_ack=True,
        )
        self.ready = threading.Event()
        self._section, self._filters, self._on_session = section, tuple(filters), on_session
        self._where = f"the broker at {section.host}:{section.port}"
        self._error: Exception | None = None
        self._patience_end = float("inf")
        self._ended, self._is_closing = threading.Event(), False
        self.connect_timeout = 5.0
        self.max_inflight_messages_set(0)  # bounded where they are sent
        self.on_connect, self.on_subscribe = self._connected, self._subscribed
        self.on_socket_open = _send_at_once
        if section.username:
            secret = section.password_file
            self.username_pw_set(section.username, read_secret(secret) if secret else None)
        if section.tls:
            authority = str(section.ca_file) if section.ca_file is not None else None
            self.tls_set_context(ssl.create_default_context(cafile=authority))
        if will:
            self.will_set(will, "offline", qos=1, retain=True)

    @property
    def failure(self) -> Exception | None:
        """Why there is no connection: it was lost, refused, or the broker does not answer. None
        while there is one, or it may still come.
        """
        if (
            self._error is None
            and not self.ready.is_set()
            and time.monotonic() > self._patience_end
        ):
            return ConnectionError(f"{self._where} does not answer")
        return self._error

    def loop_forever(
        self, timeout: float = 1.0, retry_first_connection: bool = False
    ) -> MQTTErrorCode:
        """What paho's thread runs: connect, and serve the connection until it is lost."""
        lost = MQTTErrorCode.MQTT_ERR_NO_CONN
        try:
            try:
                self.connect(self._section.host, self._section.port, _KEEPALIVE_S)
            except (OSError, ValueError) as error:
                raise ConnectionError(f"{self._where} cannot be reached: {error}") from error
            self._patience_end = time.monotonic() + _PATIENCE_S
            if self._is_closing:  # nobody waits for it any more, and another may have its name
                self._cut()
            lost = super().loop_forever(timeout)
            why = error_string(lost).rstrip(".")
            self._error = self._error or ConnectionError(
                f"{self._where}: the connection is lost: {why}"
            )
        except Exception as error:  # whatever paho makes of what comes over the wire
            self._error = self._error or error
        finally:
            self._ended.set()
        return lost

    def close(self) -> None:
        """Send what is under way, and say goodbye. Never fails."""
        self._is_closing = True
        with suppress(Exception):
            if self.ready.is_set():
                self.disconnect()
                self._ended.wait(_GOODBYE_S)
        self._cut()

    def _cut(self) -> None:
        line: Any = self.socket()
        if line is not None and not self._ended.is_set():
            with suppress(OSError):  # not that of TLS, which would talk to the other side
                socket.socket.shutdown(line, socket.SHUT_RDWR)

    def _connected(self, client: Any, data: Any, flags: Any, reason: Any, properties: Any) -> None:
        if reason.is_failure:
            self._error = ConnectionError(f"{self._where} refuses: {reason}")
            return
        self._on_session(bool(flags.session_present))
        if self._filters:
            self.subscribe([(one, 1) for one in self._filters])
        else:
            self.ready.set()

    def _subscribed(
        self, client: Any, data: Any, number: int, reasons: Sequence[Any], properties: Any
    ) -> None:
        for one, reason in zip(self._filters, reasons, strict=False):
            if reason.is_failure:
                self._error = ConnectionError(f"{self._where} refuses the subscription to {one!r}")
                return
        self.ready.set()


def _send_at_once(client: Any, data: Any, line: Any) -> None:
    """Small packets, each waited for."""
    line.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)


def client_id_of(section: MqttSource | MqttSink, *topics: str) -> str:
    """Stable over restarts, and different on another machine: two clients of one id would throw
    each other out for ever.
    """
    if given := section.client_id:
        return given
    try:
        machine = Path("/etc/machine-id").read_text(encoding="ascii").strip()
    except (OSError, ValueError):
        machine = ""
    whole = "\n".join(
        (machine, socket.gethostname(), type(section).__name__, section.name, *topics)
    )
    return f"edgeadapt-{section.name[:32]}-{hashlib.sha256(whole.encode()).hexdigest()[:12]}"


__all__ = ["MqttConnection", "client_id_of"]
