"""Edits of bytes without structure: flips, interesting values, and pieces cut, doubled, moved or
taken from another input.
"""

from __future__ import annotations

from random import Random

_INTERESTING = [
    0,
    1,
    2,
    7,
    8,
    16,
    32,
    64,
    100,
    127,
    128,
    255,
    256,
    1000,
    1024,
    4096,
    32767,
    32768,
    65535,
    65536,
    2**31 - 1,
    2**31,
    2**32 - 1,
    2**53,
    2**63 - 1,
    2**63,
    2**64 - 1,
]
LARGEST = 1 << 20


def edit(rng: Random, data: bytes, other: bytes = b"") -> bytes:
    """One to four edits."""
    edited = bytearray(data)
    for _ in range(rng.choice((1, 1, 1, 2, 4))):
        rng.choice(_EDITS)(rng, edited, other)
    return bytes(edited[:LARGEST])


def interesting(rng: Random) -> int:
    return rng.choice(_INTERESTING)


def _flip(rng: Random, data: bytearray, other: bytes) -> None:
    if data:
        data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)


def _byte(rng: Random, data: bytearray, other: bytes) -> None:
    if data:
        data[rng.randrange(len(data))] = rng.randrange(256)


def _integer(rng: Random, data: bytearray, other: bytes) -> None:
    """An interesting integer of 1 to 8 bytes, either end first."""
    width = rng.choice((1, 2, 4, 8))
    if len(data) >= width:
        at = rng.randrange(len(data) - width + 1)
        value = interesting(rng) if rng.random() < 0.7 else rng.getrandbits(8 * width)
        data[at : at + width] = (value % (1 << 8 * width)).to_bytes(
            width, rng.choice(("little", "little", "big"))
        )


def _nudge(rng: Random, data: bytearray, other: bytes) -> None:
    if data:
        at = rng.randrange(len(data))
        data[at] = (data[at] + rng.choice((-2, -1, 1, 2))) % 256


def _insert(rng: Random, data: bytearray, other: bytes) -> None:
    at, count = rng.randrange(len(data) + 1), rng.choice((1, 2, 4, 16, 200))
    data[at:at] = (
        rng.randbytes(count) if rng.random() < 0.5 else bytes([rng.randrange(256)]) * count
    )


def _cut(rng: Random, data: bytearray, other: bytes) -> None:
    if data:
        at = rng.randrange(len(data))
        del data[at : at + rng.choice((1, 2, 4, 16, 200, len(data)))]


def _double(rng: Random, data: bytearray, other: bytes) -> None:
    if data:
        at = rng.randrange(len(data))
        piece = data[at : at + rng.choice((1, 4, 16, 100))]
        data[at:at] = piece * rng.choice((1, 2, 50))


def _splice(rng: Random, data: bytearray, other: bytes) -> None:
    if other:
        start = rng.randrange(len(other))
        piece = other[start : start + rng.choice((4, 16, 100, 1000))]
        at = rng.randrange(len(data) + 1)
        data[at : at + (len(piece) if rng.random() < 0.5 else 0)] = piece


_EDITS = (_flip, _flip, _byte, _integer, _integer, _nudge, _insert, _cut, _double, _splice)
