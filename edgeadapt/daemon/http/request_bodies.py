"""Samples out of the body of a request: nested lists, a ``.npy``, or a picture, checked before they
are believed.
"""

from __future__ import annotations

import io
import math
import re
import threading
from contextlib import nullcontext
from typing import Any

import numpy as np
from msgspec import Raw, UnsetType
from numpy.typing import NDArray

from edgeadapt.bundle.schema import InputSpec, Manifest
from edgeadapt.daemon.decoding.codec import JPEG, JSON, NPY, PNG, decoded
from edgeadapt.daemon.decoding.picture_cost import is_light
from edgeadapt.daemon.decoding.picture_reader import read_picture
from edgeadapt.daemon.http.schemas import MAX_SAMPLES, Samples
from edgeadapt.errors import InputError, RuntimeUnavailable
from edgeadapt.inputs import check_batch, check_features

_MAX_DEPTH = 5
_LONG_JSON = 64 << 10  # bytes; it takes sixteen times as many while it is read
_READING = threading.Lock()  # long JSON is read one request at a time


def is_costly(media: str, body: bytes) -> bool:
    """A picture that is read in a process of its own: it may take seconds."""
    return media in (PNG, JPEG) and not is_light(body)


def batch_of(
    media: str, body: Any, manifest: Manifest
) -> tuple[NDArray[Any] | None, dict[str, NDArray[Any]] | None, int]:
    """Inputs (N, ...) or features of a request, checked against the bundle, and N."""
    if media != JSON:
        x = _read_npy(body) if media == NPY else _read_picture(body, media, manifest.input)[None]
        return (
            _counted(check_batch(x, manifest.input)),
            None,
            len(x) if x.ndim > len(manifest.input.shape) else 1,
        )
    sent: Samples = body
    if isinstance(sent.x, UnsetType) == isinstance(sent.features, UnsetType):
        raise InputError("a batch is either x or features")
    in_turn = _READING if _length(sent) > _LONG_JSON else nullcontext()
    # a number too large for float32 becomes infinite, which is refused
    with in_turn, np.errstate(over="ignore"):
        if not isinstance(sent.x, UnsetType):
            x = _counted(
                check_batch(_as_input(_numbers(sent.x, "x"), manifest.input), manifest.input)
            )
            return x, None, len(x)
        assert not isinstance(sent.features, UnsetType)
        given = {"z": _numbers(sent.features.z, "z")}
        if not isinstance(sent.features.taps, UnsetType):
            given["taps"] = _numbers(sent.features.taps, "taps")
        z, taps = check_features(given, manifest.feature_dim, manifest.tap_dim)
    return (
        None,
        {"z": _counted(z), "taps": taps} if manifest.tap_dim else {"z": _counted(z)},
        len(z),
    )


def _length(sent: Samples) -> int:
    """Bytes of its numbers, as JSON."""
    given = (
        (sent.x,) if isinstance(sent.features, UnsetType) else (sent.features.z, sent.features.taps)
    )
    return sum(memoryview(raw).nbytes for raw in given if not isinstance(raw, UnsetType))


def _counted(x: NDArray[Any]) -> NDArray[Any]:
    if len(x) > MAX_SAMPLES:
        raise InputError(f"a request has at most {MAX_SAMPLES} samples, got {len(x)}")
    return x


def _numbers(raw: Raw, name: str) -> NDArray[np.float64]:
    """Nested lists as an array. The first brackets say how deep they are; a reader for that depth
    meets nothing but numbers in them.
    """
    text = bytes(raw)
    opening = _OPENING.match(text)
    depth = opening.group().count(b"[") if opening else 0
    if not 1 <= depth <= _MAX_DEPTH:
        raise InputError(f"{name} is lists of numbers, nested 1 to {_MAX_DEPTH} deep, got {depth}")
    form: Any = float
    for _ in range(depth):
        form = list[form]
    rows = decoded(text, form)
    try:
        return np.asarray(rows, np.float64)
    except ValueError:
        raise InputError(f"the lists of {name} differ in length") from None


_OPENING = re.compile(rb"[\[ \t\r\n]*")


def _as_input(x: NDArray[np.float64], spec: InputSpec) -> NDArray[Any]:
    if spec.dtype == "float32":
        return x.astype(np.float32)
    if x.size and not (x.min() >= 0 and x.max() <= 255 and (x == np.floor(x)).all()):
        raise InputError("inputs are whole numbers in 0..255")
    return x.astype(np.uint8)


def _read_npy(data: bytes) -> NDArray[Any]:
    """The array of a ``.npy`` file, without a copy. Its header is checked before it is believed."""
    file = io.BytesIO(data)
    try:
        version = np.lib.format.read_magic(file)
        if version not in _HEADERS:
            raise InputError(f"version {version} of the .npy format is not read here")
        shape, is_fortran, dtype = _HEADERS[version](file)
    except InputError:
        raise
    except Exception as error:  # on damaged headers numpy raises half a dozen types
        raise InputError(
            f"cannot be read as .npy: {type(error).__name__}: {str(error)[:200]}"
        ) from error
    if dtype.kind not in "uif" or len(shape) > _MAX_DEPTH:
        read = f"arrays of numbers with at most {_MAX_DEPTH} axes are read here"
        raise InputError(f"holds {dtype}{list(shape)}; {read}"[:300])
    size, held = math.prod(shape) * dtype.itemsize, len(data) - file.tell()
    if size != held or min(shape, default=0) < 0:
        raise InputError(f"{dtype}{list(shape)} has {size} bytes, the body holds {held}"[:300])
    array: NDArray[Any] = np.frombuffer(data, dtype, offset=file.tell()).reshape(
        shape, order="F" if is_fortran else "C"
    )
    return array.astype(dtype.newbyteorder("="), copy=False)


_HEADERS = {
    (1, 0): np.lib.format.read_array_header_1_0,
    (2, 0): np.lib.format.read_array_header_2_0,
}


def _read_picture(data: bytes, media: str, spec: InputSpec) -> NDArray[Any]:
    """One sample from a picture of just this type."""
    try:
        return read_picture(media, spec, data, ("PNG" if media == PNG else "JPEG",))
    except ImportError:
        raise RuntimeUnavailable("pictures need Pillow: pip install 'edgeadapt[images]'") from None


__all__ = ["batch_of", "is_costly"]
