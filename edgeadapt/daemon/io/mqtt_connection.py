"""A connection to an MQTT broker, driven by one thread: what the source and the sink share.

paho-mqtt speaks the protocol (taken under its EDL-1.0, a BSD licence). Its own thread is not used:
that one cannot be stopped in time, and waits between two tries where nobody sees it. Here whoever
has the link turns it, and is told by an error that it is gone.
"""

from __future__ import annotations

import hashlib
import importlib.util
import select
import socket
import ssl
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from edgeadapt.daemon.config.schema import MqttSink, MqttSource, read_secret
from edgeadapt.errors import InputError

_KEEPALIVE_S = 20
_PATIENCE_S = 10.0  # for the broker's first answer
_GOODBYE_S = 0.2
MOST_IN_FLIGHT = 64  # messages that were published and not yet acknowledged


class MqttConnection:
    """One connection, once: after it is lost another is made. All but ``wake`` is for the one
    thread that drives it.

    Args:
        section: host, port, username, password_file and tls are taken from it, and ca_file where it
            has one.
        is_clean: the broker forgets, and is to forget, what it knows of this client id; else it
            keeps messages while nobody is connected.
        filters: that are subscribed to, with QoS 1.
        will: a topic on which the broker says ``offline``, retained, when this side is gone without
            a word.
        greeted: told, before any message comes, whether the broker still had a session.
        message: takes every message, as paho gives it.
        published: told the number of every message that the broker has taken.
    """

    def __init__(
        self,
        section: MqttSource | MqttSink,
        client_id: str,
        *,
        is_clean: bool,
        filters: Sequence[str] = (),
        will: str = "",
        greeted: Callable[[bool], None] | None = None,
        message: Callable[[Any], None] | None = None,
        published: Callable[[int], None] | None = None,
    ) -> None:
        self._section = section
        self._where = f"the broker at {section.host}:{section.port}"
        self._filters = tuple(filters)
        self._client = self._new_client(client_id, is_clean, will)
        self._client.on_connect = self._on_connect
        self._client.on_subscribe = self._on_subscribe
        self._client.on_message = lambda client, data, what: (
            message(what) if message is not None else None
        )
        self._client.on_publish = lambda client, data, number, *rest: (
            published(number) if published is not None else None
        )
        self._greeted = greeted
        self._is_ready, self._why = False, ""
        self._waker, self._woken = socket.socketpair()
        self._waker.setblocking(False)
        self._woken.setblocking(False)

    def _new_client(self, client_id: str, is_clean: bool, will: str) -> Any:
        from paho.mqtt.client import Client
        from paho.mqtt.enums import CallbackAPIVersion, MQTTProtocolVersion

        section = self._section
        client = Client(
            CallbackAPIVersion.VERSION2,
            client_id,
            clean_session=is_clean,
            protocol=MQTTProtocolVersion.MQTTv311,
            reconnect_on_failure=False,
            manual_ack=True,
        )
        client.connect_timeout = 5.0
        client.max_inflight_messages_set(MOST_IN_FLIGHT)
        if section.username:
            client.username_pw_set(
                section.username,
                read_secret(section.password_file) if section.password_file is not None else None,
            )
        if section.tls:
            authority = section.ca_file
            client.tls_set_context(
                ssl.create_default_context(cafile=str(authority) if authority is not None else None)
            )
        if will:
            client.will_set(will, "offline", qos=1, retain=True)
        return client

    def open(self, is_stopping: Callable[[], bool]) -> bool:
        """Connect, log in and subscribe; False if it was stopped meanwhile.

        Raises:
            ConnectionError: the broker is not there, refuses, or does not answer.
        """
        try:
            self._client.connect(self._section.host, self._section.port, _KEEPALIVE_S)
            # small packets, each waited for
            self._client.socket().setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        except (OSError, ValueError) as error:
            raise ConnectionError(f"{self._where} cannot be reached: {error}") from error
        until = time.monotonic() + _PATIENCE_S
        while not self._is_ready:
            if is_stopping():
                return False
            if time.monotonic() > until:
                raise ConnectionError(f"{self._where} does not answer")
            self.turn(0.25)
        return True

    def turn(self, timeout_s: float) -> None:
        """Send and receive what there is; waits until there is some, or somebody wakes it.

        Raises:
            ConnectionError: the connection is lost.
        """
        line = self._client.socket()
        if line is None:
            raise ConnectionError(self._why or f"{self._where} closed the connection")
        has_more = bool(getattr(line, "pending", int)())  # bytes that TLS has read already
        poll = select.poll()
        poll.register(self._woken, select.POLLIN)
        poll.register(line, select.POLLIN | (select.POLLOUT if self._client.want_write() else 0))
        ready = dict(poll.poll(0.0 if has_more else 1e3 * timeout_s))
        if self._woken.fileno() in ready:
            with suppress(BlockingIOError):
                self._woken.recv(4096)
        what = ready.get(line.fileno(), 0)
        failed = 0
        if has_more or what & ~select.POLLOUT:
            failed = failed or int(self._client.loop_read())
        if self._client.want_write():
            failed = failed or int(self._client.loop_write())
        failed = failed or int(self._client.loop_misc())
        if failed or self._why:
            raise ConnectionError(
                self._why or f"{self._where}: the connection is lost: {_meaning(failed)}"
            )

    def publish(self, topic: str, payload: bytes, *, is_retained: bool = False) -> int:
        """Send with QoS 1; ``published`` is told the number that comes back here."""
        return int(self._client.publish(topic, payload, qos=1, retain=is_retained).mid)

    def acknowledge(self, number: int) -> None:
        """Tell the broker that it may forget a message of QoS 1."""
        self._client.ack(number, 1)

    def wake(self) -> None:
        """End the wait of ``turn``; from any thread, at any time."""
        with suppress(OSError):  # full: it is awake; closed: it is over
            self._waker.send(b"\0")

    def close(self) -> None:
        """Send what is under way, and say goodbye. Never fails."""
        line = self._client.socket()
        with suppress(Exception):
            if line is not None and self._is_ready:
                self._client.disconnect()
                until = time.monotonic() + _GOODBYE_S
                while (
                    self._client.socket() is not None
                    and self._client.want_write()
                    and time.monotonic() < until
                ):
                    self.turn(0.05)
        with suppress(Exception):
            if line is not None:
                line.close()
        self._waker.close()
        self._woken.close()

    def _on_connect(self, client: Any, data: Any, flags: Any, reason: Any, properties: Any) -> None:
        if reason.is_failure:
            self._why = f"{self._where} refuses: {reason}"
            return
        if self._greeted is not None:
            self._greeted(bool(flags.session_present))
        if self._filters:
            client.subscribe([(one, 1) for one in self._filters])
        self._is_ready = not self._filters

    def _on_subscribe(
        self, client: Any, data: Any, number: int, reasons: Sequence[Any], properties: Any
    ) -> None:
        refused = [
            one for one, reason in zip(self._filters, reasons, strict=False) if reason.is_failure
        ]
        if refused:
            self._why = f"{self._where} refuses the subscription to {refused[0]!r}"
        self._is_ready = not refused


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


def require_paho(what: str) -> None:
    """Refuse a source or sink of MQTT where the library is missing.

    Raises:
        InputError: with what to install.
    """
    if importlib.util.find_spec("paho") is None:
        raise InputError(
            f"{what} needs paho-mqtt, which is not installed: pip install 'edgeadapt[daemon]'"
        )


def _meaning(code: int) -> str:
    from paho.mqtt.client import error_string

    return str(error_string(code)).rstrip(".")


__all__ = ["MOST_IN_FLIGHT", "MqttConnection", "client_id_of", "require_paho"]
