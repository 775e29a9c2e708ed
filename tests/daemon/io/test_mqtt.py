"""Both sides of MQTT against a real Mosquitto, which is stopped, frozen and started again."""

from __future__ import annotations

import base64
import io
import json
import logging
import signal
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
from PIL import Image  # noqa: E402

from edgeadapt.bundle.schema import InputSpec  # noqa: E402
from edgeadapt.daemon.config import schema as settings  # noqa: E402
from edgeadapt.daemon.io.sinks import open_sink  # noqa: E402
from edgeadapt.daemon.io.sinks.mqtt import MqttEvents  # noqa: E402
from edgeadapt.daemon.io.source_thread import SourceThread  # noqa: E402
from edgeadapt.daemon.io.sources import open_source  # noqa: E402
from edgeadapt.daemon.io.sources.mqtt import MqttMessages  # noqa: E402
from edgeadapt.daemon.messages import Arrival, LabelArrival  # noqa: E402
from edgeadapt.errors import InputError  # noqa: E402

pytestmark = pytest.mark.skipif(
    MISSING, reason="mosquitto is not installed: apt-get install mosquitto"
)

GRAY = InputSpec(layout="NHW", dtype="uint8", shape=(8, 8), colour="gray", resize="bilinear")
VECTOR = InputSpec(layout="NC", dtype="float32", shape=(3,))
FEATURES = InputSpec(layout="features", dtype="float32", shape=(3,))


class Labelled(settings.MqttSource, frozen=True, kw_only=True):
    """What the settings have with the optional keys that the source reads."""

    labels_topic: str = ""
    client_id: str = ""
    clean_start: bool = False
    ca_file: Path | None = None


class Taking:
    """A source behind its feeder, and what it brought; ``pause_s``: how long each takes."""

    def __init__(self, source: MqttMessages, pause_s: float = 0.0) -> None:
        self.source, self.pause_s = source, pause_s
        self.samples, self.labels = list[Arrival](), list[LabelArrival]()
        self.feeder = SourceThread(source, self._deliver, first_s=0.1, longest_s=0.3)
        self.feeder.start()

    def _deliver(self, what: Arrival | LabelArrival) -> bool:
        time.sleep(self.pause_s)
        (self.labels if isinstance(what, LabelArrival) else self.samples).append(what)  # type: ignore[arg-type]
        return True

    @property
    def names(self) -> list[str]:
        return [sample.name for sample in self.samples]

    def stops(self, timeout_s: float = 1.0) -> bool:
        self.feeder.stop.set()
        return self.feeder.join(timeout_s)


@pytest.fixture
def broker(tmp_path: Path) -> Iterator[Mosquitto]:
    with Mosquitto(tmp_path / "broker") as running:
        yield running


@pytest.fixture
def publisher(broker: Mosquitto) -> Iterator[Publisher]:
    opened = Publisher(broker.port)
    yield opened
    opened.close()


@contextmanager
def taking(
    broker: Mosquitto, spec: InputSpec = VECTOR, pause_s: float = 0.0, **changes: Any
) -> Iterator[Taking]:
    section = Labelled(
        **{
            "name": "s",
            "stream": "line",
            "host": "127.0.0.1",
            "port": broker.port,
            "topic": "in/+",
            "format": "json",
            **changes,
        }
    )
    running = Taking(MqttMessages(section, spec), pause_s)
    until = time.monotonic() + 5.0
    while not running.source.is_connected and not running.feeder.error and time.monotonic() < until:
        time.sleep(0.005)
    try:
        yield running
    finally:
        assert running.stops(2.0)


def encoded(value: int, form: str = "PNG") -> bytes:
    data = io.BytesIO()
    Image.fromarray(np.full((16, 16), value, np.uint8)).save(data, form)
    return data.getvalue()


