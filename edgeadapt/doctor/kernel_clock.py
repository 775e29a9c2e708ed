"""Whether the kernel calls its clock synchronised: adjtimex(2) with nothing to change."""

from __future__ import annotations

import ctypes

_UNSYNCHRONISED = 0x40  # STA_UNSYNC
# bytes into struct timex on 64-bit Linux: modes, padding, offset, freq, maxerror, esterror (five
# words of 8)
_STATUS_AT = 40
_ROOM = 512  # bytes, more than the struct has


def is_synchronised() -> bool | None:
    """None where the call is not allowed, or a word has 4 bytes."""
    if ctypes.sizeof(ctypes.c_long) != 8:
        return None
    timex = ctypes.create_string_buffer(_ROOM)
    if ctypes.CDLL(None).adjtimex(timex) < 0:
        return None
    status = ctypes.c_int.from_buffer(timex, _STATUS_AT).value
    return not status & _UNSYNCHRONISED


__all__ = ["is_synchronised"]
