"""Edits of a safetensors file: the tree of its header, the length before it, and the values after
it.
"""

from __future__ import annotations

import json
from random import Random

from fuzz.edits import raw, tree

_WORDS = (
    "F16",
    "F32",
    "F64",
    "BF16",
    "I8",
    "I32",
    "I64",
    "U8",
    "BOOL",
    "F8_E4M3",
    "C64",
    "__metadata__",
    "dtype",
    "shape",
    "data_offsets",
    "format",
    "pt",
)
# NaN, infinities, float32
_SPECIAL = (b"\0\0\xc0\x7f", b"\0\0\x80\x7f", b"\0\0\x80\xff", b"\xff\xff\xff\xff", b"\1\0\0\0")


def edit(rng: Random, data: bytes, other: bytes = b"") -> bytes:
    length = int.from_bytes(data[:8], "little")
    header, values = data[8 : 8 + length], data[8 + length :]
    kind = rng.randrange(10)
    if kind < 6:
        header = tree.edit_json(rng, header, texts=_WORDS)
    elif kind < 8:
        header = raw.edit(rng, header, other[8:])
    else:
        values = edit_values(rng, values)
    padding = b" " * (-len(header) % 8) if rng.random() < 0.8 else b""
    stated = len(header) + len(padding)
    if rng.random() < 0.05:
        stated = rng.choice((raw.interesting(rng), stated + 1, abs(stated - 1), len(data)))
    return (stated % 2**64).to_bytes(8, "little") + header + padding + values


def edit_values(rng: Random, values: bytes) -> bytes:
    edited = bytearray(values)
    if len(edited) < 4 or rng.random() < 0.2:
        return bytes(edited[:-1]) if rng.random() < 0.5 else bytes(edited) + b"\0\0\0\0"
    place = 4 * rng.randrange(len(edited) // 4)
    edited[place : place + 4] = rng.choice(_SPECIAL)
    return bytes(edited)


def described(data: bytes) -> tuple[dict[str, object], bytes]:
    """Header and values."""
    length = int.from_bytes(data[:8], "little")
    return json.loads(data[8 : 8 + length]), data[8 + length :]


def assembled(header: dict[str, object], values: bytes) -> bytes:
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text + values