# -- source ----------------------------------------------------------------------------------------
def test_images_are_told_by_their_content_and_come_in_the_form_that_the_bundle_takes(
    broker: Mosquitto, publisher: Publisher, until: Callable[..., None]
) -> None:
    with taking(broker, GRAY, format="image", topic="cam/#") as run:
        publisher.say("cam/a", encoded(40))
        publisher.say("cam/b/c", encoded(200, "JPEG"))
        until(lambda: len(run.samples) == 2)
        for sample, value in zip(run.samples, (40, 200), strict=True):
            assert (
                sample.x is not None
                and sample.x.shape == (8, 8)
                and sample.x.dtype == np.uint8
                and abs(int(sample.x[4, 4]) - value) <= 1
            )
            assert (sample.stream, sample.source, sample.name, sample.label) == (
                "line",
                "s",
                "",
                None,
            )


def test_features_and_inputs_come_as_json_with_name_label_and_time(
    broker: Mosquitto, publisher: Publisher, until: Callable[..., None]
) -> None:
    with taking(broker, FEATURES) as run:
        publisher.say(
            "in/a",
            {
                "z": [1, 2.5, -3],
                "taps": [4, 5],
                "name": "n",
                "label": "ok",
                "time": 1700000000.5,
                "battery": 3,
            },
        )
        publisher.say("in/a", {"x": [0.5, 0.25, 0]})
        until(lambda: len(run.samples) == 2)
    first, second = run.samples
    assert (
        first.features is not None
        and first.features["z"].tolist() == [1, 2.5, -3]
        and first.features["taps"].tolist() == [4, 5]
    )
    assert first.features["z"].dtype == np.float32 and (first.name, first.label, first.at) == (
        "n",
        "ok",
        1700000000.5,
    )
    assert (
        second.features is not None
        and second.features["z"].tolist() == [0.5, 0.25, 0]
        and abs(second.at - time.time()) < 10
    )
    with taking(broker, VECTOR, name="t") as run:
        publisher.say("in/a", {"x": [1, 2, 3]})
        publisher.say("in/a", {"x": base64.b64encode(np.float32([1, 2, 3]).tobytes()).decode()})
        until(lambda: len(run.samples) == 2)
        assert all(
            sample.x is not None and sample.x.tolist() == [1, 2, 3] and sample.x.dtype == np.float32
            for sample in run.samples
        )


def test_msgpack_brings_bytes_as_they_lie_in_memory_or_an_encoded_image(
    broker: Mosquitto, publisher: Publisher, until: Callable[..., None]
) -> None:
    rows = np.arange(64, dtype=np.uint8).reshape(8, 8)
    with taking(broker, GRAY, format="msgpack") as run:
        for x in (rows.tobytes(), rows.tolist(), encoded(90), np.full((4, 4, 3), 7).tolist()):
            publisher.say("in/a", msgspec.msgpack.encode({"x": x, "name": "k"}))
        publisher.say("in/a", msgspec.msgpack.encode({"z": np.float32([1, 2]).tobytes()}))
        until(lambda: len(run.samples) == 5)
    frames = [sample.x for sample in run.samples[:4]]
    assert all(
        frame is not None and frame.dtype == np.uint8 and frame.shape == (8, 8) for frame in frames
    )
    assert (
        (frames[0] == rows).all()
        and (frames[1] == rows).all()
        and (frames[2] == 90).all()
        and (frames[3] == 7).all()
    )
    assert run.samples[4].features is not None and run.samples[4].features["z"].tolist() == [1, 2]


def test_labels_have_a_topic_of_their_own_even_inside_that_of_the_samples(
    broker: Mosquitto, publisher: Publisher, until: Callable[..., None]
) -> None:
    with taking(broker, topic="in/#", labels_topic="in/labels") as run:
        publisher.say("in/labels", {"sample": "a", "label": "ok"})
        publisher.say("in/x", {"x": [1, 2, 3], "name": "a"})
        publisher.say("in/labels", {"label": "ok"})
        until(lambda: run.source.counts["received"] == 3 and run.source.counts["malformed"] == 1)
        assert run.labels == [LabelArrival("a", "ok", "s")] and run.names == ["a"]


