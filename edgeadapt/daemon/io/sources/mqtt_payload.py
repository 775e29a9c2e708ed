"""What a message of an MQTT broker says: a sample, or a label.

A message of format ``image`` is a PNG or JPEG. One of ``json`` or ``msgpack`` is ``{"z": [...],
"taps": [...]}`` or ``{"x": ...}``, with, where wanted, ``name``, ``label`` and ``time`` (seconds
since the epoch). ``x`` is nested, or bytes: an input as it lies in memory (little-endian), else a
PNG or JPEG; ``z`` and ``taps`` may be bytes of float32. A label is ``{"sample", "label"}``.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from edgeadapt._prepare import prepare
from edgeadapt.bundle.schema import InputSpec
from edgeadapt.daemon.config.schema import MqttSource
from edgeadapt.daemon.decoding.picture_reader import read_picture
from edgeadapt.daemon.io.sources.image_input import require_frames, takes_frames
from edgeadapt.daemon.messages import Arrival, LabelArrival
from edgeadapt.errors import InputError
from edgeadapt.inputs import check_text

_LONGEST_NAME = 256  # characters
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


@dataclass(frozen=True)
class PayloadReader:
    """Reads the messages of one source.

    Raises:
        InputError: the format is ``image``, and the bundle takes none.
    """

    settings: MqttSource
    spec: InputSpec

    def __post_init__(self) -> None:
        if self.settings.format == "image":
            require_frames(self.settings.name, self.spec)

    def label(self, payload: bytes) -> LabelArrival:
        """Raises: InputError: it is none."""
        found = self._decoded(payload, _Label)
        return LabelArrival(
            _name(found.sample, "sample"), _name(found.label, "label"), self.settings.name
        )

    def sample(self, payload: bytes, at: float, came: float) -> Arrival:
        """``at`` (seconds since the epoch) and ``came`` (monotonic) are when the message did.

        Raises:
            InputError: it is no sample that the bundle takes.
        """
        if self.settings.format == "image":
            return Arrival(
                self.settings.stream, self.settings.name, self._image(payload), at=at, came=came
            )
        found = self._decoded(payload, _Sample)
        if (found.x is None) == (found.z is None):
            raise InputError("a sample has either x or z")
        features = self._features(found)
        x = self._input(found.x) if found.x is not None and features is None else None
        label = None if found.label is None else _name(found.label, "label")
        name = _name(found.name, "name") if found.name else ""
        return Arrival(
            self.settings.stream,
            self.settings.name,
            x,
            features,
            name,
            label,
            _time(found.time, at),
            came,
        )

    def _decoded(self, payload: bytes, kind: type[Any]) -> Any:
        decode = (
            msgspec.msgpack.decode if self.settings.format == "msgpack" else msgspec.json.decode
        )
        try:
            return decode(payload, type=kind)
        except Exception as error:  # not such a message, or nested too deeply
            raise InputError(f"not {self.settings.format} as it is read here: {error}") from error

    def _features(self, found: _Sample) -> dict[str, NDArray[Any]] | None:
        z = found.z
        if z is None:
            if self.spec.layout != "features":
                return None
            z = found.x
        features = {"z": _vector(z, "z")}
        return features if found.taps is None else features | {"taps": _vector(found.taps, "taps")}

    def _input(self, x: list[Any] | bytes) -> NDArray[Any]:
        spec, dtype = self.spec, np.dtype(self.spec.dtype)
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
        return read_picture("message", self.spec, data)


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


__all__ = ["PayloadReader"]
