"""A data frame out of an ``.rda`` file: the few cases of R's serialisation that a table of numbers
and factors needs.

Format: R Internals, section 1.8 (serialisation, XDR, version 2): every item is four bytes of type
and flags, then its content, big-endian.
"""

from __future__ import annotations

import bz2
import gzip
import lzma
import struct
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgeadapt.errors import InputError

_MAGIC = b"RDX2\nX\n"
_HEADER = 12  # three versions
_NIL = 254
_SYMBOL = 1
_PAIR = 2
_CHARS = 9
_LOGICALS = 10
_INTEGERS = 13
_REALS = 14
_STRINGS = 16
_LIST = 19
_REFERENCE = 255
_HAS_ATTRIBUTES, _HAS_TAG = 1 << 9, 1 << 10


def read_frame(packed: bytes, name: str) -> dict[str, Any]:
    """Columns of one data frame by name: numbers as arrays, factors as ``(codes from 0, levels)``.

    Raises:
        InputError: not such a file, no object of that name, or a kind of item this reader does not
            know.
    """
    plain = _unpacked(packed)
    if not plain.startswith(_MAGIC):
        raise InputError(f"not an .rda file of version 2: it begins with {plain[:7]!r}")
    try:
        objects = dict(_Reader(plain, len(_MAGIC) + _HEADER).item()[0])
        if name not in objects:
            raise InputError(
                f"the .rda file has no {name!r}; it has {', '.join(map(str, objects))}"
            )
        columns, attributes = objects[name]
        return {
            title: _column(*column)
            for title, column in zip(attributes["names"][0], columns, strict=True)
        }
    except InputError:
        raise
    except (
        struct.error,
        LookupError,
        TypeError,
        ValueError,
        AttributeError,
        RecursionError,
    ) as error:
        raise InputError(f"the .rda file is damaged: {type(error).__name__}: {error}") from error


def _column(values: Any, attributes: dict[str, Any]) -> Any:
    return (
        (values.astype(np.int64) - 1, tuple(attributes["levels"][0]))
        if "levels" in attributes
        else values
    )


def _unpacked(packed: bytes) -> bytes:
    for head, unpack in (
        (b"\xfd7zXZ", lzma.decompress),
        (b"BZh", bz2.decompress),
        (b"\x1f\x8b", gzip.decompress),
    ):
        if packed.startswith(head):
            try:
                return unpack(packed)
            except (OSError, EOFError, lzma.LZMAError, ValueError) as error:
                raise InputError(f"the .rda file is damaged: {error}") from error
    return packed


class _Reader:
    """Each item is ``(content, attributes)``."""

    def __init__(self, data: bytes, at: int) -> None:
        self._data, self._at, self._seen = data, at, list[Any]()

    def _number(self) -> int:
        (value,) = struct.unpack_from(">i", self._data, self._at)
        self._at += 4
        return int(value)

    def _array(self, kind: str) -> NDArray[Any]:
        count = self._number()
        values = np.frombuffer(self._data, kind, count, self._at)
        self._at += values.nbytes
        return values.astype(values.dtype.newbyteorder("="))

    def item(self) -> tuple[Any, dict[str, Any]]:
        flags = self._number()
        kind = flags & 0xFF
        if kind == _NIL:
            return None, {}
        if kind == _REFERENCE:
            return self._seen[(flags >> 8) - 1], {}
        if kind == _SYMBOL:
            self._seen.append(self.item()[0])
            return self._seen[-1], {}
        if kind == _CHARS:
            count = max(self._number(), 0)
            self._at += count
            return self._data[self._at - count : self._at].decode("latin-1"), {}
        if kind == _PAIR:
            return self._pairs(flags), {}
        if kind in (_STRINGS, _LIST):
            items = [self.item() for _ in range(self._number())]
            content: Any = [text for text, _ in items] if kind == _STRINGS else items
        elif kind in (_INTEGERS, _LOGICALS):
            content = self._array(">i4")
        elif kind == _REALS:
            content = self._array(">f8")
        else:
            raise ValueError(f"an item of type {kind} at byte {self._at} is not a part of a table")
        return content, dict(self.item()[0]) if flags & _HAS_ATTRIBUTES else {}

    def _pairs(self, flags: int) -> list[tuple[Any, Any]]:
        found = []
        while flags & 0xFF == _PAIR:
            if flags & _HAS_ATTRIBUTES:
                self.item()
            tag = self.item()[0] if flags & _HAS_TAG else None
            found.append((tag, self.item()))
            flags = self._number()
        return found