@pytest.mark.parametrize(
    "payload",
    [
        b"",
        b"{",
        b"[1]",
        b"{}",
        b'{"z":[1],"x":[1]}',
        b'{"z":"?"}',
        b'{"z":[[1]]}',
        b'{"z":[]}',
        b'{"z":["a"]}',
        b'{"x":[1,2]}',
        b'{"x":[[1],[2,3]]}',
        b'{"x":[1,2,3],"time":-1}',
        b'{"x":[1,2,3],"name":7}',
        b'{"x":[1,2,3],"label":""}',
        b'{"x":[1,2,3],"name":"' + b"n" * 300 + b'"}',
        b'{"x":' + b"[" * 50_000,
        b'{"x":[1e400,1,1]}',
        b"\xff\xd8\xff",
        b"\0" * 9,
        b'{"x":[1,2,{"a":[]}]}',
        b'{"x":[true,false,true]}',
        b'{"x":[' + b"9" * 400 + b",1,1]}",
        b'{"z":"AAAA"}',
        b"x" * (17 << 20),
    ],
)
def test_what_cannot_be_read_is_counted_and_the_next_is_taken(
    payload: bytes, broker: Mosquitto, publisher: Publisher, until: Callable[..., None]
) -> None:
    with taking(broker) as run:
        publisher.say("in/a", payload)
        publisher.say("in/a", {"x": [1, 2, 3], "name": "good"})
        until(lambda: run.names[-1:] == ["good"])
        assert (
            run.source.counts["malformed"] == 1
            and len(run.samples) == 1
            and run.feeder.failures == 0
        )


def test_damaged_and_huge_images_are_counted_and_named_once_in_a_while(
    broker: Mosquitto,
    publisher: Publisher,
    until: Callable[..., None],
    caplog: pytest.LogCaptureFixture,
) -> None:
    bomb = io.BytesIO()
    Image.new("1", (40_000, 20_000)).save(bomb, "PNG")
    with caplog.at_level(logging.WARNING), taking(broker, GRAY, format="image") as run:
        for payload in (
            encoded(1)[:-30],
            encoded(1, "GIF"),
            b"\xff\xd8\xff" + bytes(100),
            bomb.getvalue(),
            b"\n\n",
            b"",
        ):
            publisher.say("in/evil", payload)
        publisher.say("in/good", encoded(50))
        until(lambda: len(run.samples) == 1)
        assert run.source.counts["malformed"] == 6 and run.feeder.failures == 0
    assert caplog.text.count("was skipped") == 1 and "'in/evil'" in caplog.text


def test_a_retained_message_is_no_sample(
    broker: Mosquitto, publisher: Publisher, until: Callable[..., None]
) -> None:
    publisher.say("in/a", {"x": [1, 2, 3], "name": "old"}, retain=True).wait_for_publish(5.0)
    with taking(broker) as run:
        publisher.say("in/a", {"x": [1, 2, 3], "name": "new"})
        until(lambda: run.names == ["new"])
        assert run.source.counts["retained"] == 1


def test_what_came_while_nobody_was_there_is_taken_later_and_what_was_not_handed_over_comes_again(
    broker: Mosquitto, publisher: Publisher, until: Callable[..., None]
) -> None:
    with taking(broker, pause_s=0.02) as run:
        for n in range(100):
            publisher.say("in/a", {"x": [1, 2, 3], "name": str(n)})
        until(lambda: len(run.samples) >= 10)
        assert run.stops()
    first = run.names
    for n in range(100, 150):
        publisher.say("in/a", {"x": [1, 2, 3], "name": str(n)})
    with taking(broker) as run:
        until(lambda: run.names[-1:] == ["149"])
        assert 10 <= len(first) < 100 and first + run.names == [str(n) for n in range(150)]


