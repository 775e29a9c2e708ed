"""Shared memory between a share and its parent: counts, and the input in hand, readable after the
share has died.
"""

from __future__ import annotations

import mmap
import struct

COUNTS = (
    "index",
    "started_ns",
    "executions",
    "past_header",
    "accepted",
    "refused",
    "slowest_ns",
    "input_size",
)
_HEAD = struct.Struct(f"<{len(COUNTS)}q")
_LARGEST_INPUT = 4 << 20


class Scoreboard:
    """Eight numbers and one input. ``started_ns`` is 0 while nothing is executed."""

    def __init__(self) -> None:
        self._map = mmap.mmap(-1, _HEAD.size + _LARGEST_INPUT)
        self._numbers = memoryview(self._map)[: _HEAD.size].cast("q")
        self._at = {name: index for index, name in enumerate(COUNTS)}

    def __getitem__(self, name: str) -> int:
        return self._numbers[self._at[name]]

    def __setitem__(self, name: str, value: int) -> None:
        self._numbers[self._at[name]] = value

    def add(self, name: str, count: int = 1) -> None:
        self._numbers[self._at[name]] += count

    @property
    def input(self) -> bytes:
        return self._map[_HEAD.size : _HEAD.size + min(self["input_size"], _LARGEST_INPUT)]

    @input.setter
    def input(self, data: bytes) -> None:
        kept = data[:_LARGEST_INPUT]
        self._map[_HEAD.size : _HEAD.size + len(kept)] = kept
        self["input_size"] = len(data)
