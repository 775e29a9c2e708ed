"""Edits of protobuf messages with lengths that stay right: any message is a tree of numbered
fields.
"""

from __future__ import annotations

from random import Random

from fuzz.edits import raw

Field = tuple[int, int, "int | bytes | list[Field]"]  # number, wire type, value
_DEEPEST = 12


def edit(rng: Random, data: bytes, other: bytes = b"") -> bytes:
    """One to three edits of fields anywhere in the tree; bytes that are no message are edited as
    bytes.
    """
    fields = parse(data)
    if not fields:
        return raw.edit(rng, data, other)
    donor = parse(other) or parse(data) or []
    for _ in range(rng.choice((1, 1, 2, 3))):
        _once(rng, fields, donor)
    return serialise(fields)


def parse(data: bytes, depth: int = 0) -> list[Field] | None:
    """The fields of a message, inner messages where the bytes can be one; None if these bytes
    cannot.
    """
    fields: list[Field] = []
    position = 0
    while position < len(data):
        tag, position = _varint(data, position)
        number, wire = tag >> 3, tag & 7
        if not 0 < number < 1 << 29 or wire not in (0, 1, 2, 5) or position < 0:
            return None
        if wire == 0:
            value, position = _varint(data, position)
            if position < 0:
                return None
            fields.append((number, wire, value))
            continue
        size = {1: 8, 5: 4}.get(wire, 0)
        if wire == 2:
            size, position = _varint(data, position)
        if position < 0 or position + size > len(data):
            return None
        piece = data[position : position + size]
        inner = (
            parse(piece, depth + 1)
            if wire == 2 and depth < _DEEPEST and 1 < size < 1 << 16
            else None
        )
        fields.append((number, wire, inner or piece))
        position += size
    return fields


def _varint(data: bytes, position: int) -> tuple[int, int]:
    value = 0
    for shift in range(0, 70, 7):
        if position >= len(data):
            return 0, -1
        byte = data[position]
        position += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, position
    return 0, -1


def varint(value: int) -> bytes:
    out = bytearray()
    while value >= 0x80:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*out, value])


def serialise(fields: list[Field]) -> bytes:
    out = bytearray()
    for number, wire, value in fields:
        out += varint(number << 3 | wire)
        if isinstance(value, int):
            out += varint(value)
            continue
        piece = serialise(value) if isinstance(value, list) else value
        out += (varint(len(piece)) if wire == 2 else b"") + piece
    return bytes(out)


def _messages(fields: list[Field]) -> list[list[Field]]:
    found = [fields]
    for _, _, value in fields:
        if isinstance(value, list):
            found += _messages(value)
    return found


def _once(rng: Random, fields: list[Field], donor: list[Field]) -> None:
    message = rng.choice(_messages(fields))
    if not message:
        return
    index = rng.randrange(len(message))
    number, wire, value = message[index]
    kind = rng.randrange(9)
    if kind == 0:
        del message[index]
    elif kind == 1:
        message[index:index] = [message[index]] * rng.choice((1, 2, 100))
    elif kind == 2:
        message[index] = (
            rng.choice((number + 1, max(1, number - 1), rng.randrange(1, 30), 2**29 - 1)),
            wire,
            value,
        )
    elif kind == 3:
        piece = rng.choice(_messages(donor))
        if piece:
            taken, wire, value = rng.choice(piece)
            # flat: nothing may contain itself
            message.insert(
                index, (taken, wire, serialise(value) if isinstance(value, list) else value)
            )
    elif kind == 4:
        for _ in range(rng.choice((1, 10, 100))):
            value = [
                (
                    number,
                    2,
                    (
                        serialise(value)
                        if isinstance(value, list)
                        else value
                        if isinstance(value, bytes)
                        else varint(value)
                    ),
                )
            ]
        message[index] = (number, 2, value)
    elif isinstance(value, int):
        message[index] = (
            number,
            wire,
            rng.choice((raw.interesting(rng), value + 1, value ^ 1, 2**64 - 1)),
        )
    elif isinstance(value, bytes) and wire == 2:
        message[index] = (
            number,
            wire,
            rng.choice(
                (
                    raw.edit(rng, value),
                    b"bundle:",
                    b"/etc/passwd",
                    b"location",
                    b"",
                    b"*/_ORT_MEM_ADDR_/*",
                    b"Loop",
                )
            ),
        )
    elif isinstance(value, bytes):
        message[index] = (number, wire, rng.randbytes(len(value)))
    else:
        rng.shuffle(value)