def test_with_a_clean_start_only_what_comes_from_now_on_is_taken(
    broker: Mosquitto, publisher: Publisher, until: Callable[..., None]
) -> None:
    with taking(broker, clean_start=True):
        pass
    publisher.say("in/a", {"x": [1, 2, 3], "name": "missed"}).wait_for_publish(5.0)
    with taking(broker, clean_start=True) as run:
        publisher.say("in/a", {"x": [1, 2, 3], "name": "seen"})
        until(lambda: run.names == ["seen"])


def test_a_restart_of_the_broker_while_a_slow_consumer_is_behind_loses_nothing_and_doubles_nothing(
    broker: Mosquitto, publisher: Publisher, until: Callable[..., None]
) -> None:
    with taking(broker, pause_s=0.004) as run:
        for n in range(600):
            publisher.say("in/a", {"x": [1, 2, 3], "name": str(n)})
            if n in (200, 400):
                until(lambda n=n: len(run.samples) > n // 4)
                broker.stop()
                time.sleep(0.3)
                broker.start()
        until(lambda: len(set(run.names)) == 600, 30.0)
        time.sleep(0.5)
        assert (
            len(run.names) == 600 and run.feeder.failures >= 2 and run.source.counts["dropped"] == 0
        )
    assert run.source.counts["repeated"] < 200


def test_a_flood_that_nobody_waits_for_is_cut_counted_and_leaves_the_newest(
    broker: Mosquitto, publisher: Publisher, until: Callable[..., None]
) -> None:
    with taking(broker, pause_s=0.01) as run:
        for n in range(4000):
            publisher.say("in/a", {"x": [1, 2, 3], "name": str(n)}, 0)
        publisher.say("in/a", {"x": [1, 2, 3], "name": "last"}).wait_for_publish(5.0)
        # the network was never kept waiting: that would take 40 s
        until(lambda: run.source.counts["received"] == 4001)
        run.pause_s = 0.0
        until(lambda: run.names[-1:] == ["last"])
        assert (
            run.source.counts["dropped"] > 2000
            and len(run.samples) + run.source.counts["dropped"] == 4001
        )


def test_a_broker_that_is_not_there_refuses_or_falls_silent_is_said_and_tried_again(
    tmp_path: Path, until: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("edgeadapt.daemon.io.mqtt_connection._KEEPALIVE_S", 1)
    (tmp_path / "passwords").write_text("")
    with (
        Mosquitto(
            tmp_path / "broker", f"password_file {tmp_path / 'passwords'}", is_open=False
        ) as closed,
        taking(closed) as run,
    ):
        until(lambda: run.feeder.failures >= 2)
        assert "refuses: Not authorized" in run.feeder.error
    with Mosquitto(tmp_path / "other") as broker, taking(broker) as run:
        broker.signal(signal.SIGSTOP)
        until(lambda: run.feeder.failures >= 1, 10.0)
        assert "connection is lost" in run.feeder.error
        assert run.stops()
        broker.stop(signal.SIGKILL)
        run = Taking(run.source)
        until(lambda: run.feeder.failures >= 2)
        assert "cannot be reached" in run.feeder.error
        broker.start()
        until(lambda: run.source.is_connected)
        assert run.source.counters()["reconnects"] == 1
        assert run.stops()


def test_a_password_file_opens_the_door(tmp_path: Path, until: Callable[..., None]) -> None:
    import shutil
    import subprocess

    tool = shutil.which("mosquitto_passwd")
    if tool is None:
        pytest.skip("mosquitto_passwd is not installed")
    passwords, secret = tmp_path / "passwords", tmp_path / "secret"
    passwords.touch(0o600)
    subprocess.run(
        [tool, "-b", str(passwords), "camera", "geheim 7"], check=True, capture_output=True
    )
    secret.write_text("geheim 7\n")
    with Mosquitto(tmp_path / "broker", f"password_file {passwords}", is_open=False) as broker:
        with taking(broker, username="camera", password_file=secret) as run:
            assert run.source.is_connected
        secret.write_text("other\n")
        with taking(broker, username="camera", password_file=secret) as run:
            until(lambda: "refuses" in run.feeder.error)


def test_tls_takes_the_broker_whose_certificate_is_vouched_for_and_no_other(
    tmp_path: Path, until: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    authority = certificates(tmp_path)
    lines = (f"certfile {tmp_path / 'broker.pem'}", f"keyfile {tmp_path / 'broker.key'}")
    with Mosquitto(tmp_path / "broker", *lines) as broker:
        with taking(broker, tls=True, ca_file=authority) as run:
            assert run.source.is_connected, run.feeder.error
        with taking(broker, tls=True) as run:
            until(lambda: "certificate" in run.feeder.error.lower())
            assert not run.source.is_connected
        monkeypatch.setenv("SSL_CERT_FILE", str(authority))
        sink = open_sink(
            settings.MqttSink(name="m", host="127.0.0.1", port=broker.port, topic="out", tls=True)
        )
        assert isinstance(sink, MqttEvents)
        sink.take({"event": "answer", "text": "x" * 100_000})
        until(lambda: sink.written == 1)
        assert sink.counters() == {
            "waiting": 0,
            "written": 1,
            "failures": 0,
            "error": "",
            "is_connected": True,
        }
        sink.close()


def certificates(folder: Path) -> Path:
    """An authority, and a broker at 127.0.0.1 that it vouches for."""
    import datetime
    import ipaddress

    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.x509.oid import NameOID

    def made(name: str, issuer: tuple[Any, Any] | None) -> tuple[Any, Any]:
        key = ec.generate_private_key(ec.SECP256R1())
        now = datetime.datetime.now(datetime.timezone.utc)
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        by, signer = (issuer[0].subject, issuer[1]) if issuer else (subject, key)
        made = (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(by)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
        )
        made = made.not_valid_before(now - datetime.timedelta(days=1)).not_valid_after(
            now + datetime.timedelta(days=1)
        )
        made = made.add_extension(
            x509.BasicConstraints(ca=issuer is None, path_length=None), critical=True
        )
        made = made.add_extension(
            x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False
        )
        made = made.add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_public_key(signer.public_key()), critical=False
        )
        if issuer is None:
            made = made.add_extension(
                x509.KeyUsage(False, False, False, False, False, True, True, False, False),
                critical=True,
            )
        else:
            made = made.add_extension(
                x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]),
                critical=False,
            )
        return made.sign(signer, hashes.SHA256()), key

    authority = made("authority", None)
    certificate, key = made("broker", authority)
    (folder / "authority.pem").write_bytes(authority[0].public_bytes(serialization.Encoding.PEM))
    (folder / "broker.pem").write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    plain = (
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )
    (folder / "broker.key").write_bytes(key.private_bytes(*plain))
    return folder / "authority.pem"


