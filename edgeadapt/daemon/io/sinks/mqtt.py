"""Answers and questions as messages of an MQTT broker, sent beside the loop by a thread of its own.

A second, retained topic says whether the daemon is there: ``online`` from this side, ``offline``
from it at the end, or from the broker if it goes without a word.
"""

from __future__ import annotations

import logging
import re
import threading
import time
from collections import OrderedDict, deque
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from edgeadapt.daemon.config.dependencies import of_sink, require
from edgeadapt.daemon.config.schema import MqttSink
from edgeadapt.daemon.decoding.codec import encode
from edgeadapt.errors import InputError

if TYPE_CHECKING:
    from edgeadapt.daemon.io.mqtt_connection import MqttConnection

log = logging.getLogger("edgeadapt.daemon")
_FIRST_S, _LONGEST_S = 0.5, 30.0
_GOOD_S = 10.0  # a connection of this length starts the waits over
_MOST_IN_FLIGHT = 64  # messages that were sent and that the broker has not taken
# what is opened only to be checked is closed before that, and the broker never sees it
_GRACE_S = 0.1
# after an event was sent: those that come meanwhile go together, and the loop need not wake the
# thread for each
_REST_S = 0.05
_OFFLINE_S = 0.2  # of the time to close, kept for the last word


class MqttEvents:
    """A sink. Each event is one JSON object, with QoS 1: after a broken connection some may come
    twice, none out of order before it broke.

    While there is no broker events wait; what the queue cannot hold is dropped, oldest first.

    Args:
        settings: ``{stream}`` in its topic is the event's stream. Without ``status_topic`` the
            status is at the topic, without ``{stream}``, and ``/status``.
        size: events that wait.

    Attributes:
        dropped: events that the broker never took. written: those that it did. failures:
            connections that failed or were lost.

    Raises:
        InputError: the topic has another name in braces.
        RuntimeUnavailable: paho-mqtt is missing.
    """

    def __init__(self, settings: MqttSink, *, size: int = 10_000) -> None:
        require(of_sink(settings))
        if others := set(re.findall(r"\{.*?\}", settings.topic)) - {"{stream}"}:
            raise InputError(
                f"sink {settings.name!r}: the topic {settings.topic!r} has {min(others)}; only"
                " {stream} is put in"
            )
        self.name = settings.name
        self.status_topic = settings.status_topic or _status_topic(settings.topic)
        self.dropped = self.written = self.failures = 0
        self.error, self.is_connected = "", False
        self._settings, self._size = settings, size
        self._waiting: deque[Mapping[str, Any]] = deque()
        # number -> event that was sent, the oldest first
        self._flying: OrderedDict[int, Mapping[str, Any]] = OrderedDict()
        self._early: set[int] = set()  # that the broker took before they were in flight
        self._lock = threading.Lock()
        self._wake = threading.Event()
        self._is_idle = False  # it waits for the next event
        self._closing, self._end = threading.Event(), 0.0
        self._thread = threading.Thread(target=self._serve, name=f"sink-{self.name}", daemon=True)
        self._thread.start()

    def counters(self) -> dict[str, Any]:
        """For a status line. ``waiting``: events, those that were sent and not yet taken
        included.
        """
        waiting = len(self._waiting) + len(self._flying)
        return {
            "waiting": waiting,
            "written": self.written,
            "failures": self.failures,
            "error": self.error,
            "is_connected": self.is_connected,
        }

    def take(self, event: Mapping[str, Any]) -> None:
        """Queue an event, which is not changed from then on. After ``close`` it is dropped."""
        with self._lock:
            if self._closing.is_set():
                self.dropped += 1
                return
            self._waiting.append(event)
            self._trim()
            was_idle, self._is_idle = self._is_idle, False
        if was_idle:
            self._wake.set()

    def close(self, timeout_s: float = 1.0) -> None:
        """Send what waits, if there is a broker, and stop. What it did not take within the time is
        counted as dropped.
        """
        with self._lock:
            self._end = self._end or time.monotonic() + 0.9 * timeout_s
            self._closing.set()
        self._wake.set()
        self._thread.join(timeout_s)
        with self._lock:
            self.dropped += len(self._waiting) + len(self._flying)
            self._waiting.clear()
            self._flying.clear()

    def _trim(self) -> None:
        while len(self._waiting) > self._size:
            self._waiting.popleft()
            self.dropped += 1

    def _serve(self) -> None:
        wait_s = _FIRST_S
        goes_on = not self._closing.wait(_GRACE_S) or self._has_more()
        while goes_on:
            started = time.monotonic()
            try:
                self._connect_and_send()
                return
            except Exception as error:  # a broker, a resolver or a certificate: it goes on trying
                self.failures += 1
                if not self.error:
                    log.warning("sink %s cannot send, and goes on trying: %s", self.name, error)
                self.error = str(error)
            wait_s = _FIRST_S if time.monotonic() - started >= _GOOD_S else wait_s
            goes_on = not self._closing.wait(wait_s)
            wait_s = min(_LONGEST_S, 2.0 * wait_s)

    def _connect_and_send(self) -> None:
        """Until it closes; raises when the connection is lost."""
        from edgeadapt.daemon.io.mqtt_connection import MqttConnection, client_id_of

        link = MqttConnection(
            self._settings,
            client_id_of(self._settings, self._settings.topic),
            is_clean=True,
            will=self.status_topic,
        )
        link.on_publish = lambda client, data, number, *rest: self._was_taken(number)
        link.loop_start()
        try:
            while not link.ready.wait(0.05) or link.failure is not None:
                if link.failure is not None:
                    raise link.failure
                if self._is_over():
                    return
            link.publish(self.status_topic, b"online", qos=1, retain=True)
            self.is_connected, self.error = True, ""
            while not self._is_over():
                if link.failure is not None:
                    raise link.failure
                if self._send(link):
                    self._closing.wait(_REST_S)
                elif self._has_to_wait():
                    self._wake.wait(0.05 if self._closing.is_set() else 1.0)
                    self._wake.clear()
            last = link.publish(self.status_topic, b"offline", qos=1, retain=True)
            last.wait_for_publish(max(0.0, self._end - time.monotonic()))
        finally:
            with self._lock:
                self.is_connected = False
                self._waiting.extendleft(reversed(self._flying.values()))
                self._flying.clear()
                self._trim()
            link.close()

    def _is_over(self) -> bool:
        return self._closing.is_set() and not (
            self._has_more() and time.monotonic() < self._end - _OFFLINE_S
        )

    def _has_more(self) -> bool:
        return bool(self._waiting or self._flying)

    def _has_to_wait(self) -> bool:
        """For an event, or for the broker to take what was sent."""
        with self._lock:
            self._is_idle = not self._waiting
            return self._is_idle or len(self._flying) >= _MOST_IN_FLIGHT

    def _send(self, link: MqttConnection) -> bool:
        """As many events as may be under way; True if some were sent and none waits."""
        was_sent = False
        while True:
            with self._lock:
                if not self._waiting or len(self._flying) >= _MOST_IN_FLIGHT:
                    return was_sent and not self._waiting
                event = self._waiting.popleft()
            try:
                payload = encode(event)
            except Exception as error:  # half a character, a cycle: whatever a caller put into it
                self.dropped += 1
                log.warning("sink %s: an event cannot be JSON: %s", self.name, error)
                continue
            topic = self._settings.topic.replace("{stream}", _level(event.get("stream")))
            with self._lock:
                self._flying[-1] = event  # whatever happens now, it is not lost
            # without the lock: paho has one of its own, which it holds in ``_was_taken``
            number = link.publish(topic, payload, qos=1).mid
            with self._lock:
                self._flying[number] = self._flying.pop(-1)
                is_early = number in self._early
                self._early.clear()
            if is_early:
                self._was_taken(number)
            was_sent = True

    def _was_taken(self, number: int) -> None:
        """On paho's thread, or for what that took too early."""
        with self._lock:
            if self._flying.pop(number, None) is not None:
                self.written += 1
            elif -1 in self._flying:
                self._early.add(number)
            is_awaited = self._closing.is_set() or len(self._flying) >= _MOST_IN_FLIGHT - 1
        if is_awaited:
            self._wake.set()


def _status_topic(topic: str) -> str:
    """``plant/{stream}/answers`` -> ``plant/answers/status``."""
    return "/".join([level for level in topic.split("/") if "{stream}" not in level] + ["status"])


def _level(stream: Any) -> str:
    """A stream as one level of a topic; over HTTP it may have any name."""
    return (
        re.sub(r"[+#/$\x00-\x1f\x7f]", "_", stream[:200])
        if isinstance(stream, str) and stream
        else "_"
    )


__all__ = ["MqttEvents"]
