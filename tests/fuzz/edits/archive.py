"""Edits of a zip as a bundle has it: fields of its records, and members with every size and CRC
made right again.
"""

from __future__ import annotations

import io
import struct
import zipfile
from random import Random

from edgeadapt.bundle._container import pack
from fuzz.edits import raw

_NAMES = (
    "manifest.json",
    "card.json",
    "manifest.sig",
    "graphs/a.onnx",
    "weights/a.safetensors",
    "weights/frozen.safetensors",
    "../a",
    "/etc/passwd",
    "graphs/../../a.onnx",
    "graphs\\a.onnx",
    "C:/a",
    "",
    "graphs/",
    "graphs/.onnx",
    "a/b/c",
    "graphs/a.onnx/",
    "manifest.json\0",
    "graphs/" + "a" * 300 + ".onnx",
    "GRAPHS/A.ONNX",
    "./manifest.json",
)
_LOCAL = {
    "version": (4, "H"),
    "flags": (6, "H"),
    "method": (8, "H"),
    "time": (10, "H"),
    "crc": (14, "I"),
    "packed": (18, "I"),
    "size": (22, "I"),
    "name": (26, "H"),
    "extra": (28, "H"),
}
_CENTRAL = {
    "made": (4, "H"),
    "flags": (8, "H"),
    "method": (10, "H"),
    "crc": (16, "I"),
    "packed": (20, "I"),
    "size": (24, "I"),
    "name": (28, "H"),
    "extra": (30, "H"),
    "comment": (32, "H"),
    "disk": (34, "H"),
    "attributes": (38, "I"),
    "offset": (42, "I"),
}
_END = {
    "disk": (4, "H"),
    "start_disk": (6, "H"),
    "here": (8, "H"),
    "count": (10, "H"),
    "length": (12, "I"),
    "start": (16, "I"),
    "comment": (20, "H"),
}
# symlink, folder, pipe, device
_MODES = (0o120777 << 16, 0o040755 << 16, 0o010644 << 16, 0o060644 << 16)


def edit_fields(rng: Random, data: bytes) -> bytes:
    """Fields of the end record, of a central entry, or of an entry and its local header alike."""
    edited = bytearray(data)
    if len(edited) < 22:
        return raw.edit(rng, data)
    for _ in range(rng.choice((1, 1, 2))):
        end = len(edited) - 22
        count, start = struct.unpack_from("<HxxxxI", edited, end + 10)
        kind = rng.randrange(4)
        if kind == 0:
            _set(rng, edited, end, _END)
            continue
        at = _entry(edited, start, rng.randrange(max(1, count)))
        if at + 46 > len(edited):
            return bytes(edited)
        where = struct.unpack_from("<I", edited, at + 42)[0]
        if kind == 1:
            _set(rng, edited, at, _CENTRAL)
        elif kind == 2:
            _set(rng, edited, where, _LOCAL)
        else:
            shared = rng.choice(sorted(set(_LOCAL) & set(_CENTRAL)))
            value = _value(rng)
            for place, fields in ((at, _CENTRAL), (where, _LOCAL)):
                _write(edited, place, fields[shared], value)
    return bytes(edited)


def _entry(data: bytearray, start: int, index: int) -> int:
    at = start
    for _ in range(index):
        if at + 46 > len(data):
            break
        at += 46 + sum(struct.unpack_from("<3H", data, at + 28))
    return at


def _value(rng: Random) -> int:
    return rng.choice((raw.interesting(rng), rng.getrandbits(16), rng.choice(_MODES)))


def _set(rng: Random, data: bytearray, at: int, fields: dict[str, tuple[int, str]]) -> None:
    field = rng.choice(sorted(fields))
    offset, code = fields[field]
    if at + offset + 4 > len(data):
        return
    old = struct.unpack_from("<" + code, data, at + offset)[0]
    _write(data, at, fields[field], rng.choice((_value(rng), old + 1, old - 1, old * 2)))


def _write(data: bytearray, at: int, field: tuple[int, str], value: int) -> None:
    offset, code = field
    if at >= 0 and at + offset + 4 <= len(data):
        struct.pack_into("<" + code, data, at + offset, value % (1 << (16 if code == "H" else 32)))


def edit_members(rng: Random, members: dict[str, bytes]) -> bytes:
    """A container that is sound by itself, with members added, renamed, doubled, dropped, moved or
    nested.
    """
    listed = list(members.items())
    for _ in range(rng.choice((1, 1, 2))):
        index = rng.randrange(len(listed)) if listed else 0
        kind = rng.randrange(6)
        name = rng.choice(_NAMES)
        if kind == 0 or not listed:
            listed.insert(index, (name, rng.choice((b"", b"x", pack(members.items())))))
        elif kind == 1:
            listed[index] = (name, listed[index][1])
        elif kind == 2:
            listed.insert(rng.randrange(len(listed)), listed[index])
        elif kind == 3:
            del listed[index]
        elif kind == 4:
            rng.shuffle(listed)
        else:
            listed[index] = (listed[index][0], raw.edit(rng, listed[index][1]))
    if rng.random() < 0.1:
        return _by_zipfile(rng, listed)
    return pack(listed)


def _by_zipfile(rng: Random, listed: list[tuple[str, bytes]]) -> bytes:
    """As a general tool would write it: compressed, with comments or as zip64."""
    buffer = io.BytesIO()
    method = rng.choice((zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED))
    with zipfile.ZipFile(buffer, "w", method) as archive:
        for name in {name: None for name, _ in listed}:
            with archive.open(
                zipfile.ZipInfo(name or "x"), "w", force_zip64=rng.random() < 0.3
            ) as member:
                member.write(dict(listed)[name])
        archive.comment = b"c" * rng.choice((0, 0, 5))
    return buffer.getvalue()