# -- sink ------------------------------------------------------------------------------------------
def sink_of(broker: Mosquitto, topic: str = "edge/{stream}/answers", **options: Any) -> MqttEvents:
    return MqttEvents(
        settings.MqttSink(name="m", host="127.0.0.1", port=broker.port, topic=topic), **options
    )


def test_every_event_is_a_message_on_the_topic_of_its_stream_and_the_status_says_who_is_there(
    broker: Mosquitto, publisher: Publisher, until: Callable[..., None]
) -> None:
    publisher.hears("edge/#")
    sink = sink_of(broker)
    for n in range(300):
        sink.take({"event": "answer", "stream": f"cam {n % 3}", "n": np.int64(n)})
    sink.take({"event": "answer", "stream": "a/b+#$", "n": 300})
    sink.take({"event": "answer", "stream": "\ud800"})
    sink.take({"event": "note", "n": 301})
    started = time.monotonic()
    sink.close()
    assert time.monotonic() - started < 3.0 and sink.written == 302 and sink.dropped == 1
    until(lambda: len(publisher.heard) == 304)
    events = [message for message in publisher.heard if message.topic.endswith("answers")]
    assert [json.loads(message.payload)["n"] for message in events] == list(range(302))
    assert [message.topic for message in events[-3:]] == [
        "edge/cam 2/answers",
        "edge/a_b___/answers",
        "edge/_/answers",
    ]
    said = [
        message.payload for message in publisher.heard if message.topic == "edge/answers/status"
    ]
    assert said == [b"online", b"offline"] and sink.status_topic == "edge/answers/status"
    late = Publisher(broker.port)
    late.hears("edge/answers/status")
    until(
        lambda: (
            {(message.payload, message.retain) for message in late.heard} == {(b"offline", True)}
        )
    )
    late.close()


