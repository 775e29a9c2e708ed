"""Messages of an MQTT broker: each is a sample, or a label.

The network has a thread of its own, which only takes and acknowledges. A message of QoS 1 is
acknowledged when it was handed over: what was not when the daemon or the broker went down, the
broker sends again, as the session and its name stay. What comes twice that way is taken once.
"""

from __future__ import annotations

import logging
import math
import threading
import time
from collections import OrderedDict, deque
from dataclasses import dataclass
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from edgeadapt._prepare import prepare
from edgeadapt.bundle.schema import InputSpec
from edgeadapt.daemon.config.schema import MqttSource
from edgeadapt.daemon.decoding.picture_reader import read_picture
from edgeadapt.daemon.io.mqtt_connection import MqttConnection, client_id_of, require_paho
from edgeadapt.daemon.io.sources.image_input import require_frames, takes_frames
from edgeadapt.daemon.messages import Arrival, Deliver, LabelArrival
from edgeadapt.errors import InputError
from edgeadapt.inputs import check_text

log = logging.getLogger("edgeadapt.daemon")
_MOST_WAITING, _MOST_WAITING_BYTES = 1024, 64 << 20
_LARGEST = 16 << 20  # bytes of one message
_LONGEST_NAME = 256  # characters
# messages that the broker may send once more; it has fewer than that on their way
_REMEMBERED = 1024
_QUIET_S = 10.0  # between two lines of the log about the same
_IMAGES = (b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff")


class _Sample(msgspec.Struct):
    """A message of the formats json and msgpack; other keys are not looked at. In JSON bytes are
    base64.
    """

    z: list[float] | bytes | None = None
    taps: list[float] | bytes | None = None
    x: list[Any] | bytes | None = None
    name: str = ""
    label: str | None = None
    time: float | None = None


class _Label(msgspec.Struct):
    sample: str
    label: str


@dataclass(frozen=True, eq=False)
class _Message:
    topic: str
    payload: bytes
    number: int | None  # of QoS 1; None: nobody waits to hear of it
    at: float
    came: float


class MqttMessages:
    """Retained messages are no samples, as they come again with every connection. What cannot be
    read is counted and skipped.

    A message of format ``image`` is a PNG or JPEG. One of ``json`` or ``msgpack`` is ``{"z": [...],
    "taps": [...]}`` or ``{"x": ...}``, with, where wanted, ``name``, ``label`` and ``time``
    (seconds since the epoch). ``x`` is nested, or bytes: an input as it lies in memory
    (little-endian), else a PNG or JPEG; ``z`` and ``taps`` may be bytes of float32. A message on
    ``labels_topic`` is ``{"sample", "label"}``.

    Args:
        settings: ``labels_topic``, ``client_id`` and ``clean_start`` are taken where it has them.

    Attributes:
        received: messages. malformed: skipped. dropped: that had no room while others waited.
            repeated: sent twice, taken once.
        retained: skipped. reconnects: connections after the first. is_connected: now.

    Raises:
        InputError: the bundle takes no images, or paho-mqtt is missing.
    """

    def __init__(self, settings: MqttSource, spec: InputSpec) -> None:
        require_paho(f"source {settings.name!r}")
        if settings.format == "image":
            require_frames(settings.name, spec)
        self.name, self.stream = settings.name, settings.stream
        self.received = self.malformed = self.dropped = self.repeated = self.retained = (
            self.reconnects
        ) = 0
        self.is_connected, self._was_connected = False, False
        self._settings, self._spec = settings, spec
        self._labels_topic = settings.labels_topic
        self._is_clean = settings.clean_start
        self._client_id = client_id_of(settings, settings.topic, self._labels_topic)
        self._waiting: deque[_Message] = deque()
        self._waiting_bytes = 0
        self._changed = threading.Condition()
        # number -> hash, of messages that were handed over
        self._done: OrderedDict[int, int] = OrderedDict()
        self._acknowledged: deque[int] = deque()  # of this connection
        self._failure: Exception | None = None
        self._quiet_until: dict[str, float] = {}

    def counters(self) -> dict[str, int]:
        """For a status line."""
        return {
            "received": self.received,
            "malformed": self.malformed,
            "dropped": self.dropped,
            "repeated": self.repeated,
            "retained": self.retained,
            "reconnects": self.reconnects,
            "is_connected": self.is_connected,
        }

    def run(self, deliver: Deliver, stop: threading.Event) -> None:
        """Take messages until ``stop``.

        Raises:
            ConnectionError: the broker is not there, refuses, or was lost; run it again.
            RecipeError: the password cannot be read.
        """
        filters = [self._settings.topic, *([self._labels_topic] if self._labels_topic else [])]
        halt = threading.Event()
        self._failure, self._acknowledged = None, deque()
        link = MqttConnection(
            self._settings,
            self._client_id,
            is_clean=self._is_clean,
            filters=filters,
            greeted=self._greet,
            message=self._receive,
        )
        network = threading.Thread(
            target=self._listen, args=(link, halt), name=f"source-{self.name}-network", daemon=True
        )
        network.start()
        try:
            while not stop.is_set():
                message = self._next()
                if message is not None:
                    self._hand_over(message, deliver)
                    if message.number is not None:
                        self._settle(message, link)
                elif not network.is_alive():
                    break
        finally:
            halt.set()
            link.wake()
            network.join(1.0)  # it may be connecting: then it ends by itself
        if self._failure is not None and not stop.is_set():
            raise self._failure

    # -- the thread of the network -----------------------------------------------------------------
    def _listen(self, link: MqttConnection, halt: threading.Event) -> None:
        try:
            if not link.open(halt.is_set):
                return
            self.reconnects += self._was_connected
            self.is_connected = self._was_connected = True
            log.info(
                "source %s: connected to %s:%d", self.name, self._settings.host, self._settings.port
            )
            while not halt.is_set():
                self._acknowledge(link)
                link.turn(1.0)
            self._acknowledge(link)
        except Exception as error:  # whatever paho makes of what comes over the wire
            self._failure = error
        finally:
            self.is_connected = False
            link.close()
            with self._changed:
                self._changed.notify_all()

    def _acknowledge(self, link: MqttConnection) -> None:
        while self._acknowledged:
            link.acknowledge(self._acknowledged.popleft())

    def _greet(self, has_session: bool) -> None:
        with self._changed:
            if not has_session:
                self._done.clear()  # the broker begins to count anew
                return
            # the others it sends again
            kept = [message for message in self._waiting if message.number is None]
            self._waiting = deque(kept)
            self._waiting_bytes = sum(len(message.payload) for message in kept)

    def _receive(self, message: Any) -> None:
        self.received += 1
        number = message.mid if message.qos else None
        try:
            topic = str(message.topic)
        except UnicodeDecodeError:
            topic = "?"
        taken = _Message(topic, bytes(message.payload), number, time.time(), time.monotonic())
        if message.retain:
            self.retained += 1
        elif (
            number is not None
            and message.dup
            and self._done.get(number) == hash((topic, taken.payload))
        ):
            self.repeated += 1
        elif len(taken.payload) > _LARGEST:
            self._skip(topic, f"{len(taken.payload)} bytes, the limit is {_LARGEST}")
        else:
            self._keep(taken)
            return
        if number is not None:
            self._acknowledged.append(number)

    def _keep(self, message: _Message) -> None:
        with self._changed:
            self._waiting.append(message)
            self._waiting_bytes += len(message.payload)
            while len(self._waiting) > _MOST_WAITING or self._waiting_bytes > _MOST_WAITING_BYTES:
                oldest = self._waiting.popleft()
                self._waiting_bytes -= len(oldest.payload)
                self.dropped += 1
                if oldest.number is not None:
                    self._acknowledged.append(oldest.number)
            self._changed.notify_all()
        if self.dropped:
            self._say(
                "dropped",
                "messages come faster than they are taken, %d were dropped so far",
                self.dropped,
            )

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

    def _settle(self, message: _Message, link: MqttConnection) -> None:
        assert message.number is not None
        with self._changed:
            self._done.pop(message.number, None)
            self._done[message.number] = hash((message.topic, message.payload))
            if len(self._done) > _REMEMBERED:
                self._done.popitem(last=False)
        self._acknowledged.append(message.number)
        link.wake()

    def _hand_over(self, message: _Message, deliver: Deliver) -> None:
        try:
            what = (
                self._label_of(message)
                if self._is_label(message.topic)
                else self._sample_of(message)
            )
        except Exception as error:  # whatever a message does to a decoder: the next may be fine
            self._skip(
                message.topic,
                str(error) if isinstance(error, InputError) else f"{type(error).__name__}: {error}",
            )
        else:
            deliver(what)

    def _is_label(self, topic: str) -> bool:
        from paho.mqtt.client import topic_matches_sub

        return bool(self._labels_topic) and topic_matches_sub(self._labels_topic, topic)

    def _label_of(self, message: _Message) -> LabelArrival:
        found = self._decoded(message.payload, _Label)
        return LabelArrival(_name(found.sample, "sample"), _name(found.label, "label"), self.name)

    def _sample_of(self, message: _Message) -> Arrival:
        if self._settings.format == "image":
            return Arrival(
                self.stream,
                self.name,
                self._image(message.payload),
                at=message.at,
                came=message.came,
            )
        found = self._decoded(message.payload, _Sample)
        if (found.x is None) == (found.z is None):
            raise InputError("a sample has either x or z")
        features = self._features(found)
        x = self._input(found.x) if found.x is not None and features is None else None
        label = None if found.label is None else _name(found.label, "label")
        name = _name(found.name, "name") if found.name else ""
        return Arrival(
            self.stream,
            self.name,
            x,
            features,
            name,
            label,
            _time(found.time, message.at),
            message.came,
        )

    def _decoded(self, payload: bytes, kind: type[Any]) -> Any:
        decode = (
            msgspec.msgpack.decode if self._settings.format == "msgpack" else msgspec.json.decode
        )
        try:
            return decode(payload, type=kind)
        except Exception as error:  # not such a message, or nested too deeply
            raise InputError(f"not {self._settings.format} as it is read here: {error}") from error

    def _features(self, found: _Sample) -> dict[str, NDArray[Any]] | None:
        z = found.z
        if z is None:
            if self._spec.layout != "features":
                return None
            z = found.x
        features = {"z": _vector(z, "z")}
        return features if found.taps is None else features | {"taps": _vector(found.taps, "taps")}

    def _input(self, x: list[Any] | bytes) -> NDArray[Any]:
        spec, dtype = self._spec, np.dtype(self._spec.dtype)
        if isinstance(x, bytes):
            if len(x) == math.prod(spec.shape) * dtype.itemsize:
                return np.frombuffer(x, dtype.newbyteorder("<")).astype(dtype).reshape(spec.shape)
            if takes_frames(spec):
                return self._image(x)
            raise InputError(
                f"x has {len(x)} bytes, and the bundle takes {spec.dtype} of shape {spec.shape}"
            )
        value = _numbers(x, "x")
        if value.shape == spec.shape and (dtype.kind == "f" or value.dtype.kind in "iu"):
            return _floats(value) if dtype.kind == "f" else _bytes(value)
        if not takes_frames(spec):
            raise InputError(
                f"x has shape {value.shape}, and the bundle takes {spec.dtype} {spec.layout} of"
                f" shape {spec.shape}"
            )
        return prepare(_bytes(value) if value.dtype.kind in "iu" else value, spec)

    def _image(self, data: bytes) -> NDArray[Any]:
        if not data.startswith(_IMAGES):
            raise InputError(f"{len(data)} bytes that are neither PNG nor JPEG")
        return read_picture("message", self._spec, data)

    def _skip(self, topic: str, why: str) -> None:
        self.malformed += 1
        self._say(
            "malformed",
            "a message on %r was skipped, %d so far: %.300s",
            topic,
            self.malformed,
            why,
        )

    def _say(self, about: str, text: str, *values: Any) -> None:
        """Warn, but not all the time of the same."""
        now = time.monotonic()
        if now >= self._quiet_until.get(about, 0.0):
            self._quiet_until[about] = now + _QUIET_S
            log.warning("source %s: " + text, self.name, *values)


def _numbers(value: Any, what: str) -> NDArray[Any]:
    try:
        array = np.asarray(value)
    except (ValueError, OverflowError) as error:
        raise InputError(f"{what} is no array of numbers: {error}") from error
    if array.dtype.kind not in "iuf" or not array.size:
        raise InputError(f"{what} is an array of numbers, got {array.dtype} of shape {array.shape}")
    return array


def _vector(value: Any, what: str) -> NDArray[np.float32]:
    if isinstance(value, bytes):
        if len(value) % 4 or not value:
            raise InputError(f"{what} has {len(value)} bytes, which are no float32")
        return np.frombuffer(value, "<f4").astype(np.float32)
    array = _floats(_numbers(value, what))
    if array.ndim != 1:
        raise InputError(f"{what} is a vector, got shape {array.shape}")
    return array


def _floats(value: NDArray[Any]) -> NDArray[np.float32]:
    # what float32 cannot hold is not finite, and is refused as such
    with np.errstate(over="ignore"):
        return value.astype(np.float32)


def _bytes(value: NDArray[Any]) -> NDArray[np.uint8]:
    if value.min() < 0 or value.max() > 255:
        raise InputError(f"x lies in 0..255, got {value.min()}..{value.max()}")
    return value.astype(np.uint8)


def _name(value: str, what: str) -> str:
    if not value or len(value) > _LONGEST_NAME:
        raise InputError(f"{what} has 1 to {_LONGEST_NAME} characters, got {len(value)}")
    return check_text(value, what)


def _time(said: float | None, came: float) -> float:
    if said is None:
        return came
    if not 0.0 <= said <= 1e11:
        raise InputError(f"time is in seconds since the epoch, got {said!r}")
    return said


__all__ = ["MqttMessages"]
