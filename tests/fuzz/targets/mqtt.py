"""A message from an MQTT broker: topic and payload, in each format and for each kind of bundle."""

from __future__ import annotations

import json
from pathlib import Path
from random import Random
from types import SimpleNamespace

import msgspec
import numpy as np

from edgeadapt.bundle.schema import InputSpec
from edgeadapt.daemon.config.schema import MqttSource
from edgeadapt.daemon.decoding.images import png_of
from edgeadapt.daemon.messages import Arrival, LabelArrival
from edgeadapt.errors import InputError
from fuzz.edits import raw
from fuzz.target import Execute, Target

NEEDS = ("paho", "PIL")

_GRAY = InputSpec(layout="NHW", dtype="uint8", shape=(8, 8), colour="gray", resize="bilinear")
_FLOAT = InputSpec(layout="NCHW", dtype="float32", shape=(3, 4, 4), colour="rgb", resize="bilinear")
_VECTOR = InputSpec(layout="NC", dtype="float32", shape=(3,))
_FEATURES = InputSpec(layout="features", dtype="float32", shape=(3,))
_DOORS = tuple(
    (form, spec)
    for form in ("json", "msgpack", "image")
    for spec in (_GRAY, _FLOAT, _VECTOR, _FEATURES)
    if form != "image" or spec in (_GRAY, _FLOAT)
)
_LABELS, _LABEL_TOPIC, _TOPIC = "truth/+", b"truth/door", b"belt/1"
_TOPICS = (
    _TOPIC,
    _LABEL_TOPIC,
    b"truth",
    b"truth/",
    b"truth/a/b",
    b"$SYS/x",
    b"#",
    b"+",
    b"/",
    b"",
    b"truth/\xff",
    b"truth/\0",
    "truth/\u202e".encode(),
    b"x/" * 2000,
    b"truth/+",
    b"truth/#",
)
_VALUES = (
    None,
    True,
    -1,
    0,
    255,
    256,
    1e308,
    -0.0,
    2**63,
    2**70,
    "",
    "a",
    "x" * 300,
    "\0",
    "\u202e",
    "AAAA",
    "AAA",
    [],
    [[]],
    [1, [2]],
    [[1, 2], [3]],
    ["a"],
    [None],
    [1e400],
    {},
    {"x": 1},
    [[0] * 8] * 8,
    [0.5] * 3,
    b"",
    b"\0" * 12,
    [[[1]] * 3] * 3,
    float("inf"),
    [float("nan")] * 3,
)
_TEXTS = ("a", "Coat", "x" * 256, "x" * 257, "", "\0", "\u202e", "a/b", "__proto__", " ")
_ARRAYS = (
    [0] * 3,
    [0.5] * 3,
    [[0] * 8] * 8,
    [[300] * 8] * 8,
    [[-1.5] * 8] * 8,
    [[[0.0] * 4] * 4] * 3,
    [[1], [2, 3]],
    [1e39] * 3,
    "AAAA" * 16,
    "AAAA" * 64,
    [[[0] * 3] * 9] * 9,
)
_PNG = png_of(np.arange(105, dtype=np.uint8).reshape(5, 7, 3))
_KEYS = ("x", "z", "taps", "name", "label", "time", "sample", "__proto__")


def _packed(door: int, topic: bytes, payload: bytes) -> bytes:
    return bytes((door, len(topic) % 256)) + topic[: len(topic) % 256] + payload


def _written(door: int, value: object) -> bytes:
    if _DOORS[door % len(_DOORS)][0] == "msgpack":
        return msgspec.msgpack.encode(value)
    return msgspec.json.encode(value)


def seeds() -> list[bytes]:
    found = []
    for door, (form, spec) in enumerate(_DOORS):
        if form == "image":
            found.append(_packed(door, _TOPIC, _PNG))
            continue
        x = np.zeros(spec.shape).astype(spec.dtype).tolist()
        sample = {"x": x, "name": "a", "label": "Coat", "time": 1.7e9}
        found.append(_packed(door, _TOPIC, _written(door, sample)))
        found.append(_packed(door, _TOPIC, _written(door, {"z": [0.5] * 3, "taps": [1.0]})))
        found.append(_packed(door, _LABEL_TOPIC, _written(door, {"sample": "a", "label": "Coat"})))
    return found


