"""Bytes and values: types of media, JSON, pictures to show, and how a request is refused."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Mapping
from typing import Any

import msgspec
import numpy as np
from msgspec import Raw
from numpy.typing import NDArray

from edgeadapt.errors import InputError

JSON, NPY, PNG, JPEG, TEXT = "application/json", "application/x-npy", "image/png", "image/jpeg", "text/plain; version=0.0.4; charset=utf-8"
MAX_JSON_BYTES = 4 << 20  # a number takes two bytes of it and thirty-two of memory while it is read


class Refused(Exception):
    """A request that gets no answer. ``status``: of HTTP. ``kind``: the error's name in the body. ``retry_s``: when it may be asked again."""

    def __init__(self, status: int, kind: str, why: str, retry_s: int | None = None, headers: Mapping[str, str] | None = None) -> None:
        super().__init__(why)
        self.status, self.kind, self.why = status, kind, why
        self.headers = dict(headers or {}) | ({"retry-after": str(retry_s)} if retry_s is not None else {})


def decoded(data: bytes | Raw, form: Any) -> Any:
    try:
        return msgspec.json.decode(data, type=form)
    except msgspec.ValidationError as error:
        raise InputError(str(error)) from None
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise Refused(400, "MalformedJSON", f"not JSON: {error}") from None


def encode(value: Any) -> bytes:
    """JSON. What is not a number (NaN, infinity) becomes null."""
    return msgspec.json.encode(value, enc_hook=_plain)


def _plain(value: Any) -> Any:
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, np.ndarray):
        return value.tolist()
    raise TypeError(f"no JSON for {type(value).__name__}")


def png_of(frame: NDArray[np.uint8]) -> bytes:
    """(H, W), (H, W, 1) or (H, W, 3) uint8 as PNG: no package of pictures is needed to show one."""
    height, width = frame.shape[:2]
    rows = np.ascontiguousarray(frame, np.uint8).reshape(height, -1)
    raw = np.concatenate([np.zeros((height, 1), np.uint8), rows], axis=1).tobytes()
    parts = (
        (b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2 if rows.shape[1] == 3 * width else 0, 0, 0, 0)),
        (b"IDAT", zlib.compress(raw, 6)),
        (b"IEND", b""),
    )
    chunks = (struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data)) for kind, data in parts)
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunks)


__all__ = ["JPEG", "JSON", "MAX_JSON_BYTES", "NPY", "PNG", "TEXT", "Refused", "decoded", "encode", "png_of"]