def test_its_thread_is_woken_after_a_pause_and_sends_what_comes_meanwhile_in_order(
    broker: Mosquitto,
    publisher: Publisher,
    until: Callable[..., None],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    publisher.hears("edge/#")
    sink = sink_of(broker)
    woken, wake = list[float](), sink._wake.set
    monkeypatch.setattr(sink._wake, "set", lambda: woken.append(time.monotonic()) or wake())
    until(lambda: sink.is_connected)
    for n in range(100):
        sink.take({"event": "answer", "stream": "cam", "n": n})
        time.sleep(0.004)
    assert 1 <= len(woken) <= 20, "0.4 s and more, and one rest takes 0.05 s"
    until(lambda: sink.written == 100)
    for n in range(100, 110):
        time.sleep(0.08)
        started = time.monotonic()
        sink.take({"event": "answer", "stream": "cam", "n": n})
        until(lambda n=n: sink.written == n + 1)
        assert time.monotonic() - started < 0.5, "it does not sleep until the next turn"
    sink.close()
    until(lambda: sum(message.topic.endswith("cam/answers") for message in publisher.heard) == 110)
    said = [
        json.loads(message.payload)["n"]
        for message in publisher.heard
        if message.topic.endswith("cam/answers")
    ]
    assert said == list(range(110)) and sink.dropped == 0


def test_an_event_that_came_before_the_thread_lies_down_is_not_waited_upon(
    broker: Mosquitto,
) -> None:
    sink = sink_of(broker)
    assert sink._has_to_wait() and sink._is_idle
    sink.take({"event": "answer", "stream": "cam", "n": 0})
    assert not sink._has_to_wait() and not sink._is_idle
    sink.close()


def test_events_wait_for_a_broker_that_is_away_the_oldest_go_and_nobody_is_blocked(
    broker: Mosquitto,
    publisher: Publisher,
    until: Callable[..., None],
    caplog: pytest.LogCaptureFixture,
) -> None:
    publisher.hears("edge/#")
    sink = sink_of(broker, "edge/answers", size=200)
    sink.take({"n": -1})
    until(lambda: sink.written == 1)
    broker.stop()
    slowest = 0.0
    for n in range(1000):
        started = time.perf_counter()
        sink.take({"n": n})
        slowest = max(slowest, time.perf_counter() - started)
    until(lambda: sink.failures >= 2)
    assert (
        slowest < 0.1
        and sink.dropped >= 800 - 64
        and sink.error
        and caplog.text.count("cannot send") == 1
    )
    broker.start()
    until(lambda: sink.written + sink.dropped == 1001)
    until(
        lambda: any(
            message.topic == "edge/answers" and json.loads(message.payload)["n"] == 999
            for message in publisher.heard
        )
    )
    numbers = [
        json.loads(message.payload)["n"]
        for message in publisher.heard
        if message.topic == "edge/answers"
    ]
    assert numbers[-1] == 999 and set(numbers) >= set(range(800, 1000)) and not sink.error
    sink.close()


def test_the_broker_says_offline_when_the_daemon_is_killed(
    broker: Mosquitto, publisher: Publisher, until: Callable[..., None]
) -> None:
    import os
    import subprocess
    import sys

    publisher.hears("edge/answers/status")
    script = f"""
import time
from edgeadapt.daemon import settings
from edgeadapt.daemon.io.sinks import open_sink
sink = open_sink(
    settings.MqttSink(name="m", host="127.0.0.1", port={broker.port}, topic="edge/answers")
)
time.sleep(60)
"""
    child = subprocess.Popen(
        [sys.executable, "-c", script], env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    )
    until(lambda: [message.payload for message in publisher.heard] == [b"online"], 30.0)
    child.kill()
    child.wait()
    until(lambda: [message.payload for message in publisher.heard] == [b"online", b"offline"])


def test_closing_takes_a_second_at_most_whatever_the_broker_does(
    broker: Mosquitto, until: Callable[..., None]
) -> None:
    sink = sink_of(broker)
    sink.take({"n": 0})
    until(lambda: sink.written == 1)
    broker.signal(signal.SIGSTOP)
    for n in range(500):
        sink.take({"n": n, "stream": "s"})
    started = time.monotonic()
    sink.close()
    assert (
        time.monotonic() - started < 1.1
        and sink.written + sink.dropped == 501
        and sink.dropped == 500
    )
    broker.stop()
    sink = sink_of(broker)
    until(lambda: sink.failures == 1)
    sink.take({"n": 0})
    started = time.monotonic()
    sink.close()
    assert time.monotonic() - started < 0.3 and sink.dropped == 1


def test_what_is_opened_only_to_be_checked_never_meets_the_broker(broker: Mosquitto) -> None:
    before = broker.log.count("New client connected")
    sink_of(broker).close()
    time.sleep(0.3)
    assert broker.log.count("New client connected") == before


def test_a_topic_with_another_name_in_braces_is_refused_and_so_is_a_bundle_without_pictures(
    broker: Mosquitto,
) -> None:
    with pytest.raises(InputError, match=r"has \{stram\}; only \{stream\}"):
        sink_of(broker, "edge/{stram}")
    with pytest.raises(InputError, match="brings images, and the bundle takes NC"):
        open_source(settings.MqttSource(name="s", host="h", topic="t"), VECTOR)


def test_a_daemon_answers_what_comes_over_mqtt_over_mqtt(
    broker: Mosquitto,
    publisher: Publisher,
    until: Callable[..., None],
    serve: Callable[..., Any],
    settings: Callable[..., Any],
    sample: Any,
) -> None:
    from edgeadapt.daemon.config.schema import MqttSink, MqttSource

    publisher.hears("out/#")
    there: dict[str, Any] = {"host": "127.0.0.1", "port": broker.port}
    source = MqttSource(name="line", stream="line", topic="in", format="msgpack", **there)
    service = serve(
        settings(source=(source,), sink=(MqttSink(name="out", topic="out/{stream}", **there),))
    )
    # what is said before the first subscription is heard by nobody
    until(lambda: " 1 in\n" in broker.log)
    for n in range(60):
        publisher.say(
            "in",
            msgspec.msgpack.encode(
                {"x": sample.x[n].tobytes(), "name": f"s{n}", "label": "Coat"}
                if n == 7
                else {"x": sample.x[n].tobytes(), "name": f"s{n}"}
            ),
        )
    until(lambda: sum(message.topic == "out/line" for message in publisher.heard) >= 60)
    answers = [
        json.loads(message.payload) for message in publisher.heard if message.topic == "out/line"
    ]
    answers = [answer for answer in answers if answer["event"] == "answer"]
    assert [answer["name"] for answer in answers] == [f"s{n}" for n in range(60)] and not any(
        answer["error"] for answer in answers
    )
    until(lambda: service.status()["labels"]["received"] == 1)
    publisher.say("in", msgspec.msgpack.encode({"z": [1.0]}))
    until(
        lambda: any(
            json.loads(message.payload).get("error")
            for message in publisher.heard
            if message.topic == "out/line"
        )
    )