def mutate(rng: Random, data: bytes, other: bytes) -> bytes:
    kind = rng.random()
    if kind < 0.3:
        return raw.edit(rng, data, other)
    door = rng.randrange(len(_DOORS))
    topic = rng.choice(_TOPICS[:2]) if rng.random() < 0.7 else rng.choice(_TOPICS)
    if kind < 0.4:
        return _packed(
            door, topic, b"[" * rng.choice((10, 500, 5000)) + b"1" + b"]" * rng.choice((0, 10))
        )
    if kind < 0.5:
        value = {key: rng.choice(_VALUES[:15]) for key in rng.sample(_KEYS, 3)}
        return _packed(door, topic, json.dumps(value).encode())
    if _DOORS[door][0] == "image":
        return _packed(door, _TOPIC, _PNG[:8] + raw.edit(rng, _PNG[8:], other))
    value = {key: rng.choice(_VALUES) for key in rng.sample(_KEYS, rng.randint(0, 3))}
    if topic == _LABEL_TOPIC:
        value = {"sample": rng.choice(_TEXTS), "label": rng.choice(_TEXTS)}
    elif rng.random() < 0.3:
        value = {
            "x": rng.choice(_ARRAYS),
            "name": rng.choice(_TEXTS),
            "time": rng.choice((None, 0, 1e9, -1, 1e300)),
        }
    elif rng.random() < 0.6:
        value = {rng.choice(("x", "z")): rng.choice(_VALUES), **value}
    try:
        return _packed(door, topic, _written(door, value))
    except (OverflowError, ValueError):  # a number that the format does not have
        return _packed(door, topic, b"\xcf" * 9)


class _Sent(SimpleNamespace):
    """What paho hands over: a topic that is not UTF-8 raises when it is looked at."""

    @property
    def topic(self) -> str:
        return bytes(self.raw).decode("utf-8")


def prepare(scratch: Path) -> Execute:
    from edgeadapt.daemon.io.sources.mqtt import MqttMessages

    sources = [
        MqttMessages(
            MqttSource(
                host="h",
                topic="belt/+",
                format=form,
                name="belt",
                stream="belt",
                labels_topic=_LABELS,
            ),
            spec,
        )
        for form, spec in _DOORS
    ]

    def execute(data: bytes) -> None:
        head = data[:2].ljust(2, b"\0")
        door = head[0] % len(_DOORS)
        source, spec = sources[door], _DOORS[door][1]
        topic, payload = data[2 : 2 + head[1]], data[2 + head[1] :]
        sent = _Sent(raw=topic, payload=payload, qos=0, mid=0, retain=False, dup=False)
        source._receive(sent, lambda number: None)
        message = source._next()
        assert message is not None and source._waiting_bytes == 0
        is_label = source._is_label(message.topic)
        # not _hand_over, which takes whatever a decoder raises
        reader = source._reader
        what = (
            reader.label(message.payload)
            if is_label
            else reader.sample(message.payload, message.at, message.came)
        )
        if is_label:
            assert isinstance(what, LabelArrival) and what.source == "belt"
            assert 1 <= len(what.sample) <= 256 and 1 <= len(what.label) <= 256
            return
        assert isinstance(what, Arrival) and (what.x is None) != (what.features is None)
        assert len(what.name) <= 256 and 0 <= what.at < 1e12
        if what.x is not None:
            assert what.x.dtype == spec.dtype and what.x.shape == spec.shape
        for value in (what.features or {}).values():
            assert value.ndim == 1 and value.dtype == np.float32

    return execute


def is_past_header(error: Exception) -> bool:
    """It was a message of its format."""
    return "as it is read here" not in str(error) and "neither PNG nor JPEG" not in str(error)


TARGET = Target(
    "mqtt",
    seeds,
    mutate,
    prepare,
    (InputError,),
    is_past_header,
    ("edgeadapt.daemon.io.sources.mqtt", "edgeadapt.daemon.io.sources.mqtt_payload"),
    share=50,
    memory_mib=128,
)
