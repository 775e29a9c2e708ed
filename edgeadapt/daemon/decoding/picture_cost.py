"""What a picture may cost, by its first bytes and before any decoder sees it."""

from __future__ import annotations

import re

LIGHT_BYTES = 4 << 20
_LIGHT_PIXELS, _LIGHT_SCANS, _LIGHT_TEXTS = 1 << 20, 20, 8
_SEGMENTS = 500  # a profile or a thumbnail takes a hundred at most
_MOST_SCANS = 100  # encoders write about ten; each goes over every pixel again
_PNG, _JPEG, _SCAN = b"\x89PNG\r\n\x1a\n", b"\xff\xd8", b"\xff\xda"
_UNPACKED = (b"zTXt", b"iTXt", b"iCCP")  # of a PNG: a kilobyte of these becomes a megabyte


def is_light(data: bytes) -> bool:
    """A PNG or JPEG of at most a million pixels with nothing in it that multiplies: it takes some
    tens of milliseconds and of MiB at most.

    In a JPEG, 0xFF 0xDA stands nowhere but before a scan, of the picture or of a thumbnail in it.
    """
    if len(data) > LIGHT_BYTES:
        return False
    if data.startswith(_PNG) and data[12:16] == b"IHDR":
        is_small = 0 < _number(data, 16, 4) * _number(data, 20, 4) <= _LIGHT_PIXELS
        return is_small and sum(data.count(kind) for kind in _UNPACKED) <= _LIGHT_TEXTS
    if data.startswith(_JPEG):
        return 0 < _jpeg_pixels(data) <= _LIGHT_PIXELS and data.count(_SCAN) <= _LIGHT_SCANS
    return False


def excess(data: bytes) -> str:
    """Why a picture is not worth a try; empty if it is."""
    if not data.startswith(_JPEG):
        return ""
    scans = data.count(_SCAN)
    return f"{scans} scans, the limit is {_MOST_SCANS}: save it anew" if scans > _MOST_SCANS else ""


def _number(data: bytes, start: int, size: int) -> int:
    return int.from_bytes(data[start : start + size], "big")


_FRAME = re.compile(rb"\xff[\xc0-\xc3\xc5-\xc7\xc9-\xcb\xcd-\xcf]")
_ALONE = re.compile(rb"\xff[\x01\xd0-\xd8\xff]")


def _jpeg_pixels(data: bytes) -> int:
    """The most of all frame headers before the first scan; 0 if so many segments do not lead there:
    who asks waits, and so does everybody else.
    """
    at, most = 2, 0
    for _ in range(_SEGMENTS):
        if at + 4 > len(data) or data[at] != 0xFF:
            break
        if _ALONE.match(data, at):
            at += 1 if data[at + 1] == 0xFF else 2
            continue
        if data.startswith(_SCAN, at):
            return most
        if _FRAME.match(data, at):
            most = max(most, _number(data, at + 5, 2) * _number(data, at + 7, 2))
        at += 2 + max(2, _number(data, at + 2, 2))
    return 0


__all__ = ["LIGHT_BYTES", "excess", "is_light"]
