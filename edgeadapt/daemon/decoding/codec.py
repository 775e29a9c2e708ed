"""Bytes and values: types of media, JSON, and how a request is refused."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec
import numpy as np
from msgspec import Raw

from edgeadapt.errors import InputError

JSON = "application/json"
NPY = "application/x-npy"
PNG = "image/png"
JPEG = "image/jpeg"
TEXT = "text/plain; version=0.0.4; charset=utf-8"
MAX_JSON_BYTES = 4 << 20  # a number takes two bytes of it and thirty-two of memory while it is read


class Refused(Exception):
    """A request that gets no answer. ``status``: of HTTP. ``kind``: the error's name in the body.
    ``retry_s``: when it may be asked again.
    """

    def __init__(
        self,
        status: int,
        kind: str,
        why: str,
        retry_s: int | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(why)
        self.status, self.kind, self.why = status, kind, why
        self.headers = dict(headers or {}) | (
            {"retry-after": str(retry_s)} if retry_s is not None else {}
        )


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


__all__ = ["JPEG", "JSON", "MAX_JSON_BYTES", "NPY", "PNG", "TEXT", "Refused", "decoded", "encode"]
