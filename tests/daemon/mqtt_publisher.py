"""A client of somebody else's, beside the daemon's."""

from __future__ import annotations

import json
import threading
from typing import Any

import paho.mqtt.client as paho


class Publisher:
    """Somebody else's client, with paho's own thread: it keeps what it could not send, and sends it
    later.
    """

    def __init__(self, port: int) -> None:
        self.client = paho.Client(paho.CallbackAPIVersion.VERSION2)
        self.client.reconnect_delay_set(1, 1)
        self.client.max_queued_messages_set(0)
        self.heard: list[Any] = []
        self.client.on_message = lambda client, data, message: self.heard.append(message)
        self.client.on_connect = lambda client, data, *rest: [
            client.subscribe(topic, 1) for topic in self.topics
        ]
        self.topics: list[str] = []
        self.client.connect("127.0.0.1", port)
        self.client.loop_start()

    def say(self, topic: str, payload: Any, qos: int = 1, **options: Any) -> Any:
        return self.client.publish(
            topic, payload if isinstance(payload, bytes) else json.dumps(payload), qos, **options
        )

    def hears(self, *topics: str) -> None:
        self.topics += topics
        got = threading.Event()
        self.client.on_subscribe = lambda *rest: got.set()
        self.client.subscribe([(topic, 1) for topic in topics])
        assert got.wait(5.0)

    def close(self) -> None:
        self.client.disconnect()
        self.client.loop_stop()
