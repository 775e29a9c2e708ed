"""Messages of an MQTT broker: each is a sample, or a label.

paho's thread only takes them. A message of QoS 1 is acknowledged when it was handed over: what was
not when the daemon or the broker went down, the broker sends again, as the session and its name
stay. What comes twice that way is taken once.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import OrderedDict, deque
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from edgeadapt.bundle.schema import InputSpec
from edgeadapt.daemon.config.dependencies import of_source, require
from edgeadapt.daemon.config.schema import MqttSource
from edgeadapt.daemon.io.sources.mqtt_payload import PayloadReader
from edgeadapt.daemon.messages import Deliver
from edgeadapt.errors import InputError

log = logging.getLogger("edgeadapt.daemon")
_MOST_WAITING, _MOST_WAITING_BYTES = 1024, 64 << 20
_LARGEST = 16 << 20  # bytes of one message
# messages that the broker may send once more; it has fewer than that on their way
_REMEMBERED = 1024
_QUIET_S = 10.0  # between two lines of the log about the same


@dataclass(frozen=True, eq=False)
class _Message:
    topic: str
    payload: bytes
    number: int | None  # of QoS 1; None: it is not acknowledged
    at: float
    came: float


class MqttMessages:
    """Retained messages are no samples, as they come again with every connection. What cannot be
    read is counted and skipped; see ``mqtt_payload`` for what can.

    Args:
        settings: ``labels_topic``, ``client_id`` and ``clean_start`` are taken where it has them.

    Attributes:
        counts: ``received`` messages, ``malformed`` ones that were skipped, ``dropped`` ones that
            had no room while others waited, ``repeated`` ones that were sent twice and taken once,
            ``retained`` ones that were skipped, and ``reconnects``, connections after the first.
        is_connected: now.

    Raises:
        InputError: the bundle takes no images.
        RuntimeUnavailable: paho-mqtt is missing.
    """

    def __init__(self, settings: MqttSource, spec: InputSpec) -> None:
        require(of_source(settings))
        self.name, self.stream = settings.name, settings.stream
        self.counts = dict.fromkeys(
            ("received", "malformed", "dropped", "repeated", "retained", "reconnects"), 0
        )
        self.is_connected, self._was_connected = False, False
        self._settings, self._reader = settings, PayloadReader(settings, spec)
        self._waiting: deque[_Message] = deque()
        self._waiting_bytes = 0
        self._changed = threading.Condition()
        # number -> hash, of messages that were handed over
        self._done: OrderedDict[int, int] = OrderedDict()
        self._quiet_until: dict[str, float] = {}

    def counters(self) -> dict[str, int]:
        """For a status line."""
        return self.counts | {"is_connected": self.is_connected}

    def run(self, deliver: Deliver, stop: threading.Event) -> None:
        """Take messages until ``stop``.

        Raises:
            ConnectionError: the broker is not there, refuses, or was lost; run it again.
            RecipeError: the password cannot be read.
        """
        from edgeadapt.daemon.io.mqtt_connection import MqttConnection, client_id_of

        settings = self._settings
        link = MqttConnection(
            settings,
            client_id_of(settings, settings.topic, settings.labels_topic),
            is_clean=settings.clean_start,
            filters=[topic for topic in (settings.topic, settings.labels_topic) if topic],
            on_session=self._begin_session,
        )

        def acknowledge(number: int) -> None:
            link.ack(number, 1)

        link.on_message = lambda client, data, message: self._receive(message, acknowledge)
        link.loop_start()
        try:
            while not stop.is_set():
                if link.ready.is_set() and not self.is_connected and link.failure is None:
                    self.counts["reconnects"] += self._was_connected
                    self.is_connected = self._was_connected = True
                    log.info(
                        "source %s: connected to %s:%d", self.name, settings.host, settings.port
                    )
                if (message := self._next()) is not None:
                    self._hand_over(message, deliver)
                    if message.number is not None:
                        self._remember(message)
                        acknowledge(message.number)
                elif (failure := link.failure) is not None:
                    raise failure
        finally:
            self.is_connected = False
            link.close()

    # -- paho's thread -----------------------------------------------------------------------------
    def _begin_session(self, is_known: bool) -> None:
        with self._changed:
            if not is_known:
                self._done.clear()  # the broker begins to count anew
                self._waiting = deque(replace(one, number=None) for one in self._waiting)
                return
            # the others it sends again
            kept = [message for message in self._waiting if message.number is None]
            self._waiting = deque(kept)
            self._waiting_bytes = sum(len(message.payload) for message in kept)

    def _receive(self, message: Any, acknowledge: Callable[[int], None]) -> None:
        self.counts["received"] += 1
        number = message.mid if message.qos else None
        try:
            topic = str(message.topic)
        except UnicodeDecodeError:
            topic = "?"
        taken = _Message(topic, bytes(message.payload), number, time.time(), time.monotonic())
        if message.retain:
            self.counts["retained"] += 1
        elif (
            number is not None
            and message.dup
            and self._done.get(number) == hash((topic, taken.payload))
        ):
            self.counts["repeated"] += 1
        elif len(taken.payload) > _LARGEST:
            self._skip(topic, f"{len(taken.payload)} bytes, the limit is {_LARGEST}")
        else:
            self._keep(taken, acknowledge)
            return
        if number is not None:
            acknowledge(number)

    def _keep(self, message: _Message, acknowledge: Callable[[int], None]) -> None:
        gone = []
        with self._changed:
            self._waiting.append(message)
            self._waiting_bytes += len(message.payload)
            while len(self._waiting) > _MOST_WAITING or self._waiting_bytes > _MOST_WAITING_BYTES:
                gone.append(oldest := self._waiting.popleft())
                self._waiting_bytes -= len(oldest.payload)
            self._changed.notify_all()
        for one in gone:
            self.counts["dropped"] += 1
            if one.number is not None:
                acknowledge(one.number)
        if gone:
            text = "messages come faster than they are taken, %d were dropped so far"
            self._warn("dropped", text, self.counts["dropped"])

    # -- the thread of the source ------------------------------------------------------------------
    def _next(self) -> _Message | None:
        with self._changed:
            if not self._waiting:
                self._changed.wait(0.1)
            if not self._waiting:
                return None
            message = self._waiting.popleft()
            self._waiting_bytes -= len(message.payload)
            return message

    def _remember(self, message: _Message) -> None:
        assert message.number is not None
        with self._changed:
            self._done.pop(message.number, None)
            self._done[message.number] = hash((message.topic, message.payload))
            if len(self._done) > _REMEMBERED:
                self._done.popitem(last=False)

    def _hand_over(self, message: _Message, deliver: Deliver) -> None:
        try:
            what = (
                self._reader.label(message.payload)
                if self._is_label(message.topic)
                else self._reader.sample(message.payload, message.at, message.came)
            )
        except Exception as error:  # whatever a message does to a decoder: the next may be fine
            why = (
                str(error) if isinstance(error, InputError) else f"{type(error).__name__}: {error}"
            )
            self._skip(message.topic, why)
        else:
            deliver(what)

    def _is_label(self, topic: str) -> bool:
        from paho.mqtt.client import topic_matches_sub

        labels_topic = self._settings.labels_topic
        return bool(labels_topic) and topic_matches_sub(labels_topic, topic)

    def _skip(self, topic: str, why: str) -> None:
        self.counts["malformed"] += 1
        text = "a message on %r was skipped, %d so far: %.300s"
        self._warn("malformed", text, topic, self.counts["malformed"], why)

    def _warn(self, about: str, text: str, *values: Any) -> None:
        """Not all the time of the same."""
        now = time.monotonic()
        if now >= self._quiet_until.get(about, 0.0):
            self._quiet_until[about] = now + _QUIET_S
            log.warning("source %s: " + text, self.name, *values)


__all__ = ["MqttMessages"]
