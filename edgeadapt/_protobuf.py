"""The protobuf wire format: the fields of a message one by one, and a field made of bytes. What the
fields mean, the reader knows.

https://protobuf.dev/programming-guides/encoding
"""

from __future__ import annotations

from collections.abc import Iterator


class Malformed(ValueError):
    """The bytes are not a protobuf message."""


def fields(message: memoryview) -> Iterator[tuple[int, int | memoryview]]:
    """(number, value): an integer, or a view of a nested message, text or packed list. Nothing is
    copied; numbers of fixed width are left out.

    Raises:
        Malformed: at the first field that cannot be.
    """
    for number, value, _ in raw_fields(message):
        if value is not None:
            yield number, value


def raw_fields(message: memoryview) -> Iterator[tuple[int, int | memoryview | None, memoryview]]:
    """(number, value, the whole field's own bytes); the value is None where it is a number of fixed
    width.
    """
    at, end = 0, len(message)
    while at < end:
        start = at
        # nearly every key and size is one byte: a call for each took half the time
        key = message[at]
        if key < 0x80:
            at += 1
        else:
            key, at = _varint(message, at)
        number, wire = key >> 3, key & 7
        if not 0 < number < 1 << 29:
            raise Malformed(f"field number {number}")
        value: int | memoryview | None
        if wire == 0:
            value, at = _varint(message, at)
        else:
            if wire == 2 and at < end and message[at] < 0x80:
                size, at = message[at], at + 1
            elif wire == 2:
                size, at = _varint(message, at)
            elif wire in (1, 5):
                size = 8 if wire == 1 else 4
            else:
                raise Malformed(f"wire type {wire}")
            if size > end - at:
                raise Malformed(f"field {number} is cut off")
            value = message[at : at + size] if wire == 2 else None
            at += size
        yield number, value, message[start:at]


def packed(value: int | memoryview) -> list[int]:
    """A repeated integer: one of its fields, or all of it in one."""
    if isinstance(value, int):
        return [value]
    numbers, at = [], 0
    while at < len(value):
        number, at = _varint(value, at)
        numbers.append(number)
    return numbers


def nested(value: int | memoryview | None) -> memoryview:
    """The bytes of a field that is a message or a text.

    Raises:
        Malformed: it is a number.
    """
    if not isinstance(value, memoryview):
        raise Malformed("a number where a message is expected")
    return value


def enclose(number: int, content: bytes) -> bytes:
    """A field that is a message, a text or bytes."""
    return encode(number << 3 | 2) + encode(len(content)) + content


def integer(number: int, value: int) -> bytes:
    """A field that is an integer of 0 or more."""
    return encode(number << 3) + encode(value)


def encode(value: int) -> bytes:
    """An integer of 0 or more, in base 128."""
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*out, value])


def _varint(message: memoryview, at: int) -> tuple[int, int]:
    value = 0
    for shift in range(0, 70, 7):
        if at >= len(message):
            raise Malformed("a number is cut off")
        byte = message[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
    raise Malformed("a number is longer than ten bytes")
