"""A broker that is killed and forgets everything while samples and labels flow through a daemon,
and a subscriber that never reads.
"""

from __future__ import annotations

import json
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

paho = pytest.importorskip(
    "paho.mqtt.client", reason="paho-mqtt is not installed: pip install 'edgeadapt[daemon]'"
)

from mosquitto import MISSING, Mosquitto  # noqa: E402
from mqtt_publisher import Publisher  # noqa: E402

from edgeadapt.daemon.config.schema import LoopSection, MqttSink, MqttSource  # noqa: E402
from edgeadapt.demo.sample import CLASSES, Sample  # noqa: E402

pytestmark = pytest.mark.skipif(
    MISSING, reason="mosquitto is not installed: apt-get install mosquitto"
)
Made = Callable[..., Any]


@contextmanager
def deaf(port: int) -> Iterator[None]:
    """A subscriber to every answer that reads none: its window fills, and the broker has to hold
    what it does not take.
    """
    client = paho.Client(paho.CallbackAPIVersion.VERSION2)
    subscribed = threading.Event()
    client.on_subscribe = lambda *rest: subscribed.set()
    client.connect("127.0.0.1", port)
    client.socket().setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    client.subscribe("out/#", 1)
    until = time.monotonic() + 5.0
    while not subscribed.is_set() and time.monotonic() < until:
        client.loop(0.05)
    assert subscribed.is_set()
    try:
        yield
    finally:
        client.socket().close()


def test_a_broker_killed_under_load_is_found_again_and_nobody_waits_for_a_deaf_subscriber(
    tmp_path: Path, serve: Made, settings: Made, sample: Sample, until: Made
) -> None:
    rows = np.flatnonzero(sample.y < 6)[:900]

    def say(publisher: Publisher, start: int, end: int) -> None:
        for n in range(start, end):
            publisher.say(
                "in/belt",
                msgspec.msgpack.encode({"x": sample.x[rows[n]].tobytes(), "name": f"s{n}"}),
            )
            publisher.say(
                "labels/belt",
                msgspec.msgpack.encode({"sample": f"s{n}", "label": CLASSES[sample.y[rows[n]]]}),
            )
            time.sleep(0.002)

    with Mosquitto(tmp_path / "broker") as broker:
        there: dict[str, Any] = {"host": "127.0.0.1", "port": broker.port}
        source = MqttSource(
            name="belt",
            stream="belt",
            topic="in/+",
            labels_topic="labels/+",
            format="msgpack",
            **there,
        )
        service = serve(
            settings(
                source=(source,),
                sink=(MqttSink(name="out", topic="out/{stream}", **there),),
                loop=LoopSection(batch=8),
            )
        )
        until(lambda: " 1 labels/+\n" in broker.log)
        publisher = Publisher(broker.port)
        publisher.hears("out/#")
        with deaf(broker.port):
            say(publisher, 0, 300)
            flowing = threading.Thread(target=say, args=(publisher, 300, 600))
            flowing.start()
            until(lambda: service.status()["loop"]["answered"] > 350)
            before = service.status()
            # what it held for anybody, sessions and subscriptions too, is gone
            broker.stop(signal.SIGKILL)
            started = time.monotonic()
            assert not service.observe(sample.x[:1])[0].error and time.monotonic() - started < 2.0
            until(lambda: service.status()["sources"][0]["state"] == "waiting")
            assert "source belt: " in service.health()["problems"][0] and service.health()["ok"]
            flowing.join()
            log = len(broker.log)
            broker.start()
        with deaf(broker.port):
            until(lambda: " 1 labels/+\n" in broker.log[log:], 30.0)
            until(lambda: publisher.client.is_connected(), 30.0)
            say(publisher, 600, 900)
            until(lambda: {f"s{n}" for n in range(600, 900)} <= answered(publisher), 30.0)
            until(
                lambda: (
                    service.status()["labels"]["received"] >= before["labels"]["received"] + 300
                    and service.status()["labels"]["queued"] == 0
                ),
                30.0,
            )
            status = service.status()
            assert (
                status["sources"][0]["state"] == "running"
                and status["sources"][0]["failures"] >= 1
                and status["ok"]
            )
            assert (
                sum(status["learner"]["evidence"].values()) == status["labels"]["received"]
                and status["labels"]["refused"] == 0
            )
            assert (
                before["loop"]["answered"] + 300 <= status["loop"]["answered"] <= 901
                and status["sinks"][0]["dropped"] == 0
            )
        publisher.close()


def answered(publisher: Publisher) -> set[str]:
    """Names of samples whose answers were heard."""
    events = [
        json.loads(message.payload)
        for message in list(publisher.heard)
        if message.topic == "out/belt"
    ]
    return {event["name"] for event in events if event["event"] == "answer"}
